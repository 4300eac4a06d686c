"""What each directive of the unit stops, and how to show that it is that directive: for the container of this folder
and for the emulated machine of ``tests/vm``.

A try of ``probe.py`` is made three times: in a service with the unit's whole confinement, where it must fail; in one
of root with none of it, where it must succeed; and in that one with nothing added but the directive, where it must fail
again. So what the directive is said to stop is possible here, and this directive alone stops it. That the whole unit
would still stop it without the directive is true of most, and no reason to leave one out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.system.conftest import Machine

UNIT = "/lib/systemd/system/facedetd.service"
OUTPUT = "/run/probe-found"
DIRECTORIES = ("RuntimeDirectory", "StateDirectory", "CacheDirectory", "LoadCredential")
"""What every service of the probe has, confined or not."""
TOGETHER = {"User": ("User", "Group"), "SystemCallFilter": ("SystemCallFilter", "SystemCallErrorNumber")}
"""Directives that mean something together only."""


@dataclass(frozen=True, slots=True)
class Row:
    """``tries`` of the probe are stopped by the directive ``by``. ``beside``: directives that both the service with it
    and the one without have, since root may do what an ordinary user may not. ``without``: the line of the service that
    hasn't it, where leaving it out means the same. ``needs_kernel``: why a container can't show it; empty: it can."""

    by: str
    tries: tuple[str, ...]
    beside: tuple[str, ...] = ()
    without: str = ""
    needs_kernel: str = ""


RIGHTS = "nspawn keeps that right back from root"
ROWS = (
    Row("User", ("read shadow", "read a file of another user")),
    Row("ProtectSystem", ("write /etc", "write /usr", "write /var/lib of others", "write /")),
    Row("ProtectHome", ("read /home", "read /root")),
    Row("PrivateTmp", ("see what others put in /tmp",)),
    Row("PrivateMounts", ("share mounts",)),
    Row("ProtectProc", ("see other processes",), beside=("User",)),
    Row("KeyringMode", ("share keys",), without="KeyringMode=shared", needs_kernel="nspawn forbids keyrings"),
    Row("CapabilityBoundingSet", ("become another user",)),
    Row("NoNewPrivileges", ("gain rights by a program",), beside=("User",)),
    Row("RestrictSUIDSGID", ("sudo bit",)),
    Row("RestrictNamespaces", ("new user namespace",)),
    Row("LockPersonality", ("personality",)),
    Row("RestrictRealtime", ("realtime",), needs_kernel=RIGHTS),
    Row("MemoryDenyWriteExecute", ("executable memory",)),
    Row("SystemCallArchitectures", ("call of 32 bits",)),
    Row("NoExecPaths", ("run what it wrote", "run from /dev/shm")),
    Row("PrivateDevices", ("read a disk",), needs_kernel="it has no devices"),
    Row("DevicePolicy", ("read a disk by a device of its own",), needs_kernel="it has no devices"),
    Row("RestrictAddressFamilies", ("packet socket", "netlink socket")),
    Row("ProtectClock", ("set the clock",), needs_kernel=RIGHTS),
    Row("ProtectHostname", ("set the hostname",)),
    Row("ProtectKernelLogs", ("kernel log",), needs_kernel=RIGHTS),
    Row("ProtectKernelModules", ("load a module",), needs_kernel=RIGHTS),
    Row("ProtectKernelTunables", ("kernel setting",), needs_kernel="nspawn mounts it read-only"),
    Row("ProtectControlGroups", ("control group",)),
    Row("SystemCallFilter", ("mount", "reboot")),
    Row("SystemCallFilter", ("bpf", "swap"), needs_kernel=RIGHTS),
)
SHOWN_OTHERWISE = {
    "AmbientCapabilities": "empty is what a unit has without it",
    "RemoveIPC": "test_shared_memory_goes_with_the_service",
    "UMask": "test_what_it_is_given",
    "LimitCORE": "test_what_it_is_given",
    "LimitNICE": "tests/vm",
    "LimitNOFILE": "tests/vm",
    "TasksMax": "tests/vm",
    "SystemCallErrorNumber": "test_a_refused_call_is_an_error_and_not_the_end",
}


def settings(unit: str) -> dict[str, list[str]]:
    """The lines of the unit's [Service] by the directive they set, comments left out."""
    found: dict[str, list[str]] = {}
    for line in unit.partition("[Service]\n")[2].partition("\n[")[0].splitlines():
        if name := re.match(r"(\w+)=", line):
            found.setdefault(name[1], []).append(line)
    return found


