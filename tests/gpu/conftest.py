"""What the tests share. A GPU that is there and can't be used fails them; none skips them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest

from facedetd.cuda.driver import CudaError, Driver
from facedetd.cuda.nvml import open_gpus
from facedetd.inference.engines.tensorrt import TensorRtEngine, plan_in
from facedetd.inference.heads import match_head
from facedetd.inference.selection import Group
from facedetd.inference.types import BatchFrame, Head
from facedetd.trt import compat, device
from facedetd.trt.errors import GpuError
from facedetd.trt.plan import Manifest, read_manifest
from facedetd.workshop.pictures import nv12_frame


def why_not() -> str:
    try:
        device.find(0)
        compat.installed()
    except GpuError as error:
        return str(error)
    return ""


@cache
def why_no_nvdec() -> str:
    try:
        Driver()
    except CudaError as error:
        return str(error)
    return ""


@cache
def why_no_nvml() -> str:
    try:
        gpus, problems = open_gpus()
    except OSError as error:
        return str(error)
    for gpu in gpus:
        gpu.close()
    return "" if gpus else "; ".join(problems) or "the driver has no GPU"


_NEEDS_ONLY = {
    "test_devices.py": why_no_nvdec,
    "test_nvdec.py": why_no_nvdec,
    "test_nvml.py": why_no_nvml,
    "test_setup.py": why_no_nvdec,
}
"""All others need TensorRT and PyCUDA too."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    reason = why_not() if here else ""
    for item in here:
        item.add_marker(pytest.mark.gpu)
        other = _NEEDS_ONLY.get(item.path.name)
        missing = other() if other else reason
        if missing:
            item.add_marker(pytest.mark.skip(reason=missing))


def plans_folder() -> Path:
    named = os.environ.get("FACEDETD_TEST_PLANS", "")
    if not named or not list(Path(named).glob("*.plan")):
        pytest.skip("FACEDETD_TEST_PLANS names no folder with plans; make one: facedetctl model build MODEL --output …")
    return Path(named)


def plan_with(precision: str) -> tuple[Path, Manifest]:
    """The plan of this precision for the smallest picture."""
    found = [(path, read_manifest(path)) for path in sorted(plans_folder().glob("*.plan"))]
    found = [(path, m) for path, m in found if m.recipe.precision == precision]
    if not found:
        pytest.skip(f"FACEDETD_TEST_PLANS has no {precision} plan")
    return min(found, key=lambda one: one[1].recipe.shapes.width * one[1].recipe.shapes.height)


def head_of(manifest: Manifest) -> Head:
    s = manifest.recipe.shapes
    zeros = {output.name: np.zeros((1, *output.shape), np.float32) for output in manifest.outputs}
    return match_head(zeros, s.width, s.height)


def engine_of(path: Path, max_batch: int, groups: tuple[Group, ...] = (), gpu: int = 0) -> TensorRtEngine:
    manifest = read_manifest(path)
    s = manifest.recipe.shapes
    return TensorRtEngine(plan_in(path), s.width, s.height, head_of(manifest).input, max_batch, gpu, groups)


@pytest.fixture(scope="session")
def fp16() -> tuple[Path, Manifest]:
    return plan_with("fp16")


@pytest.fixture
def engine(fp16: tuple[Path, Manifest]) -> Iterator[TensorRtEngine]:
    """Loaded, raw outputs, batches up to 8."""
    made = engine_of(fp16[0], 8)
    made.load()
    made.warm_up()
    yield made
    made.close()


def pictures(most: int) -> list[Path]:
    named = os.environ.get("FACEDETD_TEST_EVAL", "")
    found = sorted(Path(named).rglob("*.jpg")) if named else []
    if not found:
        pytest.skip("FACEDETD_TEST_EVAL names no folder with pictures")
    return found[:most]


@pytest.fixture(scope="session")
def frames(fp16: tuple[Path, Manifest]) -> list[BatchFrame]:
    """Real pictures as a decoder group makes them."""
    s = fp16[1].recipe.shapes
    made = []
    for path in pictures(200):
        picture = cv2.imread(str(path))
        assert picture is not None
        made.append(nv12_frame(np.asarray(picture, np.uint8), s.width, s.height))
    return made
