"""What the daemon says of itself: processes, stats, health. Reads, never changes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from facedetd.control import (
    DaemonState,
    HealthView,
    InferenceView,
    ModelView,
    Problem,
    ProcessView,
    WorkerKind,
)
from facedetd.results.rate import RateWindow
from facedetd.supervisor.fleet import Fleet
from facedetd.supervisor.groups import GroupManager
from facedetd.supervisor.inference_unit import InferenceUnit
from facedetd.supervisor.streams import StreamRuntime
from facedetd.supervisor.supervised import Supervised
from facedetd.supervisor.workers import Worker
from facedetd.types import StreamSpec, StreamState
from facedetd.usage import cpu_seconds, own_resident_bytes


class CpuMeter:
    """CPU use of processes between two looks at least a second apart."""

    def __init__(self) -> None:
        self._last: dict[int, tuple[float, float, float]] = {}  # pid: time, CPU seconds, use
        self._counted: dict[int, float] = {}  # pid: CPU seconds that are in ``spent_s``
        self.spent_s: dict[WorkerKind, float] = dict.fromkeys(WorkerKind, 0.0)
        """CPU seconds of all processes of a kind, also of those that ended; grows with each look."""

    def use(self, kind: WorkerKind, pid: int, cpu_seconds: float) -> float:
        """Cores used over the last seconds; 0 at the first look."""
        self.spent_s[kind] += max(0.0, cpu_seconds - self._counted.get(pid, 0.0))
        self._counted[pid] = cpu_seconds
        now = time.monotonic()
        then, before, use = self._last.get(pid, (now, cpu_seconds, 0.0))
        if now - then >= 1.0:
            use = max(0.0, (cpu_seconds - before) / (now - then))
            then, before = now, cpu_seconds
        self._last[pid] = (then, before, use)
        return use

    def keep(self, pids: Iterable[int]) -> None:
        wanted = set(pids)
        for pid in self._last.keys() - wanted:
            del self._last[pid], self._counted[pid]


class Processes:
    def __init__(self) -> None:
        self._meter = CpuMeter()
        self._started = time.monotonic()

    @property
    def spent_s(self) -> Mapping[WorkerKind, float]:
        """See CpuMeter."""
        return self._meter.spent_s

    @property
    def uptime_s(self) -> float:
        return time.monotonic() - self._started

    def look(self, groups: GroupManager, units: Iterable[InferenceUnit]) -> None:
        """Call once a second: so that the CPU use of the last seconds is known to whoever asks first."""
        self.view(groups, units, 0)

    def view(self, groups: GroupManager, units: Iterable[InferenceUnit], streams: int) -> tuple[ProcessView, ...]:
        own = "supervisor", os.getpid(), "running", self.uptime_s, own_resident_bytes()
        views = [self._one(WorkerKind.SUPERVISOR, *own, streams=streams)]
        for unit in units:
            views.append(self._worker(WorkerKind.INFERENCE, unit.process, groups.streams_of(unit.worker)))
        for group in groups.groups.values():
            views.append(self._worker(WorkerKind.DECODER, group.process, group.streams))
        self._meter.keep(v.pid for v in views)
        return tuple(views)

    def _worker(self, kind: WorkerKind, process: Supervised, streams: int) -> ProcessView:
        worker = process.worker
        return self._one(
            kind,
            process.name,
            worker.pid if worker else 0,
            process.state,
            worker.lived_s if worker else 0.0,
            worker.beat.resident_bytes if worker else 0,
            streams=streams,
            restarts=process.restarts,
            detail=process.detail,
        )

    def _one(
        self,
        kind: WorkerKind,
        name: str,
        pid: int,
        state: str,
        uptime_s: float,
        memory_bytes: int,
        *,
        streams: int,
        restarts: int = 0,
        detail: str = "",
    ) -> ProcessView:
        spent_s = cpu_seconds(pid) if pid else None
        return ProcessView(
            kind=kind,
            name=name,
            pid=pid,
            state=state,
            uptime_s=uptime_s,
            cpu_seconds=spent_s or 0.0,
            cpu=0.0 if spent_s is None else self._meter.use(kind, pid, spent_s),
            memory_bytes=memory_bytes,
            restarts=restarts,
            streams=streams,
            detail=detail,
        )


class InferenceFigures:
    """What the inference processes report of their batches."""

    def __init__(self) -> None:
        self.frames = self.batches = 0
        self.busy_s: dict[int, float] = {}
        """By device: the time in which batches ran."""
        self._lost: dict[Worker, int] = {}  # results, by process
        self._lost_before = 0  # by those that are gone
        self._frame_rate, self._batch_rate, self._busy = RateWindow(), RateWindow(), RateWindow()

    def observe(self, device: int, size: int, seconds: float) -> None:
        self.frames += size
        self.batches += 1
        self.busy_s[device] = self.busy_s.get(device, 0.0) + seconds
        self._frame_rate.add(size)
        self._batch_rate.add()
        self._busy.add(round(seconds * 1e6))

    @property
    def frames_per_second(self) -> float:
        return self._frame_rate.rate()

    def view(self, fleet: Fleet) -> InferenceView | None:
        workers = [worker for worker in fleet.workers if worker.ready]
        lost = self._results_lost(workers)
        if not workers:
            return None
        batches = self._batch_rate.rate()
        return InferenceView(
            frames_per_second=self._frame_rate.rate(),
            mean_batch_size=self._frame_rate.rate() / batches if batches else 0.0,
            mean_batch_s=self._busy.rate() / 1e6 / batches if batches else 0.0,
            batches=self.batches,
            frames=self.frames,
            results_lost=lost,
            oldest_waiting_s=max(worker.beat.oldest_ns for worker in workers) / 1e9,
        )

    def _results_lost(self, workers: Iterable[Worker]) -> int:
        """Of all processes since the daemon began: a sum over those that live would fall when one of several ends, and
        whoever counts what it rises by would count the others' anew."""
        said = {worker: worker.beat.results_lost for worker in workers}
        self._lost_before += sum(n for worker, n in self._lost.items() if worker not in said)
        self._lost = said
        return self._lost_before + sum(said.values())


