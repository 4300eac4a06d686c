"""What every worker process does first: tie its life to the supervisor's, leave signals to it, dump no core."""

from __future__ import annotations

import ctypes
import importlib
import os
import resource
import signal
import socket

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NAME = 1, 4, 15


def start(target: str, name: str, parent_pid: int, boot: object, *sockets: socket.socket) -> None:
    """What a fresh process runs: ``target`` is ``module:function``, called with ``boot`` and the sockets.

    Named, not passed: so the supervisor needn't import what only its workers use, and this process is tied to its
    supervisor before that import, which takes a second.
    """
    enter(name, parent_pid)
    module, function = target.split(":")
    getattr(importlib.import_module(module), function)(boot, *sockets)


def enter(name: str, parent_pid: int) -> None:
    """Call on the main thread of a fresh worker. Ends the process when its supervisor is gone already.

    ``name`` is what ps and top show (at most 15 characters). The supervisor alone decides when a worker ends, so
    the terminal's and systemd's signals are ignored here; SIGKILL comes when the supervisor dies.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it died before the line above
        os._exit(1)
    libc.prctl(_PR_SET_NAME, name.encode()[:15])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    forbid_core_dumps()


def forbid_core_dumps() -> None:
    """Camera passwords live in memory here and must not reach a core file."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0)
