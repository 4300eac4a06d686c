"""Log lines on their way to stderr, which may be a pipe, a terminal or the journal's socket that nobody reads just now:
a process that waits there decodes nothing, infers nothing, and is killed as stuck.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import stat
import threading
from collections import deque
from typing import TextIO

MAX_WAITING_BYTES = 256 * 1024
"""What doesn't fit any more is lost, and counted."""
CLOSING_S = 1.0
"""So long the end of a process waits for lines that wait."""
_PIECE = 4096  # a pipe that poll(2) calls writable takes so much at once


class StderrHandler(logging.Handler):
    """Writes at once what can be written at once. Where that isn't all, a thread waits for the rest to be taken, and
    whoever logs goes on. Lines keep their order."""

    def __init__(self, stream: TextIO | None):
        """``stream``: sys.stderr; None where that was closed before this process began."""
        super().__init__()
        self._encoding = getattr(stream, "encoding", None) or "utf-8"
        self._stream = stream
        """Only where it is no file."""
        self._fd = -1
        self._socket: socket.socket | None = None
        with contextlib.suppress(OSError, ValueError):  # io.UnsupportedOperation is both
            if stream is not None:
                self._fd = stream.fileno()
                self._stream = None
                if stat.S_ISSOCK(os.fstat(self._fd).st_mode):
                    self._socket = socket.socket(fileno=os.dup(self._fd))
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._lost = 0
        self._writer: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record) + "\n"
        except Exception:
            self.handleError(record)
            return
        if self._stream is not None:
            self._stream.write(line)
        if self._fd < 0:
            return
        with self._changed:
            self._take(line)
            if self._writer is None:
                self._write_now()
                if self._waiting:
                    self._start_writer()

    def _take(self, line: str) -> None:
        data = line.encode(self._encoding, "backslashreplace")
        if self._waiting_bytes + len(data) > MAX_WAITING_BYTES and self._waiting:
            self._lost += 1
            return
        self._waiting.append(data)
        self._waiting_bytes += len(data)

    def _write_now(self) -> None:
        """As much as can be had without waiting."""
        try:
            while self._next() is not None:
                written = self._write_some(self._waiting[0])
                if not written:
                    return
                self._written(written)
        except OSError:  # nobody is there, or the disk is full: there is no other place to say so
            self._forget()

    def _write_some(self, data: bytes) -> int:
        """Bytes that were taken; 0: none now. Raises OSError."""
        if self._socket is not None:
            try:
                return self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return 0
        return os.write(self._fd, data[:_PIECE]) if self._is_writable(0) else 0

    def _is_writable(self, timeout_ms: int) -> bool:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return bool(poll.poll(timeout_ms))

    def _next(self) -> bytes | None:
        """What is to be written next. Once all that waited is out, that is how much was lost meanwhile."""
        if not self._waiting and self._lost:
            words = f"{self._lost} lines of the log were lost here: what reads stderr was behind"
            self._lost = 0
            record = logging.LogRecord(__name__, logging.WARNING, __file__, 0, words, (), None)
            self._take(self.format(record) + "\n")
        return self._waiting[0] if self._waiting else None

    def _written(self, size: int) -> None:
        first = self._waiting.popleft()
        self._waiting_bytes -= size
        if size < len(first):
            self._waiting.appendleft(first[size:])

    def _forget(self) -> None:
        self._waiting.clear()
        self._waiting_bytes = self._lost = 0

    def _start_writer(self) -> None:
        writer = threading.Thread(target=self._write_rest, name="log", daemon=True)
        try:
            writer.start()
        except RuntimeError:  # no thread to be had: the next line tries again
            return
        self._writer = writer

    def _write_rest(self) -> None:
        """The thread's: until nothing waits."""
        while True:
            with self._changed:
                data = self._next()
                if data is None:
                    self._writer = None
                    self._changed.notify_all()
                    return
            try:
                written = os.write(self._fd, data)
            except BlockingIOError:  # whoever shares it made it so
                self._is_writable(1000)
                continue
            except OSError:
                with self._changed:
                    self._forget()
                continue
            with self._changed:
                self._written(written)

    def flush(self) -> None:
        """Wait a little for what waits."""
        with self._changed:
            if self._writer is None and self._fd >= 0:
                self._write_now()
            self._changed.wait_for(lambda: self._writer is None, CLOSING_S)

    def close(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close()
            self._socket = None
        super().close()
