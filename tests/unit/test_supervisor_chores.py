"""Faults of ours: what the supervisor does again and again goes on, and a worker gets another try."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from facedetd.supervisor.chores import Chores
from facedetd.supervisor.daemon import Daemon
from facedetd.supervisor.supervised import Supervised


def test_a_fault_is_said_once_stands_in_health_and_goes_with_the_next_success(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    chores, works = Chores(), [False]

    def chore() -> None:
        if not works[0]:
            raise KeyError("x")

    chores.do("load", chore)
    chores.do("load", chore)
    assert list(chores.problems()) == [("error", "load", "internal error (KeyError), see the log")]
    assert len([r for r in caplog.records if r.name.startswith("facedetd.")]) == 1
    works[0] = True
    chores.do("load", chore)
    assert list(chores.problems()) == []


def test_one_chore_that_fails_keeps_the_daemon_from_none_of_the_others() -> None:
    called: list[str] = []

    class Failing:
        def __init__(self, name: str):
            self._name = name

        def __getattr__(self, name: str) -> Any:
            def fail(*_: object) -> None:
                called.append(self._name)
                raise RuntimeError(self._name)

            return fail

    daemon: Any = object.__new__(Daemon)
    daemon._chores = Chores()
    daemon._groups, daemon._units, daemon._processes = Failing("groups"), Failing("units"), Failing("processes")
    daemon._decoders, daemon._desired = Failing("decoders"), SimpleNamespace(streams={})
    daemon._degrader, daemon._end_stuck = SimpleNamespace(is_due=True), Failing("workers").fail
    daemon._desk, daemon._gpus, daemon.config = Failing("desk"), Failing("gpus"), None
    for _ in range(2):
        daemon.tick()
    assert called == ["workers", "groups", "units", "processes", "decoders", "desk", "gpus"] * 2
    assert len(list(daemon._chores.problems())) == 7


def test_whatever_keeps_a_worker_from_being_made_it_is_tried_again() -> None:
    async def scene() -> None:
        failures = [MemoryError(), OSError(24, "Too many open files"), ValueError("a fault of ours")]

        def start() -> None:
            raise failures[0]

        supervised = Supervised("w", start, lambda worker: None)
        while failures:
            supervised.start_now()
            assert "can't be started" in supervised.problem
            assert supervised.next_try_s > 0
            failures.pop(0)
        supervised.retire()

    asyncio.run(scene())
