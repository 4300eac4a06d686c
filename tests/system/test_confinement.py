"""What systemd's confinement of the daemon really does: a probe runs in a copy of the unit and tries it.

The table has a row for each thing tried and the directive that stops it. Not shown here, because nspawn doesn't let
systemd do it: LimitNOFILE above 20000, MemoryMax and IPAddressDeny with control groups of version 1.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.system.conftest import OPERATOR, Machine
from tests.system.container import wait_for

pytestmark = pytest.mark.timeout(300)
FOUND = "/var/lib/facedetd/probe.json"
UNIT = "/lib/systemd/system/facedetd.service"

# What is tried, what stops it
STOPPED = {
    "write /etc": "ProtectSystem=strict",
    "write /usr": "ProtectSystem=strict",
    "write /var/tmp of others": "ProtectSystem=strict",
    "write /": "ProtectSystem=strict",
    "read /home": "ProtectHome=yes",
    "read /root": "ProtectHome=yes",
    "read shadow": "User=",
    "read a file of another user": "User=",
    "see what others put in /tmp": "PrivateTmp=yes",
    "become root": "CapabilityBoundingSet=",
    "sudo bit": "RestrictSUIDSGID=yes",
    "new user namespace": "RestrictNamespaces=yes",
    "mount": "SystemCallFilter=",
    "set the clock": "ProtectClock=yes",
    "set the hostname": "ProtectHostname=yes",
    "realtime": "RestrictRealtime=yes",
    "packet socket": "RestrictAddressFamilies=",
    "netlink socket": "RestrictAddressFamilies=",
    "executable memory": "MemoryDenyWriteExecute=yes",
    "run what it wrote": "NoExecPaths=",
    "personality": "LockPersonality=yes",
    "kernel log": "ProtectKernelLogs=yes",
    "kernel setting": "ProtectKernelTunables=yes",
    "control group": "ProtectControlGroups=yes",
    "load a module": "ProtectKernelModules=yes",
    "bpf": "SystemCallFilter=",
    "swap": "SystemCallFilter=",
    "reboot": "SystemCallFilter=",
    "see other processes": "ProtectProc=invisible",
}
NEEDED = (
    "write state", "write cache", "read configuration", "credential", "memfd", "niceness", "pidfd", "no cores",
    "not dumpable", "seccomp", "a thread", "tcp",
)  # fmt: skip


def probe(machine: Machine, unit: str) -> Any:
    """What the probe finds in a service made of ``unit``'s text."""
    text = re.sub(
        r"^Exec(StartPre|Start|Reload)=.*\n|^(Type|NotifyAccess|WatchdogSec|Restart)=.*\n", "", unit, flags=re.M
    )
    text = text.replace(
        "[Service]\n", f"[Service]\nType=oneshot\nExecStart=/usr/bin/python3 -I /opt/probe.py {FOUND}\n", 1
    )
    machine.write("/run/systemd/system/probe.service", text)
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "stop", "facedetd")
    try:
        machine.run("systemctl", "start", "probe")
        return json.loads(machine.out("cat", FOUND))
    finally:
        machine.run("rm", "-f", FOUND)
        machine.run("systemctl", "start", "facedetd")


@pytest.fixture(scope="module")
def prepared(machine: Machine) -> Machine:
    """With what the probe tries to get at."""
    machine.write("/opt/probe.py", (Path(__file__).parent / "probe.py").read_text())
    machine.write("/srv/private", "x", 0o600)
    machine.write("/tmp/of-others", "x")
    machine.write("/etc/facedetd/credentials/door", "secret\n", 0o600)
    wait_for("the daemon", machine.active)
    return machine


@pytest.fixture(scope="module")
def confined(prepared: Machine) -> Any:
    return probe(prepared, prepared.out("cat", UNIT) + "\n")


@pytest.fixture(scope="module")
def open_wide(prepared: Machine) -> Any:
    """The same as root without any confinement: the probe's attempts do work where nothing stops them."""
    keep = ("Runtime", "State", "Cache", "LoadCredential")
    unit = "[Service]\n" + "\n".join(line for line in prepared.out("cat", UNIT).splitlines() if line.startswith(keep))
    return probe(prepared, unit + "\n")


@pytest.mark.parametrize("what", STOPPED, ids=lambda what: f"{what}: {STOPPED[what]}")
def test_the_daemon_can_not(confined, what):
    assert confined[what] != "done"


def test_the_probe_would_notice(open_wide):
    # What root can't do in a container either, or not in the form tried
    away = {"set the clock", "load a module", "reboot", "swap", "kernel log", "kernel setting", "control group",
            "bpf", "become root", "realtime", "packet socket"}  # fmt: skip
    assert {what: open_wide[what] for what in STOPPED if open_wide[what] != "done" and what not in away} == {}


@pytest.mark.parametrize("what", NEEDED)
def test_the_daemon_can(confined, what):
    assert confined[f"+ {what}"] == "done"


def test_no_rights_and_none_to_gain(confined):
    assert int(confined["CapEff"], 16) == int(confined["CapBnd"], 16) == 0
    assert (confined["NoNewPrivs"], confined["Seccomp"], confined["core"]) == ("1", "2", 0)
    assert confined["devices"] == [], "PrivateDevices=yes"
    assert confined["Uid"] != "0" and confined["umask"] == 0o077


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
    wait_for("the daemon", prepared.active)
    pid = prepared.main_pid()
    for each in {str(pid), *prepared.out("pgrep", "-P", str(pid)).split()}:
        status = prepared.out("cat", f"/proc/{each}/status")
        assert re.search(r"^CapEff:\s*0+$", status, re.M) and re.search(r"^NoNewPrivs:\s*1$", status, re.M)
        assert re.search(r"^Seccomp:\s*2$", status, re.M)
    assert prepared.show("User", "Slice", "OOMPolicy") == ["facedetd", "facedetd.slice", "continue"]
    assert prepared.ctl("health", user=OPERATOR)[0]["state"] in ("running", "starting")
