"""Decoder groups shared out over several GPUs, with decoders and inference processes that are only recorded."""

from __future__ import annotations

from dataclasses import replace

import pytest

from facedetd.ring.segment import DecoderCounter as D
from facedetd.ring.segment import RingError
from facedetd.supervisor import groups as groups_module
from facedetd.supervisor.groups import GroupManager
from facedetd.supervisor.rings import Ring
from tests.unit.groups_kit import CAPTURE, FakeConsumer, FakeWorker, Scene, none_left, running, scene

__all__ = ["running", "scene"]


class FakeFleet:
    """A consumer a device."""

    def __init__(self, devices: tuple[int, ...] = (0, 1), generation: int = 1) -> None:
        self.generation, self.size = generation, (16, 16)
        self.units = [FakeConsumer() for _ in devices]
        for unit, device in zip(self.units, devices, strict=True):
            unit.device = device

    def lose(self, manager: GroupManager, place: int) -> None:
        dead, self.units[place].worker = self.units[place].worker, None
        manager.consumer_down(dead)

    def start(self, manager: GroupManager, place: int) -> None:
        self.units[place].worker = FakeWorker()
        self.units[place].worker.ready = True
        manager.consume_by(self)


@pytest.fixture
def spread(scene: Scene) -> tuple[Scene, FakeFleet]:
    """Two groups of two streams on two devices."""
    fleet = FakeFleet()
    scene.manager.consume_by(fleet)
    for name in "abcd":
        scene.stream(name)
    for decoder in scene.decoders:
        decoder.say(ev="ready")
    return scene, fleet


def devices_of(scene: Scene, fleet: FakeFleet) -> list[int | None]:
    where = {id(unit.worker): unit.device for unit in fleet.units if unit.worker}
    return [where.get(id(group.ring and group.ring.reader)) for group in scene.manager.groups.values()]


def test_each_device_gets_the_rings_of_its_own_groups_and_decodes_for_them(spread: tuple[Scene, FakeFleet]) -> None:
    scene, fleet = spread
    assert devices_of(scene, fleet) == [0, 1]
    rings = [[{"op": "ring", "ring": scene.ring(name).ring_id}] for name in ("decoder-0", "decoder-1")]
    assert [unit.worker.ops("ring") for unit in fleet.units] == rings
    assert [scene.manager.gpu_of(name) for name in "abcd"] == [0, 1, 0, 1]
    assert scene.manager.gpu_of("nobody") is None


def test_the_frames_of_a_lost_device_go_to_the_other_and_back_again(spread: tuple[Scene, FakeFleet]) -> None:
    scene, fleet = spread
    first, second = scene.ring("decoder-0"), scene.ring("decoder-1")
    told = [len(decoder.sent) for decoder in scene.decoders]
    fleet.lose(scene.manager, 1)
    assert devices_of(scene, fleet) == [0, 0]
    assert scene.ring("decoder-1") is second, "the ring stays, with what it counted"
    assert [m["op"] for m, _ in scene.decoders[1].sent[told[1] :]] == ["unlink", "link"]
    assert len(scene.decoders[0].sent) == told[0], "who isn't concerned notices nothing"
    fleet.start(scene.manager, 1)
    assert devices_of(scene, fleet) == [0, 1]
    assert scene.ring("decoder-0") is first
    moved = scene.ring("decoder-1")
    assert moved is not second and scene.decoders[1].sent[-1] == ({"op": "ring", "ring": moved.ring_id}, 2)
    # What is under way in the old ring comes to its end at the device that has it
    assert scene.live_rings() == 3 and second.reader is fleet.units[0].worker
    scene.decoders[1].say(ev="ring_left", ring=second.ring_id)
    scene.manager.ring_closed(fleet.units[0].worker, second.ring_id)
    assert scene.live_rings() == 2 and not scene.decoders[1].killed


