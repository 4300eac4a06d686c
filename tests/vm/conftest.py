"""One emulated machine for all tests, with the package installed in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.conftest import DEBS, Machine, pytest_runtest_makereport
from tests.system.container import wait_for
from tests.vm.machine import Vm, missing

__all__ = ["pytest_runtest_makereport"]  # a failure is shown with the unit's status and log, as in tests/system


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    named = os.environ.get("FACEDETD_DEB", "")
    if reason := missing() or ("" if named else "FACEDETD_DEB names no package: run make test-vm"):
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    debs = tmp_path_factory.mktemp("debs")
    shutil.copy(named, debs)
    try:
        with Vm(tmp_path_factory.mktemp("vm"), {DEBS: debs}) as vm:
            made = Machine(vm, Path(named).name)
            made.install(made.deb)
            made.add_users()
            wait_for("the daemon", made.active, 600, 3)
            yield made
    finally:
        shutil.rmtree(debs, ignore_errors=True)
