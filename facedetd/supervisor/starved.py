"""Whether a process that gives no sign of life works on a machine that has too little CPU: then it isn't stuck, and to
start it anew would only add to what there is to do."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from facedetd.metrics.hostcpu import HostCpu
from facedetd.usage import cpu_seconds

TIMES = 4
"""So many times the limit may such a process be silent: it might be stuck as well, in a loop."""
_IDLE = 0.05  # of the CPUs: what schedulers leave over when all are wanted
_WORKS = 0.001  # of one CPU: more than a process that is stopped, or waits for what doesn't come


@dataclass(frozen=True, slots=True)
class Spent:
    """CPU seconds up to a moment (``at_s``, monotonic): of a process, and those that nobody used, of ``cores``."""

    at_s: float
    process_s: float
    idle_s: float
    cores: float


def is_starved(before: Spent, now: Spent) -> bool:
    """Whether it worked, between two looks, though all CPUs that it may use were busy."""
    passed_s = now.at_s - before.at_s
    works = now.process_s - before.process_s > _WORKS * passed_s
    return works and now.idle_s - before.idle_s < _IDLE * now.cores * passed_s


def spending(host: HostCpu | None = None, clock: Callable[[], float] = time.monotonic) -> Callable[[int], Spent]:
    """What tells of a process, by its pid, what it and all others have spent up to now."""
    there = host or HostCpu()

    def look(pid: int) -> Spent:
        now_s = clock()
        there.look(now_s)
        return Spent(now_s, cpu_seconds(pid) or 0.0, there.idle_s, there.cores)

    return look
