"""How far the pictures a model gets now are from those it was calibrated with. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence


def divergence(a: Sequence[float], b: Sequence[float]) -> float:
    """The Jensen-Shannon divergence of two distributions in bits, from 0 (the same) to 1 (nothing in common).

    J. Lin, "Divergence measures based on the Shannon entropy", IEEE Transactions on Information Theory 37(1), 1991,
    eq. 4.1 with equal weights. Taken rather than the population stability index because it is bounded, symmetric, and
    needs no made-up share where a bin is empty. ``a`` and ``b`` are shares or counts of the same bins, not negative;
    raises ValueError where their numbers of bins differ or one of them has nothing in it."""
    if len(a) != len(b):
        raise ValueError(f"distributions of {len(a)} and {len(b)} bins")
    whole_a, whole_b = math.fsum(a), math.fsum(b)
    if not (whole_a > 0 and whole_b > 0):
        raise ValueError("a distribution with nothing in it")
    bits = 0.0
    for x, y in zip(a, b, strict=True):
        p, q = x / whole_a, y / whole_b
        middle = (p + q) / 2
        bits += sum(share / 2 * math.log2(share / middle) for share in (p, q) if share > 0)
    return min(1.0, max(0.0, bits))