def test_a_device_whose_process_does_not_end_when_killed_is_stood_in_for_before_it_is_reaped(
    spread: tuple[Scene, FakeFleet],
) -> None:
    """A driver that hangs may hold it for ever. Its slots stay its own: the group gets a new ring."""
    scene, fleet = spread
    old, hung = scene.ring("decoder-1"), fleet.units[1].worker
    hung.ending = True
    scene.manager.tick()
    assert devices_of(scene, fleet) == [0, 0]
    assert scene.ring("decoder-1") is not old and old.reader is hung
    assert scene.decoders[1].sent[-1] == ({"op": "ring", "ring": scene.ring("decoder-1").ring_id}, 2)
    scene.decoders[1].say(ev="ring_left", ring=old.ring_id)
    old.segment.counters[0, 0, D.SAMPLED] = 3
    scene.manager.tick()
    assert scene.live_rings() == 3 and not hung.sent[1:], "nothing more is led there"
    fleet.lose(scene.manager, 1)
    assert scene.live_rings() == 2 and devices_of(scene, fleet) == [0, 0]
    stream = next(p.stream for p in scene.manager.groups["decoder-1"].places.values())
    assert stream.account.counts().dropped["worker_lost"] == 3


def test_the_only_device_s_groups_wait_for_its_end(running: Scene) -> None:
    told = len(running.decoder.sent)
    running.consumer.worker.ending = True
    running.manager.tick()
    assert len(running.decoder.sent) == told and running.ring().reader is running.consumer.worker


def test_a_move_for_which_descriptors_are_short_kills_no_decoder(
    spread: tuple[Scene, FakeFleet], monkeypatch: pytest.MonkeyPatch
) -> None:
    scene, fleet = spread
    fleet.lose(scene.manager, 1)
    ring = scene.ring("decoder-1")
    with monkeypatch.context() as patch:
        patch.setattr(groups_module, "link_pair", none_left)
        fleet.start(scene.manager, 1)
    assert "Too many open files" in scene.manager.problem
    assert not scene.decoders[1].killed and scene.ring("decoder-1") is ring and scene.live_rings() == 2
    assert devices_of(scene, fleet) == [0, 0]
    scene.manager.tick()
    assert devices_of(scene, fleet) == [0, 1] and not scene.manager.problem


def test_each_inference_process_is_told_of_with_its_own_streams(spread: tuple[Scene, FakeFleet]) -> None:
    scene, fleet = spread
    first, second = (unit.worker for unit in fleet.units)
    scene.manager.remove("a")
    assert [scene.manager.streams_of(worker) for worker in (first, second, None)] == [1, 2, 0]
    fleet.lose(scene.manager, 1)
    assert [scene.manager.streams_of(worker) for worker in (first, second)] == [3, 0]


def test_counters_go_on_when_a_group_moves(spread: tuple[Scene, FakeFleet]) -> None:
    scene, fleet = spread
    stream = next(p.stream for p in scene.manager.groups["decoder-1"].places.values())
    scene.ring("decoder-1").segment.counters[0, 0, [D.SAMPLED, D.NOT_SAMPLED]] += 5
    fleet.lose(scene.manager, 1)
    fleet.start(scene.manager, 1)
    scene.ring("decoder-1").segment.counters[0, 0, [D.SAMPLED, D.NOT_SAMPLED]] += 2
    assert stream.account.counts().sampled == 7


def test_when_all_devices_are_lost_the_first_that_returns_takes_all(spread: tuple[Scene, FakeFleet]) -> None:
    scene, fleet = spread
    fleet.lose(scene.manager, 0)
    fleet.lose(scene.manager, 1)
    assert devices_of(scene, fleet) == [None, None]
    assert [decoder.sent[-1][0] for decoder in scene.decoders] == [{"op": "unlink"}] * 2
    fleet.start(scene.manager, 1)
    assert devices_of(scene, fleet) == [1, 1]
    fleet.start(scene.manager, 0)
    assert devices_of(scene, fleet) == [0, 1]


def test_a_move_for_which_memory_is_short_leaves_the_group_where_it_is(
    spread: tuple[Scene, FakeFleet], monkeypatch: pytest.MonkeyPatch
) -> None:
    scene, fleet = spread
    fleet.lose(scene.manager, 1)
    with monkeypatch.context() as patch:
        patch.setattr(scene.manager.rings, "make", raise_no_memory)
        fleet.start(scene.manager, 1)
    assert devices_of(scene, fleet) == [0, 0] and "no memory" in scene.manager.problem
    scene.manager.tick()
    assert devices_of(scene, fleet) == [0, 1] and not scene.manager.problem


