"""Latency over the last minute, in memory that doesn't depend on how many frames came.

Quantiles come from logarithmic buckets: with bucket bounds a factor g apart and 2g/(g+1) times the lower bound
as a bucket's value, the relative error is at most (g-1)/(g+1) (the DDSketch estimate: Masson, Rim, Lee, VLDB 2019).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from facedetd.control import LatencyView

RELATIVE_ERROR = 0.04
_GROWTH = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_LOG_GROWTH = math.log(_GROWTH)
_MIN_NS = 1_000  # 1 µs; shorter ones count as that
_MAX_NS = 1_000_000_000_000  # 1000 s; longer ones too
_BUCKETS = math.ceil(math.log(_MAX_NS / _MIN_NS) / _LOG_GROWTH) + 1
SLICES = 6
SLICE_NS = 10_000_000_000
_VALUES_S = _MIN_NS * 1e-9 * _GROWTH ** np.arange(_BUCKETS) * 2 * _GROWTH / (_GROWTH + 1)

Clock = Callable[[], int]
"""Monotonic nanoseconds."""


class LatencyWindow:
    """Latencies of the last 50 to 60 s: six slices of ten seconds, the newest still filling (or of ``slice_ns``)."""

    def __init__(self, clock: Clock = time.monotonic_ns, slice_ns: int = SLICE_NS):
        self._clock = clock
        self._slice_ns = slice_ns
        self._counts = np.zeros((SLICES, _BUCKETS), np.uint32)
        self._sums_ns = [0] * SLICES
        self._slice = clock() // slice_ns

    def add(self, latency_ns: int) -> None:
        """Count one result. What lies outside 1 µs - 1000 s counts as the nearer end."""
        row = self._advance()
        latency_ns = min(max(latency_ns, _MIN_NS), _MAX_NS)
        self._counts[row, int(math.log(latency_ns / _MIN_NS) / _LOG_GROWTH)] += 1
        self._sums_ns[row] += latency_ns

    def view(self) -> LatencyView | None:
        """Mean (exact) and quantiles (nearest rank, within 5 %) in seconds; None when nothing came."""
        return merged_view((self,))

    def _advance(self) -> int:
        """Empty the slices that have gone by; returns the row of the present one."""
        now = self._clock() // self._slice_ns
        for gone in range(max(self._slice + 1, now - SLICES + 1), now + 1):
            self._counts[gone % SLICES] = 0
            self._sums_ns[gone % SLICES] = 0
        self._slice = max(self._slice, now)
        return self._slice % SLICES

    def _totals(self) -> tuple[npt.NDArray[np.int64], int]:
        self._advance()
        return self._counts.sum(axis=0, dtype=np.int64), sum(self._sums_ns)


def merged_view(windows: Iterable[LatencyWindow]) -> LatencyView | None:
    """One view of all windows together, as if every latency had gone into one."""
    counts = np.zeros(_BUCKETS, np.int64)
    sum_ns = 0
    for window in windows:
        more, more_ns = window._totals()
        counts += more
        sum_ns += more_ns
    cumulated = np.cumsum(counts)
    count = int(cumulated[-1])
    if count == 0:
        return None
    ranks = [-(-count * percent // 100) for percent in (50, 95, 99)]
    p50, p95, p99 = (float(_VALUES_S[np.searchsorted(cumulated, rank)]) for rank in ranks)
    return LatencyView(mean=sum_ns / count * 1e-9, p50=p50, p95=p95, p99=p99)
