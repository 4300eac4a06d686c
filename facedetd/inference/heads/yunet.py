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
from facedetd.inference.types import InputSpec, ModelFacesBatch, RawOutputs
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

    def decode(self, outputs: RawOutputs, width: int, height: int, min_score: float) -> Sequence[ModelFacesBatch]:
        """See Head.decode."""
        pictures: list[np.ndarray[tuple[int, ...], np.dtype[np.intp]]] = []
        boxes: list[FloatArray] = []
        scores: list[FloatArray] = []
        points: list[FloatArray] = []
        for stride in STRIDES:
            squared = outputs[f"cls_{stride}"][..., 0] * outputs[f"obj_{stride}"][..., 0]
            picture, index = np.nonzero(squared >= min_score * min_score)
            cell = np.stack([index % (width // stride), index // (width // stride)], axis=1).astype(np.float32)
            box = outputs[f"bbox_{stride}"][picture, index]
            centre = (cell + box[:, :2]) * stride
            with np.errstate(over="ignore"):  # an infinite box is left out below
                half = np.exp(box[:, 2:]) * (stride / 2)
            marks = outputs[f"kps_{stride}"][picture, index].reshape(-1, 5, 2)
            pictures.append(picture)
            scores.append(np.sqrt(squared[picture, index]))
            boxes.append(np.concatenate([centre - half, centre + half], axis=1))
            points.append((marks + cell[:, None]) * stride)
        return faces_of_batch(
            np.concatenate(pictures),
            np.concatenate(boxes),
            np.concatenate(scores),
            np.concatenate(points),
            len(outputs["cls_8"]),
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