def raise_no_memory(*_: object) -> Ring:
    raise RingError("no memory for a ring")


def test_another_configuration_brings_another_device(running: Scene) -> None:
    """NVDEC's is the old one until the process starts anew."""
    for name in "cd":
        running.stream(name)
    running.decoders[1].say(ev="ready")
    fleet = FakeFleet(generation=2)
    running.manager.consume_by(fleet)
    assert sorted(devices_of(running, fleet)) == [0, 1]  # type: ignore[type-var]
    moved = next(g for g in running.manager.groups.values() if g.home == 1)
    assert moved.gpu == 0
    fleet = FakeFleet((1,), generation=3)
    running.manager.consume_by(fleet)
    assert devices_of(running, fleet) == [1, 1]
    assert {g.home for g in running.manager.groups.values()} == {1}


def test_a_list_of_streams_fills_as_few_packed_groups_as_it_needs_evenly(scene: Scene) -> None:
    scene.manager.packed, scene.manager._cores = True, 16
    scene.manager.expected = 5
    for name in "abcde":
        scene.stream(name)
    assert sorted(g.streams for g in scene.manager.groups.values()) == [1, 2, 2]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("capacity", [2, 3, 32])
def test_as_many_streams_go_to_each_device_however_many_groups_they_need(
    scene: Scene, packed: bool, capacity: int
) -> None:
    """Three groups would else leave one of two devices with twice as many streams as the other."""
    scene.manager.capture = replace(CAPTURE, streams_per_group=capacity)
    scene.manager.packed, scene.manager._cores, scene.manager.expected = packed, 3, 20
    scene.manager.consume_by(FakeFleet())
    for number in range(20):
        scene.stream(f"s{number}")
    groups = scene.manager.groups.values()
    assert [sum(g.streams for g in groups if g.home == device) for device in (0, 1)] == [10, 10]
    assert len(groups) == 2 * max(1, -(-10 // capacity))


def test_what_one_device_lost_is_made_up_for_before_the_other_gets_more(scene: Scene) -> None:
    scene.manager.capture = replace(CAPTURE, streams_per_group=8)
    scene.manager.packed = True
    scene.manager.consume_by(FakeFleet())
    for number in range(8):
        scene.stream(f"s{number}")
    gone = [name for name in scene.manager._where if scene.manager.gpu_of(name) == 1][:3]
    for name in gone:
        scene.manager.remove(name)
    for name in "abc":
        scene.stream(name)
    assert [scene.manager.gpu_of(name) for name in "abc"] == [1, 1, 1]


def test_a_device_whose_groups_are_all_halted_gets_streams_only_where_all_are(scene: Scene) -> None:
    scene.manager.capture = replace(CAPTURE, streams_per_group=8)
    scene.manager.packed = True
    scene.manager.consume_by(FakeFleet())
    for name in "abcd":
        scene.stream(name)
    first, second = scene.manager.groups.values()
    second.process._given_up = True
    scene.stream("e")
    scene.stream("f")
    assert [first.streams, second.streams] == [4, 2]
    first.process._given_up = True
    scene.stream("g")
    assert [first.streams, second.streams] == [4, 3]


def test_new_streams_do_not_go_to_a_device_that_is_away(scene: Scene) -> None:
    scene.manager.capture = replace(CAPTURE, streams_per_group=8)
    scene.manager.packed = True
    fleet = FakeFleet()
    scene.manager.consume_by(fleet)
    scene.stream("a")
    scene.stream("b")
    fleet.units[1].away = True
    for name in "cd":
        scene.stream(name)
    assert [scene.manager.gpu_of(name) for name in "abcd"] == [0, 1, 0, 0]
    fleet.units[1].away = False
    for name in "ef":
        scene.stream(name)
    assert [scene.manager.gpu_of(name) for name in "ef"] == [1, 1]
    fleet.units[0].away = fleet.units[1].away = True
    scene.stream("g")
    scene.stream("h")
    assert sorted([scene.manager.gpu_of("g"), scene.manager.gpu_of("h")]) == [0, 1], "nobody is better off"  # type: ignore[type-var]
