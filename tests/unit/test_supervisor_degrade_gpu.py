"""From counters to grants where GPUs decode and infer: what their peculiarities must not be taken for."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from facedetd.control import Stage
from facedetd.degradation.capacity import Estimate
from facedetd.degradation.controller import ControllerState
from facedetd.supervisor.streams import Seen
from facedetd.types import DecodeDevice, DecodeLevel, StreamSpec, StreamState
from tests.unit.degrade_kit import World


def on_nvdec(world: World, *names: str) -> None:
    for name in names:
        stream = world.streams[name]
        stream.device = DecodeDevice.NVDEC
        stream.see(replace(stream.seen, device=DecodeDevice.NVDEC))


def test_while_many_decoders_open_on_the_gpu_nothing_is_concluded() -> None:
    """A group that opens thirty of them is late with all its streams."""
    world = World()
    world.seconds(5)
    for stream in world.streams.values():
        stream.device = DecodeDevice.NVDEC
        world.lags_s[stream.spec.id] = 2.0
    world.seconds(5)
    assert [s.granted_fps for s in world.streams.values()] == [5.0] * 6
    for stream in world.streams.values():
        stream.see(replace(stream.seen, device=DecodeDevice.NVDEC))
    world.seconds(3)
    assert world.degrader.view is not None and world.degrader.view.shortage is Stage.NONE
    world.seconds(10)  # and then they are still late: that is a finding
    assert world.degrader.view is not None and world.degrader.view.shortage is Stage.NETWORK


def test_a_cpu_that_is_overrun_is_helped_while_decoders_still_open_on_a_gpu() -> None:
    """Of 300 cameras on an H100 none gave way for 38 s, and the highest priority got as little as all others."""
    world = World()
    world.idle = 0.1
    for stream in world.streams.values():
        stream.see(Seen(StreamState.STREAMING, codec="h264", width=3840, height=2160, fps=60.0))
        world.lags_s[stream.spec.id] = 0.4
    for name in ("p90-0", "p50-0", "p10-0"):  # on their way
        world.streams[name].device = DecodeDevice.NVDEC
    world.decoding = 3.8
    world.seconds(4)
    assert world.degrader.view is not None and world.degrader.view.shortage is Stage.DECODE
    assert world.streams["p10-1"].level in (DecodeLevel.KEYFRAMES, DecodeLevel.OFF)
    assert world.streams["p90-1"].level in (DecodeLevel.FULL, DecodeLevel.NO_LOOP_FILTER)
    assert world.granted(90) == [5.0, 5.0]
    world.idle, world.decoding = 2.0, 0.0  # that helped; what is late now is so because decoders open
    before = {s.spec.id: (s.granted_fps, s.level) for s in world.streams.values()}
    world.seconds(3)
    assert {s.spec.id: (s.granted_fps, s.level) for s in world.streams.values()} == before
    arrived = world.streams["p90-0"]  # one less for the CPU: others get what it had
    arrived.see(replace(arrived.seen, device=DecodeDevice.NVDEC))
    world.seconds(1)
    assert world.streams["p50-1"].level in (DecodeLevel.FULL, DecodeLevel.NO_LOOP_FILTER)
    assert world.degrader.view.shortage is Stage.NONE


def test_idle_cpu_that_decoders_being_opened_leave_is_none_for_those_who_are_late() -> None:
    """Of 200 cameras on an H100 half the video was late for 50 s with 4 of 16 cores idle, and nothing was concluded."""
    world = World()
    for stream in world.streams.values():
        stream.see(Seen(StreamState.STREAMING, codec="h264", width=3840, height=2160, fps=60.0))
        world.lags_s[stream.spec.id] = 0.9
    for name in ("p90-0", "p50-0", "p10-0"):  # on their way
        world.streams[name].device = DecodeDevice.NVDEC
    world.idle, world.decoding = 1.1, 2.7
    world.seconds(6)  # so long it may be for the opening alone
    assert {(s.granted_fps, s.level) for s in world.streams.values()} == {(5.0, DecodeLevel.FULL)}
    world.seconds(2)
    assert world.degrader.view is not None and world.degrader.view.shortage is Stage.DECODE
    assert world.streams["p10-1"].level in (DecodeLevel.KEYFRAMES, DecodeLevel.OFF)
    assert world.granted(90) == [5.0, 5.0]


def test_cameras_that_come_and_go_on_the_gpu_dont_switch_degradation_off() -> None:
    world = World(engine_fps=10.0)
    for stream in world.streams.values():
        stream.device = DecodeDevice.NVDEC
    world.seconds(40)  # they never get there
    assert world.granted(10)[0] < 5.0


def test_a_gpu_with_small_batches_isnt_full_however_busy_it_is() -> None:
    """What it did with full batches when it began is what it can do."""
    world = World(engine_fps=18.0)
    world.unit.inference.engine = "tensorrt"
    world.seconds(15)
    assert world.granted(10)[0] < 5.0
    world.engine_fps, world.unit.full_fps = 400.0, 400.0
    busy_s = world.figures.busy_s[0]
    for _ in range(25):  # busy all the time, with batches of one
        world.seconds(1)
        busy_s += 0.95
        world.figures.busy_s[0] = busy_s
    assert world.granted(10) == [5.0, 5.0]


def with_an_idle_neighbour(world: World) -> SimpleNamespace:
    second = SimpleNamespace(**vars(world.unit))
    second.worker = SimpleNamespace(beat=SimpleNamespace(oldest_ns=0), last_beat_ns=10**15)
    second.device, world.figures.busy_s[1] = 1, 0.0
    world.fleet.units = (world.unit, second)
    return second


def test_a_full_device_is_found_out_beside_an_idle_one() -> None:
    """Its streams can't go to the other one, so the mean of both says nothing."""
    world = World()
    with_an_idle_neighbour(world)
    for _ in range(12):
        world.figures.busy_s[0] += 0.95
        for name in world.streams:
            world.degrader.on_result(name, 900_000_000)
        world.seconds(1)
    view = world.degrader.view
    assert view is not None and view.shortage is Stage.INFERENCE, view
    assert view.load.inference_busy > 0.9


