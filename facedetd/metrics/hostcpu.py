"""How much CPU the daemon may use and how much of that nobody uses: /proc/stat (proc(5)) and the cgroup's quota."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from facedetd.metrics.cgroups import memberships

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_IDLE, _IOWAIT = 3, 4  # of a cpu line's numbers


@dataclass(frozen=True, slots=True)
class Quota:
    """CPU that a cgroup may use (``cores``) and has used (``used_s``, core-seconds)."""

    cores: float
    used_s: float


def idle_seconds(stat: str, cpus: Collection[int]) -> float:
    """Core-seconds since boot in which the CPUs of these numbers were idle; from the text of /proc/stat.
    Raises ValueError when the text isn't what proc(5) says."""
    ticks = 0
    for line in stat.splitlines():
        name, _, rest = line.partition(" ")
        if name[:3] == "cpu" and name[3:].isdigit() and int(name[3:]) in cpus:
            numbers = rest.split()
            if len(numbers) <= _IOWAIT:
                raise ValueError(f"/proc/stat: {line!r}")
            ticks += int(numbers[_IDLE]) + int(numbers[_IOWAIT])
    return ticks / _TICKS_PER_S


def read_quotas(proc: Path = Path("/proc"), root: Path = Path("/sys/fs/cgroup")) -> list[Quota]:
    """The quotas that hold for this process, its own cgroup's and those above it (cgroup v2); none where none is
    set or where it can't be known."""
    own = [group for group in memberships(proc) if not group.controllers]
    return [quota for group in own for folder in group.folders(root) if (quota := _quota(folder))]


def _quota(folder: Path) -> Quota | None:
    try:
        most, period = (folder / "cpu.max").read_text().split()
        if most == "max":
            return None
        used = dict(line.split() for line in (folder / "cpu.stat").read_text().splitlines())
        return Quota(int(most) / int(period), int(used["usage_usec"]) / 1e6)
    except (OSError, ValueError, KeyError, ZeroDivisionError):
        return None


class HostCpu:
    """``cores`` and ``idle_s`` as of the last :meth:`look`. ``idle_s`` (core-seconds) only ever grows; it is 0 at
    first."""

    def __init__(self, proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")):
        self._proc, self._cgroups = proc, cgroups
        self._last: tuple[float, float, list[Quota]] | None = None
        self.cores = float(len(os.sched_getaffinity(0)))
        self.idle_s = 0.0

    def look(self, now_s: float) -> None:
        """``now_s`` is monotonic. Where /proc/stat can't be read nothing counts as idle."""
        cpus = os.sched_getaffinity(0)
        quotas = read_quotas(self._proc, self._cgroups)
        self.cores = min([float(len(cpus)), *(q.cores for q in quotas)])
        try:
            idle_s = idle_seconds((self._proc / "stat").read_text(), cpus)
        except (OSError, ValueError):
            return
        if self._last is not None:
            then_s, before_s, before = self._last
            unused = [idle_s - before_s]
            if len(before) == len(quotas):
                unused += [
                    q.cores * (now_s - then_s) - (q.used_s - old.used_s) for old, q in zip(before, quotas, strict=True)
                ]
            self.idle_s += max(0.0, min(unused))
        self._last = now_s, idle_s, quotas
