"""Which frames make a calibration set: spread over what there is, no two alike, the hard ones first. Pure.

Frames are sorted into strata by stream, time of day, brightness, number of faces and height of the smallest face. Each
stratum gets as many as any other, as far as it has them (max-min fair); where that leaves a choice, the frame whose
stream, time and so on are the rarest so far; and inside a stratum the hardest.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

HASH_BITS = 256
HOURS = 3
"""Of UTC, in one bin of the time of day: which hours are together matters little, that all are there does."""
LUMA_EDGES = (48, 80, 112, 144)
FACES_EDGES = (1, 2, 4, 8)
HEIGHT_EDGES = (1, 16, 32, 96)  # px of the model's picture; below 1: no face
_NEAR = 0.3
_SMALL_PX = (8.0, 32.0)


@dataclass(frozen=True, slots=True)
class Candidate:
    """``key`` is its own and settles ties. ``utc_s`` since the Unix epoch; ``luma_mean`` 0-255; ``hash`` of HASH_BITS;
    ``smallest_px``: height of the smallest face in px of the model's picture, 0 without faces; ``hardness``: see
    :func:`hardness`."""

    key: str
    stream: str
    utc_s: float
    luma_mean: float
    hash: int
    faces: int
    smallest_px: float
    hardness: float


@dataclass(frozen=True, slots=True)
class Bins:
    """What a frame is counted under in each respect."""

    stream: str
    hours: int
    brightness: int
    faces: int
    height: int


def bins_of(candidate: Candidate) -> Bins:
    return Bins(
        candidate.stream,
        int(candidate.utc_s // 3600) % 24 // HOURS,
        bisect.bisect_right(LUMA_EDGES, candidate.luma_mean),
        bisect.bisect_right(FACES_EDGES, candidate.faces),
        bisect.bisect_right(HEIGHT_EDGES, candidate.smallest_px),
    )


def hardness(scores: Sequence[float], threshold: float, smallest_px: float) -> float:
    """From 0 to 1: how near the score nearest to the threshold is to it (0 from 0.3 away on), or how small the smallest
    face is (from 32 px of the model's picture, 0, to 8 px, 1), whichever is more. ``scores`` are also those below the
    threshold: a face that is nearly missed or nearly found is what lost precision shows on first."""
    near = max((1.0 - abs(score - threshold) / _NEAR for score in scores), default=0.0)
    low, high = _SMALL_PX
    small = (high - smallest_px) / (high - low) if smallest_px > 0 else 0.0
    return min(1.0, max(0.0, near, small))


def choose(candidates: Sequence[Candidate], count: int, distance: int) -> tuple[Candidate, ...]:
    """At most ``count`` of them, the most needed first, of which no two have hashes that differ in fewer than
    ``distance`` bits. The same for the same candidates in any order; keys must differ. Takes a time in proportion to
    ``count`` times their number: 0.1 s for 1000 of 1100."""
    ordered = sorted(candidates, key=lambda c: (-c.hardness, c.key))
    hashes = hash_array([c.hash for c in ordered])
    bins = [bins_of(c) for c in ordered]
    whole = _numbered(bins)
    respects = [_numbered([getattr(b, name) for b in bins]) for name in Bins.__slots__]
    free = np.ones(len(ordered), np.bool_)
    taken = [np.zeros(len(ordered) + 1, np.int64) for _ in (whole, *respects)]
    chosen: list[Candidate] = []
    while len(chosen) < count and free.any():
        filled, *marginal = (n[i] for n, i in zip(taken, (whole, *respects), strict=True))
        # The marginal counts together stay below the factor: they only decide where strata are equally filled
        cost = filled * (len(respects) * count + 1) + np.sum(marginal, axis=0)
        best = int(np.where(free, cost, np.iinfo(np.int64).max).argmin())
        chosen.append(ordered[best])
        free[best] = False
        for numbers, index in zip(taken, (whole, *respects), strict=True):
            numbers[index[best]] += 1
        if distance > 0:
            free &= distances(hashes, hashes[best]) >= distance
    return tuple(chosen)


def _numbered(values: Sequence[object]) -> npt.NDArray[np.int64]:
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(v, len(numbers)) for v in values], np.int64)


def hash_array(hashes: Sequence[int]) -> npt.NDArray[np.uint8]:
    """(n, HASH_BITS / 8), for :func:`distances`."""
    data = b"".join(h.to_bytes(HASH_BITS // 8, "big") for h in hashes)
    return np.frombuffer(data, np.uint8).reshape(len(hashes), HASH_BITS // 8)


_ONES = np.array([i.bit_count() for i in range(256)], np.uint8)


def distances(hashes: npt.NDArray[np.uint8], one: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """In how many bits each row differs from ``one``."""
    bits: npt.NDArray[np.int64] = _ONES[hashes ^ one].sum(axis=1, dtype=np.int64)
    return bits
