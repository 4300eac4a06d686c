"""model quantize: the model with Q/DQ, which layers stay in float, the set of pictures, and the command as a whole."""

import hashlib
import json
import re
import sys
from pathlib import Path

import cv2
import model_kit
import numpy as np
import onnx
import pytest
from ctl_harness import Ctl
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from quantize_kit import HEADS, detector, picture_of, pictures

from facedetd.inference.engines.onnxruntime import open_session, run
from facedetd.inference.types import InputSpec, ModelError
from facedetd.models.calibration import read_calibration
from facedetd.trt.ranges import read_ranges
from facedetd.types import Face
from facedetd.workshop import calibrate, cputimes, qdq, quantize, trials
from facedetd.workshop.calibrate import CalibrationError, Counted, Feeder, read_set
from facedetd.workshop.detector import load_detector
from facedetd.workshop.quantize import QuantizeError, kept, spread_evenly
from facedetd.workshop.trials import Asked, distance, fewest, verdict


@pytest.fixture
def network():
    return qdq.read_network(detector().SerializeToString(), "detector")


def batch():
    return np.random.default_rng(0).uniform(0, 255, (2, 3, 64, 96)).astype(np.float32)


def ranges_of(network, values):
    """By hand: each tensor's greatest magnitude."""
    rest = [t for t in network.tensors if t != network.input]
    found = run(open_session(qdq.with_outputs(network, rest), 1), network.input, values)
    tops = {t: float(np.abs(v).max()) for t, v in zip(rest, found, strict=True)}
    return {network.input: float(values.max()), **tops}


# --- the model ---


def test_quantised_layers_are_symmetric_and_biases_stay_float(network):
    model = onnx.load_model_from_string(qdq.quantized(network, ranges_of(network, batch()), {"stem"}))
    makers = {out: node for node in model.graph.node for out in node.output}
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    convs = {n.name: n for n in model.graph.node if n.op_type == "Conv"}
    assert list(convs["stem"].input) == ["cells", "stem_w"]
    for name in set(convs) - {"stem"}:
        activation, weight = (makers[i] for i in convs[name].input[:2])
        assert activation.op_type == weight.op_type == "DequantizeLinear"
        assert makers[activation.input[0]].op_type == "QuantizeLinear"
        values, scale, zero = (stored[i] for i in weight.input)
        assert values.dtype == zero.dtype == np.int8 and not zero.any()
        assert scale.shape == (len(values),) and values.min() >= -127
        zero = stored[activation.input[2]]
        assert zero.dtype == np.int8 and zero == 0
        assert all(stored[i].dtype == np.float32 for i in convs[name].input[2:])
    assert not any(t.data_type == TensorProto.INT32 for t in model.graph.initializer)
    assert "deep_w" not in stored  # the float copy is gone
    pairs = [n for n in model.graph.node if n.op_type == "QuantizeLinear"]
    assert len(pairs) == 3  # of stem_relu, deep_out and features, which four heads share


def test_it_computes_what_the_float_model_does_but_for_rounding(network):
    values = batch()
    limits = ranges_of(network, values)
    wanted = run(open_session(detector().SerializeToString(), 1), "picture", values)
    found = run(open_session(qdq.quantized(network, limits, ()), 1), "picture", values)
    apart = [float(np.abs(f - w).max()) for f, w in zip(found, wanted, strict=True)]
    assert 0 < apart[0] < 0.06  # heat; the others don't depend on the picture
    every = {layer.name for layer in network.layers}
    same = run(open_session(qdq.quantized(network, limits, every), 1), "picture", values)
    assert all(np.array_equal(s, w) for s, w in zip(same, wanted, strict=True))
    broken = {t: v / 4 for t, v in limits.items()}  # the test must notice ranges that are too narrow
    worse = run(open_session(qdq.quantized(network, broken, ()), 1), "picture", values)
    assert float(np.abs(worse[0] - wanted[0]).max()) > 2 * apart[0]


