"""Small ONNX models with the outputs of real heads, and NV12 pictures, for tests."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from facedetd.inference.types import BatchFrame
from facedetd.ring.header import ColorMatrix, ColorRange, Geometry, SlotHeader

Dim = int | str | None


def frame(
    nv12: np.ndarray, matrix: ColorMatrix = ColorMatrix.BT601, range_: ColorRange = ColorRange.FULL
) -> BatchFrame:
    height, width = nv12.shape[0] * 2 // 3, nv12.shape[1]
    whole = Geometry(width, height, width, height, 0, 0)
    return BatchFrame(SlotHeader("cam", 0, 0, 0, 0, 0, 0, 0, 0, 0, whole, matrix, range_), nv12)


def flat_picture(width: int, height: int, y: int, cb: int = 128, cr: int = 128) -> np.ndarray:
    nv12 = np.empty((height * 3 // 2, width), np.uint8)
    nv12[:height] = y
    nv12[height:, 0::2] = cb
    nv12[height:, 1::2] = cr
    return nv12


def build(nodes, outputs, weights, batch: Dim = "B", width: Dim = "W", height: Dim = "H", extra_inputs=()):
    """A checked model with input "picture" (batch, 3, height, width)."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, [batch, 3, height, width]), *extra_inputs],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def centerface(batch: Dim = "B", width: Dim = "W", height: Dim = "H", *, threshold: float = 200.0, scale: float = 1.0):
    """CenterFace's outputs: a face wherever a cell of 4x4 px is redder than ``threshold`` and not green, its box
    4 * e^scale px, its landmarks all in the box's middle."""
    h, w = (d // 4 if isinstance(d, int) else None for d in (height, width))
    pick = np.array([[1.0, -1.0, 0.0]], np.float32).reshape(1, 3, 1, 1)
    zero2, zero10 = np.zeros((2, 3, 1, 1), np.float32), np.zeros((10, 3, 1, 1), np.float32)
    nodes = [
        helper.make_node("AveragePool", ["picture"], ["cells"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Conv", ["cells", "pick", "minus"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["heat"]),
        helper.make_node("Conv", ["cells", "zero2", "scale_is"], ["scale"]),
        helper.make_node("Conv", ["cells", "zero2", "offset_is"], ["offset"]),
        helper.make_node("Conv", ["cells", "zero10", "marks_are"], ["marks"]),
    ]
    weights = {
        "pick": pick,
        "minus": np.array([-threshold], np.float32),
        "zero2": zero2,
        "zero10": zero10,
        "scale_is": np.full(2, scale, np.float32),
        "offset_is": np.zeros(2, np.float32),
        "marks_are": np.full(10, 0.5, np.float32),
    }
    outputs = {n: [batch, c, h, w] for n, c in (("heat", 1), ("scale", 2), ("offset", 2), ("marks", 10))}
    return build(nodes, outputs, weights, batch, width, height)


def yunet():
    """YuNet's twelve outputs, all zero (no faces)."""
    nodes, weights, outputs = [], {}, {}
    for stride in (8, 16, 32):
        nodes.append(
            helper.make_node(
                "AveragePool", ["picture"], [f"cells{stride}"], kernel_shape=[stride] * 2, strides=[stride] * 2
            )
        )
        for kind, channels in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
            name = f"{kind}_{stride}"
            weights[f"w_{name}"] = np.zeros((channels, 3, 1, 1), np.float32)
            weights[f"s_{name}"] = np.array([0, -1, channels], np.int64)
            nodes += [
                helper.make_node("Conv", [f"cells{stride}", f"w_{name}"], [f"c_{name}"]),
                helper.make_node("Transpose", [f"c_{name}"], [f"t_{name}"], perm=[0, 2, 3, 1]),
                helper.make_node("Reshape", [f"t_{name}", f"s_{name}"], [name]),
            ]
            outputs[name] = ["B", None, channels]
    return build(nodes, outputs, weights)


def yolo_raw(batch: Dim = 1, width: int = 64, height: int = 96):
    """YOLOv5-face's three raw levels at a fixed size, all -9 (no faces)."""
    nodes, weights, outputs = [], {}, {}
    for stride in (8, 16, 32):
        rows, columns = height // stride, width // stride
        weights |= {
            f"w{stride}": np.zeros((48, 3, 1, 1), np.float32),
            f"b{stride}": np.full(48, -9, np.float32),
            f"s{stride}": np.array([-1, 3, 16, rows, columns], np.int64),
        }
        nodes += [
            helper.make_node(
                "AveragePool", ["picture"], [f"p{stride}"], kernel_shape=[stride] * 2, strides=[stride] * 2
            ),
            helper.make_node("Conv", [f"p{stride}", f"w{stride}", f"b{stride}"], [f"c{stride}"]),
            helper.make_node("Reshape", [f"c{stride}", f"s{stride}"], [f"r{stride}"]),
            helper.make_node("Transpose", [f"r{stride}"], [f"stride_{stride}"], perm=[0, 1, 3, 4, 2]),
        ]
        outputs[f"stride_{stride}"] = [batch, 3, rows, columns, 16]
    return build(nodes, outputs, weights, batch, width, height)


def save(model, path):
    path.write_bytes(model.SerializeToString())
    return path
