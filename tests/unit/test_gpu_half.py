"""The network that rounds to half."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.gpu.half import main, rounded

ort = pytest.importorskip("onnxruntime")


def network() -> onnx.ModelProto:
    """x · w, relu, · v: numbers that half can't hold exactly."""
    weights = [numpy_helper.from_array(np.full((4, 4), value, np.float32), name) for name, value in
               (("w", 1 / 3), ("v", 1 / 7))]  # fmt: skip
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "v"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy"]
    graph = helper.make_graph(nodes, "small", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def gives(model: onnx.ModelProto) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.array([[0.1, 0.2, 0.3, 0.4]], np.float32)
    return np.asarray(session.run(None, {"x": x})[0])


def half(value: float) -> np.float32:
    return np.float32(np.float16(value))


def test_weights_and_what_layers_give_are_rounded() -> None:
    expected = half(1 / 3) * half(1 / 7) * 4
    assert gives(rounded(network())) == pytest.approx(np.full((1, 4), expected), rel=1e-6)
    assert gives(rounded(network()))[0, 0] != pytest.approx(4 / 21, rel=1e-5)


def test_layers_may_stay_float() -> None:
    assert np.array_equal(gives(rounded(network(), range(3))), gives(network()))
    only_last = gives(rounded(network(), range(2)))
    assert only_last == pytest.approx(np.full((1, 4), np.float32(1 / 3) * half(1 / 7) * 4), rel=1e-6)


def test_by_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx.save(network(), tmp_path / "in.onnx")
    monkeypatch.setattr("sys.argv", ["half", str(tmp_path / "in.onnx"), str(tmp_path / "out.onnx"), "--float", "0:3"])
    main()
    assert np.array_equal(gives(onnx.load(tmp_path / "out.onnx")), gives(network()))
