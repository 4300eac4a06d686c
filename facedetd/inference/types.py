"""What passes between batcher, engine and head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from facedetd.inference.selection import Candidates, Group
from facedetd.ring.header import Geometry, SlotHeader
from facedetd.types import ByteArray, Face, FloatArray


@dataclass(frozen=True, slots=True)
class InputSpec:
    """How a head wants its picture: planar float32 ``(pixel - mean) * scale`` for each channel.

    ``channels`` is "rgb" or "bgr"; ``mean`` and ``scale`` stand in that order, pixels run 0-255.
    ``multiple`` is what width and height must be multiples of, in px.
    """

    channels: str = "bgr"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)
    multiple: int = 32


@dataclass(frozen=True, slots=True)
class BatchFrame:
    """One frame of a batch: its slot's header and a view of its NV12 picture, (height * 3 / 2, width) uint8.

    The view is the slot itself: valid until the slot goes back to the decoder.
    """

    header: SlotHeader
    nv12: ByteArray


RawOutputs = Mapping[str, FloatArray]
"""An engine's outputs by name, each with the batch as its first axis."""
Outputs = RawOutputs | Candidates
"""Raw outputs, or what the head's selection picks of them: of an engine that was told it."""


@dataclass(frozen=True, slots=True)
class ModelFacesBatch:
    """Detections of one picture in the model's pixels: boxes (n, 4) as x1 y1 x2 y2, scores (n,),
    landmarks (n, 5, 2) or (n, 0, 2); float32."""

    boxes: FloatArray
    scores: FloatArray
    landmarks: FloatArray


class Head(Protocol):
    """Turns raw outputs into faces. Pure; one object serves all batches."""

    @property
    def name(self) -> str: ...

    @property
    def input(self) -> InputSpec: ...

    def selection(self, width: int, height: int, min_score: float) -> tuple[Group, ...]:
        """What ``decode`` looks at of outputs at width x height px."""

    def decode(self, outputs: Outputs, width: int, height: int, min_score: float) -> Sequence[ModelFacesBatch]:
        """Decode a batch run at width x height px: one entry a picture, non-maximum suppression done."""


class Engine(Protocol):
    """Runs a model on a device. Used by one thread only."""

    name: str

    def load(self) -> None:
        """Load the model and take the device. Raises ModelError (bad or missing model) or DeviceError."""

    def warm_up(self) -> None:
        """Run once at the largest batch, so that the first real batch is not slow."""

    def infer(self, batch: Sequence[BatchFrame]) -> Outputs:
        """Convert NV12 by each frame's colour matrix and range, run, and return the outputs."""

    def close(self) -> None: ...


@runtime_checkable
class QueuedEngine(Engine, Protocol):
    """An engine on a device of its own, which works while its thread prepares the next batch.

    It reads frames where they lie; memory that it was lent it reads without the host's help."""

    depth: int
    """Batches that may be under way at once: submitted, and not collected."""
    max_batch: int
    """Pictures a batch may have; known once it is loaded, and maybe fewer than were asked for."""

    def submit(self, batch: Sequence[BatchFrame]) -> object:
        """Begin a batch; its frames must stay as they are until it is collected. Raises as ``infer`` does."""

    def collect(self, ticket: object) -> Outputs:
        """Wait for a batch, in the order of submission, and return what it gave. Raises as ``infer`` does."""

    def lend(self, memory: ByteArray) -> None:
        """Frames will lie in this memory (a whole ring segment)."""

    def take_back(self, memory: ByteArray) -> None:
        """No more frames lie there; none of a batch under way does."""


class ModelError(Exception):
    """A model can't be used; the message says what was found, in which file, and what to do."""


class PlanMissing(ModelError):
    """There is no plan of the model for the GPU that there is; trying later may help, once somebody has built it."""


class DeviceError(Exception):
    """The device can't be used now; trying later may help."""


def faces_in_source(found: ModelFacesBatch, geometry: Geometry) -> tuple[Face, ...]:
    """Map detections from the model's pixels to the source's: undo the letterbox, clip boxes to the picture.

    What lies in the padding only is no face, nor is one whose landmarks don't fit a float any more."""
    if not len(found.scores):
        return ()
    pad = np.array([geometry.pad_x, geometry.pad_y], np.float32)
    scale = np.array([geometry.scale_x, geometry.scale_y], np.float32)
    size = np.array([geometry.source_width, geometry.source_height], np.float32)
    corners = (found.boxes.reshape(-1, 2, 2) - pad) / scale
    corners = np.clip(corners, 0, size).reshape(-1, 4)
    with np.errstate(over="ignore"):
        marks = (found.landmarks - pad) / scale
    fine = (corners[:, 2:] > corners[:, :2]).all(axis=1) & np.isfinite(marks).all(axis=(1, 2))
    return tuple(
        Face(
            (float(b[0]), float(b[1]), float(b[2]), float(b[3])),
            float(s),
            tuple((float(x), float(y)) for x, y in m),
        )
        for b, s, m in zip(corners[fine], found.scores[fine], marks[fine], strict=True)
    )
