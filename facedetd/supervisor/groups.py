"""The decoder groups: which stream runs where, and the rings that lead from them to the inference process."""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from facedetd.config.model import CaptureConfig
from facedetd.ipc import Message
from facedetd.ring.link import link_pair
from facedetd.ring.segment import RingError
from facedetd.supervisor.group import Group
from facedetd.supervisor.isolation import ALONE_MAX_DELAY_S, CRASHES, crashed, leaving
from facedetd.supervisor.losses import is_due
from facedetd.supervisor.placement import Held, home_for_one_more, homes, place, readers
from facedetd.supervisor.refusals import HOPELESS, Refusal, is_open, refused, waits
from facedetd.supervisor.restarts import MAX_DELAY_S
from facedetd.supervisor.rings import Rings
from facedetd.supervisor.streams import Seen, StreamRuntime
from facedetd.supervisor.workers import Worker
from facedetd.types import StreamState

log = logging.getLogger(__name__)

OnShot = Callable[[Worker, Message, list[int]], None]


class Consumer(Protocol):
    """An inference process that rings lead to."""

    device: int

    @property
    def worker(self) -> Worker | None: ...

    @property
    def away(self) -> bool:
        """It can't run now, and it isn't known when: not one that only begins."""


class Consumers(Protocol):
    """Those of one model, one a device."""

    @property
    def units(self) -> Sequence[Consumer]: ...

    @property
    def generation(self) -> int: ...

    @property
    def size(self) -> tuple[int, int]: ...


