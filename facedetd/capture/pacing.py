"""When a file's next packet is due, so that it plays at its own pace."""

from __future__ import annotations

from dataclasses import dataclass

_S = 1_000_000_000
BACKLOG_NS = 5 * _S
"""What waits for a late reader, as in a camera's and a socket's buffers. The rest is lost: time goes on without it."""
JUMP_NS = 2 * _S
"""A step in time larger than this is a jump in the file's PTS, not something to wait for."""


@dataclass(frozen=True, slots=True)
class Pace:
    """``start_ns``: the monotonic time of the file's time 0; ``time_ns``: the last packet's time in the file."""

    start_ns: int
    time_ns: int


def due(pace: Pace | None, time_ns: int, now_ns: int) -> tuple[Pace, int, int]:
    """How long to wait before the packet at ``time_ns`` of the file, in ns (<= 0: it is due), and by how much the
    file's time must be put forward from this packet on, because so much was lost."""
    if pace is None or not -JUMP_NS < time_ns - pace.time_ns <= JUMP_NS:
        return Pace(now_ns - time_ns, time_ns), 0, 0
    wait = pace.start_ns + time_ns - now_ns
    if wait >= -BACKLOG_NS:
        return Pace(pace.start_ns, time_ns), wait, 0
    return Pace(pace.start_ns, time_ns - wait), 0, -wait
