"""How long to wait before the next attempt: exponential, full jitter, capped."""

from __future__ import annotations

from dataclasses import dataclass, replace

_FLOOR = 0.1  # of the initial delay, so that jitter never makes a camera be hammered


@dataclass(frozen=True, slots=True)
class Backoff:
    """``failures`` in a row so far; ``initial_s`` and ``max_s`` bound the delay."""

    initial_s: float
    max_s: float
    failures: int = 0


def failed(backoff: Backoff, random: float) -> tuple[Backoff, float]:
    """Count a failure and say how long to wait, in s: uniform up to ``min(max, initial * 2^failures)``, with
    ``random`` uniform in [0, 1)."""
    # An exponent of 32 is beyond any cap; larger ones would overflow a float after a week of failures.
    ceiling = min(backoff.max_s, backoff.initial_s * 2 ** min(backoff.failures, 32))
    floor = min(ceiling, backoff.initial_s * _FLOOR)
    return replace(backoff, failures=backoff.failures + 1), floor + (ceiling - floor) * random


def recovered(backoff: Backoff) -> Backoff:
    return replace(backoff, failures=0)
