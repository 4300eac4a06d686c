"""What a place's counters mean: which frames have come to an end and which have not.

The decoder that reclaims a dead process's slots and the supervisor that adds up the accounts must agree on this.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from facedetd.ring.segment import DecoderCounter as D
from facedetd.ring.segment import InferenceCounter as I
from facedetd.ring.segment import Segment

Counters = npt.NDArray[np.uint64]
"""(2, 16): the decoder's block and the inference process's."""

DROP_REASONS = {
    "no_slot": (0, D.NO_SLOT),
    "worker_lost": (0, D.WORKER_LOST),
    "replaced": (1, I.REPLACED),
    "torn": (1, I.BAD),
    "inference_failed": (1, I.FAILED),
    "model_away": (1, I.DRAINED),
}
"""Reason to (block, counter). no_slot: all slots of the stream were in use; worker_lost: a process died with it;
replaced: a newer frame came while it waited; torn: slot and message disagreed; model_away: no engine to run it."""


def read_place(segment: Segment, index: int) -> Counters:
    """A copy of a place's counters. What ended is read before what was sampled: it only lags behind, so
    :func:`pending_frames` of it is never negative."""
    block = segment.counters[index]
    inference = block[1].copy()
    decoder = block[0].copy()
    decoder[D.SAMPLED] = block[0, D.SAMPLED]
    return np.stack([decoder, inference])


def pending_frames(counters: Counters) -> int:
    """Frames that were sampled and neither inferred nor dropped yet: they wait, are in flight or on the way."""
    dropped = sum(int(counters[block, c]) for block, c in DROP_REASONS.values())
    return int(counters[0, D.SAMPLED]) - int(counters[1, I.INFERRED]) - dropped
