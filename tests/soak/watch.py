"""Samples of a running daemon: what its processes hold (proc(5)) and what it says of itself."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from facedetd.v1 import daemon_pb2, stream_pb2
from tests.procfs import read_usage

KINDS = ("supervisor", "decoder", "inference", "other")
_COMMS = {"facedetd-decode": "decoder", "facedetd-infere": "inference"}
"""What workers call themselves (PR_SET_NAME keeps 15 characters)."""
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class ProcessSample:
    """One process: bytes, counts, seconds. ``start_ticks`` (since boot) tells it from a later one with its pid."""

    kind: str
    pid: int
    start_ticks: int
    age_s: float
    rss: int
    pss: int
    descriptors: int
    threads: int
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Sample:
    """``at_s`` since the beginning. ``memfd_bytes``: rings, each once. ``files``: in the daemon's own folder.
    ``fps`` and ``wanted_fps``: of the streams that stream. ``supervisor_cpu``: cores since the sample before; None
    where another supervisor was there.
    """

    at_s: float
    processes: tuple[ProcessSample, ...]
    zombies: tuple[int, ...]
    memfd_bytes: int
    files: int
    p50_ms: float
    p95_ms: float
    fps: float
    wanted_fps: float
    dropped: Mapping[str, int]
    streams: int
    watchers: int
    supervisor_cpu: float | None

    def of(self, kind: str) -> list[ProcessSample]:
        return [p for p in self.processes if p.kind == kind]


def may_look() -> bool:
    """Whether processes that dump no core show what they hold: to root only."""
    return os.geteuid() == 0


def state_of(pid: int) -> str:
    """The letter of proc(5), Z for a zombie; empty when the process is gone."""
    try:
        return (PROC / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return ""


def look_at(pid: int, supervisor: int) -> ProcessSample | None:
    """None when the process is gone or going."""
    folder = PROC / str(pid)
    usage = read_usage(pid)
    try:
        name = (folder / "comm").read_text().strip()
        rollup = dict(_kilobytes((folder / "smaps_rollup").read_text()))
        descriptors = sum(1 for _ in (folder / "fd").iterdir())
        threads = sum(1 for _ in (folder / "task").iterdir())
        uptime_s = float((PROC / "uptime").read_text().split()[0])
    except (OSError, ValueError):
        return None
    if usage is None or "Rss" not in rollup:
        return None
    return ProcessSample(
        kind="supervisor" if pid == supervisor else _COMMS.get(name, "other"),
        pid=pid,
        start_ticks=usage.start_ticks,
        age_s=uptime_s - usage.start_ticks / _TICKS_PER_S,
        rss=rollup["Rss"],
        pss=rollup["Pss"],
        descriptors=descriptors,
        threads=threads,
        cpu_s=usage.cpu_seconds,
    )


def _kilobytes(text: str) -> Iterable[tuple[str, int]]:
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        if rest.endswith(" kB"):
            yield name, int(rest.split()[0]) * 1024


def memfd_bytes(pids: Iterable[int]) -> int:
    """Memory of all memfds these processes hold, each counted once."""
    found: dict[tuple[int, int], int] = {}
    for pid in pids:
        try:
            links = list((PROC / str(pid) / "fd").iterdir())
        except OSError:
            continue
        for link in links:
            try:
                if str(link.readlink()).startswith("/memfd:"):
                    status = link.stat()
                    found[status.st_dev, status.st_ino] = status.st_blocks * 512
            except OSError:  # closed since
                continue
    return sum(found.values())


def files_below(*folders: Path) -> list[Path]:
    """All files of these folders; links aren't followed."""
    return [Path(root, name) for folder in folders for root, _, names in os.walk(folder) for name in names]


def take(
    at_s: float,
    pids: Iterable[int],
    supervisor: int,
    stats: daemon_pb2.GetStatsResponse,
    folder: Path,
    before: Sample | None,
) -> Sample:
    """A sample now. ``folder``: the only one that the daemon may make files in."""
    pids = list(pids)
    processes = [found for pid in pids if (found := look_at(pid, supervisor)) is not None]
    up = [s for s in stats.streams if s.status.state == stream_pb2.STREAM_STATE_STREAMING]
    dropped: dict[str, int] = {}
    for stream in stats.streams:
        for reason, count in stream.status.frames_dropped.items():
            dropped[reason] = dropped.get(reason, 0) + count
    return Sample(
        at_s=at_s,
        processes=tuple(processes),
        zombies=tuple(pid for pid in pids if state_of(pid) == "Z"),
        memfd_bytes=memfd_bytes(pids),
        files=len(files_below(folder)),
        p50_ms=stats.latency.p50.ToNanoseconds() / 1e6,
        p95_ms=stats.latency.p95.ToNanoseconds() / 1e6,
        fps=sum(s.status.actual_fps for s in up),
        wanted_fps=sum(s.spec.target_fps for s in up),
        dropped=dropped,
        streams=len(stats.streams),
        watchers=stats.watchers,
        supervisor_cpu=_supervisor_cpu(at_s, processes, before),
    )


def _supervisor_cpu(at_s: float, processes: Iterable[ProcessSample], before: Sample | None) -> float | None:
    now = next((p for p in processes if p.kind == "supervisor"), None)
    then = next(iter(before.of("supervisor")), None) if before else None
    if now is None or then is None or before is None or at_s <= before.at_s or now.start_ticks != then.start_ticks:
        return None
    return (now.cpu_s - then.cpu_s) / (at_s - before.at_s)


def gone_within(pids: Iterable[int], timeout_s: float) -> list[int]:
    """Wait until these processes are gone; returns those that are not, zombies too."""
    deadline = time.monotonic() + timeout_s
    left = list(pids)
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left = [pid for pid in left if state_of(pid)]
    return left
