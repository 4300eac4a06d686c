"""How many calls a caller may make. The clock is injected."""

from __future__ import annotations

from collections.abc import Callable

from facedetd.api.errors import RateError

BURST_S = 5.0
"""So many seconds' worth of calls may come at once: scripts that add streams come in bursts."""


class TokenBucket:
    """``rate`` calls a second on average, ``rate * BURST_S`` at once."""

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._tokens = rate * BURST_S
        self._at = now

    def take(self, now: float) -> bool:
        """Whether a call may go on now."""
        self._tokens = min(self._rate * BURST_S, self._tokens + max(now - self._at, 0.0) * self._rate)
        self._at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


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
