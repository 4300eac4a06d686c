"""Damage to the daemon's processes: who they are, what they hold, and how long streams take to come back."""

from __future__ import annotations

import os
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from facedetctl.local import LocalDaemon
from facedetd.capture.guard_seccomp import _MAX_IDLE
from facedetd.supervisor import seen_luma
from facedetd.v1 import daemon_pb2
from tests.integration.daemon_kit import Watch, stats, stream, until

DECODER, INFERENCE = daemon_pb2.WORKER_KIND_DECODER, daemon_pb2.WORKER_KIND_INFERENCE
SUPERVISOR = daemon_pb2.WORKER_KIND_SUPERVISOR
KINDS = {"decoder": DECODER, "inference": INFERENCE}
SETTINGS = """
[daemon]
allow_file_sources = true
heartbeat_timeout_s = {heartbeat_s}
[model]
name = "centerface"
width = 320
height = 192
[capture]
backoff_initial_s = 0.3
backoff_max_s = 1.0
read_timeout_s = 20.0
streams_per_group = 2
"""
"""Two streams a group, so that the death of one group leaves another to look at. No camera falls silent here, and a
machine that stops for seconds must not look like one that does."""
PATIENCE_S = 60.0
"""For what should take seconds: this machine may be busy with ten other things."""
HOURLY = (seen_luma.FILE, f"{seen_luma.FILE}.tmp")
_IDLE = Counter({"anon_inode:[eventfd]": _MAX_IDLE, "anon_inode:seccomp notify": _MAX_IDLE})
"""What a decoder holds for the threads in which it opened cameras: as many as it happened to open at the same time."""
_DELAY = re.compile(r"worker (\S+) .*; starts again in ([\d.]+) s")
_WORDS = {signal.SIGKILL: "kill", signal.SIGSTOP: "stop"}


@dataclass(frozen=True, slots=True)
class Comeback:
    """A fault and what followed. ``seconds``: from the fault until every stream that it met had a new result;
    ``paused``: seconds of that in which the supervisor held the restart back, as it does after quick deaths."""

    what: str
    victim: str
    seconds: float
    paused: float = 0.0


def alive(pid: int) -> bool:
    """Not gone, and no zombie either."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def workers(daemon: LocalDaemon) -> dict[str, daemon_pb2.Process]:
    """By name; those that are ready."""
    return {p.name: p for p in stats(daemon).processes if p.kind != SUPERVISOR and p.pid and p.state == "running"}


def require_only_known_children(daemon: LocalDaemon) -> None:
    """Every process below the supervisor is a worker it speaks of, and none is a zombie."""

    def known() -> bool:
        told = {p.pid for p in stats(daemon).processes if p.pid}
        return set(daemon.pids()) == told and all(map(alive, told))

    until(known, "no children but workers", PATIENCE_S)


# ---- what processes hold


def descriptors(pid: int) -> Counter[str]:
    """Open descriptors by kind. Raises PermissionError for who isn't root: the daemon can't be looked into."""
    found: Counter[str] = Counter()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found[re.sub(r"\d+", "", str(fd.readlink()))] += 1
        except FileNotFoundError:
            continue
    return found


def resident(pid: int) -> int:
    """Bytes of its own: what it shares with others isn't counted, for rings show in all that map them."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) << 10


def shared(pids: Sequence[int]) -> int:
    """Bytes of all memory files (rings) that these processes hold or map, each counted once."""
    sizes: dict[int, int] = {}
    for pid in pids:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            if "/memfd:" in line:
                area, _, _, _, inode = line.split()[:5]
                begin, end = (int(word, 16) for word in area.split("-"))
                sizes[int(inode)] = max(sizes.get(int(inode), 0), end - begin)
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            try:
                if str(fd.readlink()).startswith("/memfd:"):
                    sizes[fd.stat().st_ino] = fd.stat().st_size
            except FileNotFoundError:
                continue
    return sum(sizes.values())


@dataclass(frozen=True, slots=True)
class Footprint:
    """``held``: descriptors by kind of each process by name. ``resident``: of the supervisor. ``files``: everything in
    the daemon's folder and in the folder for temporary files, but for what is written whenever an hour has ended."""

    held: dict[str, Counter[str]]
    resident: int
    shared: int
    files: frozenset[str]

    def more_than(self, before: Footprint) -> list[str]:
        """What has been added, in words; empty: nothing. A new worker holds what the old one of its name held."""
        found = []
        for name, now in self.held.items():
            more = now - before.held.get(name, Counter()) - (_IDLE if name.startswith("decoder") else Counter())
            if more:
                found.append(f"{name} holds {dict(more)} more")
        found += [f"file {name}" for name in self.files - before.files]
        if self.shared > before.shared:
            found.append(f"shared memory grew from {before.shared} to {self.shared} bytes")
        return found


