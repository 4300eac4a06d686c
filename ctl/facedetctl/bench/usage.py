"""What a tree of processes has used: CPU time and memory, out of /proc (proc(5))."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

PROC = Path("/proc")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def descendants(pid: int, proc: Path = PROC) -> Iterator[int]:
    """The processes below ``pid``. Children of every thread: a spawning thread owns its children."""
    for children in sorted((proc / str(pid) / "task").glob("*/children")):
        try:
            found = [int(word) for word in children.read_text().split()]
        except OSError:  # the thread or the process has just ended
            continue
        for child in found:
            yield child
            yield from descendants(child, proc)


def cpu_seconds(pids: Iterable[int], proc: Path = PROC) -> float:
    """CPU time (user + system) of these processes and of their children that have ended and been waited for, so that a
    worker restarted meanwhile still counts. One that is gone counts as 0."""
    total = 0.0
    for pid in pids:
        try:
            stat = (proc / str(pid) / "stat").read_bytes()
        except OSError:
            continue
        # The second field is the name in parentheses, which may itself hold spaces and parentheses.
        fields = stat[stat.rindex(b")") + 1 :].split()
        # fields[0] is field 3 of proc(5): utime, stime, cutime and cstime are 14 to 17.
        total += sum(int(field) for field in fields[11:15]) / _TICKS_PER_S
    return total


def memory_bytes(pids: Iterable[int], proc: Path = PROC) -> int:
    """Memory that these processes would give back if all of them ended: the sum of their proportional set sizes without
    shared memory, plus every memfd one of them holds, once and whole (its pages are there whoever has touched them).

    The daemon's processes are not dumpable, so only root may see both; for others this is resident memory with shared
    libraries counted for each process, and of shared memory the largest share that one process has touched.
    """
    total = 0
    touched = 0
    segments: dict[tuple[int, int], int] = {}
    for pid in pids:
        folder = proc / str(pid)
        try:
            pss = _kib(folder / "smaps_rollup")
            segments.update(_memfds(folder))
            total += pss["Pss"] - pss.get("Pss_Shmem", 0)
        except OSError:
            resident = _kib_or_none(folder / "status")
            total += resident.get("RssAnon", 0) + resident.get("RssFile", 0)
            touched = max(touched, resident.get("RssShmem", 0))
    return 1024 * total + (sum(segments.values()) or 1024 * touched)


def _kib(path: Path) -> dict[str, int]:
    """The lines ``Name:  123 kB`` of a file. Raises OSError."""
    fields = (line.replace(":", " ").split() for line in path.read_text().splitlines())
    return {field[0]: int(field[1]) for field in fields if len(field) == 3 and field[2] == "kB"}


def _kib_or_none(path: Path) -> dict[str, int]:
    try:
        return _kib(path)
    except OSError:  # it has just ended
        return {}


def _memfds(folder: Path) -> dict[tuple[int, int], int]:
    """Bytes of each memfd that the process has open, by device and inode. Raises OSError where that may not be seen."""
    found = {}
    for link in (folder / "fd").iterdir():
        try:
            if not str(link.readlink()).startswith("/memfd:"):
                continue
            stat = link.stat()
        except FileNotFoundError:  # closed meanwhile
            continue
        found[stat.st_dev, stat.st_ino] = stat.st_blocks * 512
    return found
