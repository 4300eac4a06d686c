"""Greedy non-maximum suppression, and what every head does with its candidates. Pure."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from facedetd.inference.types import ModelFacesBatch
from facedetd.types import FloatArray

MAX_CANDIDATES = 1000
"""Candidates of one picture that suppression looks at, best first: bounds its time when a threshold is very low."""


def iou_matrix(boxes: FloatArray) -> FloatArray:
    """Intersection over union of each pair of boxes (n, 4) as x1 y1 x2 y2: (n, n). Empty boxes overlap nothing."""
    x1, y1, x2, y2 = boxes.T
    width = np.minimum(x2[:, None], x2) - np.maximum(x1[:, None], x1)
    height = np.minimum(y2[:, None], y2) - np.maximum(y1[:, None], y1)
    inter = np.maximum(width, 0) * np.maximum(height, 0)
    area = np.maximum(x2 - x1, 0) * np.maximum(y2 - y1, 0)
    union = area[:, None] + area - inter
    result: FloatArray = np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)
    return result


def nms(boxes: FloatArray, scores: FloatArray, iou_threshold: float) -> npt.NDArray[np.intp]:
    """Indices of the boxes to keep, best score first (the earlier one of equals).

    A box goes when it overlaps a kept, better one by more than ``iou_threshold``. At most MAX_CANDIDATES are looked at.
    """
    order = np.argsort(-scores, kind="stable")[:MAX_CANDIDATES]
    if len(order) < 2:
        return order
    overlaps = iou_matrix(boxes[order]) > iou_threshold
    alive = np.ones(len(order), bool)
    for i in np.flatnonzero(np.triu(overlaps, 1).any(axis=1)):  # only these can suppress anything
        if alive[i]:
            alive[i + 1 :] &= ~overlaps[i, i + 1 :]
    kept: npt.NDArray[np.intp] = order[alive]
    return kept


def faces_of_batch(
    picture: npt.NDArray[np.intp],
    boxes: FloatArray,
    scores: FloatArray,
    landmarks: FloatArray,
    pictures: int,
    iou_threshold: float,
) -> tuple[ModelFacesBatch, ...]:
    """Sort candidates of a whole batch into their pictures and suppress overlaps in each.

    ``picture`` (n,) says which picture a candidate is of; boxes (n, 4), scores (n,), landmarks (n, 5, 2).
    A candidate that isn't finite (a model that overflowed) is left out.
    """
    fine = np.isfinite(boxes).all(axis=1) & np.isfinite(scores) & np.isfinite(landmarks).all(axis=(1, 2))
    found = []
    for index in range(pictures):
        own = np.flatnonzero(fine & (picture == index))
        own = own[nms(boxes[own], scores[own], iou_threshold)]
        found.append(
            ModelFacesBatch(
                boxes[own].astype(np.float32, copy=False),
                scores[own].astype(np.float32, copy=False),
                landmarks[own].astype(np.float32, copy=False),
            )
        )
    return tuple(found)
