"""CenterFace: one anchor-free level at stride 4.

Formulas: Xu, Yan, Yang, Zhang, "CenterFace: Joint Face Detection and Alignment Using Face as Point"
(arXiv:1911.03599), section 3, with the channel order of github.com/Star-Clouds/CenterFace.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from facedetd.inference.heads.nms import faces_of_batch
from facedetd.inference.selection import Candidates, Field, Group, pick
from facedetd.inference.types import InputSpec, ModelFacesBatch, Outputs, RawOutputs
from facedetd.types import FloatArray

STRIDE = 4
_IOU = 0.3
_INPUT = InputSpec(channels="rgb")


@dataclass(frozen=True, slots=True)
class CenterFaceHead:
    """Four outputs by name, each (batch, channels, height / 4, width / 4):
    ``heatmap`` (1: score 0-1), ``scale`` (2: log of height and width in strides), ``offset`` (2: y, x in strides),
    ``landmarks`` (10: y, x of five points from the box's top left corner, in box heights and widths)."""

    heatmap: str
    scale: str
    offset: str
    landmarks: str
    name: str = "centerface"
    input: InputSpec = _INPUT

    def selection(self, width: int, height: int, min_score: float) -> tuple[Group, ...]:
        """See Head.selection."""
        cells = (height // STRIDE) * (width // STRIDE)
        planes = ((self.heatmap, 1), (self.scale, 2), (self.offset, 2), (self.landmarks, 10))
        values = tuple(Field(name, channels=channels, channel_step=cells) for name, channels in planes)
        return (Group(cells, min_score, (Field(self.heatmap),), values),)

    def decode(self, outputs: Outputs, width: int, height: int, min_score: float) -> Sequence[ModelFacesBatch]:
        """See Head.decode."""
        picked = outputs if isinstance(outputs, Candidates) else pick(outputs, self.selection(width, height, min_score))
        (rows,) = picked.groups
        scores, scale, offset = rows.values[:, 0], rows.values[:, 1:3], rows.values[:, 3:5]
        across = width // STRIDE
        cell = np.stack([rows.element % across, rows.element // across], axis=1).astype(np.float32)
        centre = (cell + offset[:, ::-1] + 0.5) * STRIDE
        marks = rows.values[:, 5:15].reshape(-1, 5, 2)[:, :, ::-1]
        with np.errstate(over="ignore", invalid="ignore"):  # a box that overflows is left out below
            size = np.exp(scale)[:, ::-1] * STRIDE  # w, h
            corner = centre - size / 2
            boxes: FloatArray = np.concatenate([corner, corner + size], axis=1)
            points: FloatArray = marks * size[:, None] + corner[:, None]
        return faces_of_batch(rows.picture, boxes, scores, points, picked.pictures, _IOU)


def match(outputs: RawOutputs, width: int, height: int) -> CenterFaceHead | None:
    """The head, if a run's outputs (in the model's order) are CenterFace's: 1, 2, 2 and 10 channels at stride 4."""
    wanted = [(c, height // STRIDE, width // STRIDE) for c in (1, 2, 2, 10)]
    if [o.shape[1:] for o in outputs.values()] != wanted:
        return None
    heatmap, scale, offset, landmarks = outputs
    return CenterFaceHead(heatmap, scale, offset, landmarks)
