"""Starting a worker process, with multiprocessing's spawn: CUDA and gRPC don't survive a fork."""

from __future__ import annotations

import multiprocessing
import os
import socket
from functools import cache
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnProcess
from typing import Any

from facedetd import worker

_SPAWN = multiprocessing.get_context("spawn")


def spawn(target: str, name: str, boot: object, sockets: tuple[socket.socket, ...]) -> SpawnProcess:
    """A fresh interpreter that runs ``facedetd.worker.start``. ``boot`` is pickled. ``sockets`` stay open here. Must
    run on the main thread: PR_SET_PDEATHSIG fires when the spawning THREAD ends. Raises OSError.
    """
    _do_without_tracker()
    process = _SPAWN.Process(
        target=worker.start, args=(target, name, os.getpid(), boot, *sockets), name=name, daemon=True
    )
    process.start()
    return process


@cache
def _do_without_tracker() -> None:
    """Start no resource tracker: it is one more child that can be killed or stopped, and who writes to a stopped one
    blocks sooner or later. It looks after multiprocessing's named resources, and there are none here."""
    tracker: Any = resource_tracker
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    tracker.getfd = lambda: nowhere


def kill_leftovers() -> None:
    """SIGKILL and reap every worker that is still there: a supervisor that fails must not wait for them at its exit
    (multiprocessing would, and they ignore SIGTERM)."""
    for child in multiprocessing.active_children():
        child.kill()
        child.join(1.0)
