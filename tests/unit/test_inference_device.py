"""A device that goes away under way: the process says so and ends, and its supervisor looks for it ever more rarely."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from facedetd.config.model import InferenceConfig, ModelConfig
from facedetd.control import DaemonState
from facedetd.inference import process as process_module
from facedetd.inference.batching import BatchPolicy
from facedetd.inference.boot import InferenceBoot
from facedetd.inference.heads.yunet import YuNetHead
from facedetd.inference.process import InferenceProcess
from facedetd.inference.types import BatchFrame, DeviceError, ModelError, RawOutputs
from facedetd.ipc import Channel, Message, channel_pair
from facedetd.models import ModelEntry
from facedetd.ring.header import Geometry, SlotHeader
from facedetd.ring.link import SlotLink, link_pair
from facedetd.ring.segment import InferenceCounter, RingSpec, Segment
from facedetd.ring.writer import RingWriter
from facedetd.supervisor import inference_unit as unit_module
from facedetd.supervisor.inference_unit import InferenceUnit, UnitHooks
from facedetd.supervisor.said import Beat

AWAY = "GPU 0 has fallen off the bus"
SIZE = 64, 32


class LostDevice:
    """An engine that loads, and then finds no device."""

    name = "fake"

    def load(self) -> None: ...

    def warm_up(self) -> None: ...

    def infer(self, batch: Sequence[BatchFrame]) -> RawOutputs:
        raise DeviceError(AWAY)

    def close(self) -> None: ...


def test_the_first_batch_that_finds_no_device_ends_the_process_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(InferenceProcess, "_load", lambda self: (LostDevice(), YuNetHead()))
    monkeypatch.setattr(process_module, "try_out", lambda *_: 0.0)  # it was there a moment ago
    boot = InferenceBoot("t", Path(), "m", "1", *SIZE, 0.5, "fake", 1, BatchPolicy(1, 1, 1, 0), "info", "text")
    ours, theirs = channel_pair()
    told, results = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    segment = Segment.create(RingSpec(1, 1, *SIZE, 1, 2))
    near, far = link_pair()
    with told, results, near, far:
        supervisor = Channel(ours)
        supervisor.send({"op": "ring", "ring": 1}, (segment.fd, far.fileno()))
        writer = RingWriter(segment, SlotLink(near.dup()))
        slot = writer.acquire(0)
        assert slot
        writer.submit(0, slot, SlotHeader("cam", 0, 1, 1, 1, 0, 0, 0, 0, 0, Geometry(*SIZE, *SIZE, 0, 0)))
        began = time.process_time()
        assert InferenceProcess(boot, Channel(theirs), results).main() == 3
        assert time.process_time() - began < 5
        heard = [message for message, _ in supervisor.receive()]
        supervisor.close()
    assert [m for m in heard if m["ev"] != "beat"][-1] == {"ev": "unusable", "kind": "DeviceError", "detail": AWAY}
    assert segment.counters[0, 1, InferenceCounter.FAILED] == 1


@pytest.mark.parametrize("error", [DeviceError(AWAY), ModelError("no frame"), ValueError("shapes (1, 2) and (3,)")])
@pytest.mark.parametrize("where", ["engine", "head"])
def test_who_cannot_run_a_frame_is_never_ready(monkeypatch: pytest.MonkeyPatch, where: str, error: Exception) -> None:
    """The model that runs now would be let go for it."""

    def fail(*_: object) -> Any:
        raise error

    monkeypatch.setattr(LostDevice, "infer", fail if where == "engine" else lambda self, batch: {})
    monkeypatch.setattr(YuNetHead, "decode", fail)
    monkeypatch.setattr(InferenceProcess, "_load", lambda self: (LostDevice(), YuNetHead()))
    boot = InferenceBoot("t", Path(), "m", "1", *SIZE, 0.5, "fake", 1, BatchPolicy(1, 1, 1, 0), "info", "text")
    ours, theirs = channel_pair()
    told, results = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with told, results:
        supervisor = Channel(ours)
        process = InferenceProcess(boot, Channel(theirs), results)
        main = threading.Thread(target=process.main, daemon=True)
        main.start()
        heard: list[Message] = []
        while not heard:
            heard += [message for message, _ in supervisor.receive() if message["ev"] != "beat"]
            time.sleep(0.01)
        process._stop = True
        main.join()
        supervisor.close()
    kind = "DeviceError" if isinstance(error, DeviceError) else "ModelError"
    assert (heard[0]["ev"], heard[0].get("kind")) == ("unusable", kind)
    assert str(error) in heard[0]["detail"]


def test_an_engine_that_ends_without_memory_to_say_so_ends_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its main thread would else go on beating, and nobody would ever run a frame."""

    def load(process: InferenceProcess) -> None:
        raise MemoryError

    def send(channel: Channel, message: Message, fds: Sequence[int] = ()) -> None:
        if message["ev"] != "beat":
            raise MemoryError

    monkeypatch.setattr(InferenceProcess, "_load", load)
    monkeypatch.setattr(Channel, "send", send)
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    boot = InferenceBoot("t", Path(), "m", "1", *SIZE, 0.5, "fake", 1, BatchPolicy(1, 1, 1, 0), "info", "text")
    ours, theirs = channel_pair()
    told, results = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, told, results:
        process = InferenceProcess(boot, Channel(theirs), results)
        codes: list[int] = []
        main = threading.Thread(target=lambda: codes.append(process.main()), daemon=True)
        main.start()
        main.join(20)
        process._stop = True
        main.join()
    assert codes == [1]


