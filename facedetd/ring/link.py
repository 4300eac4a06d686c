"""The only way a slot changes hands: 24-byte records on a non-blocking SOCK_SEQPACKET pair.

A record that doesn't fit the socket's buffer waits in this process and is never lost; there are no more of
them than slots, since each names a slot that its sender owned.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections import deque
from dataclasses import dataclass

_RECORD = struct.Struct("<BxHIQQ")
SENT, RETURNED = 1, 2


@dataclass(frozen=True, slots=True)
class SlotRecord:
    """``kind`` is SENT (decoder to inference) or RETURNED (back). ``epoch`` and ``sequence`` repeat the slot's
    header, so that the receiver can tell a slot whose contents are not what was sent."""

    kind: int
    stream: int
    slot: int
    epoch: int
    sequence: int


def link_pair() -> tuple[socket.socket, socket.socket]:
    """A connected, non-blocking pair: (decoder's end, inference's end)."""
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    a.setblocking(False)
    b.setblocking(False)
    return a, b


class SlotLink:
    """One end. ``send`` and ``flush`` may be called by any thread, ``receive`` by one."""

    def __init__(self, sock: socket.socket):
        sock.setblocking(False)
        self._sock = sock
        self._waiting: deque[bytes] = deque()
        self._lock = threading.Lock()
        self.closed = False  # the other end is gone

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def wants_write(self) -> bool:
        return bool(self._waiting)

    def send(self, record: SlotRecord) -> None:
        data = _RECORD.pack(record.kind, record.stream, record.slot, record.epoch, record.sequence)
        with self._lock:
            self._waiting.append(data)
            self._flush()

    def flush(self) -> None:
        with self._lock:
            self._flush()

    def _flush(self) -> None:
        while self._waiting:
            try:
                self._sock.send(self._waiting[0])
            except BlockingIOError:
                return
            except OSError:  # the other end is gone: whoever owns the ring reclaims what was under way
                self.closed = True
                self._waiting.clear()
                return
            self._waiting.popleft()

    def receive(self) -> list[SlotRecord]:
        """All records that have come. Sets ``closed`` at the end of the stream; records before it still come."""
        records: list[SlotRecord] = []
        while True:
            try:
                data = self._sock.recv(_RECORD.size + 1)
            except BlockingIOError:
                return records
            except OSError:
                data = b""
            if len(data) != _RECORD.size:  # empty: closed; other sizes: not our peer
                self.closed = True
                return records
            records.append(SlotRecord(*_RECORD.unpack(data)))

    def close(self) -> None:
        self._sock.close()
