"""Going over to another model: whole, or not at all."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from facedetd.config.model import Config
from facedetd.control import UnavailableError
from facedetd.supervisor.daemon import Daemon


def test_where_no_thread_can_be_had_to_watch_another_gpu_nothing_has_changed() -> None:
    done: list[str] = []

    def use(devices: tuple[int, ...]) -> None:
        raise RuntimeError("can't start new thread")

    old = Config()
    new = replace(old, inference=replace(old.inference, devices=(0, 1)))
    daemon: Any = SimpleNamespace(
        config=old,
        _desired=SimpleNamespace(refuse_when_stopping=lambda: None, apply=lambda registry: done.append("apply")),
        _decoders=SimpleNamespace(use=use),
        _units=SimpleNamespace(check=lambda fleet: None, make_current=lambda fleet: done.append("make_current")),
        _groups=SimpleNamespace(consume_by=lambda fleet: done.append("consume_by"), groups={}),
    )
    daemon._go_over_to = lambda fleet: Daemon._go_over_to(daemon, fleet)
    fleet: Any = SimpleNamespace(devices=(0, 1))
    with pytest.raises(RuntimeError):
        Daemon._take_over(daemon, new, None, fleet)  # type: ignore[arg-type]
    assert done == []
    assert daemon.config is old


def test_one_that_died_before_it_was_taken_is_not_taken() -> None:
    done: list[str] = []

    def check(fleet: object) -> None:
        raise UnavailableError("its process was ready, then died of SIGKILL")

    old = Config()
    daemon: Any = SimpleNamespace(
        config=old,
        _desired=SimpleNamespace(refuse_when_stopping=lambda: None, apply=lambda registry: done.append("apply")),
        _decoders=SimpleNamespace(use=lambda devices: done.append("use")),
        _units=SimpleNamespace(check=check, make_current=lambda fleet: done.append("make_current")),
        _groups=SimpleNamespace(consume_by=lambda fleet: done.append("consume_by"), groups={}),
    )
    daemon._go_over_to = lambda fleet: Daemon._go_over_to(daemon, fleet)
    fleet: Any = SimpleNamespace(devices=(0,))
    with pytest.raises(UnavailableError, match="SIGKILL"):
        Daemon._take_over(daemon, Config(), None, fleet)  # type: ignore[arg-type]
    assert done == []
    assert daemon.config is old
