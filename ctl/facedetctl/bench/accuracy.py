"""How well found boxes agree with a scene's truth. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

Box = tuple[float, float, float, float]
"""(x1, y1, x2, y2) in pixels of the source picture."""

Truth = Callable[[str, int], Sequence[Box]]
"""(stream id, capture time as UTC ns) to the face boxes that camera showed then."""

MATCH_IOU = 0.5


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Sums, so that parts can be added: true faces, those found, and the sum of their IoU."""

    faces: int = 0
    found: int = 0
    iou_sum: float = 0.0

    def __add__(self, other: Accuracy) -> Accuracy:
        return Accuracy(self.faces + other.faces, self.found + other.found, self.iou_sum + other.iou_sum)

    @property
    def recall(self) -> float:
        """Found faces / true faces; 0 where there were none, so that an empty run never passes."""
        return self.found / self.faces if self.faces else 0.0

    @property
    def mean_iou(self) -> float:
        """Over the found faces; 0 where there were none."""
        return self.iou_sum / self.found if self.found else 0.0


def iou(a: Box, b: Box) -> float:
    """Intersection over union: the shared area / the area covered by either."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def score_frame(found: Sequence[Box], true: Sequence[Box]) -> Accuracy:
    """Pair the boxes, best IoU first, each used once; a pair under MATCH_IOU is no match."""
    pairs = sorted(((iou(f, t), i, j) for i, f in enumerate(found) for j, t in enumerate(true)), reverse=True)
    used_found: set[int] = set()
    used_true: set[int] = set()
    total = 0.0
    for value, i, j in pairs:
        if value < MATCH_IOU:
            break
        if i in used_found or j in used_true:
            continue
        used_found.add(i)
        used_true.add(j)
        total += value
    return Accuracy(len(true), len(used_true), total)


def score(stream_id: str, frames: Iterable[tuple[int, Sequence[Box]]], truth: Truth) -> Accuracy:
    """``frames`` of one stream as (capture time in UTC ns, boxes); give those without a box, too."""
    total = Accuracy()
    for utc_ns, boxes in frames:
        total += score_frame(boxes, truth(stream_id, utc_ns))
    return total
