"""The TensorRT engine's kernels without a GPU: compiled as C++ by the compiler there is, their numbers against numpy's.
tests/gpu has the same for the PTX."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from facedetd.inference.convert import Nv12Converter, fixed_point
from facedetd.inference.engines import tensorrt
from facedetd.inference.engines.lane import CAPACITY, ROW, packed_group, sorted_rows
from facedetd.inference.selection import pick
from facedetd.inference.types import InputSpec
from facedetd.ring.header import ColorMatrix, ColorRange
from tests.unit.test_inference_selection import BATCH, HEIGHT, WIDTH, outputs_of

KINDS = [(matrix, range_) for matrix in ColorMatrix for range_ in ColorRange]
SPECS = [InputSpec("rgb", scale=(1 / 255,) * 3), InputSpec("bgr", (104.0, 117.0, 123.0), (1.0, 0.5, 2.0)), InputSpec()]


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler: g++ or clang++ compiles the kernels for the CPU")
    built = tmp_path_factory.mktemp("kernels") / "kernels.so"
    source = Path(tensorrt.__file__).with_name("kernels.cu")
    subprocess.run(
        [compiler, "-std=c++14", "-O1", "-shared", "-fPIC", "-w", f'-DKERNELS="{source}"', "-o", str(built),
         str(Path(__file__).with_name("kernels_on_cpu.cpp"))],
        check=True,
    )  # fmt: skip
    return ctypes.CDLL(str(built))


def at(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


@pytest.mark.parametrize("spec", SPECS, ids=["yolo", "odd", "plain"])
@pytest.mark.parametrize("size", [(32, 32), (160, 96), (96, 160)])
def test_nv12_becomes_what_the_cpu_engine_makes_of_it_bit_by_bit(kernels, spec: InputSpec, size) -> None:
    width, height = size
    rng = np.random.default_rng(5)
    nv12 = rng.integers(0, 256, (len(KINDS), height * 3 // 2, width), np.uint8)
    wanted = np.empty((len(KINDS), 3, height, width), np.float32)
    converter = Nv12Converter(width, height, spec)
    for picture, kind, out in zip(nv12, KINDS, wanted, strict=True):
        converter.convert(picture, *kind, out)
    maps = np.array([fixed_point(*kind, spec.channels) for kind in KINDS], np.int32)
    scale = np.array(spec.scale, np.float32)
    shift = (-np.array(spec.mean) * np.array(spec.scale)).astype(np.float32)
    got = np.full_like(wanted, np.nan)
    kinds = np.arange(len(KINDS), dtype=np.int32)
    kernels.run_nv12(at(nv12), at(kinds), at(maps), at(scale), at(shift), at(got), width, height, len(KINDS))
    assert np.array_equal(got, wanted)


@pytest.mark.parametrize("kind", ["yolo", "flat", "yunet", "centerface"])
@pytest.mark.parametrize("min_score", [0.2, 0.9, 1.0])
def test_the_kernel_picks_what_numpy_picks(kernels, kind: str, min_score: float) -> None:
    head, outputs = outputs_of(kind, np.random.default_rng(3))
    groups = head.selection(WIDTH, HEIGHT, min_score)
    places = {name: (values.ctypes.data, values[0].size) for name, values in outputs.items()}
    packed = np.frombuffer(b"".join(packed_group(group, places) for group in groups), np.uint8)
    count, rows = np.zeros(1, np.uint32), np.zeros((CAPACITY, ROW), np.int32)
    most = max(group.elements for group in groups)
    kernels.run_select(at(packed), at(count), at(rows), CAPACITY, most, BATCH, len(groups))
    got, wanted = sorted_rows(rows[: count[0]], groups, BATCH), pick(outputs, groups)
    assert count[0] == sum(len(picked.element) for picked in wanted.groups)
    for mine, theirs in zip(got.groups, wanted.groups, strict=True):
        assert np.array_equal(mine.picture, theirs.picture)
        assert np.array_equal(mine.element, theirs.element)
        assert np.array_equal(mine.values, theirs.values)


def test_rows_beyond_the_capacity_are_counted_and_not_written(kernels) -> None:
    head, outputs = outputs_of("yunet", np.random.default_rng(3))
    groups = head.selection(WIDTH, HEIGHT, 0.0)
    places = {name: (values.ctypes.data, values[0].size) for name, values in outputs.items()}
    packed = np.frombuffer(b"".join(packed_group(group, places) for group in groups), np.uint8)
    count, rows = np.zeros(1, np.uint32), np.full((8, ROW), -1, np.int32)
    kernels.run_select(at(packed), at(count), at(rows), 5, max(g.elements for g in groups), BATCH, len(groups))
    assert count[0] == BATCH * sum(group.elements for group in groups)
    assert (rows[:5] != -1).any(axis=1).all()
    assert (rows[5:] == -1).all()
