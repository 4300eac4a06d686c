"""Starting a worker process. Not by multiprocessing: its resource tracker is one more child that can be stopped, and
who writes to a stopped one blocks sooner or later.
"""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys

# What the parent's path names is where the child finds this package; what the current directory holds is not run
_MAIN = (
    "import sys; sys.path[:] = [p for p in sys.path if p]; import pickle; sys.path[:] = pickle.load(sys.stdin.buffer); "
    "from facedetd.worker import main; main()"
)

_living: set[subprocess.Popen[bytes]] = set()


def spawn(target: str, name: str, boot: object, sockets: tuple[socket.socket, ...]) -> subprocess.Popen[bytes]:
    """A fresh interpreter (CUDA and gRPC don't survive a fork) that runs ``facedetd.worker.start``. ``boot`` is
    pickled. ``sockets`` stay open here. Must run on the main thread: PR_SET_PDEATHSIG fires when the spawning THREAD
    ends. Raises OSError.
    """
    told = os.memfd_create("facedetd-boot", os.MFD_CLOEXEC)  # no pipe, which could be full
    try:
        descriptors = tuple(sock.fileno() for sock in sockets)
        with os.fdopen(os.dup(told), "wb") as file:
            pickle.dump(sys.path, file)
            pickle.dump((target, name, os.getpid(), boot, descriptors), file)
        os.lseek(told, 0, os.SEEK_SET)
        flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # as multiprocessing does
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, *flags, "-c", _MAIN, name], stdin=told, pass_fds=descriptors
        )
    finally:
        os.close(told)
    _living.add(process)
    return process


def reap(process: subprocess.Popen[bytes], timeout_s: float | None = None) -> int:
    """Wait for its end and return its exit status, negative for a signal. Raises subprocess.TimeoutExpired."""
    code = process.wait(timeout_s)
    _living.discard(process)
    return code


def kill_leftovers() -> None:
    """SIGKILL and reap every worker that is still there."""
    for process in list(_living):
        process.kill()
        try:
            reap(process, 1.0)
        except subprocess.TimeoutExpired:  # the kernel has it, and will let it go
            continue
