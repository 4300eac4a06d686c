"""Going over to another model: whole, or not at all."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from facedetd.config.model import Config
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
        _units=SimpleNamespace(make_current=lambda fleet: done.append("make_current")),
        _groups=SimpleNamespace(consume_by=lambda fleet: done.append("consume_by"), groups={}),
    )
    daemon._go_over_to = lambda fleet: Daemon._go_over_to(daemon, fleet)
    fleet: Any = SimpleNamespace(devices=(0, 1))
    with pytest.raises(RuntimeError):
        Daemon._take_over(daemon, new, None, fleet)  # type: ignore[arg-type]
    assert done == []
    assert daemon.config is old
