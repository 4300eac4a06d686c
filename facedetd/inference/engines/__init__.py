"""What runs a model on a device, a module an engine. Called by the inference process and, to try a model before it is
stored, by facedetd.models. Knows nothing of batching policy or of faces.
"""

from __future__ import annotations

from pathlib import Path

from facedetd.inference.engines.onnxruntime import OnnxRuntimeEngine, probe_outputs
from facedetd.inference.heads import match_head
from facedetd.inference.types import Engine, Head, InputSpec, ModelError

__all__ = ["ENGINES", "OnnxRuntimeEngine", "detect_head", "make_engine", "probe_outputs"]

ENGINES = ("onnxruntime",)


def make_engine(
    name: str, path: Path, width: int, height: int, spec: InputSpec, threads: int, max_batch: int
) -> Engine:
    """The engine that ``inference.engine`` names, not loaded yet. Sizes in px.

    Raises ModelError when this build has no such engine.
    """
    if name == "onnxruntime":
        return OnnxRuntimeEngine(path, width, height, spec, threads, max_batch)
    allowed = ", ".join(ENGINES)
    if name == "tensorrt":
        raise ModelError(f"inference.engine is 'tensorrt', but this build has no TensorRT engine yet; has: {allowed}")
    raise ModelError(f"inference.engine is {name!r}; this build has: {allowed}")


def detect_head(path: Path, width: int, height: int) -> Head:
    """The head for a model file, found by loading it and running it once at width x height px on the CPU.

    Raises ModelError when it can't be loaded or run, is fixed to another size, or has outputs no head knows.
    """
    outputs = probe_outputs(path, width, height)
    try:
        return match_head(outputs, width, height)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
