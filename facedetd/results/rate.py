"""Events a second over the last seconds."""

from __future__ import annotations

import time
from collections.abc import Callable

_TICKS = 100  # slices of the window


class RateWindow:
    """Counts events in a hundred slices of the last ``seconds``; memory doesn't depend on the rate.

    The rate is the number of events after a start, divided by the exact time since that start: the begin of the
    oldest slice or, while the window isn't full, the first event (which is then not counted itself, else five
    events in a second would look like six). So it is right from the second event on, also when each ``add`` brings
    several (frames of a batch, microseconds of work).
    """

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns, seconds: float = 10.0):
        if not seconds > 0:
            raise ValueError(f"a window of {seconds} s; it must be over 0")
        self._clock = clock
        self._tick_ns = max(1, round(seconds * 1e9 / _TICKS))
        self._counts = [0] * _TICKS
        self._total = 0
        self._tick = clock() // self._tick_ns
        self._first_ns: int | None = None

    def add(self, events: int = 1) -> None:
        now = self._advance()
        if self._first_ns is None and events > 0:
            self._first_ns = now
        if now == self._first_ns:
            return
        self._counts[self._tick % _TICKS] += events
        self._total += events

    def rate(self) -> float:
        """Events a second; 0 before the second event and after ``seconds`` without one."""
        now = self._advance()
        if self._first_ns is None:
            return 0.0
        start = max(self._first_ns, (self._tick - _TICKS + 1) * self._tick_ns)
        return self._total * 1e9 / (now - start) if now > start else 0.0

    def _advance(self) -> int:
        now = self._clock()
        tick = now // self._tick_ns
        for gone in range(max(self._tick + 1, tick - _TICKS + 1), tick + 1):
            self._total -= self._counts[gone % _TICKS]
            self._counts[gone % _TICKS] = 0
        self._tick = max(self._tick, tick)
        return now