def confinement(unit: str) -> set[str]:
    """The directives that confine: all from its user on but those that give it something."""
    names = list(settings(unit))
    given = re.compile(r"Group|\w+Directory(Mode)?|LoadCredential")
    return {name for name in names[names.index("User") :] if not given.fullmatch(name)}


class Probes:
    """Services made of the installed unit's lines, in which the probe runs. ``bare`` and such are remembered."""

    def __init__(self, machine: Machine):
        """Stops the daemon: they use its directories."""
        self._machine = machine
        self.unit = machine.out("cat", UNIT) + "\n"
        self._lines = settings(self.unit)
        machine.run("systemctl", "stop", "facedetd")

    def lines(self, directives: Iterable[str]) -> list[str]:
        """Raises KeyError for one that the unit hasn't."""
        return [line for name in directives for each in TOGETHER.get(name, (name,)) for line in self._lines[each]]

    def whole(self, without: Iterable[str] = ()) -> list[str]:
        """All that confines, and all else but what starts the daemon itself."""
        skipped = {
            "Type",
            "NotifyAccess",
            "ExecStart",
            "ExecReload",
            "WatchdogSec",
            "Restart",
            *without,
        }
        return [line for name, lines in self._lines.items() if name not in skipped for line in lines]

    def bare(self, row: Row) -> Any:
        """What its tries give without it."""
        return self.run([*self.lines((*DIRECTORIES, *row.beside)), row.without], row.tries)

    def only(self, row: Row) -> Any:
        """What they give with it alone."""
        return self.run(self.lines((*DIRECTORIES, *row.beside, row.by)), row.tries)

    def run(self, lines: Iterable[str], tries: Iterable[str] = ()) -> Any:
        """What the probe prints in a service of these lines. Raises ContainerError where it can't run."""
        self.start(lines, "/usr/bin/python3", "-I", "/opt/probe.py", *tries)
        return json.loads(self._machine.out("cat", OUTPUT))

    def start(self, lines: Iterable[str], *command: str) -> None:
        """A service of one command, to its end. systemd opens its output before it confines it."""
        quoted = " ".join(f'"{word}"' for word in command)
        text = "\n".join(
            ["[Service]", *lines, "Type=oneshot", f"StandardOutput=truncate:{OUTPUT}", f"ExecStart={quoted}"]
        )
        self._machine.write("/run/systemd/system/probe.service", text + "\n")
        self._machine.run("systemctl", "daemon-reload")
        self._machine.run("systemctl", "start", "probe")


def prepare(machine: Machine) -> None:
    """Puts there what the probe tries to get at."""
    machine.write("/opt/probe.py", (Path(__file__).parent / "probe.py").read_text())
    for path in ("/srv/private", "/root/private", "/home/private"):
        machine.write(path, "x", 0o600)
    machine.write("/tmp/of-others", "x")
    machine.write("/etc/facedetd/credentials/door", "secret\n", 0o600)
    machine.run("install", "-m", "4755", "/usr/bin/id", "/opt/as-root")


def check(probes: Probes, whole: Any, row: Row) -> None:
    """The three runs of a row."""
    assert {name: whole[name] for name in row.tries if whole[name] == "done"} == {}, "the whole unit lets it through"
    without, with_it = probes.bare(row), probes.only(row)
    assert {name: said for name, said in without.items() if said != "done"} == {}, "fails without the directive, too"
    assert {name: said for name, said in with_it.items() if said == "done"} == {}, f"{row.by} alone doesn't stop it"
