"""Average precision as WIDER FACE's own evaluation computes it. Pure.

The protocol of its eval_tools (wider_eval.m, norm_score.m, evaluation.m, boxoverlap.m, VOCap.m), with its quirks:

- Scores are stretched so that the lowest of the whole set is 0 and the highest 1; 1000 thresholds, 0.999 down to 0.
- A box from x to x + w is w + 1 wide in IoU, as if coordinates were numbers of pixels; a match is IoU >= 0.5.
- A detection belongs to the box it overlaps most, the first of equals, be that taken or not. If that box isn't counted
  at the level, neither is the detection. If another detection has it already, this one is a false positive; it isn't
  given to its second best box.
- Equal scores go in the order given.
- A picture without any labelled box is left out, whatever is detected there. A picture with boxes of which none
  counts at the level isn't: what is found beside its boxes is false.
- Area under the precision envelope (as in PASCAL VOC 2010), up to the highest recall that was reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

MATCH_IOU = 0.5
THRESHOLDS: Floats = 1 - np.arange(1, 1001) / 1000
IGNORED, FALSE = -1, -2


@dataclass(frozen=True, slots=True, eq=False)
class Overlaps:
    """One picture's detections, best first: ``scores`` (n,), which labelled box each overlaps most (``nearest``, (n,))
    and by how much (``iou``, (n,)). ``order`` (n,) are their places in what was given."""

    scores: Floats
    nearest: Ints
    iou: Floats
    order: Ints


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Precision and recall at each of THRESHOLDS, (1000,) each; precision is 0 where nothing was detected. ``faces`` is
    how many count. ``ap`` is None where that is 0."""

    precision: Floats
    recall: Floats
    faces: int
    ap: float | None


def overlaps(boxes: Floats, scores: Floats, truth: Floats) -> Overlaps:
    """Sort a picture's detections, (n, 4) as x1 y1 x2 y2 with scores (n,), and find each one's nearest labelled box of
    ``truth``, (m, 4) as x y w h with m > 0."""
    order = np.argsort(-scores, kind="stable")
    found = boxes[order]
    corners = np.concatenate([truth[:, :2], truth[:, :2] + truth[:, 2:]], axis=1)
    low = np.maximum(found[:, None, :2], corners[None, :, :2])
    high = np.minimum(found[:, None, 2:], corners[None, :, 2:])
    shared = np.clip(high - low + 1, 0, None).prod(axis=2)
    areas = [(c[:, 2:] - c[:, :2] + 1).prod(axis=1) for c in (found, corners)]
    iou = shared / (areas[0][:, None] + areas[1][None] - shared)
    nearest = iou.argmax(axis=1)
    return Overlaps(scores[order], nearest, iou[np.arange(len(found)), nearest], order.astype(np.int64))


def outcomes(found: Overlaps, counted: Bools) -> Ints:
    """What becomes of each detection at a level where the boxes of ``counted`` (m,) count: the index of the box it is
    the first to find, IGNORED or FALSE; (n,), best first."""
    result = np.full(len(found.scores), FALSE, np.int64)
    matched = np.flatnonzero(found.iou >= MATCH_IOU)
    counts = counted[found.nearest[matched]]
    result[matched[~counts]] = IGNORED
    matched = matched[counts]
    box, first = np.unique(found.nearest[matched], return_index=True)
    result[matched[first]] = box
    return result


def normalised(pictures: Sequence[Floats]) -> list[Floats]:
    """All pictures' scores stretched to 0-1 together. Where all are equal they become 1 (the original divides by 0)."""
    some = [scores for scores in pictures if len(scores)]
    if not some:
        return list(pictures)
    low, high = min(float(s.min()) for s in some), max(float(s.max()) for s in some)
    if low == high:
        return [np.ones_like(scores) for scores in pictures]
    return [(scores - low) / (high - low) for scores in pictures]


def curve(scores: Sequence[Floats], results: Sequence[Ints], faces: int) -> Curve:
    """The curve over pictures' normalised scores, best first, with what became of the detections (``outcomes``).
    ``faces`` is how many boxes count, of pictures without detections as well."""
    proposals, hits = np.zeros(len(THRESHOLDS)), np.zeros(len(THRESHOLDS))
    for own, result in zip(scores, results, strict=True):
        reached = np.searchsorted(-own, -THRESHOLDS, side="right")  # detections with a score >= the threshold
        proposals += np.concatenate([[0], np.cumsum(result != IGNORED)])[reached]
        hits += np.concatenate([[0], np.cumsum(result >= 0)])[reached]
    precision = np.divide(hits, proposals, out=np.zeros_like(hits), where=proposals > 0)
    recall = hits / faces if faces else np.zeros_like(hits)
    return Curve(precision, recall, faces, area(recall, precision) if faces else None)


def area(recall: Floats, precision: Floats) -> float:
    """Under the envelope: at each recall the highest precision that is reached there or later. Recall ascends."""
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope))