TROUBLED = {StreamState.BACKING_OFF, StreamState.STALLED}
UP = {StreamState.CONNECTING, StreamState.STREAMING}
"""What is said of a stream in these states is a problem too: packets come, but nothing of use."""


@dataclass(slots=True)
class Problems:
    """Collects what is wrong now and remembers since when."""

    since: dict[tuple[str, str], int]

    def view(self, found: Iterable[tuple[str, str, str]]) -> tuple[Problem, ...]:
        """``found``: (severity, subject, message)."""
        now = time.time_ns()
        known: dict[tuple[str, str], int] = {}
        problems = []
        for severity, subject, message in found:
            key = severity, subject
            known[key] = self.since.get(key, now)
            problems.append(Problem(severity, subject, message, known[key]))
        self.since = known
        return tuple(problems)


def health(
    problems: Problems,
    state: DaemonState,
    fleet: Fleet,
    groups: GroupManager,
    streams: Iterable[StreamRuntime],
    standing: Iterable[tuple[str, str, str]],
    model: ModelView | None,
) -> HealthView:
    """``standing``: what was found wrong at start or reload and stays so, as (severity, subject, message)."""
    found = [*standing, *fleet.problems()]
    if groups.problem:
        found.append(("error", "ring", groups.problem))
    for process in (*(u.process for u in fleet.units), *(g.process for g in groups.groups.values())):
        if process.halted:
            again = f"tried again in {process.next_try_s / 60:.0f} min" if process.next_try_s else "is being tried"
            message = f"{process.detail}, again and again before it was ready: {again}, a reload tries at once"
            found.append(("error", f"worker {process.name}", message))
        elif process.problem:
            found.append(("error", f"worker {process.name}", process.problem))
    for stream in streams:
        if stream.seen.state in TROUBLED or (stream.seen.state in UP and stream.seen.detail):
            found.append(("warning", f"stream {stream.spec.id}", stream.seen.detail or stream.seen.state.value))
    return HealthView(state, state is DaemonState.RUNNING, problems.view(found), model)


def admission_warnings(fleet: Fleet, specs: Iterable[StreamSpec]) -> tuple[str, ...]:
    """What whoever adds or changes these streams should know, though it is done."""
    found = []
    if fleet.state is not DaemonState.RUNNING:
        found.append(f"no faces are detected now: {fleet.problem or fleet.state.value}")
    return tuple(found)