def test_an_idle_neighbour_is_no_room_for_the_streams_of_a_full_device() -> None:
    alone, beside = World(engine_fps=18.0), World(engine_fps=18.0)
    with_an_idle_neighbour(beside)
    for world in (alone, beside):
        world.seconds(60)
    assert beside.granted(10) == alone.granted(10) and beside.granted(10)[0] < 5.0


def test_what_full_batches_would_give_is_bound_by_the_device_with_most_streams() -> None:
    world = World()
    second = with_an_idle_neighbour(world)
    world.unit.full_fps, second.full_fps = 100.0, 1000.0
    load = {id(world.unit.worker): 3, id(second.worker): 1}
    world.groups.streams_of = lambda worker: load[id(worker)]
    assert world.degrader._full_fps(world.fleet) == pytest.approx(100 * 4 / 3)
    load[id(world.unit.worker)] = 0
    assert world.degrader._full_fps(world.fleet) == 1000
    load[id(second.worker)] = 0
    assert world.degrader._full_fps(world.fleet) == 0


def test_who_waits_for_a_decoder_on_the_gpu_is_reckoned_with_what_the_cpu_does_till_then() -> None:
    """300 cameras at a start on an H100: as those on their way cost next to nothing in the books they all stayed at the
    full picture, and the CPU did nothing for 30 s but be late, and hold up the decoders' opening."""
    world = World()
    world.idle = 0.1
    for stream in world.streams.values():
        stream.see(Seen(StreamState.STREAMING, codec="h264", width=3840, height=2160, fps=60.0))
        stream.device = DecodeDevice.NVDEC
        world.lags_s[stream.spec.id] = 0.7
    world.decoding = 3.8
    world.seconds(20)
    levels = {s.spec.id: s.level for s in world.streams.values()}
    assert levels["p50-0"] is levels["p10-0"] is DecodeLevel.KEYFRAMES, levels  # not off, or they'd never get there
    on_nvdec(world, *world.streams)
    world.seconds(1)
    assert {s.level for s in world.streams.values()} == {DecodeLevel.FULL}


