"""A camera whose video crashes FFmpeg ends up alone; nobody else's group is taken apart for long."""

from __future__ import annotations

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facedetd.supervisor.isolation import AGAIN_S, CALM_S, MOST_SPLITS, Crashes, crashed, leaving
from facedetd.types import StreamState
from tests.unit.groups_kit import FakeWorker, Scene, running, scene

__all__ = ["running", "scene"]


@given(size=st.integers(1, 64), data=st.data())
def test_a_camera_that_crashes_its_group_is_alone_after_a_few_crashes(size: int, data: st.DataObject) -> None:
    culprit = data.draw(st.integers(0, size - 1))
    group, crashes, deaths, splits = list(range(size)), Crashes(), 0, 0
    while len(group) > 1:
        crashes = crashed(crashes, 10.0 * deaths)
        deaths += 1
        going = leaving(group, crashes, splits)
        splits += bool(going)
        group = going if culprit in going else [i for i in group if i not in going]
    assert deaths <= (0 if size == 1 else 1 + (size - 1).bit_length())
    assert splits <= MOST_SPLITS


def test_one_crash_now_and_then_is_none() -> None:
    first = crashed(Crashes(), 0.0)
    assert not first.suspect(1.0) and not leaving(range(8), first, 0)
    late = crashed(first, AGAIN_S + 1)
    assert not late.suspect(AGAIN_S + 2) and not leaving(range(8), late, 0)
    soon = crashed(late, AGAIN_S + 60)
    assert soon.suspect(AGAIN_S + 61) and leaving(range(8), soon, 0) == [4, 5, 6, 7]
    assert not soon.suspect(AGAIN_S + 60 + CALM_S)


def test_where_everything_crashes_not_each_stream_gets_a_process() -> None:
    assert not leaving(range(8), Crashes(0.0, again=True), MOST_SPLITS)


def crash(scene: Scene, worker: FakeWorker, number: int = signal.SIGSEGV) -> None:
    worker.died_of, worker.exit_words = number, f"died of {signal.Signals(number).name}"
    scene.die(worker)


def started(scene: Scene, group: str) -> FakeWorker:
    """The group's process, ready again."""
    process = scene.manager.groups[group].process
    process.start_now()
    worker = process.worker
    assert isinstance(worker, FakeWorker)
    worker.say(ev="ready")
    return worker


def held(scene: Scene) -> dict[str, list[str]]:
    return {name: [p.stream.spec.id for p in g.places.values()] for name, g in scene.manager.groups.items()}


def test_a_group_that_crashes_twice_is_halved_and_takes_no_new_streams(running: Scene) -> None:
    crash(running, running.decoder)
    assert held(running) == {"decoder-0": ["a", "b"]}
    crash(running, started(running, "decoder-0"))
    assert held(running) == {"decoder-0": ["a"], "decoder-1": ["b"]}
    other = running.manager.groups["decoder-1"].process.worker
    assert isinstance(other, FakeWorker)
    other.say(ev="ready")
    first = started(running, "decoder-0")
    assert [m["spec"]["id"] for m in first.ops("add")] == ["a"]
    assert [m["spec"]["id"] for m in other.ops("add")] == ["b"]
    assert running.manager.send("b", {"op": "snapshot"}) is other

    running.stream("c")
    assert held(running)["decoder-2"] == ["c"]
    stream = running.manager.groups["decoder-0"].places[0].stream
    crash(running, first)
    assert held(running) == {"decoder-0": ["a"], "decoder-1": ["b"], "decoder-2": ["c"]}
    assert stream.seen.state is StreamState.WAITING
    assert stream.seen.detail.startswith("its decoder, which it has to itself, died of SIGSEGV: what the camera sends")
    running.manager.remove("b")
    assert "b" not in running.manager._where


def test_a_lone_stream_s_decoder_is_started_ever_more_rarely(running: Scene) -> None:
    running.manager.remove("b")
    running.manager.groups["decoder-0"].places.pop(1)
    delays = []
    for _ in range(16):
        worker = started(running, "decoder-0")
        worker.lived_s = 1.0
        crash(running, worker)
        delays.append(round(running.manager.groups["decoder-0"].process.next_try_s, 1))
    assert delays[0] < 0.1 and 5.0 < delays[-1] <= 60.0
    assert delays == sorted(delays)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGBUS, signal.SIGTERM])
def test_want_of_memory_and_a_kill_are_no_crash(running: Scene, number: int) -> None:
    for _ in range(3):
        crash(running, started(running, "decoder-0"), number)
    assert held(running) == {"decoder-0": ["a", "b"]}
