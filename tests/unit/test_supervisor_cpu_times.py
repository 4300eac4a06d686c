"""CPU times of workers are of the moment they are asked for, whoever asked before."""

from types import SimpleNamespace
from typing import Any

import pytest

from facedetd.control import WorkerKind
from facedetd.supervisor import observe
from facedetd.supervisor.said import Beat


def test_stats_asked_for_by_others_leave_no_cpu_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    spent = 10.0
    monkeypatch.setattr(observe, "cpu_seconds", lambda pid: spent)
    process = SimpleNamespace(
        worker=SimpleNamespace(pid=7, lived_s=1.0, beat=Beat()), name="d", state="running", restarts=0, detail=""
    )
    groups: Any = SimpleNamespace(groups={"d": SimpleNamespace(process=process, streams=1)})
    processes = observe.Processes()
    processes.look(groups, ())
    spent = 10.25
    processes.view(groups, (), 1)  # a client wants stats
    spent = 11.0
    processes.look(groups, ())
    assert processes.spent_s[WorkerKind.DECODER] == 11.0