def test_weights_are_rounded_a_channel_at_a_time():
    weight = np.array([[0.5, -1.27], [100.0, 3.0], [0, 0]], np.float32).reshape(3, 2, 1, 1)
    values, scale = qdq.rounded(weight, 0)
    assert values.reshape(3, 2).tolist() == [[50, -127], [127, 4], [0, 0]]
    back = values * scale.reshape(3, 1, 1, 1)
    assert np.abs(back - weight).max() <= scale.max() / 2 + 1e-6
    turned, other = qdq.rounded(np.ascontiguousarray(weight.transpose(1, 0, 2, 3)), 1)
    assert np.array_equal(turned.transpose(1, 0, 2, 3), values) and np.array_equal(other, scale)


def test_transposed_convolutions_scale_their_second_axis():
    weight = np.random.default_rng(0).normal(size=(3, 5, 2, 2)).astype(np.float32) * np.arange(1, 6)[:, None, None]
    nodes = [
        helper.make_node("ConvTranspose", ["picture", "w"], ["up"], name="up", strides=[2, 2]),
        helper.make_node("ConvTranspose", ["up", "g"], ["out"], name="in groups", group=5),
    ]
    grouped = np.ones((5, 1, 1, 1), np.float32)
    model = model_kit.build(nodes, {"out": ["B", 5, None, None]}, {"w": weight.astype(np.float32), "g": grouped})
    network = qdq.read_network(model.SerializeToString(), "up")
    assert [(layer.name, layer.axis) for layer in network.layers] == [("up", 1)]
    values = batch()
    wanted = run(open_session(model.SerializeToString(), 1), "picture", values)[0]
    found = run(open_session(qdq.quantized(network, ranges_of(network, values), ()), 1), "picture", values)[0]
    assert np.abs(found - wanted).max() < 0.02 * np.abs(wanted).max()


def test_older_models_and_weights_in_constants_are_taken():
    weight = numpy_helper.from_array(np.ones((1, 3, 1, 1), np.float32), "in the node")
    nodes = [
        helper.make_node("Constant", [], ["w"], value=weight),
        helper.make_node("Conv", ["picture", "w"], ["a"]),
        helper.make_node("Conv", ["picture", "w"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["out"]),
    ]
    graph = helper.make_graph(
        nodes, "old",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["B", 3, "H", "W"])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["B", 1, "H", "W"])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
    network = qdq.read_network(model.SerializeToString(), "old")
    assert network.converted_from == 11
    assert len({layer.name for layer in network.layers}) == 2  # nodes without names get some
    data = qdq.quantized(network, {"picture": 255.0}, ())
    made = onnx.load_model_from_string(data)
    assert [n.op_type for n in made.graph.node].count("QuantizeLinear") == 1  # the input is shared
    assert [n.op_type for n in made.graph.node].count("DequantizeLinear") == 2  # and so is the weight
    values = batch()
    wanted = run(open_session(model.SerializeToString(), 1), "picture", values)[0]
    assert np.abs(run(open_session(data, 1), "picture", values)[0] - wanted).max() < 7


def test_what_cannot_be_quantised_is_refused(network):
    done = qdq.quantized(network, ranges_of(network, batch()), ())
    with pytest.raises(ModelError, match="quantised already"):
        qdq.read_network(done, "again.onnx")
    with pytest.raises(ModelError, match=r"garbage\.onnx: not an ONNX model"):
        qdq.read_network(b"nothing of the sort", "garbage.onnx")
    pool = model_kit.build([helper.make_node("Relu", ["picture"], ["out"])], {"out": ["B", 3, None, None]}, {})
    with pytest.raises(ModelError, match="no convolution"):
        qdq.read_network(pool.SerializeToString(), "pool.onnx")
    with pytest.raises(ModelError, match="batches of 10 only"):
        qdq.read_network(model_kit.centerface(batch=10).SerializeToString(), "ten.onnx")


def test_layers_are_named_by_place_role_or_name(network):
    assert kept(network, []) == frozenset()
    assert kept(network, ["first:1", "last:2"]) == {"stem", "offset_conv", "marks_conv"}
    assert kept(network, ["heads"]) == HEADS
    assert kept(network, ["deep", "first:1"]) == {"deep", "stem"}
    for wrong in ("first:0", "first:8", "last:x", "first", "grouped:1"):
        with pytest.raises(QuantizeError, match="allowed are first:N"):
            kept(network, [wrong])
    with pytest.raises(QuantizeError, match="such as grouped"):
        kept(network, ["gruoped"])


