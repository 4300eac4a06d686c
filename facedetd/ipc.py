"""Control messages between the supervisor and a worker: JSON with descriptors, on SOCK_SEQPACKET pairs.

JSON, not pickle: a decoder parses hostile camera bytes, and what it says must not become code in the supervisor.
Sending never blocks: what doesn't fit the socket's buffer waits here, in order. A peer that never reads is
stuck, and the supervisor's heartbeat check ends it.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

Message = dict[str, Any]
MAX_MESSAGE = 128 * 1024
MAX_FDS = 4


class Channel:
    """One end of a pair. ``send`` may be called by any thread, ``receive`` and ``flush`` by the loop's."""

    def __init__(self, sock: socket.socket):
        sock.setblocking(False)
        self._sock = sock
        self._waiting: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._lock = threading.Lock()
        self.closed = False

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def wants_write(self) -> bool:
        return bool(self._waiting)

    @property
    def backlog(self) -> int:
        return len(self._waiting)

    def send(self, message: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        """Queue a message and send what fits. Descriptors are duplicated: the caller keeps and closes its own.

        Raises ValueError when the message is larger than a socket's buffer can ever take.
        """
        data = json.dumps(message, separators=(",", ":")).encode()
        if len(data) > MAX_MESSAGE:
            raise ValueError(f"a control message of {len(data)} bytes; allowed are {MAX_MESSAGE}")
        with self._lock:
            self._waiting.append((data, tuple(os.dup(fd) for fd in fds)))
            self._flush()

    def flush(self) -> None:
        with self._lock:
            self._flush()

    def _flush(self) -> None:
        while self._waiting:
            data, fds = self._waiting[0]
            try:
                socket.send_fds(self._sock, [data], fds)
            except BlockingIOError:
                return
            except OSError:
                self._drop_waiting()
                self.closed = True
                return
            self._waiting.popleft()
            for fd in fds:
                os.close(fd)

    def _drop_waiting(self) -> None:
        for _, fds in self._waiting:
            for fd in fds:
                os.close(fd)
        self._waiting.clear()

    def receive(self) -> list[tuple[Message, list[int]]]:
        """All messages that have come, with their descriptors (the caller owns them). Sets ``closed`` at the end."""
        messages: list[tuple[Message, list[int]]] = []
        while not self.closed:
            try:
                data, fds, flags, _ = socket.recv_fds(self._sock, MAX_MESSAGE + 1, MAX_FDS, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                break
            except OSError:
                data, fds, flags = b"", [], 0
            if not data:
                self.closed = True
                break
            message = None if flags & socket.MSG_TRUNC else _parse(data)
            if message is None:  # not our peer's words: nothing it says from here on can be trusted
                for fd in fds:
                    os.close(fd)
                self.closed = True
                break
            messages.append((message, list(fds)))
        return messages

    def close(self) -> None:
        with self._lock:
            self._drop_waiting()
        self._sock.close()
        self.closed = True


def _parse(data: bytes) -> Message | None:
    try:
        message = json.loads(data)
    except ValueError:
        return None
    return message if isinstance(message, dict) else None


def channel_pair() -> tuple[socket.socket, socket.socket]:
    """A connected pair of sockets for two channels, with room for the largest message."""
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for sock in (a, b):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * MAX_MESSAGE)
    return a, b
