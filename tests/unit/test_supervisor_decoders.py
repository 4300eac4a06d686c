"""The GPU watched, streams put on NVDEC and taken off, and what an operator is told of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from facedetd.cuda.nvml import GpuFigures, Nvml
from facedetd.degradation.levels import levels_of
from facedetd.supervisor.decoders import DecoderPlacer, GpuWatch
from facedetd.supervisor.placement import place
from facedetd.supervisor.streams import Seen, StreamRuntime
from facedetd.types import DecodeDevice, DecodeLevel, DecodeMode, Origin, StreamSpec, StreamState, Video

CPU, NVDEC = DecodeDevice
H100 = GpuFigures("an H100", 0.0, 0.0, 0, 80_000_000_000)


class FakeWatch:
    """``figures`` None: no GPU."""

    def __init__(self, figures: GpuFigures | None) -> None:
        self.figures, self.problem = figures, "" if figures else "libnvidia-ml.so.1: cannot open"
        self.first = threading.Event()


class World:
    def __init__(self, mode: str = "auto", figures: GpuFigures | None = H100, watched: bool = True) -> None:
        self.now, self.told = 100.0, []  # type: tuple[float, list[str]]
        self.watch: Any = FakeWatch(figures)
        self.placer = DecoderPlacer(
            mode, [0] if watched else [], lambda _: 0, self.told.append, lambda _: self.watch, lambda: self.now
        )
        self.streams: list[StreamRuntime] = []

    def add(self, name: str, mode: DecodeMode = DecodeMode.AUTO) -> StreamRuntime:
        stream = StreamRuntime(StreamSpec(name, "rtsp://cam/1", decode=mode), Origin.API, None)
        self.streams.append(stream)
        return stream

    def pass_s(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now += 1.0
            self.placer.tick(self.streams)


def streaming(device: DecodeDevice = CPU, problem: str = "", codec: str = "h264") -> Seen:
    return Seen(
        StreamState.STREAMING, codec=codec, width=1920, height=1080, fps=25.0, device=device, nvdec_problem=problem
    )


def test_a_stream_is_put_on_nvdec_before_it_has_been_seen_and_told_once() -> None:
    world = World()
    stream = world.add("cam")
    world.pass_s(5)
    assert stream.device is NVDEC and world.told == ["cam"]
    assert stream.view().decode_device is CPU, "till its decoder says otherwise"
    stream.see(streaming(NVDEC))
    assert stream.view().decode_device is NVDEC


def test_it_looks_once_a_second() -> None:
    world = World()
    world.add("a")
    world.placer.tick(world.streams)
    world.add("b")
    world.now += 0.5
    world.placer.tick(world.streams)
    assert world.told == ["a"]
    world.pass_s(4)
    assert world.told == ["a", "b"]


def test_what_nvdec_refuses_goes_to_the_cpu_and_comes_back_later() -> None:
    world = World()
    stream = world.add("cam")
    world.pass_s(2)
    stream.see(streaming(CPU, "NVDEC refuses it: InvalidDataError"))
    world.pass_s(1)
    assert stream.device is CPU and stream.view().nvdec_problem
    stream.see(streaming(CPU))
    world.pass_s(50)
    assert stream.device is CPU
    world.pass_s(20)
    assert stream.device is NVDEC and world.told == ["cam"] * 3


def test_a_gpu_that_goes_away_leaves_all_to_the_cpu() -> None:
    world = World()
    stream = world.add("cam", DecodeMode.GPU)
    world.pass_s(2)
    stream.see(streaming(NVDEC))
    world.watch.figures, world.watch.problem = None, "the GPU is gone: NVML's error 15"
    world.pass_s(2)
    assert stream.device is CPU
    stream.see(streaming(CPU))
    [(severity, subject, message)] = world.placer.problems(world.streams)
    assert (severity, subject) == ("warning", "stream cam") and "the GPU is gone" in message


def test_nothing_of_a_gpu_is_looked_for_where_the_cpu_shall_decode() -> None:
    world = World("cpu", watched=False)
    stream = world.add("cam", DecodeMode.GPU)
    world.pass_s(5)
    assert stream.device is CPU and not world.told and not world.placer.takes(stream.spec)
    assert "capture.decode is cpu" in world.placer.warnings([stream.spec])[0]


@pytest.mark.parametrize(("mode", "says"), [("nvdec", True), ("auto", False)])
def test_no_gpu_is_a_problem_only_where_one_was_asked_for(mode: str, says: bool) -> None:
    world = World(mode, None)
    stream = world.add("cam")
    world.pass_s(2)
    stream.see(streaming())
    assert bool(list(world.placer.problems(world.streams))) is says
    assert not world.placer.warnings([stream.spec])


def test_whether_nvdec_would_take_one_more() -> None:
    world = World()
    spec = StreamSpec("new", "rtsp://cam/1")
    assert world.placer.takes(spec)
    assert not world.placer.takes(StreamSpec("new", "rtsp://cam/1", decode=DecodeMode.CPU))
    for i in range(40):
        world.add(f"cam-{i}").see(streaming(NVDEC))
    world.watch.figures = GpuFigures("a small one", 0.5, 0.9, 0, 80_000_000_000)
    world.pass_s(30)
    assert not world.placer.takes(spec)
    world.watch.figures = GpuFigures("a full one", 0.5, 0.1, 0, 1_000_000_000)
    assert not world.placer.takes(spec)


class Driver:
    def __init__(self, reads: int) -> None:
        self.reads, self.asked, self.closed = reads, threading.Event(), False

    def read(self) -> GpuFigures:
        self.asked.set()
        if not self.reads:
            raise OSError("the GPU is gone: NVML's error 15")
        self.reads -= 1
        return H100

    def close(self) -> None:
        self.closed = True


def test_figures_are_read_in_a_thread_and_grow_stale() -> None:
    now = [5.0]
    hangs = threading.Event()
    watch = GpuWatch(0, lambda index: Driver(9), lambda: now[0], lambda s: hangs.wait(60))
    assert watch.first.wait(10) and watch.figures is H100 and not watch.problem
    now[0] += 9
    assert watch.figures
    now[0] += 2
    assert watch.figures is None, "the driver hangs"


def eventually(condition: Callable[[], object]) -> None:
    """Wait a while for what a thread does; whether it did is the test's to say."""
    for _ in range(1000):
        if condition():
            break
        threading.Event().wait(0.01)


