"""How well detections agree with a scene's truth. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from tests.cameras.faces import Box

MATCH_IOU = 0.5


class Score(NamedTuple):
    """``recall`` is found faces / true faces, ``mean_iou`` the mean over the found ones. Both are 0.0 when there was
    nothing to find or nothing was found, so that an empty run never passes."""

    recall: float
    mean_iou: float


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes (x1, y1, x2, y2)."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def match(found: Sequence[Box], true: Sequence[Box]) -> list[float]:
    """The IoU of each matched pair, best first: greedy, each box used once, pairs under MATCH_IOU left out."""
    pairs = sorted(
        ((iou(f, t), i, j) for i, f in enumerate(found) for j, t in enumerate(true)), key=lambda p: (-p[0], p[1], p[2])
    )
    used_found: set[int] = set()
    used_true: set[int] = set()
    matched = []
    for value, i, j in pairs:
        if value < MATCH_IOU:
            break
        if i not in used_found and j not in used_true:
            used_found.add(i)
            used_true.add(j)
            matched.append(value)
    return matched


def score(detections: Iterable[tuple[int, Sequence[Box]]], truth_for_time: Callable[[int], Sequence[Box]]) -> Score:
    """Scores frames given as (time, boxes) against the boxes that ``truth_for_time(time)`` says were there.

    Give frames without a detection too (``include_empty``), or their misses go unseen.
    """
    faces = 0
    values: list[float] = []
    for time, boxes in detections:
        true = truth_for_time(time)
        faces += len(true)
        values += match(boxes, true)
    return Score(len(values) / faces if faces else 0.0, sum(values) / len(values) if values else 0.0)