def test_a_gpu_that_is_a_little_late_doesnt_keep_idle_cpu_from_the_cpus_streams() -> None:
    """On an H100 whose NVDEC was nearly full 124 of 300 cameras got nothing for a minute, with 9 of 16 cores idle."""
    world = World()
    on_gpu = ("p90-0", "p90-1", "p50-0")
    on_nvdec(world, *on_gpu)
    world.decoding = 0.47  # what the books say, so that they stay
    world.seconds(30)
    world.idle = 0.1
    world.lags_s = dict.fromkeys(world.streams, 0.9)
    world.decoding = 3.8
    world.seconds(3)
    assert world.streams["p10-0"].level is not DecodeLevel.FULL
    world.idle, world.lags_s = 3.0, dict.fromkeys(on_gpu, 0.24)
    world.decoding = 0.47
    world.seconds(30)
    assert {s.level for s in world.streams.values()} == {DecodeLevel.FULL}


def test_one_camera_left_to_the_cpu_whose_clock_is_wrong_keeps_nobody_down() -> None:
    world = World()
    on_nvdec(world, *(name for name in world.streams if name != "p10-0"))
    world.idle, world.lags_s = 3.0, {"p10-0": 0.25}
    world.degrader._state = ControllerState(decode=Estimate(0.17, proven=0.17))
    world.decoding = 0.25
    world.seconds(60)
    assert world.streams["p10-0"].level is DecodeLevel.FULL


def test_few_that_the_cpu_decodes_too_late_are_enough() -> None:
    world = World()
    for n in range(24):
        world.add(StreamSpec(f"g{n}", "rtsp://cam/1"))
    on_nvdec(world, *(name for name in world.streams if name.startswith("g")))
    world.seconds(12)
    world.idle, world.lags_s = 0.0, dict.fromkeys(("p90-0", "p50-0", "p10-0", "p10-1"), 0.9)
    world.decoding = 3.9
    world.seconds(4)
    assert world.degrader.view is not None and world.degrader.view.shortage is Stage.DECODE


def test_who_connects_anew_costs_the_others_nothing_meanwhile() -> None:
    """Nothing of it is decoded yet, and then a GPU does it."""
    world = World()
    on_nvdec(world, "p90-0", "p90-1")
    world.seconds(10)
    world.idle = 0.3
    world.degrader._state = ControllerState(decode=Estimate(0.6, proven=0.6))
    world.seconds(2)
    before = {s.spec.id: s.level for s in world.streams.values()}
    world.streams["p90-0"].see(Seen(StreamState.CONNECTING))
    world.seconds(1)
    assert {s.spec.id: s.level for s in world.streams.values()} == before


def test_where_a_stream_will_be_decoded_is_what_it_costs() -> None:
    world = World()
    stream = world.streams["p50-0"]

    def cost() -> float:
        return world.degrader.levels(stream).levels[0].cores

    cpu = cost()
    on_nvdec(world, "p50-0")
    nvdec = cost()
    assert nvdec < cpu / 2
    stream.device = DecodeDevice.CPU  # it goes back at the next keyframe
    assert cost() == cpu
    stream.device = DecodeDevice.NVDEC
    stream.see(replace(stream.seen, device=DecodeDevice.CPU, nvdec_problem="refused"))
    assert cost() == cpu and world.degrader.levels(stream).levels[-1].kind is DecodeLevel.OFF
    stream.see(replace(stream.seen, nvdec_problem=""))
    assert cost() == cpu and world.degrader.levels(stream).levels[-1].kind is DecodeLevel.KEYFRAMES


def test_who_adds_cameras_isnt_warned_of_cpu_that_a_gpu_will_spare() -> None:
    world = World()
    for n in range(24):
        world.add(StreamSpec(f"g{n}", "rtsp://cam/1"))
    new = [StreamSpec("new", "rtsp://cam/1")]
    assert world.degrader.admission(world.streams.values(), new)
    for stream in world.streams.values():
        stream.device = DecodeDevice.NVDEC
    assert not world.degrader.admission(world.streams.values(), new)