class FakeWorker:
    def __init__(self, on_message: Callable[..., None], on_exit: Callable[..., None]):
        self._say, self._exit = on_message, on_exit
        self.ready = self.stopping = False
        self.beat, self.lived_s, self.exit_words = Beat(), 1.0, "ended with status 3"

    @property
    def ending(self) -> bool:
        return self.stopping

    def say(self, **message: Any) -> None:
        self.ready = self.ready or message["ev"] == "ready"
        self._say(self, message, [])

    def away(self) -> None:
        self.say(ev="unusable", kind="DeviceError", detail=AWAY)
        self._exit(self)

    def send(self, message: Message) -> None: ...


class Store:
    root = Path("models")

    def get(self, name: str, version: str | None = None) -> ModelEntry:
        return ModelEntry(name, "0", Path(), "", "yunet", "", "")


def test_a_device_that_is_away_is_looked_for_ever_more_rarely_and_found(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[FakeWorker] = []

    def make(kind: Any, name: str, target: str, boot: Any, sockets: Any, message: Any, exited: Any) -> FakeWorker:
        for sock in sockets:
            sock.close()
        started.append(FakeWorker(message, exited))
        return started[-1]

    monkeypatch.setattr(unit_module, "Worker", make)

    async def test() -> None:
        downs: list[object] = []
        hooks = UnitHooks(lambda u: None, downs.append, lambda *_: None, lambda *_: None, lambda *_: None)
        store: Any = Store()
        unit = InferenceUnit("i", 1, 0, ModelConfig(), InferenceConfig(), store, "info", "text", hooks)

        async def next_worker() -> FakeWorker:
            before = len(started)
            unit.process.wait(0)  # as its timer would
            while len(started) == before:  # noqa: ASYNC110 - it comes by way of a thread
                await asyncio.sleep(0.01)
            return started[-1]

        def pause() -> float:
            return round(unit.process.next_try_s)

        pauses = []
        for _ in range(7):
            (await next_worker()).away()
            assert unit.state is DaemonState.WAITING_FOR_DEVICE
            assert unit.problem == AWAY
            pauses.append(pause())
        assert pauses == [2, 4, 8, 16, 32, 60, 60]

        worker = await next_worker()
        worker.say(ev="ready", head="yunet", engine="fake", full_fps=0.0)
        assert unit.state is DaemonState.RUNNING
        assert unit.problem == ""
        worker.away()  # for a moment only
        assert unit.state is DaemonState.WAITING_FOR_DEVICE
        assert pause() == 60

        worker = await next_worker()
        worker.say(ev="ready", head="yunet", engine="fake", full_fps=0.0)
        worker.lived_s = 100.0
        worker.away()
        assert pause() == 2
        assert len(downs) == 9
        assert unit.process.restarts == 0  # it is no crash
        unit.stop()

    asyncio.run(asyncio.wait_for(test(), 30))


def test_a_model_that_could_not_be_loaded_is_tried_again_ever_more_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    """What looked like a bad model may have been want of memory, of threads or of descriptors."""
    started: list[FakeWorker] = []
    tries: list[int] = []
    pause_s = 0.0

    def make(kind: Any, name: str, target: str, boot: Any, sockets: Any, message: Any, exited: Any) -> FakeWorker:
        for sock in sockets:
            sock.close()
        started.append(FakeWorker(message, exited))
        return started[-1]

    def look_again_s(times: int) -> float:
        tries.append(times)
        return pause_s

    monkeypatch.setattr(unit_module, "Worker", make)
    monkeypatch.setattr(unit_module, "look_again_s", look_again_s)

    async def test() -> None:
        nonlocal pause_s
        hooks = UnitHooks(lambda u: None, lambda w: None, lambda *_: None, lambda *_: None, lambda *_: None)
        store: Any = Store()
        unit = InferenceUnit("i", 1, 0, ModelConfig(), InferenceConfig(), store, "info", "text", hooks)

        async def looked() -> None:
            unit.process.wait(0)  # as its timer would
            while unit._search is None:  # noqa: ASYNC110 - of a timer
                await asyncio.sleep(0)
            while unit._search is not None:  # noqa: ASYNC110 - it comes by way of a thread
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.01)

        for _ in range(3):
            await looked()
            started[-1].say(ev="unusable", kind="ModelError", detail="std::bad_alloc")
            started[-1]._exit(started[-1])
            assert unit.state is DaemonState.WAITING_FOR_MODEL
        assert (len(started), tries) == (3, [1, 2, 3])

        pause_s = 1000.0
        await looked()
        started[-1].say(ev="unusable", kind="ModelError", detail="std::bad_alloc")
        started[-1]._exit(started[-1])
        await looked()
        assert len(started) == 4  # it isn't due yet
        unit.stop()

    asyncio.run(asyncio.wait_for(test(), 30))


