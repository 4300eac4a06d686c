"""Which workers make no progress any more."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable

from facedetd.supervisor.restarts import BOOT_LIMIT_NS, stuck
from facedetd.supervisor.workers import Worker

MOST_NS = 750_000_000
"""Looks are half a second apart. What is more than this between two was not the workers' time: this process stood
still, and mostly the whole machine did, or its control group. So a pause counts for less than a second, however long it
was, and a worker that beats once a second isn't killed for one at any limit that the configuration allows."""


class Heartbeats:
    def __init__(self, clock_ns: Callable[[], int] = time.monotonic_ns):
        self._clock_ns = clock_ns
        self._last_ns = clock_ns()
        self._gaps: deque[tuple[int, int]] = deque()
        """Those of more than MOST_NS between two looks: from, to."""

    def look(self, workers: Iterable[Worker], limit_ns: int) -> None:
        """Kill those that have been silent, or busy with one batch, for longer than ``limit_ns``."""
        now = self._clock_ns()
        if now - self._last_ns > MOST_NS:
            self._gaps.append((self._last_ns, now))
        self._last_ns = now
        # What began before such a gap is over every limit by now, whether the gap counts or not
        while self._gaps and now - self._gaps[0][1] - self._lost_ns(self._gaps[0][1]) > max(limit_ns, BOOT_LIMIT_NS):
            self._gaps.popleft()
        for worker in workers:
            heard, busy_ns = worker.last_beat_ns, worker.beat.busy_ns
            silent_ns = now - heard - self._lost_ns(heard)
            reason = stuck(worker.ready, silent_ns, busy_ns - self._lost_ns(heard - busy_ns), limit_ns)
            if reason:
                worker.kill(reason)

    def _lost_ns(self, since: int) -> int:
        """How much of the time from then until now wasn't the workers'."""
        return sum(max(0, end - max(begin, since) - MOST_NS) for begin, end in self._gaps)
