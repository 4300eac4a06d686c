"""How far a tensor's values reach: what calibration counts, and the range that INT8 gets from it. Pure.

Symmetric: a range T stands for the values -127 to 127 times T / 127; what lies beyond is clipped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from facedetd.types import FloatArray

BINS = 2048
LEVELS = 127
"""The greatest int8 that is used; -128 isn't, so that the scale is the same on both sides."""
SAMPLE = 1 << 17
"""Values of one tensor of one picture that are counted, evenly spread; lowest and highest are of all."""
PERCENTILE = 99.999
_LOWEST_EXPONENT, _HIGHEST_EXPONENT = -60, 100
_STARTS = range(128, BINS + 1, 16)

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Spread:
    """A tensor's values: ``low`` and ``high`` of all, and how many of their magnitudes lie in each of BINS equal bins
    from 0 to 2 ** ``exponent``. Bins of two powers of two fit into each other, so spreads merge without loss."""

    low: float
    high: float
    exponent: int
    counts: Counts

    @property
    def edges(self) -> Floats:
        """(BINS + 1,)"""
        edges: Floats = np.ldexp(np.arange(BINS + 1) / BINS, self.exponent)
        return edges


def spread(values: FloatArray) -> Spread:
    """Of a tensor of any shape. Raises ValueError for one that is empty or holds what isn't a finite number."""
    flat = values.reshape(-1)
    if not flat.size:
        raise ValueError("an empty tensor")
    low, high = float(flat.min()), float(flat.max())
    if not np.isfinite([low, high]).all():
        raise ValueError("values that are not finite")
    step = -(-flat.size // SAMPLE)
    while step > 2 and step % 2 == 0:  # an even step could look at every second column only
        step += 1
    exponent = _exponent(max(-low, high))
    index = (np.abs(flat[::step]) * np.float32(np.ldexp(BINS, -exponent))).astype(np.int64)
    return Spread(low, high, exponent, np.bincount(np.minimum(index, BINS - 1), minlength=BINS))


def merge(one: Spread, other: Spread) -> Spread:
    """As if the values of both had been counted together."""
    exponent = max(one.exponent, other.exponent)
    counts = _folded(one, exponent) + _folded(other, exponent)
    return Spread(min(one.low, other.low), max(one.high, other.high), exponent, counts)


def _exponent(top: float) -> int:
    """The lowest with top < 2 ** exponent."""
    return int(np.clip(np.frexp(top)[1], _LOWEST_EXPONENT, _HIGHEST_EXPONENT)) if top else _LOWEST_EXPONENT


def _folded(one: Spread, exponent: int) -> Counts:
    fold = 1 << min(exponent - one.exponent, BINS.bit_length() - 1)
    counts = np.zeros(BINS, np.int64)
    counts[: BINS // fold] = one.counts.reshape(-1, fold).sum(axis=1)
    return counts


# --- methods: from a spread to the range, above 0 ---


def minmax(one: Spread) -> float:
    return max(-one.low, one.high)


def percentile(one: Spread, share: float = PERCENTILE) -> float:
    """The lowest edge of a bin up to which ``share`` percent of the values lie, zeros among them."""
    reached = np.cumsum(one.counts)
    index = int(np.searchsorted(reached, reached[-1] * (share / 100)))
    return min(float(one.edges[min(index, BINS - 1) + 1]), minmax(one))


def mse(one: Spread) -> float:
    """The range with the least expected squared error: what lies within is rounded, evenly off by up to half a step;
    what lies beyond is clipped."""
    top = minmax(one)
    edges = one.edges
    middles = (edges[:-1] + edges[1:]) / 2
    candidates = np.minimum(edges[list(_STARTS)], top)
    errors = []
    for limit in candidates:
        beyond = middles > limit
        clipped = float((one.counts[beyond] * (middles[beyond] - limit) ** 2).sum())
        inside = one.counts[~beyond]
        errors.append(clipped + (limit / LEVELS) ** 2 / 12 * float(inside.sum()))
    return float(candidates[int(np.argmin(errors))])


def entropy(one: Spread) -> float:
    """The range whose quantised distribution is the least Kullback-Leibler divergence away from what it stands for:
    S. Migacz, "8-bit Inference with TensorRT" (GTC 2017). Zeros aren't looked at: they come out as they are, and a
    ReLU's would outweigh the rest."""
    top = minmax(one)
    edges = one.edges
    counts = one.counts.astype(np.float64)
    counts[0] = counts[1]
    last = int(np.flatnonzero(counts)[-1]) + 1 if counts.any() else 0
    best, limit = np.inf, top
    for stop in (n for n in _STARTS if n <= last + 16):
        wanted = counts[:stop].copy()
        wanted[-1] += counts[stop:].sum()
        divergence = _divergence(wanted, _as_levels(counts[:stop]))
        if divergence < best:
            best, limit = divergence, float(edges[stop])
    return min(limit, top)


def _as_levels(counts: Floats) -> Floats:
    """The bins as 128 levels give them back: a level's counts are spread over those of its bins that held some."""
    level = np.arange(len(counts)) * 128 // len(counts)
    used = np.bincount(level, weights=counts > 0, minlength=128)
    mean = np.bincount(level, weights=counts, minlength=128) / np.maximum(used, 1)
    result: Floats = np.where(counts > 0, mean[level], 0.0)
    return result


def _divergence(wanted: Floats, got: Floats) -> float:
    if not wanted.any() or not got.any():
        return np.inf
    p, q = wanted / wanted.sum(), got / got.sum()
    some = p > 0
    return float((p[some] * np.log(p[some] / np.maximum(q[some], 1e-12))).sum())


METHODS: dict[str, Callable[[Spread], float]] = {
    "minmax": minmax,
    "entropy": entropy,
    "percentile": percentile,
    "mse": mse,
}


def limit(one: Spread, method: str) -> float:
    """The range by one of METHODS; 1 for a tensor of zeros, which any range holds."""
    return METHODS[method](one) or 1.0
