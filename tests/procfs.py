"""A process's CPU time and memory from /proc (proc(5))."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """CPU time of all threads (user + system), resident memory (shared pages included), and the start time in
    clock ticks since boot, which tells a process from a later one with the same pid."""

    cpu_seconds: float
    resident_bytes: int
    start_ticks: int


def read_usage(pid: int, proc: Path = Path("/proc")) -> ProcessUsage | None:
    """None when the process is gone or can't be read. A zombie has its CPU time and no memory."""
    try:
        with open(f"{proc}/{pid}/stat", "rb") as file:  # noqa: PTH123 - each second for each process: a Path costs more
            stat = file.read()
        # The second field is the name in parentheses, which may itself hold spaces and parentheses.
        fields = stat[stat.rindex(b")") + 1 :].split()
        # fields[0] is field 3 of proc(5): utime is 14, stime 15, starttime 22, rss 24.
        cpu_ticks = int(fields[11]) + int(fields[12])
        return ProcessUsage(cpu_ticks / _TICKS_PER_S, int(fields[21]) * _PAGE_BYTES, int(fields[19]))
    except (OSError, ValueError, IndexError):  # vanished between two reads, or hidden from us
        return None
