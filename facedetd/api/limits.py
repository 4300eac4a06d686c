"""How many calls a caller may make, and how much work. Clocks are injected."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

from facedetd.api.errors import RateError

T = TypeVar("T")

BURST_S = 5.0
"""So many seconds' worth of calls may come at once: scripts that add streams come in bursts."""


class TokenBucket:
    """``rate`` tokens a second on average, ``rate * burst_s`` at once."""

    def __init__(self, rate: float, now: float, burst_s: float = BURST_S) -> None:
        self._rate, self._most = rate, rate * burst_s
        self._tokens = self._most
        self._at = now

    def take(self, now: float) -> bool:
        """Take one, if it is there."""
        if self.left(now) < 1.0:
            return False
        self.spend(1.0, now)
        return True

    def left(self, now: float) -> float:
        """Below 0 where more was spent than there was."""
        self._tokens = min(self._most, self._tokens + max(now - self._at, 0.0) * self._rate)
        self._at = now
        return self._tokens

    def spend(self, tokens: float, now: float) -> None:
        """What came since they were last counted is none."""
        self._tokens -= tokens
        self._at = now


class Limits:
    """A bucket for each caller's name. Names come from the configuration, so there are few."""

    def __init__(self, rate: float, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._clock = clock
        self._buckets: dict[str, TokenBucket] = {}

    def take(self, name: str) -> None:
        """Raises RateError when ``name`` calls too often."""
        now = self._clock()
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = TokenBucket(self._rate, now)
        if not bucket.take(now):
            raise RateError(f"too many calls through {name}: at most {self._rate:g} a second (api.max_calls_per_s)")

    def change(self, rate: float) -> None:
        if rate != self._rate:
            self._rate = rate
            self._buckets.clear()


WORK_SHARE, WORK_BURST_S = 0.25, 2.0
"""Of the event loop's time for a caller's answers about all streams, and how much of it may come at once."""


class WorkShare:
    """An answer about hundreds of streams keeps the loop, on which all results come in, busy for tens of ms. Who asks
    again and again waits, so that no caller takes more than its share. Names are few, as in Limits."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, worked: Callable[[], float] = time.thread_time
    ) -> None:
        """``worked``: the CPU seconds of the loop's thread."""
        self._clock, self._worked = clock, worked
        self._buckets: dict[str, TokenBucket] = {}  # of seconds of work

    async def do(self, name: str, make: Callable[[], T]) -> T:
        """``make``'s answer, once it is the caller's turn. Raises what it raises."""
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = TokenBucket(WORK_SHARE, self._clock(), WORK_BURST_S / WORK_SHARE)
        while (left := bucket.left(self._clock())) <= 0:  # noqa: ASYNC110 - time alone brings the turn
            await asyncio.sleep(-left / WORK_SHARE + 0.001)
        began = self._worked()
        try:
            return make()
        finally:
            bucket.spend(self._worked() - began, self._clock())
