"""A worker process under its supervisor: real processes that end, hang, and say what no worker says."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from facedetd import ipc
from facedetd.control import WorkerKind
from facedetd.ipc import MAX_MESSAGE, Message
from facedetd.supervisor import restarts
from facedetd.supervisor.said import number
from facedetd.supervisor.spawn import kill_leftovers
from facedetd.supervisor.supervised import Supervised
from facedetd.supervisor.workers import Worker
from facedetd.types import Secret
from tests.descriptors import descriptors

TARGETS = "tests.worker_processes"


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 - what is waited for happens in another process
        await asyncio.sleep(0.01)


class Watched:
    def __init__(self, target: str, boot: Any = None, act: Callable[[Message], None] = lambda message: None):
        self.heard: list[Message] = []
        self.words = ""
        self._act = act
        self.worker = Worker(WorkerKind.DECODER, "test", f"{TARGETS}:{target}", boot, (), self._hear, self._exited)

    def _hear(self, worker: Worker, message: Message, fds: list[int]) -> None:
        self.heard.append(message)
        self._act(message)

    def _exited(self, worker: Worker) -> None:
        self.words = worker.exit_words

    async def end(self) -> None:
        await asyncio.wait_for(self.worker.ended.wait(), 30)

    async def until(self, condition: Callable[[], object]) -> None:
        await asyncio.wait_for(until(condition), 30)


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


def standard_input(pid: int) -> str:
    return str(Path(f"/proc/{pid}/fd/0").readlink())


def children() -> set[str]:
    """All of this process's: zombies and helpers too."""
    found: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # a thread of a test before, which has just ended
            found |= set((task / "children").read_text().split())
    return found


def run(test: Any) -> None:
    before = children()
    try:
        asyncio.run(test)
    finally:
        kill_leftovers()
    assert not children() - before


def test_a_worker_lives_talks_and_is_reaped() -> None:
    async def test() -> None:
        w = Watched("talk", [{"ev": "ready"}, {"ev": "beat"}, {"ev": "other", "n": 1}])
        await w.until(lambda: len(w.heard) == 3)
        assert w.worker.ready
        w.worker.send({"op": "stop"})
        await w.end()
        assert w.words == "ended with status 3"
        assert not alive(w.worker.pid)

    run(test())


def test_the_last_words_of_one_that_dies_with_ours_unread_are_heard() -> None:
    async def test() -> None:
        w = Watched("last_words", {})
        w.worker.send({"op": "ring"})
        await w.end()
        assert w.heard == [{"ev": "unusable"}]
        assert w.words == "ended with status 4"

    run(test())


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        ([{"ev": "beat", "busy_ns": "long"}], "busy_ns"),
        ([{"ev": "beat", "timings": [[1]]}], "timings"),
        ([{"ev": "ready"}, {"ev": "ready"}], "second time"),
        ([{"ev": "count", "n": None}], "n is None"),
        ([{"ev": "boom"}], "could not be acted on"),
        ([{"ev": ["list"]}, {"ev": "boom"}], "could not be acted on"),
    ],
)
def test_one_that_says_nonsense_is_killed_and_not_heard_any_more(messages: list[Message], why: str) -> None:
    def act(message: Message) -> None:
        if message["ev"] == "count":
            number(message, "n")
        if message["ev"] == "boom":
            raise KeyError("a fault of our own")

    async def test() -> None:
        w = Watched("talk", [*messages, {"ev": "late"}], act)
        await w.end()
        assert why in w.words
        assert {"ev": "late"} not in w.heard

    run(test())


@pytest.mark.parametrize("data", [b"no json", b"[" * 50_000, b"x" * (MAX_MESSAGE + 1)], ids=["words", "deep", "long"])
def test_one_that_says_what_is_no_message_is_killed(data: bytes) -> None:
    async def test() -> None:
        w = Watched("raw", data)
        await w.end()
        assert w.heard == []
        assert "killed" in w.words

    run(test())


def no_memory(*_: object) -> None:
    raise MemoryError


