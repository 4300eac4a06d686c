"""The range table for TensorRT 8.6 to 10: what it lets TensorRT round is what the model with Q/DQ rounds."""

import importlib.util

import model_kit
import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from facedetd.inference.engines.onnxruntime import open_session, run
from facedetd.trt.compat import Messages, installed
from facedetd.trt.ranges import Table
from facedetd.workshop import qdq
from facedetd.workshop.rangetable import range_table
from tests.trt_rounding import as_qdq, as_told, between_layers, rounded

LAYERS = ("a", "b", "c", "d", "e", "f", "g", "head")


def graph():
    """Convolutions with SiLU (a to d), ReLU (e), LeakyReLU (f) and without (g), a residual Add, two Concats, a pool, an
    enlargement and channels picked out; a head with a Transpose behind it."""
    random = np.random.default_rng(3)
    node, nodes, weights = helper.make_node, [], {}

    def conv(name: str, source: str, out: str, kernel: int, channels: tuple[int, int], **more: object) -> None:
        weights[f"{name}_w"] = random.normal(0, 0.3, (*channels, kernel, kernel)).astype(np.float32)
        weights[f"{name}_b"] = random.normal(0, 0.1, channels[0]).astype(np.float32)
        sides = {"pads": [kernel // 2] * 4, **more}
        nodes.append(node("Conv", [source, f"{name}_w", f"{name}_b"], [out], name=name, **sides))

    def silu(name: str, source: str, *rest: object, **more: object) -> None:
        conv(name, source, f"{name}_conv", *rest, **more)
        nodes.append(node("Sigmoid", [f"{name}_conv"], [f"{name}_gate"], name=f"{name}_sigmoid"))
        nodes.append(node("Mul", [f"{name}_conv", f"{name}_gate"], [f"{name}_out"], name=f"{name}_mul"))

    silu("a", "picture", 3, (4, 3), strides=[2, 2])
    silu("b", "a_out", 1, (4, 4))
    silu("c", "b_out", 3, (4, 4))
    nodes.append(node("Add", ["b_out", "c_out"], ["sum"], name="add"))
    silu("d", "a_out", 1, (4, 4))
    nodes.append(node("Concat", ["sum", "d_out"], ["join"], name="join", axis=1))
    conv("e", "join", "e_conv", 1, (4, 8))
    nodes.append(node("Relu", ["e_conv"], ["e_out"], name="relu"))
    pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
    nodes.append(node("MaxPool", ["e_out"], ["pooled"], name="pool", **pool))
    conv("f", "pooled", "f_conv", 1, (4, 4))
    nodes.append(node("LeakyRelu", ["f_conv"], ["f_out"], name="leaky", alpha=0.1))
    enlarge = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    nodes.append(node("Resize", ["f_out", "", "twice"], ["large"], name="enlarge", **enlarge))
    nodes.append(node("Gather", ["e_out", "channels"], ["some"], name="pick", axis=1))
    nodes.append(node("Concat", ["large", "some"], ["joined"], name="join2", axis=1))
    conv("g", "joined", "g_out", 3, (6, 1), group=6)
    conv("head", "g_out", "head_out", 1, (2, 6))
    nodes.append(node("Transpose", ["head_out"], ["out"], name="turn", perm=[0, 2, 3, 1]))
    weights |= {"twice": np.array([1, 1, 2, 2], np.float32), "channels": np.array([0, 3], np.int64)}
    model = model_kit.build(nodes, {"out": ["B", None, None, 2]}, weights)
    return qdq.read_network(model.SerializeToString(), "graph")


NETWORK = graph()
PICTURES = np.random.default_rng(0).uniform(0, 2, (2, 3, 32, 32)).astype(np.float32)


def reached():
    rest = [tensor for tensor in NETWORK.tensors if tensor != NETWORK.input]
    found = run(open_session(qdq.with_outputs(NETWORK, rest), 1), NETWORK.input, PICTURES)
    # less than the greatest, so that the ends are cut off too, and no two alike
    parts = np.linspace(0.7, 0.9, len(rest))
    tops = [float(np.abs(values).max() * part) for values, part in zip(found, parts, strict=True)]
    return {NETWORK.input: 1.9, **dict(zip(rest, tops, strict=True))}


RANGES = reached()


def out_of(model: bytes):
    """As it stands: onnxruntime's optimiser rounds biases of models with Q/DQ."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session.run(None, {NETWORK.input: PICTURES})[0]


def int8(keep):
    return set(LAYERS) - set(keep)


@settings(max_examples=60, deadline=None)
@given(st.sets(st.sampled_from(LAYERS)))
def test_it_lets_tensorrt_round_what_the_model_with_qdq_rounds(keep) -> None:
    wanted = out_of(qdq.quantized(NETWORK, RANGES, keep))
    assert np.array_equal(out_of(as_qdq(NETWORK, int8(keep), RANGES)), wanted)
    table = range_table(NETWORK, RANGES, keep)
    assert np.array_equal(out_of(as_told(NETWORK, int8(keep), table, obeyed=True)), wanted)
    if len(keep) == len(LAYERS):
        assert not table.ranges


def test_a_table_of_all_tensors_would_be_noticed() -> None:
    wanted = out_of(as_qdq(NETWORK, int8(()), RANGES))
    everything = Table(RANGES)
    assert np.abs(out_of(as_told(NETWORK, int8(()), everything, obeyed=True)) - wanted).max() > 0.01
    one_more = range_table(NETWORK, RANGES, ())
    with_sum = Table({**one_more.ranges, "b_gate": RANGES["b_gate"]}, (), "", one_more.half_tensors)
    assert not np.array_equal(out_of(as_told(NETWORK, int8(()), with_sum, obeyed=True)), wanted)


def test_which_tensors_have_a_range_and_why() -> None:
    table = range_table(NETWORK, RANGES, ())
    copied = {"d_out": "join", "sum": "join", "some": "joined", "large": "joined", "f_out": "joined"}
    own = ("picture", "a_out", "b_out", "c_out", "join", "e_out", "pooled", "joined", "g_out")
    wanted = {**{t: RANGES[t] for t in own}, **{tensor: RANGES[into] for tensor, into in copied.items()}}
    assert table.ranges == wanted
    # b_out: read by c, and by the Add; c_out: by the Add alone; e_out: copied into two tensors of different range
    assert table.half_tensors == ("b_out", "c_out", "e_out")
    assert table.float_layers == ("add", "pick", "pool")  # all their tensors have ranges, and they aren't copies of one
    assert not {"head_out", "out"} & table.ranges.keys()  # 1/127 of their range moves boxes
    assert table.other_ranges == {t: r for t, r in RANGES.items() if t not in wanted}


def test_what_float_layers_read_and_give_has_none() -> None:
    table = range_table(NETWORK, RANGES, {"c", "d", "e"})
    assert not {"b_conv", "b_gate", "join", "d_out", "sum", "c_out", "c_conv"} & table.ranges.keys()
    assert {"c", "d", "e"} <= set(table.float_layers)
    assert "a_out" in table.half_tensors  # b reads it as INT8, d as float
    assert table.ranges["b_out"] == RANGES["b_out"] and "b_out" in table.half_tensors  # what b gives
    assert table.ranges["pooled"] == RANGES["pooled"]
    assert range_table(NETWORK, RANGES, {"c"}, "00").model_sha256 == "00"


def test_what_kernels_hand_to_each_other() -> None:
    assert between_layers(NETWORK, ()) == {
        "picture", "a_out", "b_out", "c_out", "sum", "d_out", "join", "e_out", "pooled", "f_conv", "f_out", "large",
        "some", "joined", "g_out",
    }  # fmt: skip
    assert "a_out" in between_layers(NETWORK, {"a", "b"}) - between_layers(NETWORK, {"a", "b", "d"})
    close = rounded(NETWORK, (), {"picture": 1e6}, {})
    assert np.unique(out_of(close)).size < np.unique(out_of(rounded(NETWORK, (), {}, {}))).size


@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="TensorRT-RTX isn't installed: pip install tensorrt-rtx-cu13 (a parser and builder that needs no GPU)",
)
@pytest.mark.parametrize("nameless", [False, True])
def test_the_parser_calls_layers_and_tensors_as_the_table_does(nameless: bool) -> None:
    api, messages = installed("tensorrt_rtx"), Messages()
    model = NETWORK.model.__class__()
    model.CopyFrom(NETWORK.model)
    if nameless:
        for node in model.graph.node:
            node.name = ""
    network = qdq.read_network(model.SerializeToString(), "graph")
    table = range_table(network, RANGES, {network.layers[-1].name})
    logger = api.logger(messages)
    parsed = api.network(api.builder(logger, messages), True)
    api.parse(parsed, logger, model.SerializeToString())
    layers, tensors = api.named(parsed, table.float_layers, table.half_tensors)
    assert len(layers) == len(table.float_layers) > 1
    assert [layer.get_output(place).name for layer, place in tensors] == list(table.half_tensors) != []
