"""Plans know what they were built for, and are refused elsewhere; range tables."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facedetd.trt.device import Gpu
from facedetd.trt.errors import PlanError
from facedetd.trt.plan import (
    Manifest,
    Output,
    Recipe,
    Shapes,
    find_plan,
    load_plan,
    manifest_path,
    misfit,
    read_manifest,
    write_plan,
)
from facedetd.trt.ranges import Table, beside, read_ranges, to_json
from tests.unit.trt_fakes import H100

DATA = b"a plan"
RECIPE = Recipe("ab" * 32, "8.6.0", "tensorrt", "9.0", "fp16", Shapes(640, 384, 1, 8, 16))
MANIFEST = Manifest(RECIPE, "yunet", H100.name, "data", (Output("out", (3, 4)),), hashlib.sha256(DATA).hexdigest(),
                    len(DATA), "2026-11-22T12:00:00Z", 9.5, 2)  # fmt: skip
L4 = Gpu(0, "NVIDIA L4", "8.9", 0)
HERE = ("8.6.0", "tensorrt", H100)


def changed(**recipe) -> Manifest:
    return dataclasses.replace(MANIFEST, recipe=dataclasses.replace(RECIPE, **recipe))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m.plan"
    write_plan(path, DATA, MANIFEST)
    assert read_manifest(path) == MANIFEST
    assert load_plan(path, *HERE, "ab" * 32) == (DATA, MANIFEST)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.plan", "m.plan.json"]


def test_the_key_tells_apart_all_that_decides_the_plan() -> None:
    others = [
        {"model_sha256": "cd" * 32}, {"tensorrt": "8.6.1"}, {"flavour": "tensorrt_rtx"}, {"sm": "8.9"},
        {"precision": "int8"}, {"shapes": Shapes(640, 384, 1, 8, 32)}, {"shapes": Shapes(640, 640, 1, 8, 16)},
        {"ranges_sha256": "ef" * 32}, {"workspace_mib": 64}, {"level": 1}, {"hardware_compatible": True},
        {"version_compatible": True},
    ]  # fmt: skip
    keys = [RECIPE.key, *(changed(**other).recipe.key for other in others)]
    assert len(set(keys)) == len(keys)
    assert set().union(*others) == {f.name for f in dataclasses.fields(Recipe)}
    assert dataclasses.replace(RECIPE).key == RECIPE.key


@pytest.mark.parametrize(
    ("recipe", "here", "says"),
    [
        ({}, HERE, None),
        ({}, ("8.6.1", "tensorrt", H100), "was built by TensorRT 8.6.0, here is 8.6.1"),
        ({}, ("10.0.0", "tensorrt", H100), "was built by TensorRT 8.6.0, here is 10.0.0"),
        ({}, ("8.6.0", "tensorrt", L4), "capability 9.0 (NVIDIA H100), here is 8.9 (NVIDIA L4)"),
        ({}, ("8.6.0", "tensorrt_rtx", H100), "was built by tensorrt, here is tensorrt_rtx"),
        ({"version_compatible": True}, ("8.6.1", "tensorrt", H100), None),
        ({"version_compatible": True}, ("8.5.9", "tensorrt", H100), "was built by"),
        ({"version_compatible": True}, ("9.0.0", "tensorrt", H100), "was built by"),
        ({"hardware_compatible": True}, ("8.6.0", "tensorrt", L4), None),
        ({"hardware_compatible": True}, ("8.6.0", "tensorrt", Gpu(0, "NVIDIA T4", "7.5", 0)), "capability"),
        ({"hardware_compatible": True}, ("8.6.0", "tensorrt", Gpu(0, "NVIDIA B200", "10.0", 0)), None),
    ],
)  # fmt: skip
def test_where_a_plan_fits(recipe, here, says) -> None:
    why = misfit(changed(**recipe), *here)
    assert (why is None) if says is None else (why is not None and says in why)


def test_a_refusal_says_how_to_build_it(tmp_path: Path) -> None:
    path = tmp_path / "m.plan"
    write_plan(path, DATA, MANIFEST)
    with pytest.raises(PlanError) as told:
        load_plan(path, "10.3.0", "tensorrt", H100)
    assert str(told.value) == (
        f"{path}: was built by TensorRT 8.6.0, here is 10.3.0; build one for here: facedetctl model build yunet "
        "--precision fp16 --width 640 --height 384 --min-batch 1 --opt-batch 8 --max-batch 16"
    )
    with pytest.raises(PlanError, match=r"was built from another model \(sha256 abababababab…, this one is 000"):
        load_plan(path, *HERE, "0" * 64)


def test_damage_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "m.plan"
    write_plan(path, DATA, MANIFEST)
    path.write_bytes(DATA[:-1])
    with pytest.raises(PlanError, match="damaged: 5 bytes"):
        load_plan(path, *HERE)
    good = manifest_path(path).read_text()
    changes = [('"8.6.0"', '"8.6.1"'), ("640", "641"), ('"format": 1', '"format": 2'), ('"plan"', '"export"')]
    for bad in ("", "{", "[]", '{"format": 1}', *(good.replace(*change) for change in changes)):
        manifest_path(path).write_text(bad)
        with pytest.raises(PlanError, match=r"damaged manifest|this build reads plans of 1"):
            read_manifest(path)
    manifest_path(path).unlink()
    with pytest.raises(PlanError, match=r"has no manifest m\.plan\.json"):
        read_manifest(path)


@pytest.mark.parametrize("sides", [(640, 360), (0, 64), (640, 384, 0), (640, 384, 2, 1), (640, 384, 1, 8, 4)])
def test_shapes_that_can_not_be(sides) -> None:
    with pytest.raises(PlanError, match=r"must be multiples of 32|least <= best <= greatest"):
        Shapes(*sides)


def test_the_best_plan_of_a_folder(tmp_path: Path) -> None:
    wanted = ("ab" * 32, *HERE, "fp16", Shapes(640, 384, 1, 8, 8))
    with pytest.raises(PlanError, match=r"no fp16 plan in .* for TensorRT 8.6.0 on NVIDIA H100: none of this model"):
        find_plan(tmp_path / "none", *wanted)
    unfit = {
        "other-model": {"model_sha256": "cd" * 32},
        "small": {"shapes": Shapes(640, 384, 1, 4, 4)},
        "int8": {"precision": "int8"},
        "size": {"shapes": Shapes(640, 640, 1, 8, 8)},
        "version": {"tensorrt": "10.0"},
    }
    for name, recipe in unfit.items():
        write_plan(tmp_path / f"{name}.plan", DATA, changed(**recipe))
    (tmp_path / "half.plan").write_bytes(DATA)  # no manifest
    with pytest.raises(PlanError) as told:
        find_plan(tmp_path, *wanted)
    assert (
        "int8.plan is int8, not fp16; size.plan takes 640x640, not 640x384; small.plan takes batches of 1 to 4"
        in str(told.value)
    )
    for name, shapes in (("large", Shapes(640, 384, 1, 8, 64)), ("fit", Shapes(640, 384, 1, 8, 16))):
        write_plan(tmp_path / f"{name}.plan", DATA, changed(shapes=shapes))
    assert find_plan(tmp_path, *wanted) == tmp_path / "fit.plan"


def test_ranges_in_both_forms(tmp_path: Path) -> None:
    table, cache = tmp_path / "m.ranges.json", tmp_path / "m.cache"
    whole = Table({"a": 1.5, "b: c": 254.0}, ("x", "y"), "00", ("b: c",), other_ranges={"d": 3.0})
    assert whole.with_all() == Table({"a": 1.5, "b: c": 254.0, "d": 3.0}, ("x", "y"), "00", ("b: c",))
    table.write_text(to_json(whole))
    cache.write_text(f"TRT-8600-EntropyCalibration2\na: {struct.pack('>f', 1.5 / 127).hex()}\nb: c: 40000000\n")
    assert read_ranges(table)[0] == whole
    table.write_text('{"format": 2, "ranges": {"a": 1}}')
    assert read_ranges(table)[0] == Table({"a": 1.0})
    table.write_text('{"format": 1, "model_sha256": "00", "float_layers": ["x"], "ranges": {"a": 1}}')
    assert read_ranges(table)[0] == Table({"a": 1.0}, ("x",), "00", of_all=True)
    assert read_ranges(cache)[0].ranges == pytest.approx({"a": 1.5, "b: c": 254.0}, rel=1e-6)
    assert beside(Path("x/m.onnx")) == Path("x/m.ranges.json")


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[1]", '{"format": 3, "ranges": {"a": 1}}', '{"format": 2, "ranges": {}}',
     *(f'{{"format": 1, "ranges": {{"a": {value}}}}}' for value in ("0", "-1", "NaN", '"1"', "true", "null")),
     '{"format": 2, "ranges": {"a": 1}, "half_tensors": "x"}', '{"format": 2, "ranges": {"a": 1}, "half_tensors": [1]}',
     '{"format": 2, "ranges": {"a": 1}, "other_ranges": {"b": 0}}',
     '{"format": 2, "ranges": {"a": 1}, "other_ranges": 1}',
     '{"format": 1, "ranges": {"a": 1}, "float_layers": "x"}', '{"format": 1, "ranges": {"a": 1}, "float_layers": [1]}',
     "TRT-8600-X\n", "TRT-8600-X\na: 3c0\n", "TRT-8600-X\na 3c010a14\n", "TRT-8600-X\na: ff800000\n"],
)  # fmt: skip
def test_what_is_no_range_table(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad"
    path.write_text(text)
    with pytest.raises(PlanError, match="no range table"):
        read_ranges(path)


@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda b: b"TRT-1-X\n" + b))
def test_any_bytes_give_ranges_or_one_error(tmp_path_factory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("r") / "table"
    path.write_bytes(data)
    try:
        found, _ = read_ranges(path)
    except PlanError:
        return
    assert all(value > 0 for value in found.ranges.values())


def test_the_manifest_is_plain_json() -> None:
    data = json.loads(MANIFEST.to_json("m.plan"))
    assert data["recipe"]["shapes"]["max_batch"] == 16
    assert (data["file"], data["key"]) == ("m.plan", RECIPE.key)
