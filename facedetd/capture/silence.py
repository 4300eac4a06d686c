"""Ends reads of cameras that are connected and send no picture: one thread watches those of all streams of a process.

PyAV can give up a read, too, but FFmpeg asks it before each wait and after each few bytes whether to, and PyAV answers
with Python's lock held: a hundred times a frame over TCP, so that a few dozen streams stood in each other's way (its
issue 1112). A connection that is shut down wakes FFmpeg's read at once, whatever it waits for: over UDP it listens to
its RTSP connection, too.

A machine that is paused, and a control group that is frozen, are no silence of a camera's: whoever looks each second
sees that time has passed without it, and every read begins anew then.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import weakref
from collections.abc import Callable, Sequence

from facedetd.threads import no_thread

_S = 1_000_000_000
_LEAST_S, _MOST_S = 0.02, 1.0  # between two looks
_STOPPING_NS = 2 * _S
"""A stream that is stopped waits no longer for its camera: one that sends nothing would keep the connection, which some
cameras have few of, till ``read_timeout_s``."""
_AWAY_S = 1.0
"""A look that comes so much later than it was to says that this process didn't run. A machine with too much to do makes
it late, too, but not by so much."""


class Silence:
    """One source's reads. Its thread says when one begins and ends, in ``since_ns``; ``close`` is any thread's."""

    def __init__(
        self,
        connections: Sequence[socket.socket],
        limit_ns: int,
        clock: Callable[[], int],
        stop: threading.Event | None = None,
    ):
        """``connections`` to the camera, which are this object's from now on. A read may last ``limit_ns`` of
        ``clock`` (ns), and not much longer once ``stop`` is set. Raises OSError where no thread can be started."""
        self.since_ns: int | None = None
        """When the read under way began; None: there is none."""
        self._connections, self._limit_ns, self._clock, self._stop = connections, limit_ns, clock, stop
        self._watched, self._ended = bool(connections), False
        if connections:
            try:
                _watch.add(self)
            except RuntimeError:
                self.close()
                raise OSError(no_thread("to watch for its silence")) from None

    def ran_out(self, since_ns: int, share: float = 1.0) -> bool:
        """Whether a read that began then and is over was ended for its length. Without connections it is PyAV that ends
        one: then whether it took this share of the limit."""
        return self._ended if self._watched else self._clock() - since_ns > share * self._limit_ns

    def look(self, back_ns: int = 0) -> int:
        """Ends a read that has lasted too long, of which what was before ``back_ns`` doesn't count. How soon to look
        again, in ns."""
        since, limit = self.since_ns, self._limit_ns
        if self._stop is not None and self._stop.is_set():
            limit = min(limit, _STOPPING_NS)
        left = limit if since is None else max(since, back_ns) + limit - self._clock()
        if left > 0:
            return left
        self._ended = True
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
    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        """``clock`` (ns) is that of all it watches."""
        self._clock = clock
        self._back_ns = 0  # since when this process has been running
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
                self._turn()
            except (MemoryError, RuntimeError):  # the latter: no lock to wait at. But without this no read would end
                time.sleep(_LEAST_S)

    def _turn(self) -> None:
        with self._changed:
            pause_s, began = self._look(), self._clock()
            self._changed.wait(pause_s)
            now = self._clock()
        if pause_s is not None and (now - began) / _S > pause_s + _AWAY_S:
            self._back_ns = now

    def _look(self) -> float | None:
        """How soon to look again, in s."""
        left = [one.look(self._back_ns) for one in self._watched]
        return min(max(_LEAST_S, min(left) / _S), _MOST_S) if left else None


_watch = _Watch()
