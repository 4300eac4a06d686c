"""A decoder group: its process, the streams that have a place in it, and what it says of them."""

from __future__ import annotations

import itertools
import time
from dataclasses import asdict, dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

from facedetd.capture.boot import TARGET, GroupBoot
from facedetd.control import WorkerKind
from facedetd.ipc import Message
from facedetd.ring.counts import pending_frames
from facedetd.supervisor.isolation import Crashes
from facedetd.supervisor.losses import Loss, lost
from facedetd.supervisor.refusals import Refusal
from facedetd.supervisor.rings import Ring
from facedetd.supervisor.said import number, read_report, text
from facedetd.supervisor.streams import Seen, StreamRuntime
from facedetd.supervisor.supervised import Supervised
from facedetd.supervisor.workers import Worker
from facedetd.types import StreamState

if TYPE_CHECKING:
    from facedetd.supervisor.groups import GroupManager

_GOLDEN_RATIO = (5**0.5 - 1) / 2


class PlaceState(Enum):
    USED = "used"
    STOPPING = "stopping"  # the decoder was told to end the stream
    DRAINING = "draining"  # it has; its last frames are with the inference process


@dataclass(slots=True)
class Place:
    """A stream's index in its group."""

    stream: StreamRuntime
    epoch: int
    state: PlaceState = PlaceState.USED

    @property
    def phase(self) -> float:
        """Streams take turns at the model: multiples of the golden ratio spread evenly, however many."""
        return self.epoch * _GOLDEN_RATIO % 1


class Group:
    def __init__(self, name: str, manager: GroupManager, home: int):
        """``home``: the device whose NVDEC it uses from its next start on, and that infers its frames while it can."""
        self.name, self.home = name, home
        self.gpu = home
        """The device whose NVDEC it uses."""
        self._manager = manager
        self.places: dict[int, Place] = {}
        self.ring: Ring | None = None
        self.loss = Loss()
        self.crashes = Crashes()
        self.refusal = Refusal()
        self.halved = False
        """It came about when another crashed."""
        self.process = Supervised(name, self._start, self._down)

    @property
    def streams(self) -> int:
        return sum(1 for p in self.places.values() if p.state is PlaceState.USED)

    def _start(self) -> Worker:
        m = self._manager
        self.gpu = self.home
        boot = GroupBoot(self.name, m.capture, m.log_level, m.log_format, self.gpu, m.turns_at)
        return Worker(WorkerKind.DECODER, self.name, TARGET, boot, (), self._message, self.process.exited)

    def _down(self, worker: Worker) -> None:
        for index, p in list(self.places.items()):
            if p.state is not PlaceState.USED:
                del self.places[index]
            else:
                p.epoch = 0  # given anew with the next decoder
                p.stream.see(Seen(StreamState.WAITING, f"its decoder {worker.exit_words}"))
        self.ring, self.refusal = None, Refusal()
        self.loss = replace(self.loss, why="")
        self._manager.rings.down(worker)
        self._manager.crashed(self, worker)
        self._manager.start_some()

    # ---- streams

    def add(self, stream: StreamRuntime) -> int:
        """Its index."""
        index = next(i for i in itertools.count() if i not in self.places)
        self.places[index] = Place(stream, 0)
        if self.process.worker and self.process.worker.ready:
            self._send_add(index)
        return index

    def _send_add(self, index: int) -> None:
        p = self.places[index]
        stream = p.stream
        p.epoch = self._manager.next_epoch()
        self._assign(index)
        assert self.process.worker
        self.process.worker.send(
            {
                "op": "add",
                "index": index,
                "epoch": p.epoch,
                # What a decoder has no use for stays here: a message has a limited size.
                "spec": asdict(replace(stream.spec, rois=(), labels=())),
                "secret": stream.secret.value if stream.secret else None,
                "fps": stream.granted_fps,
                "phase": p.phase,
                "level": stream.level.value,
                "device": stream.device.value,
            }
        )

    def assign_all(self) -> None:
        """A new ring: every stream that runs takes its place in it."""
        for index, p in self.places.items():
            if p.epoch:
                self._assign(index)

    def _assign(self, index: int) -> None:
        if self.ring:
            p = self.places[index]
            self.ring.assignments[index] = p.stream.account.assign(p.stream.spec.id, p.epoch, self.ring.segment, index)

    def remove(self, index: int) -> None:
        p = self.places[index]
        p.state = PlaceState.STOPPING
        if self.process.worker and self.process.worker.ready:
            self.process.worker.send({"op": "remove", "index": index})
        else:
            del self.places[index]

    def tell(self, index: int) -> None:
        """What the stream is granted may have changed, or its priority."""
        place, worker = self.places[index], self.process.worker
        if worker and worker.ready:
            stream = place.stream
            rate = {"fps": stream.granted_fps, "phase": place.phase, "priority": stream.spec.priority}
            worker.send({"op": "rate", "index": index, **rate})
            how = {"level": stream.level.value, "device": stream.device.value}
            worker.send({"op": "decode", "index": index, **how})

    def free_drained(self) -> None:
        """Give places free whose last frames have come to an end."""
        for index, p in list(self.places.items()):
            if p.state is PlaceState.DRAINING:
                assignment = self.ring.assignments.get(index) if self.ring else None
                if assignment is None:
                    del self.places[index]
                elif pending_frames(assignment.read()) <= 0:
                    assert self.ring
                    del self.ring.assignments[index]
                    assignment.account.fold(assignment)
                    del self.places[index]

    # ---- messages of the group

    def _message(self, worker: Worker, message: Message, fds: list[int]) -> None:
        match message.get("ev"):
            case "ready":
                self._manager.connect([self])
                for index in self.places:
                    self._send_add(index)
                self._manager.start_some()
            case "state":
                self._on_state(message)
            case "removed":
                p = self.places.get(number(message, "index"))
                if p and p.state is PlaceState.STOPPING:
                    p.state = PlaceState.DRAINING
                    self.free_drained()
            case "ring_left":
                self._manager.rings.left(worker, number(message, "ring"))
            case "ring_refused":
                self._manager.refused_by_writer(self, worker, number(message, "ring"), text(message, "detail"))
            case "beat":
                for index, lag_ns in worker.beat.lags:
                    if index in self.places:
                        self.places[index].stream.lagged(lag_ns)
            case "gpu_lost":
                self.loss = lost(self.loss, text(message, "detail"), time.monotonic())
            case "shot" | "jpeg" | "no_shot":
                self._manager.on_shot(worker, message, fds)

    def _on_state(self, message: Message) -> None:
        report = read_report(message)
        p = self.places.get(report.index)
        if p is None or p.epoch != report.epoch or p.state is not PlaceState.USED:
            return
        if report.seen.state is StreamState.STREAMING and p.stream.seen.state is not StreamState.STREAMING:
            p.stream.account.connected()
        p.stream.see(report.seen)
