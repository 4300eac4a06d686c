"""A manager of decoder groups, whose decoders and inference processes are only recorded."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from facedetd.config.model import CaptureConfig
from facedetd.ipc import Message
from facedetd.supervisor import group as group_module
from facedetd.supervisor.groups import GroupManager
from facedetd.supervisor.rings import Ring
from facedetd.supervisor.said import Beat
from facedetd.supervisor.streams import StreamRuntime
from facedetd.types import Origin, StreamSpec

CAPTURE = CaptureConfig(streams_per_group=2, slots_per_stream=2)


class FakeWorker:
    def __init__(
        self, on_message: Callable[..., None] = lambda *_: None, on_exit: Callable[..., None] = lambda _: None
    ):
        self.sent: list[tuple[Message, int]] = []
        self.on_message, self.on_exit = on_message, on_exit
        self.ready = self.stopping = self.ending = False
        self.killed, self.died_of = "", 0
        self.beat = Beat()
        self.lived_s, self.exit_words = 100.0, "died of SIGKILL"
        self.on_send: Callable[[Message], None] = lambda message: None

    def send(self, message: Message, fds: tuple[int, ...] = ()) -> None:
        for fd in fds:
            os.fstat(fd)
        self.on_send(message)
        self.sent.append((message, len(fds)))

    def kill(self, reason: str) -> None:
        self.killed = reason

    kill_soon = kill

    def say(self, **message: Any) -> None:
        self.ready = self.ready or message["ev"] == "ready"
        self.on_message(self, message, [])

    def ops(self, op: str) -> list[Message]:
        return [message for message, _ in self.sent if message["op"] == op]


class FakeConsumer:
    def __init__(self, generation: int = 1, size: tuple[int, int] = (16, 16)):
        self.generation, self.size = generation, size
        self.device, self.units, self.away = 0, [self], False
        self.worker: Any = FakeWorker()
        self.worker.ready = True


class Scene:
    def __init__(self) -> None:
        self.decoders: list[FakeWorker] = []
        self.manager = GroupManager(CAPTURE, (16, 16), "info", "text", lambda *_: None)
        self.manager._cores = 2
        self.consumer = FakeConsumer()

    def make(
        self, kind: object, name: str, target: str, boot: object, sockets: object, message: Any, exit_: Any
    ) -> Any:
        self.decoders.append(FakeWorker(message, exit_))
        return self.decoders[-1]

    def stream(self, name: str, **fields: Any) -> StreamRuntime:
        stream = StreamRuntime(StreamSpec(name, f"rtsp://camera/{name}", **fields), Origin.API, None)
        self.manager.add(stream)
        return stream

    @property
    def decoder(self) -> FakeWorker:
        return self.decoders[-1]

    def ring(self, group: str = "decoder-0") -> Ring:
        ring = self.manager.groups[group].ring
        assert ring
        return ring

    def live_rings(self) -> int:
        return len(self.manager.rings._rings)

    def die(self, worker: FakeWorker) -> None:
        worker.on_exit(worker)


def none_left(*_: object) -> Any:
    raise OSError(24, "Too many open files")


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    loop = asyncio.new_event_loop()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: loop)
    made = Scene()
    monkeypatch.setattr(group_module, "Worker", made.make)
    yield made
    loop.close()


@pytest.fixture
def running(scene: Scene) -> Scene:
    """Two streams in a group that is ready, led to a consumer."""
    scene.manager.consume_by(scene.consumer)
    scene.a, scene.b = scene.stream("a"), scene.stream("b")  # type: ignore[attr-defined]
    scene.decoder.say(ev="ready")
    return scene
