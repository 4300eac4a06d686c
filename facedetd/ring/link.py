"""The only way a slot changes hands: 24-byte records, some in a message, on a non-blocking SOCK_SEQPACKET pair.

A message that doesn't fit the socket's buffer waits in this process and is never lost; an honest end has no more of
them than slots, since each names a slot that its sender owned.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections import deque
from dataclasses import dataclass

_RECORD = struct.Struct("<BxHIQQ")
SENT, RETURNED = 1, 2
RECORDS_A_MESSAGE = 64
RECORDS_A_TURN = 1024
MAX_WAITING = 65536
"""Far more than a ring has slots: an end that lets so many wait doesn't read."""


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
        self._deaf = False  # the other end takes no more; what it had sent before may still be read
        self.closed = False
        """The other end is gone and all that it sent has been read."""

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def wants_write(self) -> bool:
        return bool(self._waiting)

    def send(self, *records: SlotRecord) -> None:
        """In as few messages as may be."""
        packed = [_RECORD.pack(r.kind, r.stream, r.slot, r.epoch, r.sequence) for r in records]
        with self._lock:
            if not self._deaf:
                for start in range(0, len(packed), RECORDS_A_MESSAGE):
                    self._waiting.append(b"".join(packed[start : start + RECORDS_A_MESSAGE]))
                self._flush()
                if len(self._waiting) > MAX_WAITING:
                    self._give_up()

    def flush(self) -> None:
        with self._lock:
            self._flush()

    def _flush(self) -> None:
        while self._waiting:
            try:
                self._sock.send(self._waiting[0])
            except BlockingIOError:
                return
            except OSError:
                self._give_up()
                return
            self._waiting.popleft()

    def _give_up(self) -> None:
        """Whoever owns the ring reclaims what was under way: both ends read the end of the stream, so it is told."""
        self._deaf = True
        self._waiting.clear()
        with contextlib.suppress(OSError):  # the other end is gone
            self._sock.shutdown(socket.SHUT_RDWR)

    def receive(self) -> list[SlotRecord]:
        """Records that have come, a limited number: call it again as long as the socket is readable. Sets ``closed``
        at the end of the stream; records before it still come."""
        records: list[SlotRecord] = []
        while not self.closed and len(records) < RECORDS_A_TURN:
            try:
                data = self._sock.recv(_RECORD.size * RECORDS_A_MESSAGE + 1)
            except BlockingIOError:
                break
            except ConnectionResetError:  # it died with records of ours unread; said once, then come its own
                continue
            except OSError:
                data = b""
            if not data or len(data) % _RECORD.size:  # empty: closed; other sizes: not our peer
                self.closed = True
                break
            records += [SlotRecord(*fields) for fields in _RECORD.iter_unpack(data)]
        return records

    def close(self) -> None:
        self._sock.close()
