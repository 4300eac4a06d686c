"""Reads a float ONNX model as layers and tensors, and writes it with QuantizeLinear and DequantizeLinear.

Placed by hand instead of by onnxruntime.quantization, whose quantize_static runs a calibration of its own each time,
gives what is rounded to consumers that stay in float too, and rounds before activations (SiLU is then rounded thrice).
Here the input of a convolution is rounded, and nothing else: one pair a tensor, for those layers only that are
quantised; weights are stored as int8, a scale an output channel; biases stay float. That is what TensorRT fuses (its
developer guide, "Explicit quantization": Q/DQ before the inputs of weighted layers, symmetric, no zero points).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from facedetd.inference.types import ModelError
from facedetd.models.dynamic import weights_to_constants
from facedetd.types import FloatArray
from facedetd.workshop.ranges import LEVELS

VERSION: str = str(onnx.__version__)
OPSET = 13
"""The first with a scale a channel. An older model is converted."""
_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Layer:
    """A convolution that can be quantised: its node's name and place, its input tensor, its weight as an
    initializer's name, and the weight's axis of output channels."""

    name: str
    node: int
    source: str
    weight: str
    axis: int


@dataclass(frozen=True, slots=True)
class Network:
    """A float model, with ``layers`` in the order they run. ``tensors`` are the names of its float activations, input
    first, in that order too. Don't change ``model``; :func:`quantized` copies it."""

    model: Any
    layers: tuple[Layer, ...]
    tensors: tuple[str, ...]
    input: str
    outputs: tuple[str, ...]
    converted_from: int | None

    def weight(self, name: str) -> FloatArray:
        return next(numpy_helper.to_array(t) for t in self.model.graph.initializer if t.name == name)


def read_network(data: bytes, what: str) -> Network:
    """Of a model with one input (see model_input). Raises ModelError: no ONNX model, one that is quantised already,
    without a convolution, or with a fixed batch above 1."""
    try:
        model = onnx.load_model_from_string(data)
        onnx.checker.check_model(model)
        opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
        if opset < OPSET:
            model = onnx.version_converter.convert_version(model, OPSET)
        weights_to_constants(model)
        _constants_to_weights(model)
        model = onnx.shape_inference.infer_shapes(model)
    except Exception as error:  # onnx's errors share no base class
        first = str(error).strip().split("\n", 1)[0][:300]
        raise ModelError(f"{what}: not an ONNX model that can be read: {first}") from None
    found = {node.op_type for node in model.graph.node} & {"QuantizeLinear", "DequantizeLinear", "QLinearConv"}
    if found:
        raise ModelError(f"{what}: is quantised already (it holds {', '.join(sorted(found))}): give the float model")
    _name_nodes(model)
    layers = tuple(_layers(model))
    if not layers:
        raise ModelError(f"{what}: no convolution with constant weights: nothing to quantise")
    inputs = [value.name for value in model.graph.input]
    batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    if batch > 1:
        raise ModelError(f"{what}: takes batches of {batch} only; facedetctl model import frees that where it can")
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*model.graph.value_info, *model.graph.output)}
    made = [out for node in model.graph.node for out in node.output if kinds.get(out) == TensorProto.FLOAT]
    outputs = tuple(value.name for value in model.graph.output)
    return Network(model, layers, (*inputs, *made), inputs[0], outputs, opset if opset < OPSET else None)


def _constants_to_weights(model: Any) -> None:
    """Constant nodes with float tensors become initializers: some exporters keep weights so."""
    kept = []
    for node in model.graph.node:
        value = next((a.t for a in node.attribute if a.name == "value"), None) if node.op_type == "Constant" else None
        if value is not None and value.data_type == TensorProto.FLOAT and len(value.dims) > 1:
            value.name = node.output[0]
            model.graph.initializer.append(value)
        else:
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _name_nodes(model: Any) -> None:
    """Every node gets a name of its own: layers go by it."""
    seen: set[str] = set()
    for node in model.graph.node:
        name = node.name or (node.output[0] if node.output else node.op_type)
        number = 1
        while name in seen:
            number += 1
            name = f"{node.name or node.output[0]}#{number}"
        node.name = name
        seen.add(name)


