"""All GPUs' figures, read beside the loop: from a libnvidia-ml made here, with a clock of the test's."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from facedetd.config.model import Config
from facedetd.control import GpuView
from facedetd.cuda.nvml import GpuFigures, Identity, Snapshot, open_gpus
from facedetd.supervisor import gpus as gpus_module
from facedetd.supervisor.gpus import AGAIN_S, LATE_S, Gpus, view_of
from tests import fake_nvml
from tests.fake_nvml import build, get, put

ON_CPU = replace(Config(), capture=replace(Config().capture, decode="cpu"))


def until(condition: Callable[[], object], what: str) -> None:
    for _ in range(5000):
        if condition():
            return
        time.sleep(0.002)
    raise AssertionError(f"not seen: {what}")


class Ended(BaseException):
    """Ends the thread, which has no other end than the process's."""


class Ending(Gpus):
    def _run(self) -> None:
        with contextlib.suppress(Ended):
            super()._run()


class World:
    """Gpus as the daemon has them, whose thread pauses only for a moment."""

    def __init__(self, open_all: Any) -> None:
        self.now, self.ended, self.rounds = 100.0, False, 0
        self.gpus = Ending(open_all, lambda: self.now, self._pause)

    def _pause(self, seconds: float) -> None:
        self.rounds += 1
        time.sleep(0.001)
        if self.ended:
            raise Ended

    def __enter__(self) -> World:
        self.gpus.look(Config())
        return self

    def __exit__(self, *_: object) -> None:
        self.ended = True
        assert self.gpus._thread is not None
        self.gpus._thread.join(10)
        assert not self.gpus._thread.is_alive()

    @property
    def indices(self) -> list[int]:
        return [view.index for view in self.gpus.views(())]

    @property
    def said(self) -> str:
        return "; ".join(message for _, _, message in self.gpus.problems())

    def another_round(self) -> None:
        before = self.rounds
        until(lambda: self.rounds > before + 1, "another round")


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What of it is the module's: asyncio speaks of garbage of tests before whenever that is collected."""
    return [record.getMessage() for record in caplog.records if record.name == gpus_module.__name__]


@pytest.fixture
def library(tmp_path: Path) -> Path:
    return build(tmp_path)


@pytest.fixture
def world(library: Path) -> Iterator[World]:
    put(library, "gpus", 2)
    with World(lambda: open_gpus(str(library))) as found:
        until(lambda: found.indices == [0, 1], "both GPUs")
        yield found


def test_what_is_told_is_seen_and_what_is_not_is_absent(world: World, library: Path) -> None:
    one = GpuView(
        1, "GPU-1", "a GPU of paper", "580.0", 0.4, 0.0, 19 * 10**9, 60 * 10**9, 80 * 10**9, None, 61.0, 312.5
    )
    assert world.gpus.views(())[1] == one
    put(library, "silent", fake_nvml.POWER | fake_nvml.MEMORY)
    without = replace(one, power_w=None, memory_used_bytes=None, memory_free_bytes=None, memory_total_bytes=None)
    until(lambda: world.gpus.views(())[1] == without, "the rest")
    assert world.indices == [0, 1] and not world.said


def test_while_all_are_there_nothing_is_opened_anew(world: World, library: Path) -> None:
    inits = get(library, "inits")
    world.now += 2 * AGAIN_S
    world.another_round()
    assert world.indices == [0, 1] and get(library, "inits") == inits


def test_a_gpu_that_is_lost_is_named_and_the_other_goes_on(world: World, library: Path) -> None:
    put(library, "gone", 2)
    until(lambda: world.indices == [0], "one is gone")
    assert world.said == "GPU 1: the GPU is gone: NVML's error 15"
    put(library, "gone", 0)
    until(lambda: world.indices == [0, 1], "it is back")
    assert not world.said


