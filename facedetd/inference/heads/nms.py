"""Greedy non-maximum suppression, and what every head does with its candidates. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from facedetd.inference.types import ModelFacesBatch
from facedetd.types import FloatArray

_suppress: Any = cv2.dnn.NMSBoxes  # takes arrays; its type stub knows only sequences
MAX_CANDIDATES = 1000
"""Candidates of one picture that suppression looks at, best first: bounds its time when a threshold is very low."""
_candidates = ContextVar("candidates", default=MAX_CANDIDATES)


@contextmanager
def candidates_up_to(count: int) -> Iterator[None]:
    """Within this, look at so many candidates: measuring accuracy wants those of very low scores as well."""
    before = _candidates.set(count)
    try:
        yield
    finally:
        _candidates.reset(before)


def nms(boxes: FloatArray, scores: FloatArray, iou_threshold: float) -> npt.NDArray[np.intp]:
    """Indices of the boxes to keep, best score first, the earlier one of equals.

    ``boxes`` is (n, 4) as x1 y1 x2 y2, none empty; scores are above 0, others are not kept. A box goes
    when its intersection over union with a kept, better one is above ``iou_threshold``.
    At most MAX_CANDIDATES are looked at, unless :func:`candidates_up_to` says otherwise.
    """
    corner_size = boxes.astype(np.float64)
    corner_size[:, 2:] -= corner_size[:, :2]
    kept = _suppress(corner_size, scores, 0.0, iou_threshold, 1.0, _candidates.get())
    return np.asarray(kept, np.intp).reshape(-1)


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
    A candidate that isn't finite (a model that overflowed) or whose box is empty is left out.
    """
    fine = np.isfinite(boxes).all(axis=1) & np.isfinite(scores) & np.isfinite(landmarks).all(axis=(1, 2))
    fine &= (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    found = []
    candidates = np.bincount(picture[fine], minlength=pictures)
    none = ModelFacesBatch(*(values[:0].astype(np.float32) for values in (boxes, scores, landmarks)))
    for index in range(pictures):
        if not candidates[index]:
            found.append(none)
            continue
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
