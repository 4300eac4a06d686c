"""Debian with a real systemd as PID 1, booted by systemd-nspawn on a host that itself needs no systemd.

The root is an overlay over the base, so that what a test does to it can be looked at and survives a reboot.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

BOOT_S, STOP_S = 90.0, 30.0
ENVIRONMENT = ("env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8", "SYSTEMD_COLORS=0",
               "SYSTEMD_PAGER=", "DEBIAN_FRONTEND=noninteractive")  # fmt: skip
# nspawn gives version 1 controllers read-only, and then units could set no limits
INIT = """
for controller in memory pids cpu cpuacct blkio devices; do
  mount -o remount,bind,rw /sys/fs/cgroup/$controller 2>/dev/null
done
exec /lib/systemd/systemd
"""


class ContainerError(Exception):
    pass


class Container:
    """A context manager: the overlay and the network namespace are there inside it; :meth:`boot` starts systemd."""

    def __init__(self, base: Path, folder: Path, name: str, shared: Mapping[str, Path] = {}):
        """``shared``: paths inside to folders of the host, read-only."""
        self.name = name
        self.netns = name
        self.root, self.changes = folder / "root", folder / "changes"
        self._base, self._folder, self._shared = base, folder, shared
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._leader = 0
        self._cgroups: list[Path] = []

    def __enter__(self) -> Container:
        work = self._folder / "work"
        for each in (self.root, self.changes, work):
            each.mkdir(parents=True)
        layers = f"lowerdir={self._base},upperdir={self.changes},workdir={work}"
        _run("mount", "-t", "overlay", "overlay", "-o", layers, str(self.root))
        try:
            _run("ip", "netns", "add", self.netns)
            _run("ip", "-n", self.netns, "link", "set", "lo", "up")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.power_off()
        subprocess.run(["ip", "netns", "delete", self.netns], capture_output=True, check=False)
        # A gigabyte that pytest would keep; not below a root that is still mounted
        if subprocess.run(["umount", str(self.root)], check=False).returncode == 0:
            shutil.rmtree(self._folder, ignore_errors=True)

    def boot(self) -> str:
        """Returns what ``systemctl is-system-running`` says once all is started. Raises ContainerError."""
        self._cgroups = _make_cgroups(self.name)
        command = [
            "systemd-nspawn", "--quiet", "--directory", str(self.root), "--machine", self.name, "--register=no",
            "--keep-unit", "--kill-signal=SIGRTMIN+3", "--console=pipe", "--link-journal=no", "--resolv-conf=off",
            "--timezone=off", f"--network-namespace-path=/run/netns/{self.netns}",
            *(f"--bind-ro={outside}:{inside}" for inside, outside in self._shared.items()), "/bin/sh", "-c", INIT,
        ]  # fmt: skip
        console = self._folder / "console"
        join = 'while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs"; shift; done; shift; exec "$@"'
        with console.open("ab") as out:
            self._nspawn = subprocess.Popen(
                ["sh", "-c", join, "join", *map(str, self._cgroups), "--", *command],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip
        state = "nothing"
        until = time.monotonic() + BOOT_S
        while time.monotonic() < until and self._nspawn.poll() is None:
            self._leader = self._leader or _systemd_below(self._nspawn.pid)
            if self._leader:
                state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
                if state in ("running", "degraded"):
                    return state
            time.sleep(0.1)
        raise ContainerError(f"no boot, last state {state}: {console.read_text(errors='replace')[-2000:]}")

    def power_off(self) -> None:
        """In order, as systemd does it; by force after STOP_S."""
        if self._nspawn is not None and self._nspawn.poll() is None:
            self._nspawn.terminate()
            try:
                self._nspawn.wait(STOP_S)
            except subprocess.TimeoutExpired:
                if self._leader:
                    os.kill(self._leader, signal.SIGKILL)
                self._nspawn.kill()
                self._nspawn.wait(STOP_S)
        self._nspawn, self._leader = None, 0
        for each in self._cgroups:
            for below in sorted((p for p in each.rglob("*") if p.is_dir()), reverse=True):
                _rmdir(below)
            _rmdir(each)
        self._cgroups = []

    def run(
        self, *command: str, user: str = "", check: bool = True, text_in: str = "", timeout_s: float = 120.0
    ) -> subprocess.CompletedProcess[str]:
        """A command inside, in all namespaces. ``user``: with that user's groups. Raises ContainerError when
        ``check`` and it fails, and TimeoutExpired."""
        as_user = ["runuser", "-u", user, "--"] if user else []
        done = subprocess.run(
            ["nsenter", "-t", str(self._leader), "-a", *ENVIRONMENT, *as_user, *command],
            input=text_in, capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip
        if check and done.returncode != 0:
            raise ContainerError(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def out(self, *command: str, user: str = "") -> str:
        return self.run(*command, user=user).stdout.strip()

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """A file inside, owned by root; goes through the container, whose view of the overlay is the one in use."""
        self.run("install", "-D", "-m", f"{mode:o}", "/dev/stdin", path, text_in=text)

    def files(self) -> set[str]:
        """Every path of the root's own file system that isn't for the moment only."""
        prune = [w for path in ("/proc", "/sys", "/dev", "/run", "/tmp") for w in ("-path", path, "-o")][:-1]
        found = self.out("find", "/", "-xdev", "(", *prune, ")", "-prune", "-o", "-print")
        return set(found.splitlines())


def _systemd_below(nspawn: int) -> int:
    try:
        children = Path(f"/proc/{nspawn}/task/{nspawn}/children").read_text().split()
        return next((int(p) for p in children if Path(f"/proc/{p}/comm").read_text() == "systemd\n"), 0)
    except OSError:
        return 0


def _make_cgroups(name: str) -> list[Path]:
    """A group for the container below ours in every hierarchy: its systemd makes its own root of it."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    made = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        kind = "cgroup" if controllers else "cgroup2"
        wanted = set(controllers.split(",")) - {""}
        at = next((m[1] for m in mounts if m[2] == kind and wanted <= set(m[3].split(","))), None)
        if at is None:
            continue
        group = Path(at) / path.lstrip("/") / name
        try:
            group.mkdir(exist_ok=True)
            if "cpuset" in wanted:  # empty in a new one, and then nothing may join
                for file in ("cpuset.cpus", "cpuset.mems"):
                    (group / file).write_text((group.parent / file).read_text())
        except OSError:
            continue
        made.append(group)
    return made


def _rmdir(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ContainerError(f"{' '.join(command)}: {done.stderr.strip()}")


def wait_for(what: str, holds: Callable[[], object], timeout_s: float = 60.0, pause_s: float = 0.3) -> None:
    """``holds`` is called until it is true; it fails the test only where it never becomes so."""
    until = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < until, f"waited {timeout_s:.0f} s for: {what}"
        time.sleep(pause_s)
