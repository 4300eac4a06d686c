"""YuNet: anchor-free at strides 8, 16 and 32.

Formulas: Wu, Peng, Yu, "YuNet: A Tiny Millisecond-level Face Detector" (Machine Intelligence Research 2023) and
github.com/ShiqiYu/libfacedetection.train (mmdet/models/dense_heads/yunet_head.py). The score is the geometric mean of
class and object score, as in OpenCV's FaceDetectorYN (modules/objdetect/src/face_detect.cpp).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from facedetd.inference.heads.nms import faces_of_batch
from facedetd.inference.selection import Candidates, Field, Group, pick
from facedetd.inference.types import InputSpec, ModelFacesBatch, Outputs, RawOutputs
from facedetd.types import FloatArray

STRIDES = (8, 16, 32)
_CHANNELS = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
_IOU = 0.3
_INPUT = InputSpec(channels="bgr")


@dataclass(frozen=True, slots=True)
class YuNetHead:
    """Twelve outputs ``KIND_STRIDE``, each (batch, cells, channels) with cells row by row: ``cls`` and ``obj``
    (1: score 0-1), ``bbox`` (4: x, y of the centre from the cell, log of w, h; in strides), ``kps`` (10: x, y of five
    points from the cell, in strides)."""

    name: str = "yunet"
    input: InputSpec = _INPUT

    def selection(self, width: int, height: int, min_score: float) -> tuple[Group, ...]:
        """See Head.selection."""
        return tuple(
            Group(
                (height // stride) * (width // stride),
                min_score * min_score,
                (Field(f"cls_{stride}"), Field(f"obj_{stride}")),
                tuple(Field(f"{kind}_{stride}", step=n, channels=n) for kind, n in _CHANNELS.items()),
            )
            for stride in STRIDES
        )

    def decode(self, outputs: Outputs, width: int, height: int, min_score: float) -> Sequence[ModelFacesBatch]:
        """See Head.decode."""
        picked = outputs if isinstance(outputs, Candidates) else pick(outputs, self.selection(width, height, min_score))
        boxes: list[FloatArray] = []
        scores: list[FloatArray] = []
        points: list[FloatArray] = []
        for stride, rows in zip(STRIDES, picked.groups, strict=True):
            across = width // stride
            cell = np.stack([rows.element % across, rows.element // across], axis=1).astype(np.float32)
            box = rows.values[:, 2:6]
            centre = (cell + box[:, :2]) * stride
            with np.errstate(over="ignore"):  # an infinite box is left out below
                half = np.exp(box[:, 2:]) * (stride / 2)
            marks = rows.values[:, 6:16].reshape(-1, 5, 2)
            scores.append(np.sqrt(rows.values[:, 0] * rows.values[:, 1]))
            boxes.append(np.concatenate([centre - half, centre + half], axis=1))
            points.append((marks + cell[:, None]) * stride)
        return faces_of_batch(
            np.concatenate([rows.picture for rows in picked.groups]),
            np.concatenate(boxes),
            np.concatenate(scores),
            np.concatenate(points),
            picked.pictures,
            _IOU,
        )


def match(outputs: RawOutputs, width: int, height: int) -> YuNetHead | None:
    """The head, if a run's outputs are YuNet's twelve by name and shape."""
    wanted = {
        f"{kind}_{stride}": ((height // stride) * (width // stride), channels)
        for kind, channels in _CHANNELS.items()
        for stride in STRIDES
    }
    return YuNetHead() if {n: o.shape[1:] for n, o in outputs.items()} == wanted else None
