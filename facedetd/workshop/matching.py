"""How far two models agree, box by box. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from facedetd.types import Face


@dataclass(frozen=True, slots=True)
class Agreement:
    """``boxes`` of the reference, of which the other model has ``matched``, one for one at IoU >= ``min_iou``;
    ``extra`` are the other's boxes without a partner. Of the pairs: mean IoU, and how far landmarks lie apart (mean of
    a face's five), in px and as a fraction of the reference's box, sqrt(w * h); mean and 95th percentile. None where
    there is nothing to take a mean of."""

    min_iou: float
    boxes: int
    matched: int
    extra: int
    mean_iou: float | None
    landmark_px: float | None
    landmark_relative: float | None
    landmark_relative_p95: float | None

    @property
    def share(self) -> float | None:
        return self.matched / self.boxes if self.boxes else None


def pairs(reference: Sequence[Face], other: Sequence[Face], min_iou: float) -> list[tuple[int, int, float]]:
    """Partners of one picture, (index in reference, index in other, IoU >= min_iou): the closest pair first, then the
    closest of what is left; the earlier of equals."""
    if not reference or not other:
        return []
    a, b = (np.array([face.box for face in faces], np.float64) for faces in (reference, other))
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(c[:, 2:] - c[:, :2]).prod(axis=1) for c in (a, b)]
    iou = shared / (areas[0][:, None] + areas[1][None] - shared)
    found = []
    free = [set(range(len(a))), set(range(len(b)))]
    for flat in np.argsort(-iou, axis=None, kind="stable"):
        i, j = divmod(int(flat), len(b))
        if iou[i, j] < min_iou:
            break
        if i in free[0] and j in free[1]:
            free[0].remove(i)
            free[1].remove(j)
            found.append((i, j, float(iou[i, j])))
    return found


def agreement(reference: Sequence[Sequence[Face]], other: Sequence[Sequence[Face]], min_iou: float) -> Agreement:
    """Over pictures: the faces of each as the two models found them, in the same order of pictures."""
    ious: list[float] = []
    shifts: list[tuple[float, float]] = []
    for mine, theirs in zip(reference, other, strict=True):
        for i, j, iou in pairs(mine, theirs, min_iou):
            ious.append(iou)
            if mine[i].landmarks and theirs[j].landmarks:
                apart = np.subtract(mine[i].landmarks, theirs[j].landmarks)
                shift = float(np.hypot(apart[:, 0], apart[:, 1]).mean())
                x1, y1, x2, y2 = mine[i].box
                shifts.append((shift, shift / float(np.sqrt((x2 - x1) * (y2 - y1)))))
    px, relative = np.array(shifts).reshape(-1, 2).T
    return Agreement(
        min_iou,
        sum(len(faces) for faces in reference),
        len(ious),
        sum(len(faces) for faces in other) - len(ious),
        float(np.mean(ious)) if ious else None,
        float(px.mean()) if shifts else None,
        float(relative.mean()) if shifts else None,
        float(np.percentile(relative, 95)) if shifts else None,
    )