# --- the fewest layers ---


@given(st.data())
def test_the_fewest_layers_hold_and_none_of_them_could_be_left_out(data):
    """With layers that each cost something, and so much that is allowed."""
    costs = data.draw(st.lists(st.integers(0, 100), min_size=1, max_size=12))
    allowed = data.draw(st.integers(0, 150))
    names = [f"l{i}" for i in range(len(costs))]
    cost = dict(zip(names, costs, strict=True))

    def holds(keep):
        return sum(c for n, c in cost.items() if n not in keep) <= allowed

    tries = []
    order = data.draw(st.permutations(names))  # also where the losses measured misled
    found = fewest(order, holds, tries.append, len(names))
    assert found is not None and holds(found)
    assert not any(holds(found - {one}) for one in found)
    assert tries == list(range(1, len(tries) + 1))
    best = sorted(names, key=lambda n: -cost[n])
    least = next(k for k in range(len(names) + 1) if holds(set(best[:k])))
    assert len(fewest(best, holds, tries.append, len(names))) == least


def test_where_nothing_holds_there_is_no_choice():
    assert fewest(["a", "b"], lambda keep: False, lambda n: None, 9) is None


def face(x, score, side=10.0):
    return Face((x, 0.0, x + side, side), score)


def test_distance_is_of_scores_and_places():
    reference = [(face(0, 0.9), face(50, 0.8)), ()]
    slopes = 0.09**2 + 0.16**2
    assert distance(reference, reference) == 0
    assert distance([()], [(face(0, 1.0),)]) == 0
    dimmer = [(face(0, 0.7), face(50, 0.8)), ()]
    assert distance(reference, dimmer) == pytest.approx(0.2**2 / slopes)
    moved = [(face(0, 0.9), face(51, 0.8)), ()]  # IoU 9 / 11
    assert distance(reference, moved) == pytest.approx((2 / 11) ** 2 / 2)
    gone = [(face(0, 0.9),), ()]
    assert distance(reference, gone) == pytest.approx(0.8**2 / slopes + 0.7**2 / 2)
    assert distance(reference, gone) > max(distance(reference, other) for other in (dimmer, moved))


def test_a_verdict_says_what_does_not_hold():
    reference = [(face(0, 0.9), face(50, 0.6), face(90, 0.4))]
    good = verdict(reference, reference, (), Asked(None, 1.0))
    assert good.holds and good.matched.boxes == 2 and good.drop is None
    under = [(face(0, 0.9), face(50, 0.49), face(90, 0.4))]  # found, but not at the score
    bad = verdict(reference, under, (), Asked(None, 0.995))
    assert bad.wrong == (
        "50.00 % of boxes matched (asked 99.5 %)",
        "95.18 % of boxes to be expected in hard scenes (asked 99.5 %)",
    )
    assert verdict(reference, under, (), Asked(None, 0.5)).holds
    assert verdict(reference, under, (), Asked(None, None)).holds
    assert "finds no face" in verdict([()], [()], (), Asked(None, 0.5)).wrong[0]


# --- the set of pictures ---


def test_a_folder_is_taken_whole_and_in_order(tmp_path):
    pictures(tmp_path / "set" / "b", 4)
    pictures(tmp_path / "set", 4, first=4)
    (tmp_path / "set" / "notes.txt").write_text("no picture")
    found = read_set(tmp_path / "set")
    assert [p.name for p in found.files] == [f"{i:03d}.png" for i in (4, 5, 6, 7, 0, 1, 2, 3)]
    again = read_set(tmp_path / "set")
    assert again == found
    cv2.imwrite(str(tmp_path / "set" / "b" / "000.png"), picture_of(77)[0])
    assert read_set(tmp_path / "set").sha256 != found.sha256


def listed(folder, names):
    frames = [{"file": n, "sha256": hashlib.sha256((folder / n).read_bytes()).hexdigest()} for n in names]
    (folder / "calibration.json").write_text(json.dumps({"format": 1, "frames": frames}))
    return frames


