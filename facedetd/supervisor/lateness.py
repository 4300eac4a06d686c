"""How many streams are late: a camera whose clock is wrong, or whose link is thin, is no shortage of the daemon's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil

import numpy as np
import numpy.typing as npt

from facedetd.ring.segment import DecoderCounter as D
from facedetd.ring.segment import Segment

SEVERAL = 0.2  # of the streams, and at least two


def several(values: Sequence[float]) -> float:
    """What at least a fifth of ``values``, and at least two (the one, of a single value), reach; 0 of none."""
    if not values:
        return 0.0
    rank = min(len(values), max(2, ceil(SEVERAL * len(values))))
    return sorted(values, reverse=True)[rank - 1]


class LateShares:
    """Of each stream the share of its video that came too late, between two looks."""

    def __init__(self) -> None:
        self._last: dict[int, npt.NDArray[np.uint64]] = {}  # by ring id: the decoders' counters

    def look(self, segments: Iterable[Segment]) -> list[float]:
        """Of the streams that received anything since the last look; in no order."""
        now = {s.spec.ring_id: s.counters[:, 0].copy() for s in segments}
        shares: list[float] = []
        for ring_id, counters in now.items():
            before = self._last.get(ring_id)
            if before is None or before.shape != counters.shape:
                continue
            new = np.maximum(counters.astype(np.int64) - before.astype(np.int64), 0)
            active = new[new[:, D.RECEIVED] > 0]
            skipped = active[:, D.PACKETS_SKIPPED] / active[:, D.RECEIVED]
            looked_at = np.maximum(active[:, D.NOT_SAMPLED_STALE] + active[:, D.SAMPLED], 1)
            shares += np.maximum(skipped, active[:, D.NOT_SAMPLED_STALE] / looked_at).tolist()
        self._last = now
        return shares
