"""What the engines on the CPU share: a model that is open at one size, and the way from frames to its outputs. The
library that runs it is one of the modules beside this one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from facedetd.inference.convert import Nv12Converter
from facedetd.inference.types import BatchFrame, InputSpec, ModelError, RawOutputs
from facedetd.types import FloatArray

MAX_AUTO_THREADS = 4


def thread_count(threads: int) -> int:
    """``threads``, or for 0 as many as this process may use cores, at most MAX_AUTO_THREADS."""
    return threads if threads > 0 else min(MAX_AUTO_THREADS, len(os.sched_getaffinity(0)))


MAX_PIXELS = 1 << 24
"""Of all pictures of a run. A fixed size beyond that is a mistake or a trap: the input alone takes 200 MB."""

FLOAT = "tensor(float)"


@dataclass(frozen=True, slots=True)
class Tensor:
    """A model's input as its library tells of it. ``kind`` is ONNX's word, such as FLOAT; a free size is no number."""

    name: str
    kind: str
    shape: Sequence[int | str | None]


@dataclass(frozen=True, slots=True)
class ModelInput:
    """A model's only input: its name, and the sizes the model is fixed to (0: free)."""

    name: str
    batch: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class OpenModel:
    """A model that is open at one size. ``run`` takes (batch, 3, height, width) float32, batch as
    here (0: one picture); it gives the ``outputs`` in the model's order, which are the caller's from then on, and
    raises ModelError."""

    batch: int
    outputs: tuple[str, ...]
    run: Callable[[FloatArray], list[FloatArray]]


Opener = Callable[[Path | bytes, int, int, int], OpenModel]
"""Opens a file, or a model's bytes, with so many threads at width x height px. Raises ModelError, and DeviceError where
the library isn't there."""


class CpuEngine:
    """An Engine for a model that takes (batch, 3, height, width) float32. Used by one thread only.

    A batch is run picture by picture: on a CPU a larger run costs 5-30 % more a picture, because the layers no longer
    fit the cache (measured). A model with a fixed batch is run in pieces of that size, the last filled up.
    """

    def __init__(
        self, name: str, opener: Opener, path: Path, width: int, height: int, spec: InputSpec, threads: int,
        max_batch: int,
    ) -> None:  # fmt: skip
        """``threads`` 0 chooses by the cores. Raises ModelError for a size or batch no model can have."""
        if width <= 0 or height <= 0 or width % spec.multiple or height % spec.multiple:
            raise ModelError(f"model size {width}x{height}: width and height must be multiples of {spec.multiple}")
        if max_batch < 1:
            raise ModelError(f"largest batch {max_batch}: must be at least 1")
        self.name = name
        self._open, self._path, self._width, self._height = opener, path, width, height
        self._threads, self._max_batch = thread_count(threads), max_batch
        self._converter = Nv12Converter(width, height, spec)
        self._model: OpenModel | None = None
        self._input: FloatArray = np.empty((0, 3, height, width), np.float32)

    def load(self) -> None:
        """See Engine.load. Also makes OpenCV of this process single-threaded: its pool would fight the model's."""
        cv2.setNumThreads(1)
        model = self._open(self._path, self._threads, self._width, self._height)
        self._input = np.zeros((model.batch or 1, 3, self._height, self._width), np.float32)
        self._model = model

    def warm_up(self) -> None:
        """See Engine.warm_up. Raises ModelError."""
        self._loaded().run(self._input)

    def infer(self, batch: Sequence[BatchFrame]) -> RawOutputs:
        """See Engine.infer. Raises ModelError when the run fails, ValueError for a batch that is empty or too big."""
        if not 0 < len(batch) <= self._max_batch:
            raise ValueError(f"a batch of {len(batch)}; this engine takes 1 to {self._max_batch}")
        model = self._loaded()
        parts, size = [], len(self._input)
        for start in range(0, len(batch), size):
            for frame, out in zip(batch[start : start + size], self._input, strict=False):
                self._converter.convert(frame.nv12, frame.header.matrix, frame.header.range, out)
            parts.append(model.run(self._input))
        whole = parts[0] if len(parts) == 1 else [np.concatenate(p) for p in zip(*parts, strict=True)]
        return {n: o[: len(batch)] for n, o in zip(model.outputs, whole, strict=True)}

    def close(self) -> None:
        """Give the model and its memory back. May be called twice."""
        self._model = None
        self._input = np.empty((0, *self._input.shape[1:]), np.float32)

    def _loaded(self) -> OpenModel:
        if self._model is None:
            raise ModelError(f"{self._path}: the model is not loaded")
        return self._model


def name_of(model: Path | bytes) -> str:
    """For errors. Raises ModelError for a file that isn't there."""
    if isinstance(model, bytes):
        return "model"
    if not model.is_file():
        raise ModelError(f"{model}: no such model file")
    return str(model)


def checked_input(inputs: Sequence[Tensor], path: Path | str) -> ModelInput:
    """The model's input, checked: one, float32, (batch, 3, height, width). Raises ModelError."""
    found = ", ".join(f"{i.name} {i.kind} {list(i.shape)}" for i in inputs)
    first = inputs[0] if inputs else None
    if (
        first is None
        or len(inputs) != 1
        or first.kind != FLOAT
        or len(first.shape) != 4
        or (isinstance(first.shape[1], int) and first.shape[1] != 3)
    ):
        raise ModelError(f"{path}: inputs are {found or 'none'}; supported is one, tensor(float) [B, 3, H, W]")
    batch, _, height, width = (d if isinstance(d, int) and d > 0 else 0 for d in first.shape)
    if max(batch, 1) * max(height, 1) * max(width, 1) > MAX_PIXELS:
        raise ModelError(f"{path}: takes {found}; allowed are up to {MAX_PIXELS} pixels at once")
    return ModelInput(first.name, batch, width, height)


def check_size(model: ModelInput, width: int, height: int, path: Path | str) -> None:
    """Raises ModelError when the model is fixed to another size."""
    if (model.width or width, model.height or height) != (width, height):
        raise ModelError(
            f"{path}: the model takes only {model.width or 'any'}x{model.height or 'any'} (width x height), "
            f"but {width}x{height} is wanted: change model.width and model.height, or export it with free sizes"
        )