def footprint(daemon: LocalDaemon, temporary: Path) -> Footprint:
    processes = {"supervisor": daemon.pids()[0], **{name: p.pid for name, p in workers(daemon).items()}}
    named = [p for p in Path("/dev/shm").iterdir() if p.name.startswith(("facedetd", "psm_", "pym-"))]
    found = [*daemon.folder.rglob("*"), *temporary.rglob("*"), *named]
    return Footprint(
        {name: descriptors(pid) for name, pid in processes.items()},
        resident(processes["supervisor"]),
        shared(list(processes.values())),
        frozenset(str(p) for p in found if p.name not in HOURLY),
    )


@contextmanager
def temporary_files_in(folder: Path) -> Iterator[None]:
    """The processes that are started meanwhile put their temporary files there, where nobody else does."""
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before


# ---- faults


class Victim:
    """A daemon with streams, and a watcher that sees all results."""

    def __init__(self, daemon: LocalDaemon, ids: Sequence[str]):
        self.daemon, self.ids = daemon, list(ids)
        self.watch = Watch(daemon)
        self._forget()

    def _forget(self) -> None:
        self._read = 0
        self.results: Counter[str] = Counter()
        self._epochs = dict.fromkeys(self.ids, 0)

    def close(self) -> None:
        self.watch.close()

    def look(self) -> dict[str, int]:
        """Count the results that have come; returns the epoch of each stream's newest, 0 where there is none."""
        while self._read < len(self.watch.messages):
            found = self.watch.messages[self._read].detection
            self._read += 1
            self.results[found.stream_id] += 1
            self._epochs[found.stream_id] = found.epoch
        return dict(self._epochs)

    def until_results(self, more: int = 1) -> None:
        """Until each stream has so many results more."""
        self.look()
        start = Counter(self.results)

        def come() -> bool:
            self.look()
            return all(self.results[i] >= start[i] + more for i in self.ids)

        until(come, f"{more} results more of {self.ids}", PATIENCE_S)

    def hurt(self, name: str, how: signal.Signals) -> Comeback:
        """Kill or stop a worker, wait until all streams are back, and see that nobody else noticed.

        A decoder's streams are back with the first result of a new epoch, the others' epochs stay. After the loss of
        the inference process all streams are back with the first result of the new one."""
        before, epochs = workers(self.daemon), self.look()
        victim = before[name]
        reconnects = {i: stream(self.daemon, i).status.reconnects for i in self.ids}
        log_before = len(self.daemon.log_text())
        began = time.monotonic()
        os.kill(victim.pid, how)
        if victim.kind == DECODER:

            def met() -> set[str]:
                return {i for i, epoch in self.look().items() if epoch != epochs[i]}

            until(lambda: len(met()) >= victim.streams, f"{victim.streams} streams of {name}", PATIENCE_S)
            took, back = time.monotonic() - began, met()
            assert len(back) == victim.streams, f"{name} had {victim.streams} streams, a new epoch have {back}"
        else:
            # What the dead one had said comes before its successor is ready
            until(lambda: (w := workers(self.daemon).get(name)) and w.pid != victim.pid, f"another {name}", PATIENCE_S)
            self.until_results()
            took, back = time.monotonic() - began, set()
            assert self.look() == epochs
        after = until(lambda: len(w := workers(self.daemon)) == len(before) and w, "all workers", PATIENCE_S)
        assert after[name].pid != victim.pid
        assert not Path(f"/proc/{victim.pid}").exists()
        for other in before.keys() - {name}:
            assert after[other].pid == before[other].pid, f"{other} was restarted when {name} was hurt"
        for i in set(self.ids) - back:
            assert stream(self.daemon, i).status.reconnects == reconnects[i]
        require_only_known_children(self.daemon)
        delays = [float(s) for n, s in _DELAY.findall(self.daemon.log_text()[log_before:]) if n == name]
        return Comeback(f"{_WORDS[how]} {name.split('-')[0]}", name, took, sum(delays))

    def kill_supervisor(self) -> Comeback:
        """kill -9, see that nothing is left, start again, wait for all streams."""
        processes = self.daemon.pids()
        assert self.daemon.process
        began = time.monotonic()
        self.daemon.process.kill()
        self.daemon.stop()
        until(lambda: not any(map(alive, processes)), "no worker to outlive its supervisor", PATIENCE_S)
        self.watch.close()
        self.daemon.start()
        self.watch = Watch(self.daemon)
        self._forget()
        assert sorted(s.spec.id for s in stats(self.daemon).streams) == sorted(self.ids)
        self.until_results()
        took = time.monotonic() - began
        require_only_known_children(self.daemon)
        return Comeback("kill supervisor", "supervisor", took)