def test_a_message_there_is_no_memory_for_costs_a_worker_its_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is lost, and may be the one that somebody waits for."""

    async def test() -> None:
        w = Watched("talk", [{"ev": "ready"}])
        monkeypatch.setattr(ipc, "_parse", no_memory)
        await w.end()
        assert w.heard == []
        assert w.words == "was killed: what it said could not be taken in"

    run(test())


def test_last_words_there_is_no_memory_for_cost_nobody_a_successor(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        w = Watched("last_words", {})
        w.worker.send({"op": "ring"})
        monkeypatch.setattr(w.worker, "_hear", no_memory)
        await w.end()
        assert w.words == "ended with status 4" or "could not be taken in" in w.words

    run(test())


def test_one_that_never_stops_talking_does_not_hold_up_the_loop() -> None:
    async def test() -> None:
        w = Watched("flood")
        await w.until(lambda: len(w.heard) > 1000)  # this needs turns of the loop of its own
        w.worker.kill("it talks too much")
        await w.end()
        assert w.words == "was killed: it talks too much"

    run(test())


def test_descriptors_that_nobody_wanted_are_closed() -> None:
    async def test() -> None:
        w = Watched("send_descriptors")
        before = descriptors()
        await w.until(lambda: w.worker.ready)
        assert len(w.heard) == 51
        assert not descriptors() - before
        w.worker.kill("done")
        await w.end()

    run(test())


def test_one_that_lets_go_of_its_descriptors_and_lives_on_is_ended_without_waiting_for_it() -> None:
    async def test() -> None:
        w = Watched("let_go_of_everything")
        await w.end()
        assert w.words == "was killed: it closed its control channel"

    run(test())


def test_a_worker_leaves_no_descriptor_behind() -> None:
    async def test() -> None:
        before = descriptors()
        for _ in range(4):
            w = Watched("talk", [{"ev": "ready"}])
            await w.until(lambda w=w: w.worker.ready)  # type: ignore[misc]
            os.kill(w.worker.pid, signal.SIGKILL)
            await w.end()
        assert not descriptors() - before
        assert w.words == "died of SIGKILL"

    run(test())


def test_an_owner_that_fails_on_the_news_still_gets_a_successor(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        started = []

        def start() -> Worker:
            boot = [{"ev": "ready"}]
            worker = Worker(WorkerKind.DECODER, "w", f"{TARGETS}:talk", boot, (), lambda *_: None, supervised.exited)
            started.append(worker)
            return worker

        def down(worker: Worker) -> None:
            raise KeyError("a fault of our own")

        supervised = Supervised("w", start, down)
        supervised.start_now()
        await until(lambda: started[0].ready)
        started[0].kill("test")
        await asyncio.wait_for(started[0].ended.wait(), 30)
        await until(lambda: len(started) == 2)
        assert supervised.restarts == 1
        supervised.retire()
        started[1].kill("test")
        await asyncio.wait_for(started[1].ended.wait(), 30)

    run(asyncio.wait_for(test(), 60))
    assert "a fault of our own" in caplog.text


def test_one_that_was_given_up_is_tried_again_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """And stays given up until it is ready, so that health and state don't flicker."""
    monkeypatch.setattr(restarts, "GIVEN_UP_S", 1.5)  # longer than it takes to see that it waits
    monkeypatch.setattr(restarts, "BOOT_FAILURES", 1)

    async def test() -> None:
        boots: list[list[Message]] = [[], [], [{"ev": "ready"}]]
        halted: list[bool] = []

        def hear(worker: Worker, message: Message, fds: list[int]) -> None:
            halted.append(supervised.halted)

        def start() -> Worker:
            halted.append(supervised.halted)
            return Worker(WorkerKind.DECODER, "w", f"{TARGETS}:talk", boots.pop(0), (), hear, supervised.exited)

        supervised = Supervised("w", start, lambda worker: None)
        supervised.start_now()
        for _ in range(2):
            await until(lambda: supervised.worker)
            supervised.worker.kill("test")
            await until(lambda: supervised.state == "halted")
            assert supervised.next_try_s > 0
        await until(lambda: supervised.state == "running")
        assert halted == [False, True, True, False]
        supervised.retire()
        supervised.worker.kill("done")
        await asyncio.wait_for(supervised.worker.ended.wait(), 30)

    run(asyncio.wait_for(test(), 60))


def test_a_worker_is_the_supervisor_s_only_child_and_starts_with_nothing_of_its_input() -> None:
    async def test() -> None:
        before = children()
        w = Watched("talk", [{"ev": "ready"}])
        await w.until(lambda: w.worker.ready)
        assert children() - before == {str(w.worker.pid)}
        assert standard_input(w.worker.pid) == os.devnull
        w.worker.kill("done")
        await w.end()

    run(test())


def test_a_start_that_fails_for_want_of_descriptors_is_tried_again() -> None:
    async def test() -> None:
        def start() -> Worker:
            raise OSError(24, "Too many open files")

        supervised = Supervised("w", start, lambda worker: None)
        supervised.start_now()
        assert (supervised.state, supervised.worker) == ("waiting", None)
        assert "Too many open files" in supervised.detail
        assert supervised._timer
        supervised.stop()
        assert supervised._timer is None
        supervised.start_now()
        assert supervised._timer is None  # retired for good

    run(test())


def test_leftovers_are_killed_though_they_ignore_sigterm() -> None:
    async def test() -> int:
        w = Watched("talk", [{"ev": "ready"}])
        await w.until(lambda: w.worker.ready)
        os.kill(w.worker.pid, signal.SIGTERM)
        await asyncio.sleep(0.1)
        assert alive(w.worker.pid)
        return w.worker.pid

    pid = asyncio.run(test())
    kill_leftovers()
    assert not alive(pid)


def test_no_secret_is_seen_in_a_worker_s_arguments() -> None:
    async def test() -> None:
        w = Watched("talk", [{"ev": "ready", "secret": Secret("hunter2").value}])
        await w.until(lambda: w.worker.ready)
        assert "hunter2" not in command_line(w.worker.pid)
        w.worker.kill("done")
        await w.end()

    run(test())
