"""What stands beside a failed test of the package (tests/system, tests/vm)."""

from __future__ import annotations

import subprocess
from types import SimpleNamespace
from typing import Any

import pytest

from tests.system.conftest import Machine, pytest_runtest_makereport
from tests.system.container import ContainerError


def report_of(run: Any, failed: bool = True) -> Any:
    machine = Machine(SimpleNamespace(run=run, out=None, write=None), "facedetd.deb")  # type: ignore[arg-type]
    hook: Any = pytest_runtest_makereport(SimpleNamespace(funcargs={"machine": machine}), None)  # type: ignore[arg-type]
    next(hook)
    with pytest.raises(StopIteration) as ended:
        hook.send(SimpleNamespace(failed=failed, sections=[]))
    return ended.value.value


def test_status_and_log_stand_beside_a_failure_only() -> None:
    def run(*command: str, check: bool) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 3, f"{command[0]} says", " so")

    assert [said for _, said in report_of(run).sections] == ["systemctl says so", "journalctl says so"]
    assert report_of(run, failed=False).sections == []


@pytest.mark.parametrize(
    "error",
    [
        ContainerError("the machine ended: panic"),
        BrokenPipeError(32, "Broken pipe"),
        subprocess.TimeoutExpired("systemctl", 120),
    ],
)
def test_a_machine_that_is_gone_leaves_the_failure_as_it_was(error: Exception) -> None:
    """An error of the hook would end the whole run and hide which test failed, and why."""

    def run(*command: str, check: bool) -> None:
        raise error

    sections = report_of(run).sections
    assert len(sections) == 2 and all(said == f"can't be asked: {error}" for _, said in sections)
