"""How much memory this process and its children may use: the machine's and that of the control groups around it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from facedetd.metrics.cgroups import memberships

_NO_LIMIT = 2**60
"""cgroup v1 says "none" by a number near 2^63."""


@dataclass(frozen=True, slots=True)
class Memory:
    """``limit``: bytes that can ever be had, and ``set_by`` the file that says so. ``room``: bytes that can be had now,
    page cache given back. ``high``: bytes above which the kernel slows the group down and takes pages back; None:
    nowhere."""

    limit: int
    set_by: str
    room: int
    high: int | None = None


@dataclass(frozen=True, slots=True)
class _Names:
    """Files of a memory control group, and what memory.stat calls page cache that nobody uses."""

    limit: str
    high: str
    used: str
    cache: str


_V1 = _Names("memory.limit_in_bytes", "memory.high", "memory.usage_in_bytes", "total_inactive_file")  # v1 has no high
_V2 = _Names("memory.max", "memory.high", "memory.current", "inactive_file")


def read_memory(proc: Path = Path("/proc"), root: Path = Path("/sys/fs/cgroup")) -> Memory:
    """The tightest of the machine's memory and the limits of this process's control groups (v1 or v2), from its own
    up to the root (cgroups(7)). A group that can't be read doesn't count. Raises OSError without /proc/meminfo."""
    machine = dict(_pairs((proc / "meminfo").read_text().replace(":", " ")))  # in KiB
    limit, room = machine["MemTotal"] << 10, machine["MemAvailable"] << 10
    set_by, highs = "the machine", []
    for folder, names in _groups(proc, root):
        high = _text(folder / names.high)
        if high.isdigit():  # else "max", or none
            highs.append(int(high))
        most = _text(folder / names.limit)
        if not most.isdigit() or int(most) >= _NO_LIMIT:  # "max", or it can't be read
            continue
        if int(most) < limit:
            limit, set_by = int(most), str(folder / names.limit)
        used = int(_text(folder / names.used) or 0)
        cache = dict(_pairs(_text(folder / "memory.stat"))).get(names.cache, 0)
        room = min(room, max(0, int(most) - used + cache))
    return Memory(limit, set_by, room, min(highs, default=None))


def _groups(proc: Path, root: Path) -> Iterator[tuple[Path, _Names]]:
    for group in memberships(proc):
        if not group.controllers:
            yield from ((folder, _V2) for folder in group.folders(root))
        elif "memory" in group.controllers:
            yield from ((folder, _V1) for folder in group.folders(root / "memory"))


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _pairs(text: str) -> Iterator[tuple[str, int]]:
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[1].isdigit():
            yield words[0], int(words[1])
