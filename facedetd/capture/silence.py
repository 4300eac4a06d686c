"""Ends reads of cameras that are connected and send no picture: one thread watches those of all streams of a process.

PyAV can give up a read, too, but FFmpeg asks it before each wait and after each few bytes whether to, and PyAV answers
with Python's lock held: a hundred times a frame over TCP, so that a few dozen streams stood in each other's way (its
issue 1112). A connection that is shut down wakes FFmpeg's read at once, whatever it waits for: over UDP it listens to
its RTSP connection, too.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import weakref
from collections.abc import Callable, Sequence

_S = 1_000_000_000
_LEAST_S = 0.02  # between two looks


class Silence:
    """One source's reads. Its thread says when one begins and ends, in ``since_ns``; ``close`` is any thread's."""

    def __init__(self, connections: Sequence[socket.socket], limit_ns: int, clock: Callable[[], int]):
        """``connections`` to the camera, which are this object's from now on. A read may last ``limit_ns`` of
        ``clock`` (ns). Raises OSError where no thread can be started."""
        self.since_ns: int | None = None
        """When the read under way began; None: there is none."""
        self._connections, self._limit_ns, self._clock = connections, limit_ns, clock
        if connections:
            try:
                _watch.add(self)
            except RuntimeError as error:
                self.close()
                raise OSError(f"no thread to watch for its silence: {error}") from None

    def look(self) -> int:
        """Ends a read that has lasted too long. How soon to look again, in ns."""
        since = self.since_ns
        left = self._limit_ns if since is None else since + self._limit_ns - self._clock()
        if left > 0:
            return left
        for connection in self._connections:
            with contextlib.suppress(OSError):  # the camera was quicker
                connection.shutdown(socket.SHUT_RDWR)
        return self._limit_ns

    def close(self) -> None:
        """Nothing is ended from here on. The camera sees its connection closed once FFmpeg's own end is, too."""
        if self._connections:
            _watch.remove(self)
        for connection in self._connections:
            connection.close()
        self._connections = ()


class _Watch:
    def __init__(self) -> None:
        self._changed = threading.Condition()
        # Whoever forgets one, as where an error comes in between, forgets its connections with it, as FFmpeg's
        self._watched: weakref.WeakSet[Silence] = weakref.WeakSet()
        self._thread: threading.Thread | None = None

    def add(self, one: Silence) -> None:
        """Raises RuntimeError where no thread can be started."""
        with self._changed:
            if self._thread is None:
                thread = threading.Thread(target=self._main, name="silence", daemon=True)
                thread.start()
                self._thread = thread
            self._watched.add(one)
            self._changed.notify()

    def remove(self, one: Silence) -> None:
        """It isn't looked at once this returns."""
        with self._changed:
            self._watched.discard(one)

    def _main(self) -> None:
        while True:
            try:
                with self._changed:
                    self._changed.wait(self._look())
            except (MemoryError, RuntimeError):  # the latter: no lock to wait at. But without this no read would end
                time.sleep(_LEAST_S)

    def _look(self) -> float | None:
        """How soon to look again, in s."""
        left = [one.look() for one in self._watched]
        return max(_LEAST_S, min(left) / _S) if left else None


_watch = _Watch()