def test_where_something_is_missing_all_is_opened_anew_once_in_a_while(
    world: World, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NVML sees a GPU that was reset, or a driver that was loaded anew, only after all have let go."""
    put(library, "gone", 1)
    until(lambda: world.indices == [1], "one is gone")
    put(library, "gpus", 3)
    world.another_round()
    assert world.indices == [1], "nothing is opened anew at once"
    world.now += AGAIN_S
    until(lambda: world.indices == [1, 2], "the third")
    until(lambda: get(library, "users") == 2, "the others were closed")
    put(library, "fails", 9)
    world.now += AGAIN_S
    until(lambda: not world.indices, "none")
    until(lambda: world.said == "NVML can't be used: error 9", "why")
    put(library, "fails", 0)
    put(library, "gone", 0)
    world.now += AGAIN_S
    until(lambda: world.indices == [0, 1, 2], "all of them")
    until(lambda: not world.said, "all is well")


def test_a_call_that_hangs_makes_figures_absent_and_nobody_waits_for_it(world: World, library: Path) -> None:
    put(library, "hangs", 1)

    def late() -> bool:
        world.now += LATE_S + 1
        return not world.indices

    until(late, "the figures grow old")
    assert "driver hasn't answered" in world.said
    put(library, "hangs", 0)
    until(lambda: world.indices == [0, 1], "it answers again")
    assert not world.said


def test_figures_are_shown_while_the_driver_takes_its_time(world: World, library: Path) -> None:
    put(library, "hangs", 1)
    rounds = -1
    while rounds != world.rounds:  # till the thread stands
        rounds = world.rounds
        time.sleep(0.05)
    world.now += LATE_S - 1
    assert world.indices == [0, 1] and not world.said
    put(library, "hangs", 0)


def test_no_driver_is_no_error_and_one_that_comes_later_is_found(
    library: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    there = tmp_path / "later.so"
    with World(lambda: open_gpus(str(there))) as world:
        world.another_round()
        world.now += AGAIN_S
        world.another_round()
        assert not world.indices and not world.said and not logged(caplog)
        library.rename(there)
        world.now += AGAIN_S
        until(lambda: world.indices == [0], "the GPU")
    assert logged(caplog) == ["GPU 0: a GPU of paper, driver 580.0"]


def test_a_driver_that_can_not_be_used_is_logged_once_and_is_no_problem_of_ours(
    library: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    put(library, "fails", 18)
    with World(lambda: open_gpus(str(library))) as world:
        for _ in range(3):
            world.another_round()
            world.now += AGAIN_S
        assert not world.indices and not world.said
    assert logged(caplog) == ["no figures of GPUs: NVML can't be used: error 18"]


def test_a_fault_of_ours_shows_no_old_figures(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(readers: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr(gpus_module, "_read", fault)
    until(lambda: not world.indices, "none")
    until(lambda: "internal error (KeyError)" in world.said, "why")


@pytest.mark.parametrize(
    ("config", "reads"),
    [
        (Config(), True),
        (ON_CPU, False),
        (replace(ON_CPU, inference=replace(Config().inference, engine="tensorrt")), True),
    ],
)
def test_no_gpu_is_woken_where_none_is_wanted(config: Config, reads: bool) -> None:
    def end(seconds: float) -> None:
        raise Ended

    gpus = Ending(lambda: ([], []), pause=end)
    for _ in range(3):
        gpus.look(config)
    assert (gpus._thread is not None) is reads


def test_memory_of_the_daemons_own_processes() -> None:
    snapshot = Snapshot(Identity(0, "a", "u", "d"), GpuFigures("a"), {10: 100, 11: 20, 12: 3})
    assert view_of(snapshot, {9, 10, 12}).own_memory_bytes == 103
    assert view_of(snapshot, {9}).own_memory_bytes is None


def test_a_thread_that_cannot_be_had_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    opened = threading.Event()

    def open_none() -> Any:
        opened.set()
        raise FileNotFoundError("no driver")

    world = World(open_none)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError):
            world.gpus.look(Config())
    assert not opened.is_set()
    with world:
        assert opened.wait(10)
