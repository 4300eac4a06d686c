"""Which workers make no progress any more."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from facedetd.supervisor.restarts import BOOT_LIMIT_NS, stuck
from facedetd.supervisor.starved import TIMES, Spent, is_starved, spending
from facedetd.supervisor.workers import Worker

MOST_NS = 750_000_000
"""Looks are half a second apart. What is more than this between two was not the workers' time: this process stood
still, and mostly the whole machine did, or its control group. So a pause counts for less than a second, however long it
was, and a worker that beats once a second isn't killed for one at any limit that the configuration allows."""


@dataclass(slots=True)
class Suspect:
    """``spent``: when it had used up half of the limit."""

    spent: Spent
    told: bool = False


log = logging.getLogger(__name__)


class Heartbeats:
    def __init__(
        self,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        spent: Callable[[int], Spent] | None = None,
    ):
        """``spent``: see :func:`facedetd.supervisor.starved.spending`."""
        self._clock_ns, self._spent = clock_ns, spent or spending()
        self._suspects: dict[int, Suspect] = {}
        """By process: those that have used up half of the limit."""
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
        longest_ns = TIMES * max(limit_ns, BOOT_LIMIT_NS)
        while self._gaps and now - self._gaps[0][1] - self._lost_ns(self._gaps[0][1]) > longest_ns:
            self._gaps.popleft()
        suspects, self._suspects = self._suspects, {}
        for worker in workers:
            heard, busy_ns = worker.last_beat_ns, worker.beat.busy_ns
            silent_ns = now - heard - self._lost_ns(heard)
            busy_ns -= self._lost_ns(heard - busy_ns)
            if stuck(worker.ready, silent_ns, busy_ns, limit_ns, 0.5):
                suspect = suspects.get(worker.pid) or Suspect(self._spent(worker.pid))
                self._suspects[worker.pid] = suspect
                self._judge(worker, suspect, silent_ns, busy_ns, limit_ns)

    def _judge(self, worker: Worker, suspect: Suspect, silent_ns: int, busy_ns: int, limit_ns: int) -> None:
        """It is killed at the limit, but where it wants for CPU: another start would take more of what is short."""
        reason = stuck(worker.ready, silent_ns, busy_ns, limit_ns)
        if not reason:
            return
        too_long = stuck(worker.ready, silent_ns, busy_ns, limit_ns, TIMES)
        if too_long or not is_starved(suspect.spent, self._spent(worker.pid)):
            worker.kill(reason)
        elif not suspect.told:
            suspect.told = True
            log.warning("worker %s: %s, but no CPU is left for it: it is given more time", worker.name, reason)

    def _lost_ns(self, since: int) -> int:
        """How much of the time from then until now wasn't the workers'."""
        return sum(max(0, end - max(begin, since) - MOST_NS) for begin, end in self._gaps)
