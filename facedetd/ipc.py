"""Control messages between the supervisor and a worker: JSON with descriptors, on SOCK_SEQPACKET pairs.

JSON, not pickle: a decoder parses hostile camera bytes, and what it says must not become code in the supervisor.
Sending never blocks: what doesn't fit the socket's buffer waits here, in order. A peer that never reads is
stuck, and the supervisor's heartbeat check ends it.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

Message = dict[str, Any]
MAX_MESSAGE = 128 * 1024
MAX_FDS = 4
MESSAGES_A_TURN = 64


class Channel:
    """One end of a pair. ``send`` may be called by any thread, ``receive`` and ``flush`` by the loop's."""

    def __init__(self, sock: socket.socket, *, goes_without: bool = False):
        """``goes_without``: a message whose descriptors this process has no room for comes without any, where it else
        ends the channel."""
        sock.setblocking(False)
        self._sock = sock
        self._goes_without = goes_without
        self._room = memoryview(bytearray(MAX_MESSAGE + 1))  # had once: a process short of memory still hears
        self._waiting: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._lock = threading.Lock()
        self._deaf = False  # the other end takes no more; what it had said before may still be read
        self.closed = False
        """All that the other end said has been read, and there will be no more."""

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def wants_write(self) -> bool:
        return bool(self._waiting)

    def send(self, message: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        """Queue a message and send what fits. Descriptors are duplicated: the caller keeps and closes its own.

        To an end that is gone this does nothing. Raises ValueError when the message is larger than a socket's buffer
        can ever take, and OSError when this process is out of descriptors.
        """
        data = json.dumps(message, separators=(",", ":")).encode()
        if len(data) > MAX_MESSAGE:
            raise ValueError(f"a control message of {len(data)} bytes; allowed are {MAX_MESSAGE}")
        with self._lock:
            if not self._deaf:
                self._waiting.append((data, _duplicates(fds)))
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
            except OSError:  # nobody is there. Or the kernel is short of something: then the other end must know
                self._deaf = True
                self._drop_waiting()
                with contextlib.suppress(OSError):
                    self._sock.shutdown(socket.SHUT_WR)
                return
            self._waiting.popleft()
            _close(fds)

    def _drop_waiting(self) -> None:
        for _, fds in self._waiting:
            _close(fds)
        self._waiting.clear()

    def receive(self) -> list[tuple[Message, list[int]]]:
        """Messages that have come, with their descriptors (the caller owns them). Sets ``closed`` at the end.

        A limited number, so that an end that never stops talking keeps nobody from his other work: call it again as
        long as the socket is readable.
        """
        messages: list[tuple[Message, list[int]]] = []
        while not self.closed and len(messages) < MESSAGES_A_TURN:
            try:
                data, fds, flags = self._take()
            except BlockingIOError:
                break
            except ConnectionResetError:  # it died with words of ours unread; said once, then come its own last words
                continue
            except OSError:
                data, fds, flags = b"", [], 0
            if not data:
                self.closed = True
                break
            if flags & socket.MSG_CTRUNC and len(fds) < MAX_FDS and self._goes_without:
                _close(fds)
                fds, flags = [], flags & ~socket.MSG_CTRUNC
            try:
                message = None if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) else _parse(data)
            except MemoryError:
                _close(fds)
                raise
            if message is None:  # not our peer's words: nothing it says from here on can be trusted
                _close(fds)
                self.closed = True
                break
            messages.append((message, fds))
        return messages

    def _take(self) -> tuple[bytes, list[int], int]:
        """A message, its descriptors and recvmsg(2)'s flags. Not socket.recv_fds, which drops the flags it is given
        (3.13.0 too): a descriptor would be inherited by what this process executes. Raises OSError."""
        fds = array.array("i")
        size, ancillary, flags, _ = self._sock.recvmsg_into(
            [self._room], socket.CMSG_LEN(MAX_FDS * fds.itemsize), socket.MSG_CMSG_CLOEXEC
        )
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
        return bytes(self._room[:size]), fds.tolist(), flags

    def close(self) -> None:
        with self._lock:
            self._deaf = True
            self._drop_waiting()
        self._sock.close()
        self.closed = True


def _duplicates(fds: Sequence[int]) -> tuple[int, ...]:
    duplicates: list[int] = []
    try:
        for fd in fds:
            duplicates.append(os.dup(fd))
    except OSError:
        _close(duplicates)
        raise
    return tuple(duplicates)


def _close(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)


def _parse(data: bytes) -> Message | None:
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


def channel_pair() -> tuple[socket.socket, socket.socket]:
    """A connected pair of sockets for two channels, with room for the largest message."""
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for sock in (a, b):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * MAX_MESSAGE)
    return a, b


class Talker(Protocol):
    """An end of a pair that keeps what its socket doesn't take: a Channel, a SlotLink."""

    def fileno(self) -> int: ...

    @property
    def wants_write(self) -> bool: ...

    def flush(self) -> None: ...


class TalkerLoop:
    """A worker's main thread: waits for its talkers, flushes those that have something to say, hands on the rest."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._fds: dict[Talker, int] = {}

    def watch(self, talker: Talker, on_readable: Callable[[], None]) -> None:
        self._fds[talker] = talker.fileno()
        self._selector.register(talker.fileno(), selectors.EVENT_READ, (talker, on_readable))

    def forget(self, talker: Talker) -> None:
        """Before it is closed. Does nothing when it isn't watched."""
        if talker in self._fds:
            self._selector.unregister(self._fds.pop(talker))

    def turn(self, timeout_s: float) -> None:
        """Wait for something to do, at most ``timeout_s``, and do it."""
        for key in list(self._selector.get_map().values()):
            # Only where something waits: a socket that could be written is nearly always one
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if key.data[0].wants_write else 0)
            if wanted != key.events:
                self._selector.modify(key.fd, wanted, key.data)
        for key, events in self._selector.select(max(0.0, timeout_s)):
            talker, on_readable = key.data
            if events & selectors.EVENT_WRITE and talker in self._fds:
                talker.flush()
            if events & selectors.EVENT_READ and talker in self._fds:  # an earlier one may have ended it
                on_readable()
