"""From ONNX to a plan: with TensorRT's surface faked in three versions, and by TensorRT-RTX where it is installed,
which builds on a CPU by the rules of TensorRT 11."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.util
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from facedetd.trt.build import TimingCache, build_plan, check_precision, read_model, recipe_for, shapes_for
from facedetd.trt.compat import installed
from facedetd.trt.errors import PlanError
from facedetd.trt.plan import Recipe, Shapes
from facedetd.trt.ranges import LAYER_BY_LAYER, Table, wider
from tests.unit import model_kit
from tests.unit.trt_fakes import H100, OnnxParser, fake

SHAPES = Shapes(64, 64, 1, 2, 4)
NOW = datetime.datetime(2026, 11, 22, 12, tzinfo=datetime.timezone.utc)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return model_kit.save(model_kit.centerface(), tmp_path / "m.onnx")


def with_qdq(path: Path, to: Path) -> Path:
    """The model with Q and DQ at its input, as `model quantize` puts them: int8, symmetric."""
    graph = onnx.load(path)
    name = graph.graph.input[0].name
    for node in graph.graph.node:
        node.input[:] = [f"{name}/dq" if i == name else i for i in node.input]
    scale = helper.make_tensor("step", TensorProto.FLOAT, [], [2.0])
    zero = helper.make_tensor("zero", TensorProto.INT8, [], [0])
    graph.graph.initializer.extend([scale, zero])
    graph.graph.node.insert(0, helper.make_node("DequantizeLinear", [f"{name}/q", "step", "zero"], [f"{name}/dq"]))
    graph.graph.node.insert(0, helper.make_node("QuantizeLinear", [name, "step", "zero"], [f"{name}/q"]))
    onnx.checker.check_model(graph)
    onnx.save(graph, to)
    return to


def test_what_stands_in_an_onnx_file(model: Path, tmp_path: Path) -> None:
    free = read_model(model)
    assert (free.input, free.qdq, free.fixed_batch, free.width, free.height) == ("picture", False, 0, 0, 0)
    fixed = read_model(model_kit.save(model_kit.centerface(width=96, height=64, batch=2), tmp_path / "f.onnx"))
    assert (fixed.fixed_batch, fixed.width, fixed.height) == (2, 96, 64)
    assert read_model(with_qdq(model, tmp_path / "q.onnx")).qdq
    (tmp_path / "bad.onnx").write_bytes(b"\xff" * 20)
    for bad, says in (("bad.onnx", "no ONNX model"), ("none.onnx", "No such file")):
        with pytest.raises(PlanError, match=says):
            read_model(tmp_path / bad)
    two = onnx.load(model)
    two.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))
    onnx.save(two, tmp_path / "two.onnx")
    with pytest.raises(PlanError, match=r"its inputs are .*'more': \[1\]}; allowed is one"):
        read_model(tmp_path / "two.onnx")


def test_what_a_model_is_fixed_to_counts(model: Path, tmp_path: Path) -> None:
    assert shapes_for(read_model(model), SHAPES) == SHAPES
    fixed = read_model(model_kit.save(model_kit.centerface(width=96, height=64, batch=2), tmp_path / "f.onnx"))
    with pytest.raises(PlanError, match="takes only 96x64"):
        shapes_for(fixed, SHAPES)
    with pytest.raises(PlanError, match=r"only batches of 2: --min-batch, --opt-batch and --max-batch must be 2"):
        shapes_for(fixed, Shapes(96, 64, 1, 2, 4))
    assert shapes_for(fixed, Shapes(96, 64, 2, 2, 2)).max_batch == 2


@pytest.mark.parametrize(
    ("version", "precision", "qdq", "ranges", "says"),
    [
        ("8.6.0", "fp16", False, None, None),
        ("8.6.0", "int8", False, Table({"data": 1.0}), None),
        ("8.6.0", "int8", False, None, "needs the ranges of its tensors: --ranges FILE"),
        ("8.6.0", "int8", True, None, r"TensorRT 8.6.0 can't build these Q/DQ nodes \(10 and newer can\)"),
        ("8.6.0", "int8", False, Table({"data": 1.0}, (), "00"), r"the ranges are of another model \(sha256 00…"),
        ("10.3.0", "int8", True, None, None),
        ("10.3.0", "int8", True, Table({"data": 1.0}), "leave --ranges out"),
        ("11.0.0", "int8", True, None, None),
        ("11.0.0", "int8", False, Table({"data": 1.0}), "11.0.0 makes int8 only of models with Q/DQ nodes"),
        ("11.0.0", "fp16", True, None, "has Q/DQ nodes, so it is int8, and fp16 is asked for"),
        ("8.6.0", "fp16", False, Table({"data": 1.0}), "ranges are for int8, and fp16 is asked for"),
        ("8.6.0", "fp8", False, None, "allowed are fp32, fp16, int8"),
    ],
)
def test_which_precision_can_be_had_how(model: Path, tmp_path: Path, version, precision, qdq, ranges, says) -> None:
    given = read_model(with_qdq(model, tmp_path / "q.onnx") if qdq else model)
    if says is None:
        check_precision(fake(version), given, precision, ranges)
        return
    with pytest.raises(PlanError, match=says):
        check_precision(fake(version), given, precision, ranges)


def recipe(api, model, precision: str, ranges: bytes | None = None) -> Recipe:
    return recipe_for(api, H100, model, precision, SHAPES, ranges)


@pytest.mark.parametrize("version", ["8.6.0", "10.3.0", "11.0.0"])
def test_a_plan_of_each_version(model: Path, version: str) -> None:
    api, given, heard = fake(version), read_model(model), []
    made = build_plan(
        api, H100, given, recipe(api, given, "fp16"), None, name="m", timing_cache=b"t",
        progress=lambda *step: heard.append(step) or True, now=lambda: NOW,
    )  # fmt: skip
    assert made.plan == b"a plan"
    assert made.timing_cache == b"t+"
    m = made.manifest
    assert (m.recipe.tensorrt, m.recipe.sm, m.recipe.precision) == (version, "9.0", "fp16")
    assert (m.model, m.input, m.outputs[0].name, m.outputs[0].shape) == ("m", "picture", "out", (4,))
    assert m.created_utc == "2026-11-22T12:00:00Z"
    name, *shapes = api.module.config.profiles[0].shapes
    assert (name, shapes) == ("picture", [(1, 3, 64, 64), (2, 3, 64, 64), (4, 3, 64, 64)])
    parsed = onnx.load_from_string(OnnxParser.given)
    height, width = parsed.graph.input[0].type.tensor_type.shape.dim[2:]
    assert (height.dim_value, width.dim_value) == (64, 64)
    halves = [w.data_type == TensorProto.FLOAT16 for w in parsed.graph.initializer]
    if version == "11.0.0":  # takes its types from the model
        assert any(halves)
        assert parsed.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    else:
        assert not any(halves)
        assert "FP16" in api.module.config.flags
    assert version == "8.6.0" or ("Tactics", 1, 2) in heard


def test_a_timing_cache_that_tensorrt_stumbles_over_is_left_out(model: Path, monkeypatch) -> None:
    api, given, caches = fake("8.6.0"), read_model(model), []
    load = type(api).load_timing_cache

    def noted(self, config, data):
        caches.append(data)
        return load(self, config, data)

    def build(self, *_):
        if caches[-1]:
            raise PlanError("TensorRT 8.6.0 can't build the plan: 1: [myelinCache.h::deserializeFromBuffer::52] Error")
        return b"a plan"

    monkeypatch.setattr(type(api), "load_timing_cache", noted)
    monkeypatch.setattr(type(api), "build", build)
    made = build_plan(api, H100, given, recipe(api, given, "fp16"), None, name="m", timing_cache=b"t")
    assert made.plan == b"a plan" and caches == [b"t", b""]
    assert len(made.remarks) == 1 and "left out: with it TensorRT 8.6.0 can't build" in made.remarks[0]
    monkeypatch.setattr(type(api), "build", lambda self, *_: (_ for _ in ()).throw(PlanError("out of memory")))
    with pytest.raises(PlanError, match="out of memory"):
        build_plan(api, H100, given, recipe(api, given, "fp16"), None, name="m", timing_cache=b"t")
    assert caches[2:] == [b"t"]


def without_kernel(monkeypatch, api, needs: dict[str, set[str]]) -> list[dict[str, float]]:
    """No kernel for each layer in ``needs``, by TensorRT's name, until all of its tensors have a range. Returns where
    the ranges of each build are noted."""
    tried: list[dict[str, float]] = []
    set_ranges = type(api).set_ranges

    def noted(self, network, ranges):
        tried.append(dict(ranges))
        return set_ranges(self, network, ranges)

    def build(self, *_):
        for layer, tensors in needs.items():
            if tensors - tried[-1].keys():
                raise PlanError(f"can't build the plan: 10: Could not find any implementation for node {layer}.")
        return b"a plan"

    monkeypatch.setattr(type(api), "set_ranges", noted)
    monkeypatch.setattr(type(api), "build", build)
    return tried


SPARSE = Table({"data": 1.0}, other_ranges={"hidden": 2.0, "out": 3.0})


def test_what_a_layer_takes_and_gives_gets_a_range_where_tensorrt_has_no_kernel_without(model, monkeypatch) -> None:
    api, given = fake("8.6.0"), read_model(model)
    tried = without_kernel(monkeypatch, api, {"first + PWN(sigmoid)": {"hidden"}})
    made = build_plan(api, H100, given, recipe(api, given, "int8", b"x"), SPARSE, name="m")
    assert tried == [{"data": 1.0}, {"data": 1.0, "hidden": 2.0}] and made.plan == b"a plan"
    assert api.module.network.get_layer(0).output_types == {0: api.module.DataType.HALF}  # still wanted in float16
    assert made.without_range == ("out",)
    assert len(made.remarks) == 1
    assert made.remarks[0].startswith(
        "the tensors of a layer got a range, which may cost accuracy: without can't build"
    )


@pytest.mark.parametrize("layer", ["third", "first_2", "a.first", "first.a", "first-b"])
def test_all_tensors_get_a_range_where_the_layer_is_not_one_of_the_models(model, monkeypatch, layer) -> None:
    api, given = fake("8.6.0"), read_model(model)
    tried = without_kernel(monkeypatch, api, {layer: {"hidden"}})
    made = build_plan(api, H100, given, recipe(api, given, "int8", b"x"), SPARSE, name="m")
    assert tried == [{"data": 1.0}, {"data": 1.0, "hidden": 2.0, "out": 3.0}]
    assert [r.partition(",")[0] for r in made.remarks] == ["all tensors got a range"]
    half = api.module.DataType.HALF
    assert [api.module.network.get_layer(i).output_types for i in (0, 1)] == [{0: half}, {}]  # "out" is the caller's


def test_a_build_that_never_has_a_kernel_ends_after_the_last_way(model, monkeypatch) -> None:
    api, given = fake("8.6.0"), read_model(model)
    tried = without_kernel(monkeypatch, api, {"first": {"nothing can help"}})
    for table, builds in ((SPARSE, 4), (SPARSE.with_all(), 1), (Table({"data": 1.0}), 1)):
        del tried[:]
        with pytest.raises(PlanError, match="node first"):
            build_plan(api, H100, given, recipe(api, given, "int8", b"x"), table, name="m")
        assert len(tried) == builds


def test_a_few_layers_get_ranges_then_all_then_int8_too() -> None:
    names = [f"t{i}" for i in range(2 * LAYER_BY_LAYER)]
    table = Table({"a": 1.0}, half_tensors=("a",), other_ranges=dict.fromkeys(names, 1.0))
    tried, seen = table, []
    for failures, name in enumerate((*names, "t0", "t0"), 1):
        found = wider(table, tried, frozenset([name]), failures)
        if found is None:
            break
        tried, said = found
        seen.append((len(tried.ranges), len(tried.half_tensors), said))
    layer = [(n, n, "the tensors of a layer got a range") for n in range(2, LAYER_BY_LAYER + 2)]
    most = 2 * LAYER_BY_LAYER + 1
    assert seen == [
        *layer, (most, most, "all tensors got a range"), (most, 1, "all tensors got a range, and may be INT8")
    ]  # fmt: skip


def test_what_was_measured_until_a_build_failed_serves_the_next(model, monkeypatch) -> None:
    api, given, caches = fake("8.6.0"), read_model(model), []
    without_kernel(monkeypatch, api, {"first": {"hidden"}})
    load = type(api).load_timing_cache
    monkeypatch.setattr(
        type(api), "load_timing_cache", lambda self, config, data: caches.append(data) or load(self, config, data)
    )
    monkeypatch.setattr(type(api), "timing_cache", lambda self, config: b"measured")
    build_plan(api, H100, given, recipe(api, given, "int8", b"x"), SPARSE, name="m", timing_cache=b"t")
    assert caches == [b"t", b"measured"]


def test_ranges_are_set_and_what_has_none_is_told(model: Path) -> None:
    api, given = fake("8.6.0"), read_model(model)
    table = Table({"data": 1.0, "out": 2.0}, ("second",), half_tensors=("hidden",))
    made = build_plan(api, H100, given, recipe(api, given, "int8", b"table"), table, name="m")
    assert made.without_range == ("hidden",)
    assert made.manifest.float_tensors == 1
    assert made.manifest.recipe.ranges_sha256
    assert api.module.network.get_output(0).range == (-2.0, 2.0)
    assert {"INT8", "FP16", "PREFER_PRECISION_CONSTRAINTS"} <= api.module.config.flags
    first, second = (api.module.network.get_layer(i) for i in (0, 1))
    half = api.module.DataType.HALF
    assert (first.precision, first.output_types, second.precision, second.output_types) == (None, {0: half}, half, {})


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (Table({"out": 2.0}, ("third",)), "1 of 1 layers that shall stay float aren't in the model: third"),
        (Table({"out": 2.0}, half_tensors=("hidden", "x")), "1 of 2 tensors that shall stay float aren't .*: x"),
    ],
)
def test_what_shall_stay_float_must_be_there(model: Path, table: Table, says: str) -> None:
    api, given = fake("8.6.0"), read_model(model)
    with pytest.raises(PlanError, match=says):
        build_plan(api, H100, given, recipe(api, given, "int8", b"t"), table, name="m")


def test_a_node_without_a_name_goes_by_its_output(model: Path) -> None:
    api, given = fake("8.6.0"), read_model(model)
    build_plan(api, H100, given, recipe(api, given, "int8", b"t"), Table({"out": 2.0}, ("hidden",)), name="m")
    assert api.module.network.get_layer(0).precision == api.module.DataType.HALF
    plain = fake("8.6.0")
    build_plan(plain, H100, given, recipe(plain, given, "int8", b"t"), Table({"out": 2.0}), name="m")
    assert "PREFER_PRECISION_CONSTRAINTS" not in plain.module.config.flags


def test_tensorrts_first_reason_is_told(model: Path) -> None:
    api, given = fake("8.6.0", fails="[convBase.cpp] out of memory"), read_model(model)
    with pytest.raises(PlanError, match=r"can't build the plan: \[convBase.cpp\] out of memory$"):
        build_plan(api, H100, given, recipe(api, given, "fp16"), None, name="m")
    strange = onnx.load_from_string(given.data)
    strange.graph.node[0].op_type = "NoSuchOperator"
    bad, api = dataclasses.replace(given, data=strange.SerializeToString()), fake("8.6.0")
    with pytest.raises(PlanError, match=r"can't read the model: no importer for NoSuchOperator \(node 7\)"):
        build_plan(api, H100, bad, recipe(api, bad, "fp16"), None, name="m")


def test_ctrl_c_ends_a_build_where_tensorrt_listens(model: Path) -> None:
    api, given = fake("10.3.0"), read_model(model)
    with pytest.raises(PlanError, match="can't build the plan"):
        build_plan(api, H100, given, recipe(api, given, "fp16"), None, name="m", progress=lambda *_: False)


def test_the_timing_cache_is_of_one_tensorrt_and_gpu(tmp_path: Path) -> None:
    cache = TimingCache(tmp_path, fake("8.6.0"), H100)
    assert cache.read() == b""
    cache.write(b"measured")
    assert cache.path.name == "timing-tensorrt-8.6.0-sm9.0-NVIDIA_H100.cache"
    assert TimingCache(tmp_path, fake("8.6.0"), H100).read() == b"measured"
    assert TimingCache(tmp_path, fake("10.3.0"), H100).read() == b""


@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="TensorRT-RTX isn't installed: pip install tensorrt-rtx-cu13 (a parser and builder that needs no GPU)",
)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_tensorrt_rtx_builds_it(model: Path, tmp_path: Path, precision: str) -> None:
    api = installed("tensorrt_rtx")
    assert (api.says_types, api.takes_qdq) == (False, True)
    given = read_model(with_qdq(model, tmp_path / "q.onnx") if precision == "int8" else model)
    heard = []
    made = build_plan(
        api,
        H100,
        given,
        recipe(api, given, precision),
        None,
        name="m",
        progress=lambda *step: heard.append(step) or True,
    )
    assert len(made.plan) == made.manifest.bytes > 1000
    assert [len(output.shape) for output in made.manifest.outputs] == [3, 3, 3, 3]
    assert any(phase for phase, _, _ in heard)
    with pytest.raises(PlanError, match="can't build the plan"):
        build_plan(api, H100, given, recipe(api, given, precision), None, name="m", progress=lambda *_: False)
