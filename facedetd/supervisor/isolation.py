"""Which streams leave a decoder group that crashes. Pure.

What a camera sends may make FFmpeg crash, and with it all streams of its process, as often as that camera is connected
again. Nobody can say which it was: dozens of threads are in FFmpeg at any moment. So a group that crashes again is
halved, which after a few more crashes leaves that camera alone with a process of its own.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass

CRASHES = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGILL})
"""What faulty machine code dies of. Not SIGBUS and SIGKILL: memory was short."""
AGAIN_S = 3600.0
"""One crash is none: a second one within this time is."""
CALM_S = 4 * 3600.0
"""So long after its last crash a group is as good as any other."""
MOST_SPLITS = 12
"""At a time in the whole daemon. Two cameras in groups of 32 take ten; a driver that crashes everybody must not make a
process of each stream."""
ALONE_MAX_DELAY_S = 60.0
"""How rarely such a camera's process, which it has to itself, is started again in the end: each start costs a second of
CPU, for years."""


@dataclass(frozen=True, slots=True)
class Crashes:
    """Of one group, and of those it was halved from. Times are monotonic, in s."""

    last_s: float | None = None
    again: bool = False
    """It wasn't the first within AGAIN_S."""

    def suspect(self, now_s: float) -> bool:
        """Whether one of its streams may be the reason."""
        return self.again and self.last_s is not None and now_s - self.last_s < CALM_S


def crashed(before: Crashes, now_s: float) -> Crashes:
    again = before.suspect(now_s) or (before.last_s is not None and now_s - before.last_s < AGAIN_S)
    return Crashes(now_s, again)


def leaving(indices: Sequence[int], crashes: Crashes, splits: int) -> list[int]:
    """Of the places of a group that just crashed, those whose streams get a group of their own. ``splits``: how many
    groups there are now that came about so."""
    if not crashes.again or splits >= MOST_SPLITS:
        return []
    return sorted(indices)[len(indices) - len(indices) // 2 :]
