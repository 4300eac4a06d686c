"""A ring that one process can't map costs that process nothing else, is said, and is led there again."""

from __future__ import annotations

import errno
import mmap
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from facedetd.capture.boot import GroupBoot
from facedetd.capture.group import DecoderGroup
from facedetd.config.model import CaptureConfig
from facedetd.inference.batching import BatchPolicy
from facedetd.inference.boot import InferenceBoot
from facedetd.inference.process import InferenceProcess
from facedetd.ipc import Channel, Message, channel_pair
from facedetd.ring.link import link_pair
from facedetd.ring.segment import DecoderCounter as D
from facedetd.ring.segment import RingSpec, Segment
from facedetd.supervisor import groups as groups_module
from facedetd.supervisor.refusals import HOPELESS, Refusal, is_open, refused, waits
from tests.unit.groups_kit import FakeConsumer, Scene, running, scene

__all__ = ["running", "scene"]

WHY = "a ring of 24 MB for 16 streams can't be mapped: not enough memory or address space"


@dataclass
class Far:
    """The supervisor's ends of a worker."""

    control: Channel
    ends: list[socket.socket]

    def give(self, ring_id: int) -> None:
        """A ring with its link, whose other end is the last of ``ends``."""
        segment = Segment.create(RingSpec(ring_id, 1, 16, 16, 2, 2))
        near, far = link_pair()
        self.ends.append(near)
        with far:
            self.control.send({"op": "ring", "ring": ring_id}, (segment.fd, far.fileno()))
        segment.close()

    def heard(self) -> list[Message]:
        return [message for message, _ in self.control.receive()]

    def open_links(self) -> list[bool]:
        return [_is_open(end) for end in self.ends]


def _is_open(end: socket.socket) -> bool:
    try:
        return end.recv(1) != b""
    except BlockingIOError:
        return True


@contextmanager
def no_room() -> Iterator[None]:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    with pytest.MonkeyPatch.context() as short:
        short.setattr(mmap, "mmap", fail)
        yield


@pytest.fixture
def decoder() -> Iterator[tuple[DecoderGroup, Far]]:
    ours, theirs = channel_pair()
    far = Far(Channel(ours), [])
    yield DecoderGroup(GroupBoot("decoder-0", CaptureConfig(), "info", "text"), Channel(theirs)), far
    theirs.close()
    far.control.close()
    for end in far.ends:
        end.close()


def test_a_decoder_group_refuses_a_ring_lets_go_of_the_one_before_and_takes_the_next(
    decoder: tuple[DecoderGroup, Far],
) -> None:
    group, far = decoder
    far.give(1)
    group._on_control()
    assert group._ring and far.open_links() == [True]
    far.give(2)
    with no_room():
        group._on_control()
    assert group._ring is None and far.open_links() == [True, False]
    [said] = far.heard()
    assert (said["ev"], said["ring"]) == ("ring_refused", 2) and "can't be mapped" in said["detail"]
    group._drop_left()
    assert far.heard() == [{"ev": "ring_left", "ring": 1}] and far.open_links() == [False, False]

    # What the supervisor had said of it before it knew
    near, theirs = link_pair()
    far.ends.append(near)
    with theirs:
        far.control.send({"op": "link"}, (theirs.fileno(),))
    far.control.send({"op": "unlink"})
    group._on_control()
    assert far.open_links() == [False] * 3 and not far.heard()

    far.give(3)
    group._on_control()
    assert group._ring and group._ring.segment.spec.ring_id == 3 and far.open_links()[-1]


def test_an_inference_process_refuses_one_ring_and_keeps_the_others(tmp_path: Path) -> None:
    boot = InferenceBoot("t", Path(), "m", "1", 16, 16, 0.5, "fake", 1, BatchPolicy(1, 1, 1, 0), "info", "text")
    ours, theirs = channel_pair()
    told, results = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    far = Far(Channel(ours), [])
    with theirs, told, results:
        process = InferenceProcess(boot, Channel(theirs), results)
        far.give(1)
        process._on_control()
        far.give(2)
        with no_room():
            process._on_control()
        assert list(process._readers) == [1] and far.open_links() == [True, False]
        [said] = far.heard()
        assert (said["ev"], said["ring"]) == ("ring_refused", 2) and "can't be mapped" in said["detail"]
        far.give(2)
        process._on_control()
        assert list(process._readers) == [1, 2] and far.open_links() == [True, False, True]
        far.control.close()
    for end in far.ends:
        end.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(groups_module.time, "monotonic", lambda: now[0])
    return now


