"""A camera can't send the daemon anywhere: what it opens, FFmpeg may connect to that camera only.

What a camera could say, and what FFmpeg makes of it (measured with 8.1.1, 8.1.2 and 9.0.2; test_capture_rogue.py):

- A redirect (3xx) goes to rtsp, rtsps or satip; none is on the protocol list that ``source.live_options`` gives, and
  FFmpeg then ends the open. With "rtsp" on the list it would follow, credentials and all.
- ``source=`` in the answer to SETUP over UDP: FFmpeg looks the name up and sends datagrams there. Only the judge here
  stops that.
- ``a=control``, Content-Base: foreign URLs become names in requests to the camera itself. Cameras behind a NAT send
  such, so they are let be. ``c=``, ``destination=``, playlists in place of an answer: nothing.

The judge stands behind the protocol list too, should an FFmpeg to come read it differently.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterable
from typing import TypeVar

from facedetd.capture.guard_seccomp import Attempt, NotConfinable, run_judged

T = TypeVar("T")

__all__ = ["Judge", "LedElsewhere", "NotConfinable", "run_guarded"]

_DNS = 53
_PRIVILEGED = 1024
_LOCAL = (socket.AF_UNIX, socket.AF_NETLINK)


class LedElsewhere(Exception):
    """The camera wanted to send FFmpeg to another address, which was not done; the text says to which."""


class Judge:
    """Says of each attempt, in their order, whether it is one to this camera.

    ``addresses`` are the numeric addresses of the camera's host and ``port`` its RTSP port. Each address may be
    connected to once: a second time is a redirect. Once one has been, no name is looked up any more: only before that
    can it be the camera's own. Datagrams may go to any unprivileged port of the camera, as RTP's are the camera's
    choice."""

    def __init__(self, addresses: Iterable[str], port: int):
        self._addresses = frozenset(addresses)
        self._untried = set(self._addresses)
        self._port = port
        self.refused: Attempt | None = None
        """The first one to somebody else."""
        self._connections: dict[int, int] = {}  # inodes by descriptor

    def __call__(self, attempt: Attempt) -> bool:
        allowed = self._allows(attempt)
        own = attempt.type == socket.SOCK_DGRAM and attempt.address in self._addresses
        if not allowed and self.refused is None and not own:  # a camera that names no port gets port 0
            self.refused = attempt
        return allowed

    def _allows(self, attempt: Attempt) -> bool:
        if attempt.family == socket.AF_NETLINK:  # the kernel: which addresses this host has
            return True
        if attempt.type == socket.SOCK_STREAM and attempt.address in self._untried and attempt.port == self._port:
            self._untried.remove(attempt.address)
            if inode := _inode(attempt.descriptor):
                self._connections[attempt.descriptor] = inode
            return True
        if attempt.type == socket.SOCK_DGRAM and attempt.address in self._addresses and attempt.port >= _PRIVILEGED:
            return True
        reached = len(self._untried) < len(self._addresses)
        return not reached and (attempt.family in _LOCAL or attempt.type == socket.SOCK_DGRAM or attempt.port == _DNS)

    def connections(self) -> list[socket.socket]:
        """Those to the camera that are open still: other descriptors of them, which are the caller's. Raises OSError
        where there are too many."""
        open_still = [descriptor for descriptor, inode in self._connections.items() if _inode(descriptor) == inode]
        with contextlib.ExitStack() as opened:
            found = [opened.enter_context(socket.socket(fileno=os.dup(descriptor))) for descriptor in open_still]
            opened.pop_all()
        return found


def _inode(descriptor: int) -> int | None:
    """None where it is closed."""
    try:
        return os.fstat(descriptor).st_ino
    except OSError:
        return None


def run_guarded(
    call: Callable[[], T], addresses: Iterable[str], port: int, undo: Callable[[T], None]
) -> tuple[T, list[socket.socket]]:
    """What ``call`` returns or raises, run in a thread that can reach only this camera (see :class:`Judge`); and its
    connections to it, for the caller to end them and to close. Raises LedElsewhere where it tried more, after ``undo``
    of what it returned, NotConfinable where the system can't, and OSError where descriptors have run out."""
    judge = Judge(addresses, port)
    try:
        result = run_judged(call, judge)
    except NotConfinable:
        raise
    except Exception:
        if judge.refused:
            raise LedElsewhere(_named(judge.refused)) from None
        raise
    try:
        if judge.refused:
            raise LedElsewhere(_named(judge.refused))
        return result, judge.connections()
    except BaseException:
        undo(result)
        raise


def _named(attempt: Attempt) -> str:
    if not attempt.address or attempt.port == _DNS:
        return "another name"
    host = f"[{attempt.address}]" if ":" in attempt.address else attempt.address
    return f"another address, {host}:{attempt.port}"
