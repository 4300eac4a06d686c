"""When a file's next packet is due, so that it plays at its own pace."""

from __future__ import annotations

from dataclasses import dataclass

_S = 1_000_000_000
BURST_NS = _S // 4
"""A late reader catches up with at most so much of the file at once."""
JUMP_NS = 2 * _S
"""A step in time larger than this is a jump in the file's PTS, not something to wait for."""


@dataclass(frozen=True, slots=True)
class Pace:
    """``start_ns``: the monotonic time of the file's time 0; ``time_ns``: the last packet's time in the file."""

    start_ns: int
    time_ns: int


def due(pace: Pace | None, time_ns: int, now_ns: int) -> tuple[Pace, int]:
    """How long to wait before the packet at ``time_ns`` of the file, in ns (<= 0: it is due)."""
    if pace is None or not -JUMP_NS < time_ns - pace.time_ns <= JUMP_NS:
        return Pace(now_ns - time_ns, time_ns), 0
    start = max(pace.start_ns, now_ns - time_ns - BURST_NS)
    return Pace(start, time_ns), start + time_ns - now_ns
