"""Who decodes first where the CPU is short, till the degradation controller has found out and acts."""

from __future__ import annotations

import contextlib
import os

HIGHEST_NICE = 5
"""Of decoders. A frame that waits to be inferred goes before one that waits to be decoded: decoders can catch up, and
what they can't is skipped; a late result only gets later."""
LOWEST_NICE = 12
"""Each step is a tenth of a core that is fought for (sched(7)): from one end to the other a factor of five."""


def nice_of(priority: int) -> int:
    """The nice value for decoding a stream of this priority (0-100)."""
    return round(LOWEST_NICE - (LOWEST_NICE - HIGHEST_NICE) * min(max(priority, 0), 100) / 100)


def set_nice(thread: int, priority: int) -> None:
    """``thread`` is a kernel's thread id. To raise it takes a right (RLIMIT_NICE), which the packaged service has;
    without it stays."""
    with contextlib.suppress(OSError):  # it may have ended, too
        os.setpriority(os.PRIO_PROCESS, thread, nice_of(priority))
