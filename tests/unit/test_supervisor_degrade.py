"""From counters to grants: the controller's loop around an engine that runs so many frames a second and no more."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest

from facedetd.config.model import DegradationConfig
from facedetd.control import DaemonState, Degradation, Stage
from facedetd.supervisor import streams
from facedetd.supervisor.degrade import UNKNOWN_VIDEO, usual
from facedetd.supervisor.streams import Seen, StreamRuntime
from facedetd.types import DecodeLevel, Origin, StreamSpec, StreamState
from tests.unit.degrade_kit import CORES, ENABLED, World


def test_nothing_happens_while_all_fits() -> None:
    world = World()
    world.seconds(20)
    assert [s.granted_fps for s in world.streams.values()] == [5.0] * 6
    assert world.told == []
    view = world.degrader.view
    assert view is not None and view.state is Degradation.NONE and view.reason == ""
    assert view.inference_capacity_fps is None
    assert list(world.degrader.problems()) == []


def test_an_engine_that_is_too_slow_costs_the_lowest_priority_first(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    world = World(engine_fps=18.0)
    world.seconds(15)
    assert world.granted(90) == [5.0, 5.0]
    assert all(1.0 <= fps < 5.0 for fps in world.granted(50))
    assert all(1.0 <= fps <= world.granted(50)[0] for fps in world.granted(10))
    view = world.degrader.view
    assert view is not None and view.state is Degradation.REDUCED
    assert "inference was short" in view.reason and "streams get fewer frames" in view.reason
    assert view.inference_capacity_fps is not None and 12 <= view.inference_capacity_fps <= 18
    assert view.load.dropped_share == 0.0  # what is granted now fits
    assert [(severity, subject) for severity, subject, _ in world.degrader.problems()] == [("warning", "degradation")]
    assert sum("degradation: reduced" in r.getMessage() for r in caplog.records) == 1
    assert "p10-0" in world.told and "p90-0" not in world.told


def test_when_not_even_the_minima_fit_it_is_an_error_and_high_priorities_keep_theirs() -> None:
    world = World(engine_fps=4.0)
    world.seconds(25)
    assert all(fps >= 1.0 for fps in world.granted(90))
    assert sum(world.granted(10)) < 2.0
    assert [(severity, subject) for severity, subject, _ in world.degrader.problems()] == [("error", "degradation")]


def test_all_is_given_back_when_the_load_has_gone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    world = World(engine_fps=18.0)
    world.seconds(15)
    for stream_id in ("p50-0", "p50-1", "p10-0"):
        del world.streams[stream_id]
    world.seconds(60)
    assert [s.granted_fps for s in world.streams.values()] == [5.0] * 3
    assert world.degrader.view is not None and world.degrader.view.state is Degradation.NONE
    assert caplog.records[-1].getMessage() == "degradation: none: every stream gets what it asks for"


def test_a_camera_that_is_away_needs_nothing_and_keeps_its_grant() -> None:
    world = World(engine_fps=18.0)
    world.seconds(15)
    low = world.granted(10)[0]
    for n in range(2):
        world.streams[f"p10-{n}"].see(Seen(StreamState.BACKING_OFF, "connection refused"))
    world.seconds(60)
    assert world.granted(10) == [low, low]
    assert world.granted(90) == [5.0, 5.0]
    world.streams["p10-0"].see(Seen(StreamState.CONNECTING))  # a retry is no sign of life
    assert not world.streams["p10-0"].wants_capacity
    world.streams["p10-0"].see(Seen(StreamState.STREAMING, codec="h264", width=640, height=360, fps=10.0))
    assert world.streams["p10-0"].wants_capacity


def test_switched_off_it_only_looks() -> None:
    world = World(engine_fps=18.0)
    world.seconds(15)
    world.seconds(3, DegradationConfig(enabled=False))
    assert [s.granted_fps for s in world.streams.values()] == [5.0] * 6
    view = world.degrader.view
    assert view is not None and view.state is Degradation.NONE
    assert view.shortage is Stage.INFERENCE
    assert list(world.degrader.problems()) == []


def test_less_than_a_second_is_no_period() -> None:
    world = World(engine_fps=4.0)
    world.seconds(3)
    told = len(world.told)
    world.now += 0.5
    world.degrader.period(ENABLED, list(world.streams.values()), world.fleet)
    assert len(world.told) == told


def test_the_levels_follow_what_the_camera_sends() -> None:
    world = World()
    world.add(StreamSpec("both", "rtsp://cam/1", sub_url="rtsp://cam/2"))
    stream = world.streams["both"]
    stream.see(Seen(StreamState.STREAMING, codec="h264", width=1920, height=1080, fps=25.0, keyframe_s=4.0))
    kinds = {level.kind: level for level in world.degrader.levels(stream).levels}
    assert kinds[DecodeLevel.FULL].fps == 25.0
    assert kinds[DecodeLevel.SUB_STREAM].fps == 15.0  # a guess: it was not seen yet
    stream.see(Seen(StreamState.STREAMING, codec="h264", width=640, height=360, fps=12.0, sub=True))
    kinds = {level.kind: level for level in world.degrader.levels(stream).levels}
    assert kinds[DecodeLevel.FULL].fps == 25.0  # remembered
    assert kinds[DecodeLevel.SUB_STREAM].fps == 12.0
    stream.see(Seen(StreamState.STREAMING, codec="h264", width=1920, height=1080, fps=25.0, sub_problem="404"))
    assert DecodeLevel.SUB_STREAM not in [level.kind for level in world.degrader.levels(stream).levels]


def test_a_model_that_is_away_is_no_shortage() -> None:
    world = World(engine_fps=0.5)
    world.unit.state = DaemonState.WAITING_FOR_MODEL
    world.seconds(10)
    assert [s.granted_fps for s in world.streams.values()] == [5.0] * 6


@pytest.mark.parametrize("lag_s", [0.9, 3.0])
def test_one_camera_whose_clock_is_wrong_costs_nobody_anything(lag_s: float) -> None:
    world = World()
    world.idle = 0.0  # so that lateness would be taken for a shortage of CPU
    world.seconds(5)
    world.lags_s["p50-1"] = lag_s
    world.seconds(30)
    assert {(s.granted_fps, s.level) for s in world.streams.values()} == {(5.0, DecodeLevel.FULL)}
    assert world.degrader.view is not None
    assert world.degrader.view.shortage is Stage.NONE
    assert world.degrader.view.load.latency_p95_s < 0.1


def test_when_several_are_late_and_no_cpu_is_left_decoding_is_short() -> None:
    world = World()
    world.idle = 0.0
    world.lags_s = dict.fromkeys(("p90-0", "p50-0", "p10-0", "p10-1"), 0.8)
    world.decoding = 3.9
    world.seconds(4)
    assert world.degrader.view is not None and world.degrader.view.shortage is Stage.DECODE
    assert world.streams["p10-0"].level is not DecodeLevel.FULL


def test_an_inference_process_that_is_stopped_is_no_shortage() -> None:
    world = World(engine_fps=100.0)
    world.seconds(5)
    world.engine_fps, world.stopped = 0.001, True
    world.seconds(2)  # its last words are 1 s old, then 2 s
    world.seconds(4)
    world.engine_fps, world.stopped = 100.0, False
    world.seconds(5)
    assert {s.granted_fps for s in world.streams.values()} == {5.0}


def test_who_adds_what_cannot_fit_is_told() -> None:
    world = World(engine_fps=40.0)
    world.seconds(5)
    few = [StreamSpec("new", "rtsp://cam/9")]
    assert world.degrader.admission(world.streams.values(), few) == ""
    many = [StreamSpec(f"n{i}", "rtsp://cam/9", min_fps=0.2) for i in range(8)]
    assert "frame rates will be lowered" in world.degrader.admission(world.streams.values(), many)
    assert world.degrader.admission(world.streams.values(), [StreamSpec("off", "rtsp://cam/9", paused=True)]) == ""


def test_after_a_time_without_any_cpu_all_is_back_within_a_minute() -> None:
    world = World()
    world.seconds(5)
    world.engine_fps, world.unit.worker.beat.oldest_ns = 0.3, 3_000_000_000
    world.seconds(120)
    assert world.granted(10) == [0.0, 0.0]
    assert world.granted(90)[0] > 0
    world.engine_fps, world.unit.worker.beat.oldest_ns = 100.0, 0
    world.seconds(60)
    assert {s.granted_fps for s in world.streams.values()} == {5.0}


def test_who_wants_every_frame_gets_them_also_where_the_cameras_rate_was_first_measured_too_low() -> None:
    world = World(engine_fps=1000.0)
    world.add(StreamSpec("all", "rtsp://cam/1", target_fps=25.0))
    stream = world.streams["all"]
    stream.see(Seen(StreamState.STREAMING, codec="h264", width=1920, height=1080, fps=21.0))
    world.seconds(3)
    stream.see(Seen(StreamState.STREAMING, codec="h264", width=1920, height=1080, fps=25.0))
    world.seconds(3)
    assert stream.granted_fps == 25.0
    assert world.told == []


def test_a_frame_every_few_minutes_is_not_rounded_to_none() -> None:
    world = World(engine_fps=18.0)
    world.add(StreamSpec("rare", "rtsp://cam/1", target_fps=0.004, min_fps=0.004, priority=10))
    world.seconds(15)
    assert world.granted(50)[0] < 5.0
    assert world.streams["rare"].granted_fps == 0.004


def test_a_camera_that_was_away_finds_no_lever_pulled_when_the_load_has_gone() -> None:
    world = World(engine_fps=18.0)
    world.seconds(15)
    away = world.streams["p10-0"]
    assert away.granted_fps < 5.0
    away.see(Seen(StreamState.BACKING_OFF, "connection refused"))
    world.engine_fps = 100.0
    world.seconds(60)
    assert (away.granted_fps, away.level) == (5.0, DecodeLevel.FULL)


def test_a_sub_stream_that_cannot_be_had_is_not_reckoned_with_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 10**12
    monkeypatch.setattr("facedetd.supervisor.streams.time.monotonic_ns", lambda: now)
    stream = StreamRuntime(StreamSpec("both", "rtsp://cam/1", sub_url="rtsp://cam/2"), Origin.API, None)
    video = Seen(StreamState.STREAMING, codec="h264", width=1920, height=1080, fps=25.0)
    assert stream.sub_works
    stream.see(replace(video, sub_problem="404"))
    assert not stream.sub_works
    stream.see(video)  # it isn't asked for any more, so nothing is said of it
    assert not stream.sub_works
    now += streams.SUB_RESTS_NS + 1
    assert stream.sub_works
    stream.see(replace(video, sub_problem="404"))
    stream.see(replace(video, sub=True))
    assert stream.sub_works


def test_another_url_is_another_camera() -> None:
    spec = StreamSpec("both", "rtsp://cam/1", sub_url="rtsp://cam/2")
    stream = StreamRuntime(spec, Origin.API, None)
    stream.see(Seen(StreamState.STREAMING, codec="h264", width=3840, height=2160, fps=25.0))
    stream.see(Seen(StreamState.STREAMING, codec="h264", width=640, height=360, fps=25.0, sub=True))
    stream.redefine(replace(spec, sub_url="rtsp://cam/3"), Origin.API, None)
    assert stream.main is not None and stream.sub is None
    stream.redefine(replace(spec, url="rtsp://cam/9"), Origin.API, None)
    assert stream.main is None


def test_another_model_is_given_time_before_it_is_judged() -> None:
    world = World(engine_fps=100.0)
    world.seconds(5)
    world.unit.worker = SimpleNamespace(**vars(world.unit.worker))
    world.engine_fps = 5.0  # its first runs are slow
    world.seconds(2)
    world.engine_fps = 100.0
    world.seconds(5)
    assert {s.granted_fps for s in world.streams.values()} == {5.0}


def test_what_came_late_because_the_machine_stood_still_is_no_shortage() -> None:
    world = World()
    world.seconds(5)
    world.now += 6.0
    world.host.idle_s += 6.0 * CORES  # as where a control group is frozen
    world.lags_s = dict.fromkeys(world.streams, 4.0)
    for second in range(13):
        if second == 3:
            world.lags_s.clear()
        world.seconds(1)
        assert {(s.granted_fps, s.level) for s in world.streams.values()} == {(5.0, DecodeLevel.FULL)}
        assert world.degrader.view is not None and world.degrader.view.shortage is Stage.NONE
    world.lags_s = dict.fromkeys(world.streams, 4.0)  # and if it hadn't?
    world.seconds(3)
    assert world.degrader.view.shortage is Stage.NETWORK


def test_a_machine_that_stands_still_all_the_time_doesnt_switch_degradation_off() -> None:
    world = World(engine_fps=10.0)
    for _ in range(40):
        world.now += 3.5
        world.seconds(1)
    assert world.granted(10)[0] < 5.0


def overrun(world: World, seconds: int) -> None:
    """Twice as many pixels come as its CPU decodes, so all are late."""
    for stream in world.streams.values():
        stream.see(Seen(StreamState.STREAMING, codec="h264", width=3840, height=2160, fps=60.0))
    world.idle, world.lags_s = 0.1, dict.fromkeys(world.streams, 0.9)
    world.decoding = 3.8
    world.seconds(seconds)


def test_as_it_is_learned_what_decoding_costs_here_nobody_loses_what_the_cpu_carries() -> None:
    """Nor does anybody get more than what was tried: the books' scale changed, the machine didn't."""
    for real_cores in (3.0, 0.4):
        world = World()
        overrun(world, seconds=2)
        levels = {s.spec.id: s.level for s in world.streams.values()}
        assert DecodeLevel.KEYFRAMES in levels.values()
        world.idle, world.lags_s = 0.3, {}  # none to spare: nothing is tried for half a minute
        world.decoding = real_cores
        world.seconds(25)
        assert {s.spec.id: s.level for s in world.streams.values()} == levels, real_cores


def test_who_is_warned_of_too_little_cpu_is_told_of_this_machines_cores() -> None:
    world = World()
    world.decoding = 1.6  # twice what the books say
    world.seconds(60)
    said = world.degrader.admission(world.streams.values(), [StreamSpec(f"new{n}", "rtsp://cam/1") for n in range(10)])
    told = re.search(r"about ([0-9.]+) cores; there are .* and 4 cores", said)
    assert told and float(told[1]) == pytest.approx(16 * 25 * 5.3e-3 * 2, rel=0.05), said


def test_cameras_not_seen_yet_are_reckoned_as_those_that_were() -> None:
    world = World()
    new = StreamRuntime(StreamSpec("new", "rtsp://cam/1"), Origin.API, None)
    world.streams["new"] = new
    full_hd = world.degrader.levels(new).levels[0].cores
    for stream in list(world.streams.values())[:4]:
        stream.see(Seen(StreamState.STREAMING, codec="h264", width=1920, height=1080, fps=5.0))
    world.seconds(2)
    assert world.degrader.levels(new).levels[0].cores == pytest.approx(full_hd / 5)
    assert usual([]) == usual([replace(UNKNOWN_VIDEO, fps=5.0)] * 2) == UNKNOWN_VIDEO


def test_what_is_late_says_nothing_of_the_machines_speed() -> None:
    """It is work that wasn't done."""
    world = World()
    overrun(world, seconds=20)
    assert world.degrader._speed == 1.0


def test_a_machines_speed_is_known_within_seconds() -> None:
    world = World()
    world.idle = 3.5
    world.decoding = 6 * 25 * 5.3e-3 / 1.8
    world.seconds(10)
    assert world.degrader._speed == pytest.approx(1.8, rel=0.1)
