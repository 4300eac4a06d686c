"""The TensorRT engine: that it finds what the CPU finds, and what it does when something is wrong."""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from facedetd.cuda.nvml import Nvml, count_gpus
from facedetd.inference.batching import BatchPolicy
from facedetd.inference.engine_loop import EngineLoop
from facedetd.inference.engines import detect_head, make_engine
from facedetd.inference.engines.lane import lane_bytes
from facedetd.inference.engines.tensorrt import plan_of
from facedetd.inference.types import BatchFrame, DeviceError, ModelError, PlanMissing, faces_in_source
from facedetd.ring.link import SlotLink, link_pair
from facedetd.ring.reader import RingReader, WaitingFrame
from facedetd.ring.segment import InferenceCounter, RingSpec, Segment
from facedetd.ring.writer import RingWriter
from facedetd.trt import compat, device
from facedetd.trt.plan import write_plan
from facedetd.types import Face
from facedetd.workshop.matching import agreement
from tests.gpu.conftest import engine_of, head_of, plan_with


def found_by(engine, head, frames: list[BatchFrame], size: tuple[int, int], min_score: float, batch: int):
    faces = []
    for start in range(0, len(frames), batch):
        part = frames[start : start + batch]
        decoded = head.decode(engine.infer(part), *size, min_score)
        faces += [faces_in_source(f, b.header.geometry) for f, b in zip(decoded, part, strict=True)]
    return faces


@pytest.mark.parametrize(("precision", "min_iou", "share"), [("fp16", 0.9, 0.999), ("int8", 0.7, 0.9)])
def test_it_finds_what_the_cpu_finds(frames, precision: str, min_iou: float, share: float, capsys) -> None:
    """Faces of score 0.5 and more, matched by any of 0.4 and more. INT8's own measure is AP, and the ranges of the
    plan that is given decide: here only that it isn't broken."""
    path, manifest = plan_with(precision)
    s = manifest.recipe.shapes
    model = path.with_name(path.stem.rpartition("-")[0] + ".onnx")
    head = detect_head(model, s.width, s.height)
    cpu = make_engine("onnxruntime", model, s.width, s.height, head.input, 8, 8)
    cpu.load()
    gpu = engine_of(path, 8, head.selection(s.width, s.height, 0.4))
    gpu.load()
    gpu.warm_up()
    try:
        wanted = found_by(cpu, head, frames, (s.width, s.height), 0.5, 8)
        got = found_by(gpu, head, frames, (s.width, s.height), 0.4, 8)
    finally:
        gpu.close()
    result = agreement(wanted, got, min_iou)
    with capsys.disabled():
        print(f"\n{path.name}: {result.matched} of {result.boxes} faces of the CPU at IoU {min_iou}, "
              f"mean IoU {result.mean_iou:.4f}, landmarks {result.landmark_px:.3f} px apart")  # fmt: skip
    assert result.boxes > 50
    # whole faces: of two candidates with scores alike, which one suppresses the other is a matter of chance
    assert result.matched >= int(share * result.boxes)


def test_batches_of_any_size_and_two_under_way_give_what_singles_give(engine, frames) -> None:
    singles = [engine.infer([frame]) for frame in frames[:8]]
    for size in range(1, 9):
        got = engine.infer(frames[:size])
        for name, values in got.items():
            assert len(values) == size
            for i in range(size):  # another size of batch may mean other kernels
                assert np.allclose(values[i], singles[i][name][0], atol=0.15, rtol=0.05)
    first, second = engine.submit(frames[:4]), engine.submit(frames[4:8])
    a, b = engine.collect(first), engine.collect(second)
    for name in a:
        assert np.array_equal(a[name], engine.infer(frames[:4])[name])
        assert np.array_equal(b[name], engine.infer(frames[4:8])[name])


def test_every_gpu_of_the_plan_s_kind_gives_the_same(fp16, frames) -> None:
    """And works on its own memory: the others' stays as it was."""
    path, manifest = fp16
    number = count_gpus()
    if number < 2:
        pytest.skip("one GPU")
    size = manifest.recipe.shapes.width, manifest.recipe.shapes.height
    gpus = [Nvml(index) for index in range(number)]
    found = {}
    for index in range(number):
        if device.find(index).sm != manifest.recipe.sm:
            continue
        before = [one.read().memory_used or 0 for one in gpus]
        engine = engine_of(path, 8, gpu=index)
        engine.load()
        try:
            engine.warm_up()
            grew = [(one.read().memory_used or 0) - was for one, was in zip(gpus, before, strict=True)]
            found[index] = found_by(engine, head_of(manifest), frames[:32], size, 0.5, 8)
        finally:
            engine.close()
        assert grew[index] > 100e6, grew
        assert all(more < 50e6 for other, more in enumerate(grew) if other != index), grew
    for gpu in gpus:
        gpu.close()
    if len(found) < 2:
        pytest.skip("no two GPUs of the plan's kind")
    first, *others = found.values()
    for other in others:
        result = agreement(first, other, 0.95)
        assert result.boxes and result.matched == result.boxes


def test_bad_batches_are_refused(engine, frames) -> None:
    with pytest.raises(ValueError, match="a batch of 0; this engine takes 1 to 8"):
        engine.infer([])
    with pytest.raises(ValueError, match="a batch of 9"):
        engine.infer(frames[:9])