class GroupManager:
    """Places streams, keeps groups running, leads every group's ring to the consumer that is current."""

    def __init__(
        self,
        capture: CaptureConfig,
        size: tuple[int, int],
        log_level: str,
        log_format: str,
        on_shot: OnShot,
    ):
        self.capture, self.log_level, self.log_format = capture, log_level, log_format
        self.on_shot = on_shot
        self._devices: tuple[int, ...] = (0,)  # of the consumers, and whose NVDEC the groups use
        self.packed = False
        """As few groups as can be, because each takes a third of a gigabyte of a GPU."""
        self.turns_at = ""
        """See GroupBoot. The daemon's own: whoever else may open it could hold up its decoders."""
        self.expected = 0
        """How many streams there are to be: known from the beginning where a list of them comes at once."""
        self.groups: dict[str, Group] = {}
        self._unstarted: deque[Group] = deque()
        self._leaving: list[Group] = []
        self._cores = os.cpu_count() or 1
        self._where: dict[str, tuple[Group, int]] = {}
        self.rings = Rings()
        self._group_numbers = itertools.count()
        self._epochs = itertools.count(1)
        self._consumers: Consumers | None = None
        self._generation, self._size = 0, size
        self._not_made = ""  # why a ring could not be made

    # ---- streams

    def add(self, stream: StreamRuntime) -> None:
        # Where all are halted one more would halt, too: it waits with the others for the next try
        open_to_it = [g for g in self.groups.values() if not g.process.halted] or list(self.groups.values())
        halted = {g.home for g in self.groups.values()} - {g.home for g in open_to_it}
        devices = [d for d in self._devices if d not in halted]
        away = {unit.device for unit in self._consumers.units if unit.away} if self._consumers else set()
        home = home_for_one_more(
            {g.name: Held(g.streams, g.home) for g in open_to_it}, [d for d in devices if d not in away] or devices
        )
        # Every place counts, also one that drains: its index is not free yet.
        now_s = time.monotonic()
        load = {g.name: len(g.places) for g in open_to_it if g.home == home and not g.crashes.suspect(now_s)}
        capacity = self.capture.streams_per_group
        name = place(load, capacity, self._spread(capacity))
        group = self.groups[name] if name else self._new_group(home)
        self._where[stream.spec.id] = (group, group.add(stream))
        self.start_some()

    def _new_group(self, home: int) -> Group:
        group = Group(f"decoder-{next(self._group_numbers)}", self, home)
        self.groups[group.name] = group
        self._unstarted.append(group)
        return group

    def crashed(self, group: Group, worker: Worker) -> None:
        """A group's process is dead and reaped. Where it is that a camera may crash it, half of its streams go on in
        another one."""
        if worker.died_of not in CRASHES or group.process.retired:
            return
        group.crashes = crashed(group.crashes, time.monotonic())
        halved = sum(g.halved for g in self.groups.values())
        going = leaving(list(group.places), group.crashes, halved)
        if going:
            other = self._new_group(group.home)
            other.halved, other.crashes = True, group.crashes
            for index in going:
                stream = group.places.pop(index).stream
                self._where[stream.spec.id] = (other, other.add(stream))
            log.warning(
                "worker %s %s again: what one of its cameras sends may be why; %d of its %d streams go on in %s",
                group.name, worker.exit_words, len(going), len(going) + len(group.places), other.name,
            )  # fmt: skip
        alone = group.crashes.again and len(group.places) == 1
        group.process.max_delay_s = ALONE_MAX_DELAY_S if alone else MAX_DELAY_S
        for p in group.places.values() if alone else ():
            words = f"its decoder, which it has to itself, {worker.exit_words}: what the camera sends may be why"
            p.stream.see(Seen(StreamState.WAITING, words))

    def _spread(self, capacity: int) -> int:
        """How many groups the streams of a device are spread over evenly."""
        devices = len(self._devices)
        return max(1, -(-self.expected // (capacity * devices)) if self.packed else self._cores // devices)

    def start_some(self) -> None:
        """Start new groups, as many at a time as there are cores: a thousand streams at once would else hold up this
        loop for seconds, and each boot would wait for all others."""
        booting = sum(1 for worker in self.workers() if not worker.ready)
        while self._unstarted and booting < self._cores:
            self._unstarted.popleft().process.start_now()
            booting += 1

    def remove(self, stream_id: str) -> None:
        group, index = self._where.pop(stream_id)
        group.remove(index)

    def holds(self, stream_id: str) -> bool:
        return stream_id in self._where

    def gpu_of(self, stream_id: str) -> int | None:
        """The device whose NVDEC the stream's group uses; None while it has no group."""
        return self._where[stream_id][0].gpu if stream_id in self._where else None

    def streams_of(self, reader: Worker | None) -> int:
        """Those whose frames this inference process gets."""
        return sum(g.streams for g in self.groups.values() if g.ring and g.ring.reader and g.ring.reader is reader)

    def tell(self, stream_id: str) -> None:
        """Pass on what the stream is granted."""
        if stream_id in self._where:
            group, index = self._where[stream_id]
            group.tell(index)

    def next_epoch(self) -> int:
        """Never the same for two streams: a result under way when a place is given on belongs to the old tenant."""
        return next(self._epochs)

    def send(self, stream_id: str, message: Message) -> Worker | None:
        """Send a message about a stream to its group, with its index; None when there is none to send it to."""
        if stream_id not in self._where:
            return None
        group, index = self._where[stream_id]
        worker = group.process.worker
        if worker is None or not worker.ready:
            return None
        worker.send({**message, "index": index})
        return worker

    # ---- rings

    def consume_by(self, consumers: Consumers) -> None:
        """``consumers`` are those from now on: lead all rings to them, as they get ready. Call again when one has."""
        self._consumers = consumers
        for group in self.groups.values():
            group.refusal = Refusal()  # it may have been the process that is gone who had no room
        self._generation, self._size = consumers.generation, consumers.size
        devices = tuple(unit.device for unit in consumers.units)
        if devices != self._devices:
            self._devices = devices
            for name, home in homes(self._held(self._ready()), devices).items():
                self.groups[name].home = home
        self.connect(self.groups.values())

    def _ready(self) -> dict[int, Worker]:
        """The inference processes that can take rings, by device."""
        units = self._consumers.units if self._consumers else ()
        return {u.device: u.worker for u in units if u.worker and u.worker.ready and not u.worker.ending}

    def _held(self, ready: Mapping[int, Worker]) -> dict[str, Held]:
        reading = {id(worker): device for device, worker in ready.items()}
        return {
            name: Held(g.streams, g.home, reading.get(id(g.ring.reader)) if g.ring else None)
            for name, g in self.groups.items()
        }

    def connect(self, groups: Iterable[Group]) -> None:
        """See that these groups have a ring of the model's size, and lead it to its consumer if there is one.

        The ring is there without a consumer too: the stream's counters live in it.
        """
        ready = self._ready()
        chosen = readers(self._held(ready), ready)
        problems = []
        now_s = time.monotonic()
        for group in groups:
            worker, device = group.process.worker, chosen[group.name]
            if worker is None or not worker.ready or waits(group.refusal, now_s):
                continue
            try:
                self._lead(group, worker, None if device is None else ready[device])
            except RingError as error:
                problems.append(str(error))
            except OSError as error:
                problems.append(f"a ring can't be made or passed on: {error.strerror or error}")
        problem = problems[0] if problems else ""
        if problem and problem != self._not_made:
            log.error("%s", problem)
        self._not_made = problem

    def _lead(self, group: Group, worker: Worker, consumer: Worker | None) -> None:
        """Raises RingError or OSError; the group has no ring then, and is given one at a later tick."""
        ring = group.ring
        fresh = ring is None or ring.generation != self._generation
        if ring is not None and not fresh:
            if consumer is None or ring.reader is consumer:
                return
            fresh = ring.reader is not None  # it moves: what is under way in the old ring comes to its end there
        theirs, ours = link_pair()  # first: where descriptors are short, nothing has changed yet
        with theirs, ours:
            if ring is None or fresh:
                streams, slots = self.capture.streams_per_group, self.capture.slots_per_stream
                ring = self.rings.make(self._generation, self._size, streams, slots, worker)
            # All is set down before a word goes out: the other ends are at work in the next instant.
            group.ring, ring.reader = ring, consumer
            if fresh:
                group.assign_all()
            link = (theirs.fileno(),) if consumer else ()
            try:
                if fresh:
                    worker.send({"op": "ring", "ring": ring.ring_id}, (ring.segment.fd, *link))
                else:
                    worker.send({"op": "link"}, link)
                if consumer:
                    consumer.send({"op": "ring", "ring": ring.ring_id}, (ring.segment.fd, ours.fileno()))
            except OSError:
                ring.reader = None  # told last, so it was not told
                worker.kill("its ring could not be passed on")
                raise

    @property
    def problem(self) -> str:
        """Why a group has no ring, or none that leads on; empty when all is well."""
        now_s = time.monotonic()
        refusals = [f"{g.name}: {g.refusal.why}" for g in self.groups.values() if is_open(g.refusal, now_s)]
        return "; ".join([self._not_made, *refusals[:1]] if self._not_made else refusals[:1])

    def refused_by_writer(self, group: Group, worker: Worker, ring_id: int, why: str) -> None:
        """A decoder group could not map a ring; it has left the one before, too."""
        if group.ring and group.ring.ring_id == ring_id:
            group.ring = None
            self._refused(group, f"its decoders: {why}")
            if group.refusal.times >= HOPELESS:  # none of its streams gives results: a new start costs them nothing
                worker.kill("it can't map its ring")
        self.rings.left(worker, ring_id)

    def refused_by_reader(self, reader: Worker, ring_id: int, why: str) -> None:
        """An inference process could not map a ring. It never had any of its slots."""
        ring = self.rings.closed(reader, ring_id)
        for group in self.groups.values():
            if ring and group.ring is ring:
                self._refused(group, f"its inference process: {why}")
                if group.process.worker and group.process.worker.ready:
                    group.process.worker.send({"op": "unlink"})

    def _refused(self, group: Group, why: str) -> None:
        if why != group.refusal.why:
            log.error("%s: %s", group.name, why)
        group.refusal = refused(group.refusal, why, time.monotonic())

    def ring_closed(self, reader: Worker, ring_id: int) -> None:
        """The inference process has run the last frame of a ring that its decoder has closed."""
        ring = self.rings.closed(reader, ring_id)
        writer = ring.writer if ring else None
        if writer and not writer.stopping and any(group.ring is ring for group in self.groups.values()):
            # It is dead and not reaped yet, or has said on the link what no decoder says.
            writer.kill_soon("it closed the link to its ring")

    def consumer_down(self, worker: Worker) -> None:
        """An inference process is dead and reaped: its rings' slots go back to their groups, which go on with another
        device where there is one."""
        left = [group for group in self.groups.values() if group.ring and group.ring.reader is worker]
        self.rings.down(worker)
        for group in left:
            if group.process.worker and group.process.worker.ready:
                group.process.worker.send({"op": "unlink"})
        self.connect(left)

    # ---- life

    def tick(self) -> None:
        for name, group in list(self.groups.items()):
            group.free_drained()
            worker = group.process.worker
            if worker and worker.ready and is_due(group.loss, time.monotonic()):
                worker.kill(group.loss.why)
            if not group.places and len(self.groups) > 1 and (worker is None or worker.ready):
                group.process.stop()
                self._leaving.append(group)
                del self.groups[name]
        self.connect(self.groups.values())  # memory may have been short
        self._leaving = [g for g in self._leaving if g.process.worker]
        self.start_some()

    def workers(self) -> list[Worker]:
        """All that live, those of groups that were asked to end because they had no stream left too."""
        return [g.process.worker for g in (*self.groups.values(), *self._leaving) if g.process.worker]

    def stop(self) -> None:
        for group in self.groups.values():
            group.process.stop()
