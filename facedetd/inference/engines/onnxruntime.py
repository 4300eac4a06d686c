"""The embedded engine: ONNX Runtime on the CPU."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

# Read once, when it is loaded: without it, this wheel keeps telemetry in the home directory, to be sent to its maker.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime as ort

from facedetd.inference.convert import Nv12Converter
from facedetd.inference.types import BatchFrame, InputSpec, ModelError, RawOutputs
from facedetd.types import FloatArray

MAX_AUTO_THREADS = 4


def thread_count(threads: int) -> int:
    """``threads``, or for 0 as many as this process may use cores, at most MAX_AUTO_THREADS."""
    return threads if threads > 0 else min(MAX_AUTO_THREADS, len(os.sched_getaffinity(0)))


MAX_PIXELS = 1 << 24
"""Of all pictures of a run. A fixed size beyond that is a mistake or a trap: the input alone takes 200 MB."""


@dataclass(frozen=True, slots=True)
class ModelInput:
    """A session's only input: its name, and the sizes the model is fixed to (0: free)."""

    name: str
    batch: int
    width: int
    height: int


class OnnxRuntimeEngine:
    """An Engine for a model that takes (batch, 3, height, width) float32. Used by one thread only.

    A batch is run picture by picture: on a CPU a larger run costs 5-30 % more a picture, because the layers no longer
    fit the cache (measured). A model with a fixed batch is run in pieces of that size, the last filled up.
    """

    name = "onnxruntime"

    def __init__(self, path: Path, width: int, height: int, spec: InputSpec, threads: int, max_batch: int) -> None:
        """``threads`` 0 chooses by the cores. Raises ModelError for a size or batch no model can have."""
        if width <= 0 or height <= 0 or width % spec.multiple or height % spec.multiple:
            raise ModelError(f"model size {width}x{height}: width and height must be multiples of {spec.multiple}")
        if max_batch < 1:
            raise ModelError(f"largest batch {max_batch}: must be at least 1")
        self._path, self._width, self._height = path, width, height
        self._threads, self._max_batch = thread_count(threads), max_batch
        self._converter = Nv12Converter(width, height, spec)
        self._session: Any = None
        self._input_name = ""
        self._output_names: list[str] = []
        self._input: FloatArray = np.empty((0, 3, height, width), np.float32)

    def load(self) -> None:
        """See Engine.load. Also makes OpenCV of this process single-threaded: its pool would fight the session's."""
        cv2.setNumThreads(1)
        session = open_session(self._path, self._threads)
        model = model_input(session, self._path)
        check_size(model, self._width, self._height, self._path)
        self._input_name = model.name
        self._output_names = [o.name for o in session.get_outputs()]
        self._input = np.zeros((model.batch or 1, 3, self._height, self._width), np.float32)
        self._session = session

    def warm_up(self) -> None:
        """See Engine.warm_up. Raises ModelError."""
        self._run()

    def infer(self, batch: Sequence[BatchFrame]) -> RawOutputs:
        """See Engine.infer. Raises ModelError when the run fails, ValueError for a batch that is empty or too big."""
        if not 0 < len(batch) <= self._max_batch:
            raise ValueError(f"a batch of {len(batch)}; this engine takes 1 to {self._max_batch}")
        parts, size = [], max(1, len(self._input))
        for start in range(0, len(batch), size):
            for frame, out in zip(batch[start : start + size], self._input, strict=False):
                self._converter.convert(frame.nv12, frame.header.matrix, frame.header.range, out)
            parts.append(self._run())
        whole = parts[0] if len(parts) == 1 else [np.concatenate(p) for p in zip(*parts, strict=True)]
        return {n: o[: len(batch)] for n, o in zip(self._output_names, whole, strict=True)}

    def close(self) -> None:
        """Give the session and its memory back. May be called twice."""
        self._session = None
        self._input = np.empty((0, *self._input.shape[1:]), np.float32)

    def _run(self) -> list[FloatArray]:
        if self._session is None:
            raise ModelError(f"{self._path}: the model is not loaded")
        return run(self._session, self._input_name, self._input)


def open_session(model: Path | bytes, threads: int) -> Any:
    """A CPU session for a file or for a model's bytes. Raises ModelError."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    # ALL brings the blocked memory layout, which halves the time of these convolution nets (measured)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 4  # what fails is raised; onnxruntime would write it to stderr as well
    # Threads that spin between batches would burn idle cores of a daemon that runs for months.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    what = "model" if isinstance(model, bytes) else str(model)
    if isinstance(model, Path) and not model.is_file():
        raise ModelError(f"{model}: no such model file")
    try:
        source = model if isinstance(model, bytes) else str(model)
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base class
        raise ModelError(f"{what}: onnxruntime can't load it: {_first_line(error)}") from error


def model_input(session: Any, path: Path | str) -> ModelInput:
    """The session's input, checked: one, float32, (batch, 3, height, width). Raises ModelError."""
    inputs = session.get_inputs()
    found = ", ".join(f"{i.name} {i.type} {list(i.shape)}" for i in inputs)
    first = inputs[0] if inputs else None
    if (
        first is None
        or len(inputs) != 1
        or first.type != "tensor(float)"
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


def run(session: Any, name: str, pictures: FloatArray) -> list[FloatArray]:
    """Run once; outputs in the model's order. Raises ModelError."""
    try:
        outputs: list[FloatArray] = session.run(None, {name: pictures})
    except Exception as error:
        raise ModelError(f"the model can't run on {list(pictures.shape)}: {_first_line(error)}") from error
    return outputs


def probe_outputs(path: Path, width: int, height: int) -> RawOutputs:
    """Load the model, run it once on a black picture of width x height px and return its outputs in its own order:
    what ``heads.match_head`` wants. Raises ModelError."""
    session = open_session(path, thread_count(0))
    model = model_input(session, path)
    check_size(model, width, height, path)
    outputs = run(session, model.name, np.zeros((model.batch or 1, 3, height, width), np.float32))
    names = [o.name for o in session.get_outputs()]
    for name, output in zip(names, outputs, strict=True):
        if not isinstance(output, np.ndarray) or output.dtype != np.float32 or output.ndim < 1:
            kind = getattr(output, "dtype", type(output).__name__)
            raise ModelError(f"{path}: output {name} is {kind}; supported are float32 tensors")
    return dict(zip(names, outputs, strict=True))


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:300]