def results_of_workers(monkeypatch: pytest.MonkeyPatch) -> list[socket.socket]:
    """The ends by which workers that are made from now on send results, each a message of its own."""
    ends: list[socket.socket] = []

    def make(kind: Any, name: str, target: str, boot: Any, sockets: Any, message: Any, exited: Any) -> FakeWorker:
        ends.extend(sockets)
        return FakeWorker(message, exited)

    monkeypatch.setattr(unit_module, "Worker", make)
    monkeypatch.setattr(unit_module, "unpack_result", lambda data: data)
    return ends


async def begun(hooks: UnitHooks) -> tuple[InferenceUnit, Any]:
    """A unit, and the worker that it has started."""
    store: Any = Store()
    unit = InferenceUnit("i", 1, 0, ModelConfig(), InferenceConfig(), store, "info", "text", hooks)
    unit.process.start_now()
    while unit.worker is None:  # noqa: ASYNC110 - it comes by way of a thread
        await asyncio.sleep(0.01)
    return unit, unit.worker


def test_a_result_that_cannot_be_taken_in_does_not_keep_the_dead_from_being_buried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ends = results_of_workers(monkeypatch)

    def fail(*_: object) -> None:
        raise KeyError("a fault of ours")

    async def test() -> None:
        downs: list[object] = []
        hooks = UnitHooks(lambda u: None, downs.append, lambda *_: None, fail, lambda *_: None)
        unit, worker = await begun(hooks)
        ends[0].send(b"one")
        worker._exit(worker)
        assert downs == [worker]
        assert unit._results is None
        unit.stop()

    asyncio.run(test())
    ends[0].close()


def test_results_of_a_ring_are_taken_in_before_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """They come on another socket: whichever is read first, a result must still find its ring."""
    ends = results_of_workers(monkeypatch)
    heard: list[object] = []

    async def test() -> None:
        hooks = UnitHooks(
            lambda u: None,
            lambda w: None,
            lambda worker, ring: heard.append(ring),
            lambda unit, result: heard.append(result),
            lambda *_: None,
        )
        unit, worker = await begun(hooks)
        for n in range(100):
            ends[0].send(b"%d" % n)
        worker.say(ev="ring_closed", ring=7)
        assert heard == [*(b"%d" % n for n in range(100)), 7]
        worker._exit(worker)
        unit.stop()

    asyncio.run(test())
    ends[0].close()
