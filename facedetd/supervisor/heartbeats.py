"""Which workers make no progress any more."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from facedetd.supervisor.restarts import stuck
from facedetd.supervisor.workers import Worker

AWAY_NS = 1_000_000_000
"""Between two looks there is less than this, but for what held up this process itself."""


class Heartbeats:
    def __init__(self, clock_ns: Callable[[], int] = time.monotonic_ns):
        self._clock_ns = clock_ns
        self._last_ns = self._back_ns = clock_ns()

    def look(self, workers: Iterable[Worker], limit_ns: int) -> None:
        """Kill those that have been silent, or busy with one batch, for longer than ``limit_ns``."""
        now = self._clock_ns()
        away = now - self._last_ns > limit_ns // 2 + AWAY_NS
        self._last_ns = now
        if away:  # stopped, or the whole machine was: what is known of the others is as old, and their batches are
            self._back_ns = now
        for worker in workers:
            if away:
                worker.last_beat_ns = now
            busy_ns = min(worker.beat.busy_ns, now - self._back_ns)
            reason = stuck(worker.ready, now - worker.last_beat_ns, busy_ns, limit_ns)
            if reason:
                worker.kill(reason)