def _layers(model: Any) -> list[Layer]:
    weights = {t.name: tuple(t.dims) for t in model.graph.initializer if t.data_type == TensorProto.FLOAT}
    found = []
    for place, node in enumerate(model.graph.node):
        if node.op_type not in ("Conv", "ConvTranspose") or node.input[1] not in weights or node.input[0] in weights:
            continue
        group = next((a.i for a in node.attribute if a.name == "group"), 1)
        if node.op_type == "ConvTranspose" and group != 1:
            continue  # output channels lie over two axes then, and a scale a channel can't
        found.append(Layer(node.name, place, node.input[0], node.input[1], 0 if node.op_type == "Conv" else 1))
    return found


def with_outputs(network: Network, tensors: Collection[str]) -> bytes:
    """The float model that gives these tensors instead of its own outputs."""
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    wanted = [helper.make_tensor_value_info(t, TensorProto.FLOAT, None) for t in tensors]
    del model.graph.output[:]
    model.graph.output.extend(wanted)
    data: bytes = model.SerializeToString()
    return data


def rounded(weight: FloatArray, axis: int) -> tuple[np.ndarray[Any, np.dtype[np.int8]], FloatArray]:
    """A weight as int8 with a scale for each channel of ``axis``, (channels,) float32."""
    other = tuple(i for i in range(weight.ndim) if i != axis)
    scale = (np.maximum(np.abs(weight).max(axis=other), _TINY) / LEVELS).astype(np.float32)
    wide = scale.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
    return np.clip(np.rint(weight / wide), -LEVELS, LEVELS).astype(np.int8), scale


def quantized(
    network: Network,
    ranges: Mapping[str, float],
    keep: Collection[str],
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """The model with every layer quantised but those named in ``keep``. ``ranges`` has each layer's input."""
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    graph = model.graph
    todo = [layer for layer in network.layers if layer.name not in keep]
    before: dict[int, list[Any]] = {}
    weights: dict[str, str] = {}
    pairs: dict[str, str] = {}
    for layer in todo:
        new = before.setdefault(layer.node, [])
        if layer.source not in pairs:
            pairs[layer.source] = _pair(graph, new, layer.source, ranges[layer.source])
        if layer.weight not in weights:
            weights[layer.weight] = _weight(graph, new, network.weight(layer.weight), layer)
        node = graph.node[layer.node]
        node.input[0], node.input[1] = pairs[layer.source], weights[layer.weight]
    nodes = [one for place, node in enumerate(graph.node) for one in (*before.get(place, ()), node)]
    del graph.node[:]
    graph.node.extend(nodes)
    _drop_unused(model)
    if metadata:
        known = {p.key: p.value for p in model.metadata_props}
        helper.set_model_props(model, {**known, **metadata})
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


def _pair(graph: Any, new: list[Any], tensor: str, limit: float) -> str:
    scale, zero, q, dq = (f"{tensor}/{part}" for part in ("scale", "zero", "int8", "dequantized"))
    graph.initializer.append(numpy_helper.from_array(np.array(limit / LEVELS, np.float32), scale))
    graph.initializer.append(numpy_helper.from_array(np.array(0, np.int8), zero))
    new.append(helper.make_node("QuantizeLinear", [tensor, scale, zero], [q], name=q))
    new.append(helper.make_node("DequantizeLinear", [q, scale, zero], [dq], name=dq))
    return dq


def _weight(graph: Any, new: list[Any], weight: FloatArray, layer: Layer) -> str:
    stored, scale, zero, dq = (f"{layer.weight}/{part}" for part in ("int8", "scale", "zero", "dequantized"))
    values, scales = rounded(weight, layer.axis)
    for name, value in ((stored, values), (scale, scales), (zero, np.zeros(len(scales), np.int8))):
        graph.initializer.append(numpy_helper.from_array(value, name))
    new.append(helper.make_node("DequantizeLinear", [stored, scale, zero], [dq], name=dq, axis=layer.axis))
    return dq


def _drop_unused(model: Any) -> None:
    used = {name for node in model.graph.node for name in node.input} | {o.name for o in model.graph.output}
    kept = [t for t in model.graph.initializer if t.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def nodes_before(network: Network, tensors: Sequence[str]) -> frozenset[str]:
    """Names of the layers from which an output is reached without passing another layer: where boxes are made."""
    makers = {out: node for node in network.model.graph.node for out in node.output}
    layers = {layer.name for layer in network.layers}
    found: set[str] = set()
    todo, seen = list(tensors), set(tensors)
    while todo:
        node = makers.get(todo.pop())
        if node is None:
            continue
        if node.name in layers:
            found.add(node.name)
            continue
        todo += [t for t in node.input if t not in seen]
        seen.update(node.input)
    return frozenset(found)
