"""The threads in which the supervisor waits for the disk. All are there from the beginning: where an executor can't
start one it raises, and yet does the work later, so that the disk would come to hold a change that was refused."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor


def started(count: int) -> ThreadPoolExecutor:
    """With ``count`` threads, which wait for work. Raises RuntimeError where they can't be started."""
    pool = ThreadPoolExecutor(count, "files")
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
