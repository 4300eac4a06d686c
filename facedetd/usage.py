"""What processes take, asked so that it can be known inside the confined service: systemd's ProtectProc hides in /proc
whoever dumps no core, as all of the daemon's processes do, even from its own user."""

from __future__ import annotations

import os
import time
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PROCESS_CLOCK = 2


def cpu_seconds(pid: int) -> float | None:
    """CPU time of all threads of a process (user + system); None when it is gone.

    By its CPU clock, whose number is made of the pid as clock_getcpuclockid(3) makes it (glibc,
    kernel-posix-cpu-timers.h)."""
    try:
        return time.clock_gettime(~pid << 3 | _PROCESS_CLOCK)
    except OSError:
        return None


def own_resident_bytes(proc: Path = Path("/proc")) -> int:
    """Resident memory of this process, shared pages included: the second number of statm (proc(5)). 0 where /proc
    doesn't tell."""
    try:
        return int((proc / "self" / "statm").read_text().split()[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return 0
