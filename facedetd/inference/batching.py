"""When a batch leaves, and with which frames. Pure: the clock's reading comes in as an argument."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """``preferred`` frames leave at once, at most ``maximum`` together. Fewer leave when the device is idle and at
    least ``minimum`` wait, or when the oldest has waited ``deadline_ns``."""

    minimum: int
    preferred: int
    maximum: int
    deadline_ns: int

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.preferred <= self.maximum:
            raise ValueError(
                f"batch sizes must be 1 <= minimum <= preferred <= maximum, "
                f"not {self.minimum}, {self.preferred}, {self.maximum}"
            )

    def up_to(self, maximum: int) -> BatchPolicy:
        """The same for an engine that takes at most ``maximum``."""
        if maximum >= self.maximum:
            return self
        return BatchPolicy(min(self.minimum, maximum), min(self.preferred, maximum), maximum, self.deadline_ns)


@dataclass(frozen=True, slots=True)
class Decision:
    """``count`` frames leave now. Where it is 0, look again when a frame comes or, if not None, after ``wait_ns``."""

    count: int
    wait_ns: int | None = None


def decide(waiting_since_ns: Sequence[int], now_ns: int, device_idle: bool, policy: BatchPolicy) -> Decision:
    """``waiting_since_ns``: since when each waiting frame waits (at most one a stream), in any order."""
    n = len(waiting_since_ns)
    if n == 0:
        return Decision(0)
    if n >= policy.preferred or (device_idle and n >= policy.minimum):
        return Decision(min(n, policy.maximum))
    left = min(waiting_since_ns) + policy.deadline_ns - now_ns
    return Decision(n) if left <= 0 else Decision(0, left)
