"""The embedded engine: ONNX Runtime on the CPU."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

# Read once, when it is loaded: without it, this wheel keeps telemetry in the home directory, to be sent to its maker.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime as ort

from facedetd.inference.engines.cpu import (
    ModelInput,
    OpenModel,
    Tensor,
    check_size,
    checked_input,
    name_of,
    thread_count,
)
from facedetd.inference.types import ModelError, RawOutputs
from facedetd.types import FloatArray


def open_model(model: Path | bytes, threads: int, width: int, height: int) -> OpenModel:
    """See cpu.Opener."""
    session, what = open_session(model, threads), name_of(model)
    found = model_input(session, what)
    check_size(found, width, height, what)
    return OpenModel(found.batch, tuple(o.name for o in session.get_outputs()), partial(run, session, found.name))


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
    what = name_of(model)
    try:
        source = model if isinstance(model, bytes) else str(model)
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base class
        raise ModelError(f"{what}: onnxruntime can't load it: {_first_line(error)}") from error


def model_input(session: Any, path: Path | str) -> ModelInput:
    """The session's input, checked: one, float32, (batch, 3, height, width). Raises ModelError."""
    return checked_input([Tensor(i.name, i.type, i.shape) for i in session.get_inputs()], path)


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
