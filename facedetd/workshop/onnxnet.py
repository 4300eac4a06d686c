"""Writes a plan of :mod:`facedetd.workshop.yolov5face` as ONNX: batch norm folded into the convolutions, batch, height
and width free, every name fixed.

Written node by node instead of traced, so there is nothing to simplify afterwards: no node computes a shape. Needs
onnx; operators as in its documentation, used such that opsets 13 and newer agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from facedetd.types import FloatArray
from facedetd.workshop.yolov5face import (
    ANCHORS,
    INPUT,
    NORM,
    OUTPUTS,
    VALUES,
    Add,
    Conv,
    Double,
    Join,
    Node,
    Plan,
    Pool,
    Take,
)

VERSION: str = str(onnx.__version__)
OPSETS = range(13, 22)
_STRIDES = (8, 16, 32)


def folded(node: Conv, weights: Mapping[str, FloatArray], epsilons: Mapping[str, float]) -> tuple[FloatArray, ...]:
    """Weight and bias of a convolution that does its batch norm too (Ioffe, Szegedy, arXiv:1502.03167, with the
    running statistics)."""
    weight = weights[f"{node.weight}.weight"]
    if node.norm is None:
        return weight, weights[f"{node.weight}.bias"]
    gain, shift, mean, variance = (weights[f"{node.norm}.{part}"].astype(np.float64) for part in NORM)
    scale = gain / np.sqrt(variance + epsilons[node.norm])
    return (weight * scale[:, None, None, None]).astype(np.float32), (shift - mean * scale).astype(np.float32)


def to_onnx(
    nodes: Plan,
    weights: Mapping[str, FloatArray],
    epsilons: Mapping[str, float],
    opset: int,
    metadata: Mapping[str, str],
) -> bytes:
    """The model. Input INPUT: (batch, 3, height, width), RGB from 0 to 1; outputs OUTPUTS: the raw levels. ``opset``
    is one of OPSETS."""
    writer = _Writer(weights, epsilons)
    for node in nodes:
        writer.write(node)
    picture = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", 3, "height", "width"])
    levels = [
        helper.make_tensor_value_info(
            name, TensorProto.FLOAT, ["batch", ANCHORS, f"height/{stride}", f"width/{stride}", VALUES]
        )
        for name, stride in zip(OUTPUTS, _STRIDES, strict=True)
    ]
    graph = helper.make_graph(writer.nodes, "yolov5-face", [picture], levels, writer.constants)
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(
        graph, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets), producer_name="facedetd"
    )
    helper.set_model_props(model, dict(metadata))
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString()
    return data


class _Writer:
    def __init__(self, weights: Mapping[str, FloatArray], epsilons: Mapping[str, float]) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._weights, self._epsilons = weights, epsilons
        self._constant("scales", np.array([1, 1, 2, 2], np.float32))
        self._constant("anchors", np.array([0, 0, 0, ANCHORS, VALUES], np.int64))  # 0: as in the input

    def _constant(self, name: str, value: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def _node(self, kind: str, out: str, *sources: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, sources, [out], name=out, **attributes))
        return out

    def write(self, node: Node) -> None:
        if isinstance(node, Conv):
            self._conv(node)
        elif isinstance(node, Pool):
            edge = node.kernel // 2 if node.stride == 1 else 0
            k, s = [node.kernel] * 2, [node.stride] * 2
            self._node("MaxPool", node.out, node.source, kernel_shape=k, strides=s, pads=[edge] * 4)
        elif isinstance(node, Join):
            self._node("Concat", node.out, *node.sources, axis=1)
        elif isinstance(node, Add):
            self._node("Add", node.out, *node.sources)
        elif isinstance(node, Double):
            self._node(
                "Resize", node.out, node.source, "", "scales",
                mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor",
            )  # fmt: skip
        elif isinstance(node, Take):
            channels = self._constant(f"{node.out}.channels", np.array(node.channels, np.int64))
            self._node("Gather", node.out, node.source, channels, axis=1)
        else:
            # Through (batch, h, w, 48), because a Reshape can keep sizes it doesn't know only where they stand.
            last = self._node("Transpose", f"{node.out}/last", node.source, perm=[0, 2, 3, 1])
            split = self._node("Reshape", f"{node.out}/split", last, "anchors")
            self._node("Transpose", node.out, split, perm=[0, 3, 1, 2, 4])

    def _conv(self, node: Conv) -> None:
        weight, bias = folded(node, self._weights, self._epsilons)
        out = f"{node.out}/conv" if node.act else node.out
        self._node(
            "Conv", out, node.source,
            self._constant(f"{node.weight}.weight", weight), self._constant(f"{node.weight}.bias", bias),
            kernel_shape=[node.kernel] * 2, strides=[node.stride] * 2, pads=[node.kernel // 2] * 4, group=node.groups,
        )  # fmt: skip
        if node.act:  # SiLU, which ONNX has no operator for
            self._node("Mul", node.out, out, self._node("Sigmoid", f"{node.out}/sigmoid", out))