def test_a_gpu_that_is_lost_gives_no_figures_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facedetd.supervisor.decoders.PERIOD_S", 0.0)
    driver = Driver(3)
    watch = GpuWatch(0, lambda index: driver)
    eventually(lambda: watch.problem)
    assert watch.figures is None and "error 15" in watch.problem
    eventually(lambda: driver.closed)
    assert driver.closed, "NVML sees another driver only when all have let go"


@pytest.mark.parametrize("there_first", [True, False])
def test_a_gpu_that_comes_back_is_used_again(there_first: bool) -> None:
    """One of several that is lost must not cost its NVDEC till the daemon begins anew."""
    answers = [Driver(2), None, Driver(10**9)][0 if there_first else 1 :]
    paused: list[float] = []
    away, looks_again = threading.Event(), threading.Event()

    def make(index: int) -> Driver:
        found = answers.pop(0)
        if found is None:
            raise OSError("NVML knows no GPU 0: error 15")
        return found

    def pause(seconds: float) -> None:
        paused.append(seconds)
        if len(answers) == 1 and seconds > 1:
            away.set()
            looks_again.wait(10)
        if not answers:
            threading.Event().wait(0.01)

    watch = GpuWatch(0, make, pause=pause)
    assert away.wait(10) and watch.figures is None and "error 15" in watch.problem
    looks_again.set()
    eventually(lambda: watch.figures)
    assert watch.figures is H100 and not watch.problem
    assert [s for s in paused if s > 1] == [60.0] * (2 if there_first else 1)


def test_a_fault_of_ours_or_want_of_memory_does_not_end_the_watch(caplog: pytest.LogCaptureFixture) -> None:
    errors = [MemoryError(), MemoryError(), ValueError("nonsense")]
    said: list[str] = []

    def make(index: int) -> Driver:
        if errors:
            raise errors.pop(0)
        return Driver(10**9)

    def pause(seconds: float) -> None:
        said.append(watch.problem if seconds > 1 else "")
        threading.Event().wait(0.01)

    held = threading.Event()
    watch = GpuWatch(0, make, pause=lambda seconds: held.wait(10) and pause(seconds))
    held.set()
    eventually(lambda: watch.figures)
    assert watch.figures is H100 and not watch.problem
    words = [f"internal error ({name}), see the log" for name in ("MemoryError", "MemoryError", "ValueError")]
    assert said[:3] == words
    assert caplog.text.count("internal error while watching GPU 0") == 2  # one for each reason


def test_without_a_driver_it_is_known_at_once() -> None:
    watch = GpuWatch(0, lambda index: Nvml(index, "libnothing-of-that-name.so"))
    assert watch.first.wait(10) and watch.figures is None and "libnothing" in watch.problem


