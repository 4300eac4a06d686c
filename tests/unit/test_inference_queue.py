"""Two batches under way: the loop with an engine that works while the next is prepared."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from facedetd.inference.batching import BatchPolicy
from facedetd.inference.engine_loop import FAILURES_IN_A_ROW, EngineLoop
from facedetd.inference.engines.tensorrt import TensorRtEngine, plan_of
from facedetd.inference.heads.yunet import YuNetHead
from facedetd.inference.speed import try_out
from facedetd.inference.types import BatchFrame, DeviceError, InputSpec, PlanMissing, QueuedEngine
from facedetd.ring.header import Geometry, SlotHeader
from facedetd.ring.link import SlotLink, link_pair
from facedetd.ring.reader import RingReader
from facedetd.ring.segment import InferenceCounter, RingSpec, Segment
from facedetd.ring.writer import RingWriter
from facedetd.types import ByteArray
from tests.unit.trt_fakes import H100, fake

SIZE = 64, 32
STREAMS = 6
EMPTY = {
    f"{kind}_{s}": np.zeros((1, (SIZE[1] // s) * (SIZE[0] // s), n), np.float32)
    for kind, n in {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}.items()
    for s in (8, 16, 32)
}


class Queued:
    """Notes what it is asked, in order; finds nothing."""

    name, depth, max_batch = "fake", 2, 2

    def __init__(self, fail_at: int = -1, error: Exception | None = None):
        self.log: list[str] = []
        self.under_way: list[tuple[str, ...]] = []
        self.most = 0
        self._fail_at, self._error = fail_at, error

    def load(self) -> None: ...

    def warm_up(self) -> None: ...

    def close(self) -> None: ...

    def infer(self, batch: Sequence[BatchFrame]) -> dict[str, np.ndarray]:
        raise AssertionError("it is queued")

    def submit(self, batch: Sequence[BatchFrame]) -> tuple[str, ...]:
        names = tuple(frame.header.stream_id for frame in batch)
        self.under_way.append(names)
        self.most = max(self.most, len(self.under_way))
        self.log.append(f"submit {len(names)}")
        return names

    def collect(self, ticket: object) -> dict[str, np.ndarray]:
        assert self.under_way.pop(0) == ticket  # in the order of submission
        self.log.append("collect")
        if self.log.count("collect") > self._fail_at >= 0:
            assert self._error
            raise self._error
        return {name: np.repeat(value, len(ticket), axis=0) for name, value in EMPTY.items()}  # type: ignore[arg-type]

    def lend(self, memory: ByteArray) -> None:
        self.log.append(f"lend {memory.nbytes}")

    def take_back(self, memory: ByteArray) -> None:
        self.log.append(f"take back {memory.nbytes}")


@pytest.fixture
def ring():
    segment = Segment.create(RingSpec(1, 1, *SIZE, STREAMS, 2))
    near, far = link_pair()
    writer = RingWriter(segment, SlotLink(near))
    reader = RingReader(Segment.attach(os.dup(segment.fd)), SlotLink(far), lambda: 0)
    for index in range(STREAMS):
        slot = writer.acquire(index)
        assert slot
        writer.submit(index, slot, SlotHeader(str(index), index, 1, 1, 0, 0, 0, 0, 0, 0, Geometry(*SIZE, *SIZE, 0, 0)))
    assert reader.drain()
    yield segment, reader
    reader.close()
    writer.close()


def run(engine: Queued, reader: RingReader, policy: BatchPolicy, until: int = STREAMS) -> EngineLoop:
    done: list[int] = []

    def emit(*_: object) -> None:
        done.append(1)
        if len(done) == until:
            loop.stop()

    loop = EngineLoop(engine, YuNetHead(), policy, SIZE, 0.5, emit)
    loop.attach(reader)
    loop.run()
    return loop


def test_the_next_batch_is_submitted_while_one_is_under_way(ring) -> None:
    segment, reader = ring
    engine = Queued()
    assert isinstance(engine, QueuedEngine)
    loop = run(engine, reader, BatchPolicy(1, 4, 4, 0))  # more than the engine takes
    assert engine.log == [
        f"lend {segment.spec.size}",
        "submit 2",
        "submit 2",
        "collect",
        "submit 2",
        "collect",
        "collect",
    ]
    assert engine.most == 2
    assert [t.size for t in loop.timings] == [2, 2, 2]
    assert loop.busy_since_ns is None
    assert segment.counters[:, 1, InferenceCounter.INFERRED].tolist() == [1] * STREAMS
    assert reader.idle


def test_nothing_leaves_early_while_one_is_under_way(ring) -> None:
    """A lone frame leaves when the device is idle; while it works, company is waited for."""
    _, reader = ring
    reader.discard_waiting()
    engine = Queued()
    loop = EngineLoop(engine, YuNetHead(), BatchPolicy(1, 2, 2, 10**12), SIZE, 0.5, lambda *_: None)
    loop.attach(reader)
    loop._memory.clear()
    loop._under_way.append(object())  # type: ignore[arg-type]
    assert loop._next_batch() is None


def test_memory_goes_back_when_the_ring_ends(ring) -> None:
    segment, reader = ring
    engine = Queued()
    loop = run(engine, reader, BatchPolicy(1, 2, 2, 0))
    loop.detach(1)
    loop._stopping = False
    give_back, memory = loop._memory.popleft()
    give_back(memory)
    assert engine.log[-1] == f"take back {segment.spec.size}"


def test_a_device_that_hangs_while_it_is_told_of_memory_shows_as_busy(ring, monkeypatch) -> None:
    _, reader = ring
    engine = Queued()
    seen: list[int | None] = []
    monkeypatch.setattr(engine, "lend", lambda memory: seen.append(loop.busy_since_ns))
    loop = EngineLoop(engine, YuNetHead(), BatchPolicy(1, 2, 2, 0), SIZE, 0.5, lambda *_: None, lambda: 17)
    loop.attach(reader)
    loop._next_batch()
    assert seen == [17]
    assert loop.busy_since_ns is None


def test_a_device_that_goes_fails_all_that_is_under_way(ring) -> None:
    segment, reader = ring
    engine = Queued(1, DeviceError("gone"))
    with pytest.raises(DeviceError, match="gone"):
        run(engine, reader, BatchPolicy(1, 2, 2, 0))
    counters = segment.counters[:, 1]
    assert counters[:, InferenceCounter.INFERRED].sum() == 2
    assert counters[:, InferenceCounter.FAILED].sum() == 4
    assert reader.idle


def test_one_bad_batch_is_only_one(ring, caplog) -> None:
    segment, reader = ring
    engine = Queued(0, ValueError("bad"))
    loop = EngineLoop(engine, YuNetHead(), BatchPolicy(1, 2, 2, 0), SIZE, 0.5, lambda *_: None)
    loop.attach(reader)
    loop._failures = FAILURES_IN_A_ROW - 3
    with pytest.raises(ValueError, match="bad"):
        loop.run()
    assert caplog.text.count("a batch of 2 frames failed") == 3
    assert segment.counters[:, 1, InferenceCounter.FAILED].sum() == STREAMS


def test_without_tensorrt_the_engine_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
    engine = TensorRtEngine(lambda api, gpu: (tmp_path, None), 64, 64, InputSpec(), 4)
    assert isinstance(engine, QueuedEngine)
    with pytest.raises(DeviceError, match=r"TensorRT isn't installed: pip install 'facedetd\[gpu\]'"):
        engine.load()
    engine.close()


def test_without_a_plan_it_says_how_to_build_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from facedetd.inference.engines import tensorrt

    monkeypatch.setattr(tensorrt.compat, "installed", lambda: fake("8.6.0"))
    monkeypatch.setattr(tensorrt.device, "find", lambda index: H100)
    model = tmp_path / "model.onnx"
    model.write_bytes(b"model")
    find = plan_of(model, "yunet", tmp_path / "plans", "int8", 640, 384, 16)
    with pytest.raises(PlanMissing) as told:
        TensorRtEngine(find, 640, 384, InputSpec(), 16).load()
    assert str(told.value).endswith(
        "none of this model is there; build one: facedetctl model build yunet --precision int8 --ranges FILE "
        "--width 640 --height 384 --opt-batch 16 --max-batch 16 --device 0"
    )


def test_what_full_batches_give_is_measured_two_under_way() -> None:
    class Steady(Queued):
        def infer(self, batch: Sequence[BatchFrame]) -> dict[str, np.ndarray]:
            return self.collect(self.submit(batch))

    engine, ticks = Steady(), iter((10.0, 10.5))
    fps = try_out(engine, YuNetHead(), *SIZE, 0.5, lambda: next(ticks))
    assert fps == 7 * engine.max_batch / 0.5
    assert engine.most == 2 and not engine.under_way


def test_an_engine_that_runs_pictures_one_by_one_runs_one_and_has_no_full_batches() -> None:
    ran: list[int] = []

    class Plain:
        name = "plain"

        def infer(self, batch: Sequence[BatchFrame]) -> dict[str, np.ndarray]:
            ran.append(len(batch))
            return EMPTY

    assert try_out(Plain(), YuNetHead(), *SIZE, 0.5) == 0.0  # type: ignore[arg-type]
    assert ran == [1]
