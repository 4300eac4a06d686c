"""The two kernels against numpy."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from facedetd.inference.convert import Nv12Converter, fixed_point
from facedetd.inference.engines.tensorrt import _PTX
from facedetd.inference.selection import pick
from facedetd.inference.types import BatchFrame, InputSpec
from facedetd.ring.header import ColorMatrix, ColorRange
from facedetd.trt import device
from tests.gpu.conftest import engine_of, head_of

KINDS = [(matrix, range_) for matrix in ColorMatrix for range_ in ColorRange]
SPECS = [InputSpec("rgb", scale=(1 / 255,) * 3), InputSpec("bgr", (104.0, 117.0, 123.0), (1.0, 0.5, 2.0))]


@pytest.mark.parametrize("spec", SPECS, ids=["yolo", "odd"])
@pytest.mark.parametrize("size", [(640, 640), (960, 544), (32, 32), (672, 96)])
def test_nv12_becomes_what_the_cpu_makes_of_it(spec: InputSpec, size: tuple[int, int]) -> None:
    width, height = size
    rng = np.random.default_rng(5)
    nv12 = rng.integers(0, 256, (len(KINDS), height * 3 // 2, width), np.uint8)
    wanted = np.empty((len(KINDS), 3, height, width), np.float32)
    converter = Nv12Converter(width, height, spec)
    for picture, kind, out in zip(nv12, KINDS, wanted, strict=True):
        converter.convert(picture, *kind, out)
    cuda = device.driver()
    with device.context(0):
        kernel = cuda.module_from_buffer(_PTX.read_bytes()).get_function("nv12_to_planar")
        maps = np.array([fixed_point(*kind, spec.channels) for kind in KINDS], np.int32)
        shift = -np.array(spec.mean) * np.array(spec.scale)
        got = np.empty_like(wanted)
        on_gpu = [cuda.to_device(a) for a in (nv12, np.arange(len(KINDS), dtype=np.int32), maps)]
        on_gpu += [cuda.to_device(np.array(a, np.float32)) for a in (spec.scale, shift)]
        out = cuda.mem_alloc(got.nbytes)
        grid = (-(-width // 128), -(-height // 8), len(KINDS))
        kernel(*on_gpu, out, np.int32(width), np.int32(height), block=(32, 4, 1), grid=grid)
        cuda.memcpy_dtoh(got, out)
        del on_gpu, out, kernel
    assert np.array_equal(got, wanted)


@pytest.mark.parametrize("min_score", [0.5, 0.02, 0.0])
def test_picking_on_the_gpu_is_picking_on_the_cpu(fp16, frames, min_score: float) -> None:
    """At 0.0 everything is wanted, which is more than is picked on the GPU: the dense outputs are copied."""
    path, manifest = fp16
    s = manifest.recipe.shapes
    groups = head_of(manifest).selection(s.width, s.height, min_score)
    dense, picking = engine_of(path, 4), engine_of(path, 4, groups)
    for one in (dense, picking):
        one.load()
    try:
        for batch in (frames[:4], frames[4:7]):
            wanted, got = pick(dense.infer(batch), groups), picking.infer(batch)
            assert got.pictures == len(batch)
            assert sum(len(rows.element) for rows in wanted.groups) > 0
            for mine, theirs in zip(got.groups, wanted.groups, strict=True):
                for field in dataclasses.fields(mine):
                    assert np.array_equal(getattr(mine, field.name), getattr(theirs, field.name))
    finally:
        picking.close()
        dense.close()


def test_each_picture_of_a_batch_has_its_own_colours(engine, frames: list[BatchFrame]) -> None:
    changed = [
        BatchFrame(dataclasses.replace(frames[0].header, matrix=matrix, range=range_), frames[0].nv12)
        for matrix, range_ in KINDS
    ]
    together = engine.infer(changed)
    for i, one in enumerate(changed):
        alone = engine.infer([one] * len(changed))  # the same size of batch: the same kernels
        for name in together:
            assert np.array_equal(together[name][i], alone[name][0])
    assert not np.array_equal(together[name][0], together[name][1])
