"""YOLOv5-face (P5 models): three anchors a cell at strides 8, 16 and 32, raw or decoded inside the model.

Formulas: Qi, Tan, Yao, Liu, "YOLO5Face: Why Reinventing a Face Detector" (arXiv:2105.12931) and the layout of
github.com/deepcam-cn/yolov5-face (models/yolo.py, the Detect layer; anchors of models/yolov5s.yaml). Facts of the
interface only: no code of that GPL project is used.
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
ANCHORS = np.array(
    [
        [[4, 5], [8, 10], [13, 16]],
        [[23, 29], [43, 55], [73, 105]],
        [[146, 217], [231, 300], [335, 433]],
    ],
    np.float32,
)
"""(level, anchor, (w, h)) in model px."""
_VALUES = 16  # x y w h, object score, five points, class score
_IOU = 0.5
_INPUT = InputSpec(channels="rgb", scale=(1 / 255, 1 / 255, 1 / 255))


def _sigmoid(x: FloatArray) -> FloatArray:
    with np.errstate(over="ignore"):
        y: FloatArray = np.float32(1) / (np.float32(1) + np.exp(-x))
    return y


def _logit(p: float) -> float:
    if p <= 0:
        return -np.inf
    return float(np.log(p / (1 - p))) if p < 1 else np.inf


@dataclass(frozen=True, slots=True)
class YoloV5FaceRawHead:
    """Three outputs by name, in order of stride, each (batch, 3, height / stride, width / stride, 16), before any
    sigmoid: box 0-3, object 4, points 5-14, class 15."""

    levels: tuple[str, str, str]
    name: str = "yolov5face"
    input: InputSpec = _INPUT

    def selection(self, width: int, height: int, min_score: float) -> tuple[Group, ...]:
        """See Head.selection. The object score alone bounds the score, so most cells fall before any sigmoid."""
        return tuple(
            Group(
                ANCHORS.shape[1] * (height // stride) * (width // stride),
                _logit(min_score),
                (Field(name, offset=4, step=_VALUES),),
                (Field(name, step=_VALUES, channels=_VALUES),),
            )
            for name, stride in zip(self.levels, STRIDES, strict=True)
        )

    def decode(self, outputs: Outputs, width: int, height: int, min_score: float) -> Sequence[ModelFacesBatch]:
        """See Head.decode. The score is object times class score."""
        picked = outputs if isinstance(outputs, Candidates) else pick(outputs, self.selection(width, height, min_score))
        pictures, boxes, scores, points = [], [], [], []
        for level, rows in enumerate(picked.groups):
            stride = STRIDES[level]
            anchor, row, column = np.unravel_index(rows.element, (ANCHORS.shape[1], height // stride, width // stride))
            near = rows.values
            score = _sigmoid(near[:, 4]) * _sigmoid(near[:, 15])
            keep = score >= min_score
            near, cell, size = near[keep], np.stack([column, row], axis=1)[keep], ANCHORS[level][anchor[keep]]
            grid = cell.astype(np.float32) * np.float32(stride)
            box = _sigmoid(near[:, :4])
            centre = (box[:, :2] * 2 - np.float32(0.5)) * np.float32(stride) + grid
            half = (box[:, 2:] * 2) ** 2 * size / 2
            pictures.append(rows.picture[keep])
            scores.append(score[keep])
            boxes.append(np.concatenate([centre - half, centre + half], axis=1))
            points.append(near[:, 5:15].reshape(-1, 5, 2) * size[:, None] + grid[:, None])
        return faces_of_batch(
            np.concatenate(pictures),
            np.concatenate(boxes),
            np.concatenate(scores),
            np.concatenate(points),
            picked.pictures,
            _IOU,
        )


@dataclass(frozen=True, slots=True)
class YoloV5FaceFlatHead:
    """One output (batch, n, 16), decoded inside the model: centre x, y, w, h in model px, object score, five points
    in model px, class score."""

    output: str
    name: str = "yolov5face-flat"
    input: InputSpec = _INPUT

    def selection(self, width: int, height: int, min_score: float) -> tuple[Group, ...]:
        """See Head.selection."""
        keys = tuple(Field(self.output, offset=offset, step=_VALUES) for offset in (4, 15))
        return (Group(cells(width, height), min_score, keys, (Field(self.output, step=_VALUES, channels=_VALUES),)),)

    def decode(self, outputs: Outputs, width: int, height: int, min_score: float) -> Sequence[ModelFacesBatch]:
        """See Head.decode. The score is object times class score."""
        picked = outputs if isinstance(outputs, Candidates) else pick(outputs, self.selection(width, height, min_score))
        (rows,) = picked.groups
        near = rows.values
        half = near[:, 2:4] / 2
        boxes = np.concatenate([near[:, :2] - half, near[:, :2] + half], axis=1)
        points = near[:, 5:15].reshape(-1, 5, 2)
        return faces_of_batch(rows.picture, boxes, near[:, 4] * near[:, 15], points, picked.pictures, _IOU)


def cells(width: int, height: int) -> int:
    """Anchors at all levels of a width x height picture."""
    return sum(len(ANCHORS[i]) * (height // s) * (width // s) for i, s in enumerate(STRIDES))


def match(outputs: RawOutputs, width: int, height: int) -> YoloV5FaceRawHead | YoloV5FaceFlatHead | None:
    """The head, if a run's outputs are three raw levels (in any order), or one flat, decoded array.

    Some exports give the decoded array and the raw levels; the decoded one is taken.
    """
    for name, output in outputs.items():
        if output.shape[1:] == (cells(width, height), _VALUES):
            in_range = np.all((output[..., [4, 15]] >= 0) & (output[..., [4, 15]] <= 1))
            return YoloV5FaceFlatHead(name) if in_range else None
    levels = []
    for stride in STRIDES:
        wanted = (3, height // stride, width // stride, _VALUES)
        fitting = [n for n, o in outputs.items() if o.shape[1:] == wanted]
        if len(fitting) != 1 or len(outputs) != len(STRIDES):
            return None
        levels.append(fitting[0])
    return YoloV5FaceRawHead((levels[0], levels[1], levels[2]))