def test_frames_in_a_ring_are_read_where_they_lie(fp16, frames) -> None:
    """Through ring and batcher, page-locked: every frame comes out once, with the faces that it has."""
    path, manifest = fp16
    s, head = manifest.recipe.shapes, head_of(manifest)
    size = s.width, s.height
    streams, rounds = 8, 5
    engine = engine_of(path, 4, head.selection(*size, 0.5))
    engine.load()
    engine.warm_up()
    segment = Segment.create(RingSpec(1, 1, *size, streams, 4))
    near, far = link_pair()
    writer = RingWriter(segment, SlotLink(near))
    reader = RingReader(Segment.attach(os.dup(segment.fd)), SlotLink(far), lambda: 0)
    done: list[tuple[str, int, int]] = []

    def hand_over() -> None:
        for i in range(streams):
            slot = writer.acquire(i)
            assert slot is not None
            slot.picture[:] = frames[i].nv12
            header = dataclasses.replace(frames[i].header, stream_id=str(i), stream_index=i, epoch=1, generation=1)
            writer.submit(i, slot, header)
        assert reader.drain()

    def emit(ring: int, frame: WaitingFrame, at: int, faces: tuple[Face, ...], batch: int) -> None:
        done.append((frame.header.stream_id, len(faces), batch))
        if len(done) == streams * rounds:
            loop.stop()
        elif len(done) % streams == 0:
            writer.take_back()
            hand_over()

    loop = EngineLoop(engine, head, BatchPolicy(1, 4, 4, 0), size, 0.5, emit)
    loop.attach(reader)
    hand_over()
    try:
        wanted = [len(faces) for faces in found_by(engine, head, frames[:streams], size, 0.5, 4)]
        loop.run()
        assert [one.end - one.start for one in engine._lent] == [segment.spec.size]
        engine.take_back(reader.segment.memory)
        assert engine._lent == []
    finally:
        engine.close()
    assert len(done) == streams * rounds
    for name, count, batch in done:
        assert batch <= 4
        assert abs(count - wanted[int(name)]) <= 1  # a face at the very threshold
    assert [int(n) for n in segment.counters[:, 1, InferenceCounter.INFERRED]] == [rounds] * streams


def test_want_of_memory_means_smaller_batches_then_one_clear_error(fp16, caplog) -> None:
    path, manifest = fp16
    s = manifest.recipe.shapes
    shapes = {output.name: output.shape for output in manifest.outputs}
    cuda, probe = device.driver(), engine_of(path, 1)
    probe.load()  # what the first engine of a process costs beside its own memory
    scratch = compat.installed().scratch_bytes(probe._keep[-1])
    probe.close()
    gc.collect()
    hoard = []
    with device.context(0):
        try:
            # From what two lanes of 32 take down to what two of 16 take: somewhere between it must be content with less
            lane = lane_bytes(shapes, s.width, s.height, 16)
            for halves in range(8, 2, -1):
                room = cuda.mem_get_info()[0] - scratch - halves * lane // 2
                block = cuda.mem_alloc(room)
                small = engine_of(path, 32)
                small.load()
                small.close()
                hoard = [block]
                if small.max_batch < 32:
                    break
                hoard.pop().free()
            assert 1 <= small.max_batch < 32
            assert "for want of memory" in caplog.text
            for step in (256, 32, 4):
                while cuda.mem_get_info()[0] > (step + 16) << 20:
                    hoard.append(cuda.mem_alloc(step << 20))
            none = engine_of(path, 32)
            with pytest.raises((DeviceError, ModelError), match=r"[Mm]emory"):
                none.load()
            none.close()
        finally:
            for one in hoard:
                one.free()
    again = engine_of(path, 32)
    again.load()
    assert again.max_batch == 32
    again.close()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tensorrt": "8.5.1"}, "was built by TensorRT 8.5.1, here is"),
        ({"sm": "7.5"}, "was built for compute capability 7.5"),
    ],
)
def test_a_plan_for_another_place_is_refused_with_the_command(fp16, tmp_path: Path, change, says: str) -> None:
    path, manifest = fp16
    other = tmp_path / "other.plan"
    recipe = dataclasses.replace(manifest.recipe, **change)
    write_plan(other, path.read_bytes(), dataclasses.replace(manifest, recipe=recipe))
    with pytest.raises(PlanMissing, match=f"{says}.*facedetctl model build .* --precision fp16"):
        engine_of(other, 1).load()


def test_a_damaged_plan_is_refused(fp16, tmp_path: Path) -> None:
    path, manifest = fp16
    data = bytearray(path.read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    torn = tmp_path / "torn.plan"
    write_plan(torn, bytes(data), manifest)
    with pytest.raises(PlanMissing, match="damaged"):
        engine_of(torn, 1).load()
    write_plan(
        torn, b"no plan" * 100, dataclasses.replace(manifest, sha256=hashlib.sha256(b"no plan" * 100).hexdigest())
    )
    with pytest.raises(PlanMissing, match="can't load the plan"):
        engine_of(torn, 1).load()


def test_the_daemons_plan_is_found_by_its_model(fp16, tmp_path: Path) -> None:
    path, manifest = fp16
    s = manifest.recipe.shapes
    model = path.with_name(path.stem.rpartition("-")[0] + ".onnx")
    api, gpu = compat.installed(), device.find(0)
    find = plan_of(model, "n05", tmp_path, "fp16", s.width, s.height, 4)
    with pytest.raises(
        Exception, match="none of this model is there; build one: facedetctl model build n05 --precision"
    ):
        find(api, gpu)
    for file in path.parent.glob(f"{path.name}*"):
        shutil.copy(file, tmp_path / file.name)
    assert find(api, gpu)[0] == tmp_path / path.name
    with pytest.raises(Exception, match="takes batches of 1 to"):
        plan_of(model, "n05", tmp_path, "fp16", s.width, s.height, 256)(api, gpu)
