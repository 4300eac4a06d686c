"""One run: the plan is done, the daemon looked at twice a second, samples are taken, and at the end all is counted."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import grpc

from facedetctl.local import LocalDaemon
from facedetd.v1 import daemon_pb2, stream_pb2
from tests.cameras import CameraServer
from tests.soak import watch
from tests.soak.actions import CALL_S, Actions
from tests.soak.expect import Expectations, Progress
from tests.soak.judge import Figure
from tests.soak.plan import Event
from tests.soak.watch import Sample

TURN_S = 0.5
UP_S = 60.0
FPS = 2.0
SAY_EVERY_S = 60.0
ONLY_GROWS = ("frames_received", "frames_decoded", "frames_sampled", "frames_inferred", "bytes_received")
NEVER = ("torn", "inference_failed")
"""Reasons to drop a frame that no fault of a camera or process explains."""
STATE_FILES = {"streams.json", "streams.json.bak", "lock", "seen-luma.json"}


class EndedError(Exception):
    """The run can't go on; the message says why."""


class Drive:
    """``folder``: the daemon's only one, made for it. ``say`` takes a line for whoever waits."""

    def __init__(self, daemon: LocalDaemon, cameras: CameraServer, port: int, folder: Path, say: Callable[[str], None]):
        self.daemon, self.folder, self._say = daemon, folder, say
        self._began = time.monotonic()
        self.expectations = Expectations()
        self.actions = Actions(daemon, cameras, port, self.expectations, self.now, self.complain)
        self.samples: list[Sample] = []
        self.done: list[Event] = []
        self.violations: list[str] = []
        self.at_rest: list[Figure] = []
        self._counts: dict[str, tuple[int, ...]] = {}
        self._supervisor = 0
        self._cameras = len(cameras.clips)
        self._zombies: set[int] = set()

    def now(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    def complain(self, what: str) -> None:
        said = f"at {self.now():.0f} s: {what}"
        self.violations.append(said)
        self._say(f"VIOLATION {said}")

    def run(self, plan: Sequence[Event], duration_s: float, sample_s: float) -> None:
        """Raises EndedError when the daemon ended by itself, LocalDaemonError when it doesn't start again."""
        for i in range(self._cameras):
            self.actions.add(f"cam{i}", i, FPS)
        self._until(lambda: not self.expectations.pending, UP_S, "all streams to begin")
        before = self._rest_sample()
        self._began = time.monotonic()
        self._say(f"{self._cameras} streams run, {len(plan)} events planned")
        left, next_sample, next_word = list(plan), 0.0, SAY_EVERY_S
        while self.now() < duration_s:
            self.look()
            if self.now() >= next_sample:
                self._sample()
                next_sample = max(next_sample + sample_s, self.now())
            while left and left[0].at_s <= self.now():
                event = left.pop(0)
                self.done.append(Event(self.now(), event.action, event.target, event.value))
                self.actions.do(event)
                self.look()
            if self.now() >= next_word:
                self._say(self._word(duration_s))
                next_word += SAY_EVERY_S
            time.sleep(TURN_S)
        self._finish(before)

    def look(self) -> None:
        """What the daemon says of its streams now, against what must hold at every moment."""
        stats = self._stats()
        if stats is None:
            return
        self.actions.stats = stats
        assert self.daemon.process
        if self.daemon.process.pid != self._supervisor:  # counts begin anew
            self._supervisor = self.daemon.process.pid
            self._counts.clear()
        for stream in stats.streams:
            self._check(stream.spec.id, stream.status)
        for gone in self._counts.keys() - {s.spec.id for s in stats.streams}:
            del self._counts[gone]
        live = set(self.actions.live())
        seen = {
            s.spec.id: Progress(s.status.frames_inferred, s.status.reconnects)
            for s in stats.streams
            if s.spec.id in live
        }
        running = frozenset(p.pid for p in stats.processes)
        for late in self.expectations.look(self.now(), seen, running):
            status = next((s.status for s in stats.streams if s.spec.id == late.split()[0]), None)
            self.complain(f"{late} ({self._words(status) if status else 'it is not there'})")

    def _words(self, status: stream_pb2.StreamStatus) -> str:
        state = stream_pb2.StreamState.Name(status.state).removeprefix("STREAM_STATE_").lower()
        level = stream_pb2.DecodeLevel.Name(status.decode_level).removeprefix("DECODE_LEVEL_").lower()
        degraded = self.actions.stats.degradation.reason
        return "; ".join(filter(None, (state, status.detail, f"decode level {level}", degraded)))

    def _stats(self) -> daemon_pb2.GetStatsResponse | None:
        try:
            return self.daemon.daemon.GetStats(daemon_pb2.GetStatsRequest(), timeout=CALL_S)
        except grpc.RpcError as error:
            assert self.daemon.process
            status = self.daemon.process.poll()
            if status is not None:
                self.complain(f"the supervisor ended by itself, with status {status}")
                raise EndedError("without the daemon there is nothing to go on with") from None
            self.complain(f"GetStats: {error.code() if isinstance(error, grpc.Call) else error}")
            return None

    def _check(self, name: str, status: stream_pb2.StreamStatus) -> None:
        broken = accounts_broken(status)
        if broken:
            self.complain(f"the accounts of {name} are not exact: {broken}")
        counts = tuple(getattr(status, field) for field in ONLY_GROWS)
        before = self._counts.get(name, counts)
        for field, now, then in zip(ONLY_GROWS, counts, before, strict=True):
            if now < then:
                self.complain(f"{field} of {name} went back from {then} to {now}")
        self.actions.results += counts[3] - before[3] if counts[3] > before[3] else 0
        self._counts[name] = counts

    def _sample(self) -> None:
        assert self.daemon.process
        before = self.samples[-1] if self.samples else None
        pids, supervisor = self.daemon.pids(), self.daemon.process.pid
        sample = watch.take(self.now(), pids, supervisor, self.actions.stats, self.folder, before)
        for pid in self._zombies & set(sample.zombies):
            self.complain(f"process {pid} was a zombie in two samples")
        self._zombies = set(sample.zombies)
        self.samples.append(sample)

    def _word(self, duration_s: float) -> str:
        s = self.samples[-1]
        supervisor = s.of("supervisor")[0] if s.of("supervisor") else None
        rss = f"{supervisor.rss / 1e6:.0f} MB, {supervisor.descriptors} descriptors" if supervisor else "-"
        return (
            f"{self.now() / 60:.0f} of {duration_s / 60:g} min: {s.fps:.1f} of {s.wanted_fps:.1f} frames/s, "
            f"p95 {s.p95_ms:.0f} ms, supervisor {rss}; {len(self.done)} events, {len(self.violations)} violations"
        )

    # ---- the end

    def _until(self, condition: Callable[[], bool], timeout_s: float, what: str) -> bool:
        deadline = time.monotonic() + timeout_s
        while True:
            self.look()
            if condition():
                return True
            if time.monotonic() > deadline:
                self.complain(f"not within {timeout_s:g} s: {what}")
                return False
            time.sleep(TURN_S)

    def _rest_sample(self) -> Sample:
        """A sample while all cameras run, and nobody and nothing else is there."""
        time.sleep(5.0)
        self.look()
        assert self.daemon.process
        pids = self.daemon.pids()
        return watch.take(self.now(), pids, self.daemon.process.pid, self.actions.stats, self.folder, None)

    def _finish(self, before: Sample) -> None:
        self.actions.come_to_rest()
        self._until(lambda: not self.expectations.pending, UP_S, "all streams to be back at the end")
        self._until(lambda: self.actions.stats.watchers == 0, UP_S, "all watchers to be gone")
        processes = len(before.processes)
        self._until(lambda: len(self.daemon.pids()) <= processes, UP_S, f"{processes} processes, as at the beginning")
        self.at_rest = rest_figures(before, self._rest_sample())
        self._say("pausing all streams, to count their frames")
        for stream in self.actions.stats.streams:
            self.expectations.forget(stream.spec.id)
            self.actions.streams.pop(stream.spec.id, None)
            self.actions.call(self.daemon.streams.PauseStream, stream_pb2.PauseStreamRequest(id=stream.spec.id))
        self._until(self._quiet, UP_S, "every frame to come to an end")
        for stream in self.actions.stats.streams:
            for reason in NEVER:
                if stream.status.frames_dropped[reason]:
                    self.complain(
                        f"{stream.spec.id}: {stream.status.frames_dropped[reason]} frames dropped as {reason}"
                    )
        zombies = [pid for pid in self.daemon.pids() if watch.state_of(pid) == "Z"]
        if zombies and watch.gone_within(zombies, 5.0):
            self.complain(f"zombies at the end: {zombies}")
        self._stop()

    def _quiet(self) -> bool:
        return all(s.status.frames_waiting == s.status.frames_in_flight == 0 for s in self.actions.stats.streams)

    def _stop(self) -> None:
        pids = self.daemon.pids()
        self.actions.close()
        status = self.daemon.stop()
        if status != 0:
            self.complain(
                f"the daemon ended with status {status} when asked to ({-signal.SIGKILL}: it had to be killed)"
            )
        left = watch.gone_within(pids, 10.0)
        if left:
            self.complain(f"processes outlived the daemon: {left}")
        expected = {self.daemon.config, self.daemon.log, *(self.daemon.state_dir / name for name in STATE_FILES)}
        for path in sorted(set(watch.files_below(self.folder)) - expected):
            if self.daemon.state_dir / "models" not in path.parents:
                self.complain(f"a file was left: {path.relative_to(self.folder)}")
        text = self.daemon.log_text()
        if "Traceback" in text:
            where = text.index("Traceback")
            self.complain(f"{text.count('Traceback')} exceptions in the log; the first:\n{text[where : where + 3000]}")


def accounts_broken(status: stream_pb2.StreamStatus) -> str:
    """Which equation of docs/architecture.md doesn't hold; empty when both do."""
    if status.frames_decoded != status.frames_sampled + status.frames_not_sampled:
        return f"decoded {status.frames_decoded}, sampled {status.frames_sampled}, not {status.frames_not_sampled}"
    ended = status.frames_inferred + sum(status.frames_dropped.values())
    inside = status.frames_waiting + status.frames_in_flight
    if status.frames_sampled != ended + inside:
        return f"sampled {status.frames_sampled}, inferred or dropped {ended}, in the ring {inside}"
    return ""


def rest_figures(before: Sample, after: Sample) -> list[Figure]:
    """What must be as it was, when the same streams run and nothing else: pools of threads may have filled."""
    figures = []
    for kind in watch.KINDS[:3]:
        for field, more in (("descriptors", 2), ("threads", 8)):
            start, end = (float(sum(getattr(p, field) for p in s.of(kind))) for s in (before, after))
            figures.append(_rest(f"at rest: {field} of {kind}", start, end, more))
    for name, start, end in (("p50", before.p50_ms, after.p50_ms), ("p95", before.p95_ms, after.p95_ms)):
        figures.append(_rest(f"at rest: latency {name}", start, end, start + 150, "ms"))
    figures.append(_rest("at rest: processes", len(before.processes), len(after.processes), 0))
    figures.append(_rest("at rest: shared memory", before.memfd_bytes / 1e6, after.memfd_bytes / 1e6, 0, "MB"))
    return figures


def _rest(name: str, start: float, end: float, more: float, unit: str = "") -> Figure:
    return Figure(name, unit, start, end, float("nan"), f"end <= {start + more:.4g}", end <= start + more)
