"""What runs a model on a device, a module an engine. Called by the inference process and, to try a model before it is
stored, by facedetd.models. Knows nothing of batching policy or of faces.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from facedetd.inference.engines import onnxruntime, openvino
from facedetd.inference.engines.cpu import CpuEngine, Opener
from facedetd.inference.engines.onnxruntime import probe_outputs
from facedetd.inference.engines.tensorrt import TensorRtEngine, plan_in, plan_of
from facedetd.inference.heads import match_head
from facedetd.inference.selection import Group
from facedetd.inference.types import Engine, Head, InputSpec, ModelError

__all__ = [
    "CPU_ENGINES",
    "ENGINES",
    "CpuEngine",
    "TensorRtChoice",
    "TensorRtEngine",
    "detect_head",
    "make_engine",
    "plan_in",
    "probe_outputs",
]

CPU_ENGINES: Mapping[str, Opener] = {"onnxruntime": onnxruntime.open_model, "openvino": openvino.open_model}
ENGINES = (*CPU_ENGINES, "tensorrt")


@dataclass(frozen=True, slots=True)
class TensorRtChoice:
    """Which plan: of the model ``name`` (in the store), in the folder ``plans``, at ``precision``, on GPU ``device``.
    ``groups``: what the head wants of the outputs; none: all."""

    name: str
    plans: Path
    precision: str = "fp16"
    device: int = 0
    groups: tuple[Group, ...] = ()


def make_engine(
    name: str,
    path: Path,
    width: int,
    height: int,
    spec: InputSpec,
    threads: int,
    max_batch: int,
    *,
    tensorrt: TensorRtChoice | None = None,
) -> Engine:
    """The engine that ``inference.engine`` names, not loaded yet; ``path`` is the ONNX model. Sizes in px.

    Raises ModelError when this build has no such engine.
    """
    if name in CPU_ENGINES:
        return CpuEngine(name, CPU_ENGINES[name], path, width, height, spec, threads, max_batch)
    if name == "tensorrt" and tensorrt is not None:
        t = tensorrt
        find = plan_of(path, t.name, t.plans, t.precision, width, height, max_batch)
        return TensorRtEngine(find, width, height, spec, max_batch, t.device, t.groups)
    allowed = ", ".join(ENGINES)
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
