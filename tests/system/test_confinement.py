"""What systemd's confinement of the daemon really does: a probe runs in services made of the unit's lines and tries it.
``confine.py`` has the table. What nspawn keeps back from systemd or from root is shown in ``tests/vm``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.system.confine import (
    DIRECTORIES,
    ROWS,
    SHOWN_OTHERWISE,
    UNIT,
    Probes,
    check,
    confinement,
    prepare,
)
from tests.system.conftest import OPERATOR, Machine
from tests.system.container import wait_for

pytestmark = pytest.mark.timeout(300)
HERE = [row for row in ROWS if not row.needs_kernel]
NEEDED = (
    "write state", "write cache", "read configuration", "credential", "memfd", "niceness", "pidfd", "no cores",
    "not dumpable", "seccomp", "a thread", "tcp",
)  # fmt: skip


@pytest.fixture(scope="module")
def prepared(machine: Machine) -> Machine:
    wait_for("the daemon", machine.active)
    prepare(machine)
    return machine


@pytest.fixture(scope="module")
def probes(prepared: Machine) -> Iterator[Probes]:
    yield Probes(prepared)


@pytest.fixture(scope="module")
def confined(probes: Probes) -> Any:
    return probes.run(probes.whole())


@pytest.mark.parametrize("row", HERE, ids=lambda row: f"{row.by}: {row.tries[0]}")
def test_the_directive_is_what_stops_it(probes, confined, row):
    check(probes, confined, row)


def test_the_daemon_can_do_nothing_of_it(confined):
    # Those too that only an emulated machine can show to be the directive's doing
    assert [name for row in ROWS for name in row.tries if confined[name] == "done"] == []


@pytest.mark.parametrize("what", NEEDED)
def test_the_daemon_can(confined, what):
    assert confined[f"+ {what}"] == "done"


def test_every_directive_has_its_row(probes):
    assert confinement(probes.unit) == {row.by for row in ROWS} | SHOWN_OTHERWISE.keys()


def test_what_it_is_given(probes, confined):
    assert int(confined["CapEff"], 16) == int(confined["CapBnd"], 16) == 0
    assert (confined["NoNewPrivs"], confined["Seccomp"], confined["core"]) == ("1", "2", 0)
    assert confined["devices"] == [], "PrivateDevices=yes"
    assert confined["Uid"] != "0" and confined["umask"] == 0o077
    bare = probes.run(probes.lines(DIRECTORIES))
    assert (bare["umask"], bare["Uid"]) == (0o022, "0") and bare["core"] != 0


def test_shared_memory_goes_with_the_service(probes, prepared):
    def left(*directives: str) -> bool:
        probes.start(
            probes.lines((*DIRECTORIES, *directives)), "/usr/bin/python3", "-I", "/opt/probe.py", "leave memory"
        )
        segments = prepared.out("cat", "/proc/sysvipc/shm")
        return str(0xFACE) in segments

    assert not left("User", "RemoveIPC")
    assert left("User")
    prepared.run("ipcrm", "-M", str(0xFACE))


def test_a_refused_call_is_an_error_and_not_the_end(probes, confined):
    assert confined["mount"] == "EPERM"
    assert probes.run(probes.whole(without=("SystemCallErrorNumber",)), ("mount",)) == {"mount": "killed"}


def test_systemd_itself_thinks_well_of_it(prepared):
    text = prepared.out("systemd-analyze", "security", "--no-pager", "facedetd.service")
    level = float(re.search(r"Overall exposure level for facedetd.service: ([0-9.]+)", text)[1])
    assert level <= 2.0


def test_units_and_examples_are_what_systemd_understands(prepared):
    done = prepared.run(
        "systemd-analyze", "verify", "--man=no", UNIT, "/lib/systemd/system/facedetd.slice", check=False
    )
    assert "facedetd" not in done.stderr, done.stderr
    for example in ("camera-network.conf", "gpu.conf", "limits.conf"):
        unit = "facedetd.slice" if example == "limits.conf" else "facedetd.service"
        path = f"/run/systemd/system/{unit}.d/{example}"
        prepared.run("install", "-D", "-m", "644", f"/usr/share/doc/facedetd/examples/{example}", path)
        prepared.run("systemctl", "daemon-reload")
        said = prepared.run("systemd-analyze", "verify", "--man=no", f"/lib/systemd/system/{unit}", check=False).stderr
        prepared.run("rm", path)
        assert example not in said, said
    prepared.run("systemctl", "daemon-reload")


def test_the_daemon_runs_as_the_unit_says(prepared):
    prepared.run("systemctl", "start", "facedetd")
    wait_for("the daemon", prepared.active)
    pid = prepared.main_pid()
    for each in {str(pid), *prepared.out("pgrep", "-P", str(pid)).split()}:
        status = prepared.out("cat", f"/proc/{each}/status")
        assert re.search(r"^CapEff:\s*0+$", status, re.M) and re.search(r"^NoNewPrivs:\s*1$", status, re.M)
        assert re.search(r"^Seccomp:\s*2$", status, re.M)
    assert prepared.show("User", "Slice", "OOMPolicy") == ["facedetd", "facedetd.slice", "continue"]
    assert prepared.ctl("health", user=OPERATOR)[0]["state"] in ("running", "starting")