def test_a_ring_that_a_decoder_refused_is_made_anew_ever_more_rarely(running: Scene, clock: list[float]) -> None:
    manager, decoder = running.manager, running.decoder
    pauses = []
    for _ in range(HOPELESS - 1):
        ring, began = running.ring(), clock[0]
        decoder.say(ev="ring_refused", ring=ring.ring_id, detail=WHY)
        assert manager.groups["decoder-0"].ring is None
        manager.ring_closed(running.consumer.worker, ring.ring_id)  # its link was closed
        assert not decoder.killed and running.live_rings() == 0
        while manager.groups["decoder-0"].ring is None:
            assert manager.problem == f"decoder-0: its decoders: {WHY}"
            clock[0] += 0.5
            manager.tick()
        pauses.append(clock[0] - began)
    assert pauses == [2, 4, 8, 16]
    assert running.ring().reader is running.consumer.worker and running.ring().writer is decoder
    clock[0] += 10
    assert manager.problem == "", "it was taken"
    ring = running.ring()
    ring.segment.counters[0, 0, D.SAMPLED] = 3
    assert running.a.account.counts().sampled == 3  # type: ignore[attr-defined]


def test_a_decoder_that_refuses_all_the_time_is_started_anew(running: Scene, clock: list[float]) -> None:
    for _ in range(HOPELESS):
        running.decoder.say(ev="ring_refused", ring=running.ring().ring_id, detail=WHY)
        clock[0] += 30
        if not running.decoder.killed:
            clock[0] -= 30
            while running.manager.groups["decoder-0"].ring is None:
                clock[0] += 0.5
                running.manager.tick()
    assert running.decoder.killed == "it can't map its ring"
    running.die(running.decoder)
    running.manager.groups["decoder-0"].process.start_now()
    running.decoder.say(ev="ready")
    assert running.ring() and running.manager.problem == "", "a fresh one has its chance at once"


def test_frames_of_a_ring_that_the_inference_process_refused_are_accounted_for(
    running: Scene, clock: list[float]
) -> None:
    """Its decoder takes all slots back; the ring, and what it counted, stays."""
    other = running.stream("c")
    running.decoder.say(ev="ready")
    first, second = running.ring(), running.ring("decoder-1")
    told = len(running.decoders[0].sent)
    reader: Any = running.consumer.worker
    running.manager.refused_by_reader(reader, second.ring_id, WHY)
    running.manager.tick()
    assert first.reader is reader and len(running.decoders[0].sent) == told, "the others notice nothing"
    assert running.ring("decoder-1") is second and second.reader is None
    assert running.manager.problem == f"decoder-1: its inference process: {WHY}"
    assert running.decoder.sent[-1] == ({"op": "unlink"}, 0)
    second.segment.counters[0, 0, [D.SAMPLED, D.WORKER_LOST]] = 1
    clock[0] += 2
    running.manager.tick()
    assert second.reader is reader and running.decoder.sent[-1] == ({"op": "link"}, 1)
    assert reader.sent[-1] == ({"op": "ring", "ring": second.ring_id}, 2)
    assert other.account.counts().dropped["worker_lost"] == 1
    clock[0] += 2
    assert running.manager.problem == ""


def test_another_inference_process_is_asked_at_once(running: Scene, clock: list[float]) -> None:
    running.manager.refused_by_reader(running.consumer.worker, running.ring().ring_id, WHY)
    second = FakeConsumer(generation=2)
    running.manager.consume_by(second)
    assert running.ring().reader is second.worker and running.manager.problem == ""


def test_a_refusal_of_a_ring_that_is_no_more_means_nothing(running: Scene, clock: list[float]) -> None:
    old, ring = running.ring().ring_id, running.ring()
    running.manager.consume_by(FakeConsumer(generation=2))
    assert running.ring() is not ring
    running.decoder.say(ev="ring_refused", ring=old, detail=WHY)
    running.manager.refused_by_reader(running.consumer.worker, old, WHY)
    running.decoder.say(ev="ring_refused", ring=9, detail=WHY)
    assert running.manager.problem == "" and running.live_rings() == 1


def test_refusals_in_a_row_are_those_that_came_of_the_next_try() -> None:
    last = Refusal()
    assert not waits(last, 0.0) and not is_open(last, 0.0)
    last = refused(last, WHY, 100.0)
    assert waits(last, 101.9) and not waits(last, 102.0) and is_open(last, 103.0)
    assert refused(last, WHY, 102.5).times == 2
    assert refused(last, WHY, 200.0).times == 1
