"""facedetctl model build, over TensorRT's faked surface."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from facedetd.trt import compat, device
from facedetd.trt.plan import read_manifest
from tests.unit import model_kit
from tests.unit.ctl_harness import Ctl
from tests.unit.trt_fakes import H100, fake


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return model_kit.save(model_kit.centerface(), tmp_path / "m.onnx")


@pytest.fixture
def ctl(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ctl:
    monkeypatch.setenv("FACEDETD_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(compat, "installed", lambda: fake("8.6.0"))
    monkeypatch.setattr(device, "find", lambda index: H100)
    monkeypatch.setattr(device, "context", lambda index: nullcontext())
    return Ctl(monkeypatch)


def test_a_plan_goes_into_the_cache_once(ctl: Ctl, model: Path, tmp_path: Path) -> None:
    first = ctl("model", "build", str(model), "--width", "64", "--height", "96", "--max-batch", "8", "--json")
    assert first.code == 0, first.err
    assert "building for NVIDIA H100 with TensorRT 8.6.0; this takes minutes" in first.err
    plan = Path(first.json["plan"])
    assert plan.parent == tmp_path / "state" / "plans"
    assert plan.read_bytes() == b"a plan"
    assert plan.stem == first.json["key"] == read_manifest(plan).recipe.key
    assert (first.json["built"], first.json["batch"], first.json["precision"]) == (True, [1, 8, 8], "fp16")
    again = ctl("model", "build", str(model), "--width", "64", "--height", "96", "--max-batch", "8")
    assert (again.code, again.err) == (0, "")
    assert "was there already; fp16, 64x96, batches of 1 to 8" in again.out
    assert (
        "built in"
        in ctl("model", "build", str(model), "--width", "64", "--height", "96", "--max-batch", "8", "--rebuild").out
    )
    assert [p.name for p in plan.parent.glob("*.cache")] == ["timing-tensorrt-8.6.0-sm9.0-NVIDIA_H100.cache"]


def test_int8_takes_ranges_and_says_what_has_none(ctl: Ctl, model: Path, tmp_path: Path) -> None:
    table, output = tmp_path / "m.ranges.json", tmp_path / "int8.plan"
    table.write_text(json.dumps({"format": 1, "ranges": {"data": 1, "out": 2}}))
    done = ctl("model", "build", str(model), "--precision", "int8", "--ranges", str(table), "--output", str(output))
    assert done.code == 0, done.err
    assert "1 tensors have no range and stay float: hidden" in done.err
    assert "m.ranges.json has the ranges of all tensors, as earlier versions wrote it" in done.err
    assert read_manifest(output).command.endswith("--min-batch 1 --opt-batch 16 --max-batch 32 --ranges FILE")
    table.write_text(json.dumps({"format": 2, "ranges": {"data": 1, "out": 2}, "half_tensors": ["out"]}))
    done = ctl("model", "build", str(model), "--precision", "int8", "--ranges", str(table), "--output", str(output))
    assert done.code == 0 and "earlier versions" not in done.err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--precision", "int8"], 1, "int8 of a float model needs the ranges"),
        (["--width", "100"], 1, "a plan for 100x640; width and height must be multiples of 32"),
        (["--min-batch", "9", "--max-batch", "4"], 1, "batches of 9 to 4"),
        (["--output", "plan.onnx"], 2, "its name must end in .plan"),
        (["--ranges", "a", "--calibration-cache", "b"], 2, "not both"),
        (["--precision", "int8", "--ranges", "none"], 1, "none: No such file"),
        (["--output", "/nowhere/x.plan"], 1, "/nowhere"),
    ],
)
def test_one_clear_error(ctl: Ctl, model: Path, arguments: list[str], code: int, says: str) -> None:
    done = ctl("model", "build", str(model), *arguments)
    assert done.code == code
    assert says in done.err
    assert done.out == ""


def test_only_onnx_is_built(ctl: Ctl, tmp_path: Path) -> None:
    (tmp_path / "x.plan").write_bytes(b"")
    done = ctl("model", "build", str(tmp_path / "x.plan"))
    assert (done.code, "plans are built from ONNX models" in done.err) == (2, True)


def test_without_tensorrt_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    done = Ctl(monkeypatch)("model", "build", str(model))
    assert done.code == 7
    assert "TensorRT isn't installed: pip install 'facedetd[gpu]'" in done.err


def test_a_failed_build_leaves_nothing(ctl: Ctl, monkeypatch: pytest.MonkeyPatch, model: Path, tmp_path: Path) -> None:
    monkeypatch.setattr(compat, "installed", lambda: fake("8.6.0", fails="out of memory"))
    done = ctl("model", "build", str(model), "--output", str(tmp_path / "x.plan"))
    assert (done.code, "can't build the plan: out of memory" in done.err) == (1, True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx"]
