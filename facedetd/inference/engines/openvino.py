"""OpenVINO on the CPU: the optional engine, for INT8 models above all. Loaded only where it is asked for."""

from __future__ import annotations

import io
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from facedetd.inference.engines.cpu import FLOAT, OpenModel, Tensor, check_size, checked_input, name_of
from facedetd.inference.types import DeviceError, ModelError
from facedetd.types import FloatArray

NOT_LOADED = ("openvino_telemetry", "openvino.tools.ovc")
"""What the package loads by itself and we have no use for: its converter, which leaves an identifier in the home
directory and has telemetry call its maker at every import (seen with 2026.4). Without them it does neither."""

_KINDS = {"f32": FLOAT, "u8": "tensor(uint8)", "f16": "tensor(float16)"}


def is_installed() -> bool:
    """Whether there is an OpenVINO to load; whether it can be loaded shows only then."""
    return find_spec("openvino") is not None


def library() -> Any:
    """OpenVINO's module. Raises DeviceError, which says what to install."""
    for name in NOT_LOADED:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # None: an import of it fails
    try:
        import openvino
    except (ImportError, OSError) as error:
        raise DeviceError(
            f"the engine openvino needs OpenVINO, which can't be loaded here ({error}): pip install "
            "'facedetd[openvino]', or take the engine onnxruntime"
        ) from None
    return openvino


def open_model(model: Path | bytes, threads: int, width: int, height: int) -> OpenModel:
    """See cpu.Opener. Sizes are settled here, since OpenVINO is slower with free ones: where the batch is free, one
    picture. Float layers run in float32, on a CPU with bfloat16 too: precision is the model's."""
    what, ov = name_of(model), library()
    try:
        # Core.read_model would try the readers of all formats it knows, one after the other
        reader = ov.frontend.FrontEndManager().load_by_framework("onnx")
        network = reader.convert(reader.load(io.BytesIO(model) if isinstance(model, bytes) else str(model)))
    except Exception as error:  # RuntimeError for most, TypeError for some
        raise ModelError(f"{what}: OpenVINO can't load it: {_reason(error)}") from error
    if not _join_rounding(ov, network):
        raise ModelError(f"{what}: OpenVINO can't run it: a QuantizeLinear without its DequantizeLinear right after it")
    found = checked_input([_tensor(port) for port in network.inputs], what)
    check_size(found, width, height, what)
    shape = [found.batch or 1, 3, height, width]
    try:
        network.reshape(shape)
        compiled = ov.Core().compile_model(
            network,
            "CPU",
            {
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": 1,
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_PRECISION_HINT": "f32",
                "ENABLE_CPU_PINNING": False,  # decoders share the cores
            },
        )
        request = compiled.create_infer_request()
    except Exception as error:
        raise ModelError(f"{what}: OpenVINO can't run it on {shape}: {_reason(error)}") from error
    # A tensor may have several names; its Result is named after the model's output, and nothing else
    outputs = tuple(result.get_friendly_name().removesuffix("/sink_port_0") for result in network.get_results())
    return OpenModel(found.batch, outputs, partial(_run, request))


def _join_rounding(ov: Any, network: Any) -> bool:
    """Make each QuantizeLinear and its DequantizeLinear one FakeQuantize, OpenVINO's own word for both; False where
    that can't be done.

    The reader makes a FakeQuantize to whole numbers, conversions to int8 and back, and arithmetic of it. OpenVINO joins
    these itself, but moves the FakeQuantize through a Concat in front of it first, and then rounds the Concat's inputs
    to whole numbers (seen with 2024.6, 2025.0 and 2026.4: YOLOv5n-0.5-face lost 0.3 of AP by it).
    """
    for rounding in network.get_ordered_ops():
        if rounding.get_type_name() != "FakeQuantize" or not any(
            n.get_type_name() == "Convert" for n in _users(rounding)
        ):
            continue
        for times, zero in _dequantised(rounding):
            scale = None if zero is None else _numbers(times, 1)
            if scale is None:
                return False
            edges = [_numbers(rounding, i) for i in (3, 4)]
            outputs = [np.asarray((edge - zero) * scale, np.float32) for edge in edges if edge is not None]
            whole = [rounding.input_value(i) for i in (0, 1, 2)]
            joined = ov.opset13.fake_quantize(*whole, *outputs, rounding.get_attributes()["levels"])
            for reader in times.output(0).get_target_inputs():
                reader.replace_source_output(joined.output(0))
    network.validate_nodes_and_infer_types()
    return True


def _dequantised(rounding: Any) -> list[tuple[Any, Any]]:
    """Where what was rounded comes out in float again: the multiplication by the scale, and the zero point (None: what
    follows isn't a DequantizeLinear)."""
    found: list[tuple[Any, Any]] = []
    for back in (back for int8 in _users(rounding) for back in _users(int8)):
        if not _users(back):
            found.append((back, None))
        for node in _users(back):
            minus = node.get_type_name() == "Subtract"
            for times in _users(node) if minus else [node]:
                right = back.get_type_name() == "Convert" and times.get_type_name() == "Multiply"
                found.append((times, (_numbers(node, 1) if minus else np.float32(0)) if right else None))
    return found


def _users(node: Any) -> list[Any]:
    return [reader.get_node() for reader in node.output(0).get_target_inputs()]


def _numbers(node: Any, index: int) -> Any:
    """A constant input's values as an array; None where it isn't constant."""
    source = node.input_value(index).get_node()
    while source.get_type_name() == "Convert":
        source = source.input_value(0).get_node()
    return np.asarray(source.data, np.float32) if source.get_type_name() == "Constant" else None


def _tensor(port: Any) -> Tensor:
    kind = port.get_element_type().get_type_name()
    shape = [d.get_length() if d.is_static else str(d) for d in port.get_partial_shape()]
    return Tensor(port.get_any_name(), _KINDS.get(kind, f"tensor({kind})"), shape)


def _run(request: Any, pictures: FloatArray) -> list[FloatArray]:
    try:
        found = request.infer([pictures], share_inputs=True)
        return [np.array(found[i], np.float32) for i in range(len(found))]
    except Exception as error:
        raise ModelError(f"the model can't run on {list(pictures.shape)}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """What it says, less where in OpenVINO's source that was."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [
        line for line in lines if line and not line.startswith(("Exception from", "Check '", "FrontEnd API failed"))
    ]
    return " ".join(said)[:300] or type(error).__name__
