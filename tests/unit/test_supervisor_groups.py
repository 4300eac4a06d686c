"""Places, rings and their counters, with decoders and an inference process that are only recorded."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

import pytest

from facedetd.ipc import Message
from facedetd.ring.segment import DecoderCounter as D
from facedetd.ring.segment import InferenceCounter as I
from facedetd.supervisor import groups as groups_module
from facedetd.supervisor.rings import MAX_RING_ID, Rings
from facedetd.supervisor.said import BadMessageError
from facedetd.types import StreamState
from tests.unit.groups_kit import FakeConsumer, FakeWorker, Scene, none_left, running, scene

__all__ = ["running", "scene"]


def test_a_ready_group_gets_its_ring_and_its_streams_and_the_consumer_the_other_end(running: Scene) -> None:
    assert [m["op"] for m, _ in running.decoder.sent] == ["ring", "add", "add"]
    assert running.decoder.sent[0][1] == 2
    assert running.consumer.worker.sent == [({"op": "ring", "ring": running.ring().ring_id}, 2)]
    adds = running.decoder.ops("add")
    assert [m["spec"]["id"] for m in adds] == ["a", "b"]
    assert len({m["epoch"] for m in adds}) == 2


def test_a_place_is_counted_from_before_its_decoder_hears_of_it(scene: Scene) -> None:
    """The decoder is at work the instant it has its ring: what it counts then must not be lost."""
    scene.manager.consume_by(scene.consumer)
    stream = scene.stream("a")
    scene.decoder.say(ev="ready")
    scene.die(scene.consumer.worker)
    second = FakeConsumer(generation=2)

    def at_work(message: Message) -> None:
        if message["op"] == "ring":
            scene.ring().segment.counters[0, 0, [D.SAMPLED, D.NOT_SAMPLED]] += 1

    scene.decoder.on_send = at_work
    scene.manager.consume_by(second)
    assert (stream.account.counts().sampled, stream.account.counts().not_sampled) == (1, 1)


def test_the_next_tenant_of_a_place_gets_none_of_the_last_one_s_results(running: Scene) -> None:
    ring, old = running.ring(), running.decoder.ops("add")[1]["epoch"]
    first = running.b  # type: ignore[attr-defined]
    rings, streams = running.manager.rings, {"a": running.a, "b": first}  # type: ignore[attr-defined]
    ring.segment.counters[1, 0, D.SAMPLED] = 1
    assert rings.owner(ring.ring_id, 1, old, streams) is first
    running.manager.remove("b")
    running.decoder.say(ev="removed", index=1)
    running.stream("c")  # b's last frame is not done with: its place isn't free, so a new group
    assert len(running.decoders) == 2
    ring.segment.counters[1, 1, [I.TAKEN, I.INFERRED]] = 1  # done, its result still on the way
    assert rings.owner(ring.ring_id, 1, old, streams) is first
    del streams["b"]
    assert rings.owner(ring.ring_id, 1, old, streams) is None
    running.manager.tick()
    streams["b"] = running.stream("b")
    new = running.decoders[0].ops("add")[-1]
    assert (new["index"], new["spec"]["id"]) == (1, "b")
    assert rings.owner(ring.ring_id, 1, old, streams) is None
    assert rings.owner(ring.ring_id, 1, new["epoch"], streams) is streams["b"]


def test_a_stream_gets_none_of_the_results_of_a_removed_one_of_its_id(running: Scene) -> None:
    ring, old = running.ring(), running.decoder.ops("add")[1]["epoch"]
    ring.segment.counters[1, 0, D.SAMPLED] = 1
    running.manager.remove("b")
    again = running.stream("b")
    assert running.manager.rings.owner(ring.ring_id, 1, old, {"b": again}) is None


def test_what_died_with_a_decoder_is_counted_when_both_ends_are_gone(running: Scene) -> None:
    ring, stream = running.ring(), running.a  # type: ignore[attr-defined]
    ring.segment.counters[0, 0, D.SAMPLED] = 5
    ring.segment.counters[0, 1, [I.TAKEN, I.INFERRED]] = 2
    running.die(running.decoder)
    assert stream.seen.state is StreamState.WAITING
    assert stream.account.counts().waiting == 3  # the inference process still has them
    ring.segment.counters[0, 1, [I.TAKEN, I.INFERRED]] = 4
    running.manager.ring_closed(running.consumer.worker, ring.ring_id)
    counts = stream.account.counts()
    assert (counts.inferred, counts.dropped["worker_lost"], counts.waiting, counts.in_flight) == (4, 1, 0, 0)
    assert running.live_rings() == 0


def test_rings_left_behind_by_a_change_of_model_are_settled_when_their_decoder_dies(running: Scene) -> None:
    first = running.consumer
    running.manager.consume_by(FakeConsumer(generation=2, size=(32, 32)))
    assert running.live_rings() == 2
    running.die(running.decoder)  # before it could say that it had left the first
    for ring in list(running.manager.rings._rings.values()):
        if ring.reader:
            running.manager.ring_closed(ring.reader, ring.ring_id)
    assert running.live_rings() == 0
    assert first.worker.killed == ""


def test_the_death_of_the_consumer_is_told_and_its_successor_linked(running: Scene) -> None:
    ring, dead = running.ring(), running.consumer.worker
    running.consumer.worker = None
    running.manager.consumer_down(dead)
    assert running.decoder.sent[-1] == ({"op": "unlink"}, 0)
    running.consumer.worker = FakeWorker()
    running.consumer.worker.ready = True
    running.manager.consume_by(running.consumer)
    assert running.decoder.sent[-1] == ({"op": "link"}, 1)
    assert running.ring() is ring
    assert ring.reader is running.consumer.worker


def test_a_decoder_speaks_for_its_own_ring_only(running: Scene) -> None:
    running.stream("c")  # a second group
    running.decoders[1].say(ev="ready")
    first = running.ring("decoder-0")
    running.decoders[1].say(ev="ring_left", ring=first.ring_id)
    assert first.writer is running.decoders[0]
    running.manager.ring_closed(running.decoders[1], first.ring_id)  # type: ignore[arg-type]
    assert first.reader is running.consumer.worker


def test_a_decoder_whose_ring_ends_while_it_lives_is_started_anew(running: Scene) -> None:
    running.manager.ring_closed(running.consumer.worker, running.ring().ring_id)
    assert "closed the link" in running.decoder.killed


def test_the_end_of_a_ring_that_was_left_kills_nobody(running: Scene) -> None:
    old = running.ring().ring_id
    first = running.consumer.worker
    running.manager.consume_by(FakeConsumer(generation=2))
    running.manager.ring_closed(first, old)  # its word may overtake the decoder's
    assert running.decoder.killed == ""
    running.decoder.say(ev="ring_left", ring=old)
    assert running.live_rings() == 1


@pytest.mark.parametrize(
    "message",
    [
        {"ev": "state"},
        {"ev": "state", "index": [], "epoch": 1},
        {"ev": "removed"},
        {"ev": "removed", "index": {}},
        {"ev": "ring_left", "ring": "1"},
    ],
    ids=str,
)
def test_a_message_that_makes_no_sense_changes_nothing(running: Scene, message: dict[str, Any]) -> None:
    with pytest.raises(BadMessageError):
        running.decoder.say(**message)
    assert running.a.seen.state is StreamState.WAITING  # type: ignore[attr-defined]


def test_unknown_places_and_old_tenants_are_nobody_s_business(running: Scene) -> None:
    report = {"ev": "state", "state": "streaming", "detail": "", "codec": "", "width": 1, "height": 1, "fps": 1}
    report |= {"level": "full", "keyframe_s": 0, "reference_share": 1, "bits_per_s": 0, "sub_problem": ""}
    report |= {"device": "cpu", "nvdec_problem": ""}
    epoch = running.decoder.ops("add")[0]["epoch"]
    for index, said in ((9, epoch), (0, epoch + 5), (1, epoch)):
        running.decoder.say(**report, index=index, epoch=said)
    running.decoder.say(ev="removed", index=0)  # nobody asked for it
    assert running.manager.holds("a")
    assert running.a.seen.state is StreamState.WAITING  # type: ignore[attr-defined]
    running.decoder.say(**report, index=0, epoch=epoch)
    assert running.a.seen.state is StreamState.STREAMING  # type: ignore[attr-defined]


def test_want_of_descriptors_is_a_problem_that_passes(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.manager.consume_by(scene.consumer)
    scene.stream("a")
    with monkeypatch.context() as short:
        short.setattr(groups_module, "link_pair", none_left)
        scene.decoder.say(ev="ready")
    assert "Too many open files" in scene.manager.problem
    assert not scene.decoder.killed and scene.live_rings() == 0
    scene.manager.tick()
    assert scene.manager.problem == ""
    assert scene.ring().reader is scene.consumer.worker and scene.decoder.ops("ring")


def test_a_decoder_that_could_not_be_told_of_its_ring_is_started_anew(scene: Scene) -> None:
    scene.manager.consume_by(scene.consumer)
    scene.stream("a")
    scene.decoder.on_send = none_left
    with suppress(OSError):  # its stream can't be passed on either
        scene.decoder.say(ev="ready")
    assert "Too many open files" in scene.manager.problem
    assert scene.decoder.killed
    scene.die(scene.decoder)
    assert scene.live_rings() == 0
    scene.manager.groups["decoder-0"].process.start_now()
    scene.decoder.say(ev="ready")
    assert scene.manager.problem == ""
    assert scene.decoder.ops("add")


def test_want_of_memory_at_a_change_of_model_is_made_good_later(
    running: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = FakeConsumer(generation=2)
    with monkeypatch.context() as short:
        short.setattr(os, "posix_fallocate", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        running.manager.consume_by(second)
    assert "not enough memory" in running.manager.problem
    assert running.ring().generation == 1  # the old goes on
    running.manager.tick()
    assert running.ring().generation == 2
    assert running.manager.problem == ""


def test_what_a_decoder_has_no_use_for_is_not_sent(scene: Scene) -> None:
    roi = tuple((i / 64, i / 64) for i in range(64))
    scene.stream("a", rois=(roi,) * 16, labels=(("site", "x" * 128),))
    scene.decoder.say(ev="ready")
    spec = scene.decoder.ops("add")[0]["spec"]
    assert (spec["rois"], spec["labels"]) == ((), ())


def test_many_groups_are_started_a_few_at_a_time(scene: Scene) -> None:
    scene.manager._cores = 3
    for i in range(20):  # two streams a group
        scene.stream(f"s{i}")
    assert len(scene.manager.groups) == 10
    assert len(scene.decoders) == 3
    for n in range(10):
        if n % 3 == 2:
            scene.die(scene.decoders[n])  # a death makes room too; its successor comes by itself
        else:
            scene.decoders[n].say(ev="ready")
    assert len(scene.decoders) == 10
    assert [len(d.ops("add")) for d in scene.decoders] == [0 if n % 3 == 2 else 2 for n in range(10)]


def test_a_group_that_waits_for_its_turn_is_not_started_after_the_end(scene: Scene) -> None:
    scene.manager._cores = 1
    for i in range(4):
        scene.stream(f"s{i}")
    scene.manager.stop()
    scene.decoder.say(ev="ready")
    scene.manager.tick()
    assert len(scene.decoders) == 1


def test_ring_ids_fit_their_field_and_no_two_live_rings_share_one() -> None:
    rings = Rings()
    worker: Any = FakeWorker()
    kept = rings.make(1, (16, 16), 1, 2, worker)
    with suppress(StopIteration):
        for _ in range(MAX_RING_ID - 2):
            next(rings._ids)
    made = [rings.make(1, (16, 16), 1, 2, worker) for _ in range(2)]
    assert [ring.ring_id for ring in (kept, *made)] == [1, MAX_RING_ID, 2]


def test_a_problem_goes_with_the_group_that_had_it(running: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(24, "Too many open files")

    running.stream("c")
    with monkeypatch.context() as patch:
        patch.setattr(running.manager.rings, "make", refuse)
        running.decoder.say(ev="ready")
    assert "Too many open files" in running.manager.problem
    with monkeypatch.context() as patch:
        patch.setattr(running.manager.rings, "make", refuse)
        running.manager.tick()
        assert running.manager.problem
        running.manager.remove("c")
        running.decoder.say(ev="removed", index=0)
        running.manager.tick()
    assert list(running.manager.groups) == ["decoder-0"]
    running.manager.tick()
    assert running.manager.problem == ""


def test_a_group_that_waits_for_its_restart_and_has_no_stream_left_is_given_up(running: Scene) -> None:
    running.stream("c")
    group = running.manager.groups["decoder-1"]
    running.decoder.lived_s = 0.0
    for _ in range(5):
        running.die(running.decoder)
        group.process.start_now()
    running.die(running.decoder)
    assert group.process.state != "running" and running.manager.groups.keys() == {"decoder-0", "decoder-1"}
    running.manager.remove("c")
    running.manager.tick()
    assert running.manager.groups.keys() == {"decoder-0"}
    assert group.process.retired and group.process.next_try_s == 0


def test_a_halted_group_gets_streams_only_where_all_are(scene: Scene) -> None:
    for name in "abcd":
        scene.stream(name)
    first, second = scene.manager.groups.values()  # two each: full
    scene.manager.remove("a")
    first.process._given_up = True
    scene.stream("e")
    assert scene.manager._where["e"][0].name == "decoder-2"
    for group in scene.manager.groups.values():
        group.process._given_up = True
    scene.stream("f")  # waits with the others
    assert scene.manager._where["f"][0] is first
    assert second.streams == 2


def test_a_group_that_lost_its_gpu_is_started_anew_after_a_pause(
    running: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(groups_module.time, "monotonic", lambda: now[0])
    why = "CUDA is lost to this process: cuLaunchKernel: CUDA_ERROR_ILLEGAL_ADDRESS (700)"
    running.decoder.say(ev="gpu_lost", detail=why)
    running.manager.tick()
    assert not running.decoder.killed
    now[0] += 31
    running.manager.tick()
    assert running.decoder.killed == why
    running.die(running.decoder)
    running.manager.groups["decoder-0"].process.start_now()
    running.decoder.say(ev="ready")
    now[0] += 1000
    running.manager.tick()
    assert not running.decoder.killed, "the new one has a context of its own"