def test_a_decoder_on_nvdec_costs_the_cpu_little_and_has_no_loop_filter() -> None:
    video, sub = Video("h264", 1920, 1080, 25.0, reference_share=0.5), Video("h264", 640, 360, 15.0)
    cpu, nvdec = levels_of(video, sub), levels_of(video, sub, nvdec=True)
    assert [level.kind for level in nvdec] == [x.kind for x in cpu if x.kind is not DecodeLevel.NO_LOOP_FILTER]
    assert all(n.cores < c.cores for n, c in zip(nvdec[:1], cpu[:1], strict=True)) and nvdec[0].cores == 0.025
    assert [level.fps for level in nvdec] == [x.fps for x in cpu if x.kind is not DecodeLevel.NO_LOOP_FILTER]


def test_who_has_a_decoder_keeps_it_also_while_only_its_keyframes_are_decoded() -> None:
    """Of 60 cameras on a GPU with 60 decoders 20 are degraded when it refuses others: they have theirs still."""
    world = World("nvdec")
    has = [world.add(f"cam-{i}") for i in range(60)]
    world.pass_s(2)
    for i, stream in enumerate(has):
        level = DecodeLevel.KEYFRAMES if i % 3 == 0 else DecodeLevel.FULL
        stream.see(replace(streaming(NVDEC), level=level))
    late = [world.add(f"late-{i}") for i in range(10)]
    for _ in range(200):
        world.pass_s(1)
        for stream in late:
            stream.see(streaming(CPU, "NVDEC refuses it" if stream.device is NVDEC else ""))
    assert {stream.device for stream in has} == {NVDEC}
    assert len([name for name in world.told if name.startswith("late")]) < 40, "the GPU is known to be full"


def test_groups_are_filled_one_by_one_where_each_costs_a_gpu_memory() -> None:
    assert place({"a": 8}, 32, 16) is None
    assert place({"a": 8}, 32, 1) == "a"
    assert place({"a": 32}, 32, 1) is None


def test_each_gpu_is_judged_by_itself() -> None:
    watches: dict[int, Any] = {0: FakeWatch(H100), 1: FakeWatch(None), 2: FakeWatch(H100)}
    on = {"a": 0, "b": 1, "c": 2}
    told: list[str] = []
    now = [100.0]
    placer = DecoderPlacer("auto", [0, 1], on.get, told.append, watches.__getitem__, lambda: now[0])
    streams = [StreamRuntime(StreamSpec(name, "rtsp://cam/1"), Origin.API, None) for name in on]

    def pass_s(seconds: int) -> list[DecodeDevice]:
        for _ in range(seconds):
            now[0] += 1.0
            placer.tick(streams)
        return [stream.device for stream in streams]

    assert placer.has_gpu and placer.takes(streams[0].spec)
    assert pass_s(2) == [NVDEC, CPU, CPU], "the second is away, the third isn't used"
    placer.use([0, 2])
    assert pass_s(2) == [NVDEC, CPU, NVDEC]
    watches[0].figures = None
    assert pass_s(2) == [CPU, CPU, NVDEC]
    assert told == ["a", "c", "a"]


@pytest.mark.parametrize("mode", ["auto", "nvdec"])
def test_one_of_several_that_is_away_is_a_problem_of_its_own_streams_only(mode: str) -> None:
    watches: dict[int, Any] = {0: FakeWatch(H100), 1: FakeWatch(None)}
    watches[1].problem = "NVML knows no GPU 1: error 2"
    streams = [StreamRuntime(StreamSpec(n, "rtsp://cam/1", decode=DecodeMode.GPU), Origin.API, None) for n in "ab"]
    for stream in streams:
        stream.see(streaming())
    placer = DecoderPlacer(mode, [0, 1], {"a": 0, "b": 1}.get, lambda _: None, watches.__getitem__)
    on_cpu = "decode is gpu, but it is decoded on the CPU"
    assert list(placer.problems(streams)) == [
        ("warning", "nvdec", "streams of GPU 1 are decoded on the CPU: NVML knows no GPU 1: error 2"),
        ("warning", "stream a", f"{on_cpu}: NVDEC is full, or refused it a while ago"),
        ("warning", "stream b", f"{on_cpu}: NVML knows no GPU 1: error 2"),
    ]
    watches[1].figures = H100
    assert [subject for _, subject, _ in placer.problems(streams)] == ["stream a", "stream b"]
