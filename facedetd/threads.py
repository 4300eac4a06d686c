"""Threads for work that an event loop hands over, and what to say where none can be had. All are there from the
beginning: where Python's executor can't start one it raises, and yet keeps the work and does it later, so that a change
that was refused would come to the disk."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor


def no_thread(purpose: str = "") -> str:
    """Why there is no thread, and what to look at, in words that are the same wherever one is wanted. ``purpose``: what
    the thread is for, "for it", say; empty where it is for all."""
    wanted = f" {purpose}" if purpose else ""
    return f"no thread can be started{wanted}: the limit of processes (TasksMax, ulimit -u) or of memory is reached"


def started(count: int, name: str) -> ThreadPoolExecutor:
    """With ``count`` threads, which wait for work. Raises RuntimeError where they can't be started."""
    pool = ThreadPoolExecutor(count, name)
    together = threading.Barrier(count)  # each keeps its thread busy till the last one is there
    try:
        waits = [pool.submit(together.wait) for _ in range(count)]
    except RuntimeError:
        together.abort()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    for wait in waits:
        wait.result()
    return pool