def test_a_list_says_which_pictures(tmp_path):
    folder = pictures(tmp_path / "set", 10)
    frames = listed(folder, [f"{i:03d}.png" for i in range(8)])
    assert len(read_set(folder).files) == 8  # a contact sheet beside them isn't one
    (folder / "003.png").write_bytes((folder / "009.png").read_bytes())
    with pytest.raises(CalibrationError, match=r"003\.png: not the picture that calibration\.json lists"):
        read_set(folder)
    frames[0]["file"] = "../outside.png"
    (folder / "calibration.json").write_text(json.dumps({"frames": frames}))
    with pytest.raises(CalibrationError, match=r"names '\.\./outside\.png'"):
        read_set(folder)
    (folder / "calibration.json").write_text('{"frames": 3}')
    with pytest.raises(CalibrationError, match="not a list of a calibration set"):
        read_set(folder)


def test_sets_that_will_not_do_are_refused(tmp_path):
    with pytest.raises(CalibrationError, match="no such folder"):
        read_set(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CalibrationError, match="no pictures; at least 8 are needed and 200 or more are wanted"):
        read_set(tmp_path / "empty")
    with pytest.raises(CalibrationError, match="3 pictures; at least 8"):
        read_set(pictures(tmp_path / "few", 3))


@given(st.integers(0, 300), st.integers(2, 60))
def test_pictures_to_look_at_are_spread_over_all(count, most):
    found = spread_evenly(range(count), most)
    assert len(found) == min(count, most) == len(set(found))
    assert found == sorted(found)
    if count:
        assert (found[0], found[-1]) == (0, count - 1)


# --- counting, interrupted ---


def count(network, files, state, *, stop_at=None):
    """As the command does; ``stop_at``: Ctrl-C when so many are done."""

    def progress(done, total):
        if done == stop_at:
            raise KeyboardInterrupt

    return calibrate.calibrate(
        network, files, Feeder(64, 64, InputSpec()), 1, calibrate.load_counted(state, "key") or Counted("key"),
        lambda counted: calibrate.save_counted(state, counted), progress,
    )  # fmt: skip


def same(one, other):
    return (
        one.frames == other.frames
        and np.array_equal(one.luma, other.luma)
        and one.spreads.keys() == other.spreads.keys()
        and all(
            (a.low, a.high, a.exponent) == (b.low, b.high, b.exponent) and np.array_equal(a.counts, b.counts)
            for a, b in ((one.spreads[t], other.spreads[t]) for t in one.spreads)
        )
    )


def test_an_interrupted_calibration_goes_on_and_counts_the_same(network, tmp_path):
    files = sorted(pictures(tmp_path / "set", 9).iterdir())
    whole = count(network, files, tmp_path / "whole.npz")
    for stop in (2, 5):
        with pytest.raises(KeyboardInterrupt):
            count(network, files, tmp_path / "part.npz", stop_at=stop)
        assert calibrate.load_counted(tmp_path / "part.npz", "key").frames == stop
    assert same(count(network, files, tmp_path / "part.npz"), whole)
    assert same(calibrate.load_counted(tmp_path / "whole.npz", "key"), whole)
    assert set(whole.spreads) == set(network.tensors)
    assert whole.luma.sum() == 9 * 64 * 64


def test_what_was_counted_of_something_else_or_is_broken_is_not_used(network, tmp_path):
    files = sorted(pictures(tmp_path / "set", 8).iterdir())
    state = tmp_path / "part.npz"
    count(network, files, state)
    assert calibrate.load_counted(state, "another") is None
    assert calibrate.load_counted(tmp_path / "none.npz", "key") is None
    data = state.read_bytes()
    for broken in (b"", data[:100], data[: len(data) // 2], b"x" * 1000):
        state.write_bytes(broken)
        assert calibrate.load_counted(state, "key") is None
    one = calibrate.key_of("model", read_set(tmp_path / "set"), 64, 64)
    assert one != calibrate.key_of("model", read_set(tmp_path / "set"), 64, 96)
    assert one != calibrate.key_of("other", read_set(tmp_path / "set"), 64, 64)


def test_padding_is_not_counted_as_luma(network, tmp_path):
    cv2.imwrite(str(tmp_path / "wide.png"), np.full((32, 64, 3), 255, np.uint8))
    counted = count(network, [tmp_path / "wide.png"], tmp_path / "part.npz")
    assert counted.luma.sum() == 32 * 64 and counted.luma[-2:].sum() == 32 * 64


# --- the command ---


@pytest.fixture
def ctl(monkeypatch, tmp_path):
    monkeypatch.setenv("FACEDETD_STATE_DIR", str(tmp_path / "state"))
    return Ctl(monkeypatch)


@pytest.fixture
def model(tmp_path):
    return model_kit.save(detector(), tmp_path / "red.onnx")


SIZE = ("--width", "64", "--height", "64", "--threads", "1")


def run_quantize(ctl, model, folder, output, *more):
    return ctl(
        "model", "quantize", str(model), "--calibration", str(folder), "--output", str(output), *SIZE, *more
    )  # fmt: skip


def write_labels(folder, seeds):
    side = 4 * np.e
    entries = [
        {
            "file": f"{seed:03d}.png", "orig_wh": [64, 64], "easy": [0], "medium": [0, 1], "hard": [0, 1, 2],
            "boxes_xywh_orig": [[c * 4 + 2 - side / 2, r * 4 + 2 - side / 2, side, side] for c, r in places],
        }
        for seed in seeds
        for places in (picture_of(seed)[1],)
    ]  # fmt: skip
    (folder / "labels.json").write_text(json.dumps(entries))
    return folder / "labels.json"


def test_the_whole_walk(ctl, model, tmp_path):
    folder, output = pictures(tmp_path / "set", 12), tmp_path / "int8.onnx"
    done = run_quantize(ctl, model, folder, output, "--json", "--keep-float", "heads,first:1")
    assert done.code == 0, done.err
    assert "only 12 calibration pictures; 200 or more are wanted" in done.err
    manifest = json.loads((tmp_path / "int8.onnx.json").read_text())
    assert manifest == done.json
    assert manifest["sha256"] == hashlib.sha256(output.read_bytes()).hexdigest()
    assert manifest["source"]["sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert manifest["layers"] == {
        "int8": 2, "float": ["stem", "heat_conv", "scale_conv", "offset_conv", "marks_conv"],
    }  # fmt: skip
    assert manifest["check"]["boxes"] > 12 and manifest["check"]["share"] > 0.9
    about = read_calibration(manifest)
    assert about is not None and about.frames == 12 and about.method == "mse"
    assert about.set_sha256 == read_set(folder).sha256
    table = read_ranges(tmp_path / "int8.ranges.json")[0]
    assert table.model_sha256 == manifest["source"]["sha256"]
    assert set(manifest["layers"]["float"]) <= set(table.float_layers)
    assert table.ranges.keys() == {"stem_out", "stem_relu", "deep_out", "features"}
    assert table.ranges["stem_out"] == table.ranges["stem_relu"]  # rounded before ReLU or after it is the same
    assert table.half_tensors == ("features",)  # which float heads read
    cache = read_ranges(tmp_path / "int8.calibration.cache")[0].ranges
    assert cache == pytest.approx({name: table.ranges[name] for name in table.ranges if name != "features"}, rel=1e-6)
    before, after = (load_detector(path, 64, 64, 1) for path in (model, output))
    bgr, places = picture_of(500)
    found = [d.detect(bgr, 0.5) for d in (before, after)]
    assert len(found[0]) == len(found[1]) == len(set(places))


def test_another_method_needs_no_new_run(ctl, model, tmp_path, monkeypatch):
    folder, output = pictures(tmp_path / "set", 8), tmp_path / "int8.onnx"
    assert run_quantize(ctl, model, folder, output).code == 0
    first = output.read_bytes()
    monkeypatch.setattr(calibrate, "spread", None)  # counting would fail now
    done = run_quantize(ctl, model, folder, output, "--method", "minmax")
    assert done.code == 0 and "8 of 8 pictures were counted before" in done.err
    assert output.read_bytes() != first


@pytest.mark.parametrize(("float_ms", "int8_ms", "said"), [(10.0, 20.0, True), (20.0, 10.0, False)])
def test_float_is_recommended_where_it_is_faster(ctl, model, tmp_path, monkeypatch, float_ms, int8_ms, said):
    times = cputimes.Times(float_ms, int8_ms)
    monkeypatch.setattr(cputimes, "time_engines", lambda *_: {"onnxruntime": times})
    done = run_quantize(ctl, model, pictures(tmp_path / "set", 8), tmp_path / "int8.onnx")
    assert ("slower than the float model" in done.err) is said
    manifest = json.loads((tmp_path / "int8.onnx.json").read_text())
    assert manifest["cpu_time"]["recommended"] == ("float" if said else "int8")


def test_times_are_medians_of_runs_that_take_turns(model, tmp_path, network):
    picture = pictures(tmp_path / "set", 1) / "000.png"
    feeder, data = Feeder(64, 64, InputSpec()), model.read_bytes()
    clock = iter([0.0, 9.0, 0.0, 9.0, *([0.0, 1.0, 0.0, 2.0] * cputimes.TIMED_RUNS)])
    planes = feeder.planes(feeder.frame(picture))
    times = cputimes.time_engines(data, data, planes, 1, ["onnxruntime"], cpu=lambda: next(clock))
    assert times == {"onnxruntime": cputimes.Times(1000.0, 2000.0)} and times["onnxruntime"].slower


def test_an_engine_that_is_not_there_is_not_timed(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)  # an import of it fails now
    data, planes = model.read_bytes(), np.zeros((1, 3, 64, 64), np.float32)
    assert list(cputimes.time_engines(data, data, planes, 1)) == ["onnxruntime"]
    with pytest.raises(ModelError, match="onnxruntime can't load it"):
        cputimes.time_engines(data, b"none", planes, 1)


@pytest.mark.parametrize(
    ("onnxruntime", "openvino", "said"),
    [
        ((15.0, 39.0), None, "slower than the float model"),
        ((15.0, 39.0), (17.0, 11.0), r'fastest under openvino \(11.0 ms; onnxruntime needs 15.0.*engine = "openvino"'),
        ((15.0, 39.0), (17.0, 15.5), "slower than the float model"),  # better there than here, but not good
        ((15.0, 12.0), (17.0, 11.0), "fastest under openvino"),
        ((15.0, 12.0), (17.0, 13.0), "^$"),
        ((15.0, 12.0), None, "^$"),
    ],
)
def test_advice_is_the_cheapest_way(onnxruntime, openvino, said):
    both = {"onnxruntime": onnxruntime} | ({"openvino": openvino} if openvino else {})
    assert re.search(said, cputimes.advice({name: cputimes.Times(*one) for name, one in both.items()}))


def _head(model):
    from facedetd.inference.engines import detect_head

    return detect_head(model, 64, 64)


def test_auto_keeps_what_matters_and_no_more(ctl, model, tmp_path):
    folder, output = pictures(tmp_path / "set", 12), tmp_path / "int8.onnx"
    done = run_quantize(ctl, model, folder, output, "--auto", "--min-match", "1", "--json")
    assert done.code == 0, done.err
    manifest = done.json
    assert manifest["check"]["share"] == 1
    auto = manifest["auto"]
    assert auto["float_layers"] == len(manifest["layers"]["float"]) < 7
    assert auto["heads"]["float_layers"] == 4
    losses = auto["losses"]
    assert set(losses) == {"stem", "deep", "grouped", *HEADS}
    assert losses["scale_conv"] == losses["marks_conv"] == 0  # their weights are zero: nothing to round
    assert max(losses.values()) > 0


def test_losses_measured_before_an_interrupt_are_kept(ctl, model, tmp_path, monkeypatch):
    folder, output = pictures(tmp_path / "set", 8), tmp_path / "int8.onnx"
    measured = []

    def interrupted(*faces):
        measured.append(faces)
        if len(measured) == 4:
            raise KeyboardInterrupt
        return distance(*faces)

    monkeypatch.setattr(quantize, "distance", interrupted)
    command = (ctl, model, folder, output, "--auto", "--min-match", "0.9")
    assert run_quantize(*command).code == 130
    assert not output.exists()
    assert run_quantize(*command).code == 0
    assert len(measured) == 4 + 4  # seven layers: three were kept, the interrupted one is measured again


def test_labels_measure_it_and_a_drop_that_is_too_much_writes_nothing(ctl, model, tmp_path, monkeypatch):
    folder, output = pictures(tmp_path / "set", 10), tmp_path / "int8.onnx"
    labels = write_labels(pictures(tmp_path / "labelled", 6, first=100), range(100, 106))
    done = run_quantize(ctl, model, folder, output, "--labels", str(labels), "--max-drop", "0.2", "--json")
    assert done.code == 0, done.err
    assert done.json["accuracy"]["pictures"] == 6 and set(done.json["accuracy"]["drop"]) == {"easy", "medium", "hard"}
    output.unlink()
    monkeypatch.setattr(quantize, "ranges_of", lambda counted, method: dict.fromkeys(counted.spreads, 1e-3))
    asked = ("--labels", str(labels), "--max-drop", "0.2", "--keep-float", "none")
    done = run_quantize(ctl, model, folder, output, *asked)
    assert done.code == 1 and "not what was asked: AP easy" in done.err
    assert not output.exists()


def test_auto_with_labels_says_when_nothing_holds(ctl, model, tmp_path, monkeypatch):
    folder = pictures(tmp_path / "set", 10)
    labels = write_labels(pictures(tmp_path / "labelled", 6, first=100), range(100, 106))
    monkeypatch.setattr(trials, "too_much", lambda drop, allowed: ["easy 0.5 (allowed 0)"])
    done = run_quantize(
        ctl, model, folder, tmp_path / "int8.onnx", "--labels", str(labels), "--max-drop", "0", "--auto"
    )
    assert done.code == 1 and "not even with all layers in float: AP easy 0.5" in done.err


def test_mistakes_are_named(ctl, model, tmp_path):
    folder, output = pictures(tmp_path / "set", 8), tmp_path / "int8.onnx"

    def refused(text, *more, calibration=folder, out=output):
        done = run_quantize(ctl, model, calibration, out, *more)
        assert done.code == 2 and text in done.err, (done.code, done.err)

    refused("must end in .onnx", out=tmp_path / "int8.plan")
    refused("is the float model itself", out=model)
    refused("no folder", out=tmp_path / "nowhere" / "int8.onnx")
    refused("--max-drop needs --labels", "--max-drop", "0.01")
    refused("--pictures says where labelled pictures are", "--pictures", str(folder))
    (folder / "004.png").write_bytes(b"torn")
    refused("004.png: not a picture that can be read")
    labels = write_labels(folder, range(2))
    (folder / "004.png").unlink()
    pictures(folder, 4, first=20)
    refused("is labelled and in the calibration set (2 such)", "--labels", str(labels))
    done = run_quantize(ctl, model, folder, output, "--keep-float", "nonsense")
    assert done.code == 1 and "'nonsense': allowed are first:N" in done.err
    assert not list(Path(tmp_path).glob("int8.onnx*"))


def test_tensorrt_takes_the_model(ctl, model, tmp_path):
    """TensorRT-RTX parses and builds without a GPU, by the rules of TensorRT 11: strongly typed, Q/DQ only."""
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx isn't installed (pip install tensorrt-rtx-cu13)")
    output = tmp_path / "int8.onnx"
    done = run_quantize(ctl, model, pictures(tmp_path / "set", 8), output, "--keep-float", "first:1")
    assert done.code == 0, done.err
    log = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(log)
    net = builder.create_network(0)
    parser = trt.OnnxParser(net, log)
    assert parser.parse(output.read_bytes()), [parser.get_error(i).desc() for i in range(parser.num_errors)]
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    profile.set_shape("picture", (1, 3, 64, 64), (4, 3, 64, 64), (8, 3, 96, 64))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(net, config)
    assert plan is not None and plan.nbytes > 0
