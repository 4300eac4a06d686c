"""Degradation in the running daemon: measures once a second, asks the controller, and passes on what it decides."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import fsum, inf

from facedetd.config.model import DegradationConfig
from facedetd.control import Degradation, DegradationView, LoadView, WorkerKind
from facedetd.degradation.admission import Room, shortfall
from facedetd.degradation.controller import ControllerState, Decision, step
from facedetd.degradation.levels import RANK, StreamLevels, levels_of
from facedetd.degradation.opening import Opening
from facedetd.degradation.signals import (
    FULL_TAKEN,
    Limits,
    Signals,
    Totals,
    cpu_decode_calm,
    disturbed_by_others,
    signals_between,
    used_up,
)
from facedetd.degradation.words import in_a_line
from facedetd.metrics.hostcpu import HostCpu
from facedetd.results.latency import LatencyWindow
from facedetd.ring.segment import DecoderCounter as D
from facedetd.ring.segment import InferenceCounter as I
from facedetd.supervisor.fleet import Fleet
from facedetd.supervisor.groups import GroupManager
from facedetd.supervisor.lateness import LateShares, several
from facedetd.supervisor.observe import InferenceFigures, Processes
from facedetd.supervisor.streams import StreamRuntime
from facedetd.supervisor.workers import Worker
from facedetd.types import DecodeDevice, DecodeLevel, StreamSpec, StreamState, Video

log = logging.getLogger(__name__)

PERIOD_S = 1.0
RECENT_SLICE_NS = 500_000_000
"""Six of these are the last seconds that the controller looks at."""

AWAY_S, CATCH_UP_S = 2.5, 5.0
"""A look so long after the last says that the machine, or this process, stood still. The video that came meanwhile is
late then, which is no shortage, and is worked off in so long."""

HESITANT_S, SILENT_S = 0.6, 1.5
"""An inference process says something four times a second."""
WARM_S = 2.0
CPU_ENGINES = {"onnxruntime", "openvino"}

UNKNOWN_VIDEO = Video("h264", 1920, 1080, 25.0, bits_per_s=4e6)
UNKNOWN_SUB_VIDEO = Video("h264", 640, 360, 15.0, bits_per_s=5e5)
_FEW_SEEN = 3
_SPEED_GAIN = 0.1
_SPEED_EVIDENCE = 0.05  # cores: less decoding than that tells nothing of the machine's speed
_ENGINE_FULL = 0.9
_OVERRUN = 0.5
_ALL_FRAMES = (DecodeLevel.FULL, DecodeLevel.NO_LOOP_FILTER, DecodeLevel.SUB_STREAM)


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the measured values come from."""

    groups: GroupManager
    processes: Processes
    figures: InferenceFigures
    nvdec_takes: Callable[[StreamSpec], bool] = lambda spec: False


class Degrader:
    """Call ``period`` about twice a second or more often; it looks once a second."""

    def __init__(self, sources: Sources, host: HostCpu | None = None, clock: Callable[[], float] = time.monotonic):
        self.latency = _window()
        """Of the results of the last seconds."""
        self._sources, self._host, self._clock = sources, host or HostCpu(), clock
        self._state = ControllerState()
        self._last: Totals | None = None
        self._busy_s, self._busy_of = 0.0, dict[int, float]()
        self._opening = Opening()
        self._caught_up_s = 0.0
        self._late = LateShares()
        self._counts_from_ns = 0
        self._workers: tuple[Worker, ...] = ()
        self._ready_since_s: float | None = None
        self._doubted = False
        self._apart: set[str] = set()
        self._speed, self._speeds = 1.0, 0
        self._usual = UNKNOWN_VIDEO
        self._room = Room(self._host.cores)
        self._since_utc_ns = time.time_ns()
        self.view: DegradationView | None = None

    def on_result(self, stream_id: str, latency_ns: int) -> None:
        """A result came. Those of a stream that is late for reasons of its own don't count."""
        if stream_id not in self._apart:
            self.latency.add(latency_ns)

    def _forget(self, now_s: float) -> None:
        """What was measured up to now says nothing of what holds from now on."""
        self.latency = _window()
        self._counts_from_ns = round(now_s * 1e9)

    @property
    def is_due(self) -> bool:
        return self._last is None or self._clock() - self._last.time_s >= PERIOD_S

    def period(self, config: DegradationConfig, streams: Sequence[StreamRuntime], fleet: Fleet) -> None:
        """Look, decide, and tell the decoders what has changed."""
        if not self.is_due:
            return
        now = self._clock()
        limits = Limits(latency_s=config.latency_bound_ms / 1000)
        asking = [s for s in streams if s.wants_capacity]
        totals = self._totals(now, fleet, asking, limits)
        late_shares = self._late.look(self._sources.groups.rings.segments())
        before, self._last = self._last, totals
        there = {s.spec.id for s in asking if s.seen.device is DecodeDevice.NVDEC}
        coming = {s.spec.id for s in asking if _is_coming(s)}
        opening = self._opening.many(there, coming, now)  # others of their groups wait for them, and then catch up
        if before is None:
            return
        if now - before.time_s > AWAY_S and before.time_s >= self._caught_up_s:  # not again and again
            self._caught_up_s = now + CATCH_UP_S
        signals = signals_between(before, totals, self._host.cores)
        signals = replace(signals, decode_speed=self._speed, opening=opening and self._opening.lasts(now))
        if now < self._caught_up_s:
            self._forget(now)
            return
        if several(late_shares) <= limits.late_short:  # too few for a shortage: what ails them is their own
            signals = replace(signals, late_share=0.0, late_fps=0.0)
        self._usual = usual([s.main for s in asking if s.main])
        levels = [self.levels(s) for s in asking]
        conclusive = not opening or self._cpu_is_overrun(asking, signals, limits)
        if not opening:
            self._learn(signals, limits, asking, levels)
        elif not conclusive:  # but who has got there has another cost
            self._forget(now)
        self._state, decision = step(self._state, signals, levels, limits, now, conclusive=conclusive)
        if not config.enabled:
            self._state = ControllerState()
        if not config.enabled or decision.degradation is Degradation.NONE:  # also for those that are away
            lowered = [self._grant(s, s.spec.target_fps, DecodeLevel.FULL) for s in streams]
        else:
            lowered = [self._grant(s, _fps(s, decision), decision.levels[s.spec.id].kind) for s in asking]
        if any(lowered):  # results of before say nothing of what holds from now on
            self._forget(now)
        self._tell(decision, signals, enabled=config.enabled)
        if log.isEnabledFor(logging.DEBUG):
            meanwhile = "" if conclusive else " while decoders open"
            log.debug("looked%s: %s", meanwhile, in_a_line(signals, self._state, decision))

    def _cpu_is_overrun(self, streams: Iterable[StreamRuntime], signals: Signals, limits: Limits) -> bool:
        """Whether it is for the streams that the CPU decodes that it is used up, whoever is on the way to a GPU:
        priority mustn't wait till all have got there. What they cost on this machine isn't known yet at a start."""
        there = (s for s in streams if s.seen.state is StreamState.STREAMING and s.seen.device is DecodeDevice.CPU)
        costs = (self._levels_at(s, on_nvdec=False).levels[0].cores for s in there)
        return used_up(signals, limits) and fsum(costs) > _OVERRUN * signals.host_cores * self._speed

    def _totals(self, now_s: float, fleet: Fleet, streams: Sequence[StreamRuntime], limits: Limits) -> Totals:
        s = self._sources
        self._host.look(now_s)
        counters = s.groups.rings.totals()
        decoder, inference = counters[0], counters[1]
        recent = self.latency.view()
        lags = {x.spec.id: lag for x in streams if (lag := x.lag_s(self._counts_from_ns)) is not None}
        lag = several(list(lags.values()))
        on_cpu = [lags[x.spec.id] for x in streams if x.spec.id in lags and x.seen.device is DecodeDevice.CPU]
        alone = len(on_cpu) == 1 < len(lags)  # nobody knows whether that is its own affair
        bound = limits.lag_calm * limits.latency_s
        self._apart = {i for i, own in lags.items() if own > bound} if lag <= bound else set()
        return Totals(
            time_s=now_s,
            received=int(decoder[D.RECEIVED]),
            received_bytes=int(decoder[D.RECEIVED_BYTES]),
            skipped=int(decoder[D.PACKETS_SKIPPED]),
            sampled=int(decoder[D.SAMPLED]),
            stale=int(decoder[D.NOT_SAMPLED_STALE]),
            inferred=int(inference[I.INFERRED]),
            replaced=int(inference[I.REPLACED]),
            no_slot=int(decoder[D.NO_SLOT]),
            busy_s=self._busiest_s(),
            inference_cpu_s=s.processes.spent_s[WorkerKind.INFERENCE],
            decoder_cpu_s=s.processes.spent_s[WorkerKind.DECODER],
            supervisor_cpu_s=s.processes.spent_s[WorkerKind.SUPERVISOR],
            host_idle_s=self._host.idle_s,
            oldest_waiting_s=max((worker.beat.oldest_ns for worker in fleet.workers), default=0) / 1e9,
            latency_p95_s=recent.p95 if recent else 0.0,
            decode_lag_s=lag,
            cpu_lag_s=0.0 if alone else several(on_cpu),
            inference_ready=self._inference_runs(fleet, now_s),
            engine_on_cpu=fleet.inference.engine in CPU_ENGINES,
            full_fps=self._full_fps(fleet),
        )

    def _busiest_s(self) -> float:
        """See Totals."""
        now = dict(self._sources.figures.busy_s)
        self._busy_s += max((s - self._busy_of.get(device, 0.0) for device, s in now.items()), default=0.0)
        self._busy_of = now
        return self._busy_s

    def _full_fps(self, fleet: Fleet) -> float:
        """Of all devices, with the streams shared out as they are, when the first of them is full. 0: not known."""
        loads = [(unit.full_fps, self._sources.groups.streams_of(unit.worker)) for unit in fleet.up]
        streams = sum(load for _, load in loads)
        return min((fps * streams / load for fps, load in loads if load), default=0.0)

    def _inference_runs(self, fleet: Fleet, now_s: float) -> bool:
        """Whether what it does shows what it can do: not while one is stopped, or just begins, or none is there."""
        workers = tuple(unit.worker for unit in fleet.up if unit.worker)
        silent_s = max((now_s - worker.last_beat_ns / 1e9 for worker in workers), default=0.0)
        if workers != self._workers:  # another model, perhaps
            self._workers, self._ready_since_s = workers, None
        if not workers or silent_s > SILENT_S:
            self._ready_since_s = None
            return False
        if self._ready_since_s is None:
            self._ready_since_s = now_s
            self._forget(now_s)
        # It may have been stopped, or may be short of CPU: the next period tells
        self._doubted = silent_s > HESITANT_S and not self._doubted
        return not self._doubted and now_s - self._ready_since_s >= WARM_S

    def levels(self, stream: StreamRuntime) -> StreamLevels:
        """What the controller knows of a stream; what wasn't seen yet is reckoned as the others are. Till one has its
        decoder on the GPU, which may take a while where many want one, the CPU decodes it, once it sends."""
        coming = _is_coming(stream)
        yet_to_send = stream.seen.state is not StreamState.STREAMING
        known = self._levels_at(stream, on_nvdec=_is_there(stream) or (coming and yet_to_send))
        if not coming:
            return known
        # Nobody gets there of whom nothing is decoded
        return replace(known, levels=tuple(x for x in known.levels if x.kind is not DecodeLevel.OFF))

    def _levels_at(self, stream: StreamRuntime, *, on_nvdec: bool) -> StreamLevels:
        return self._levels_of(stream.spec, stream.main, stream.sub, stream.sub_works, on_nvdec)

    def _levels_of(
        self, spec: StreamSpec, main: Video | None, sub: Video | None, sub_works: bool, on_nvdec: bool
    ) -> StreamLevels:
        second = (sub or UNKNOWN_SUB_VIDEO) if spec.sub_url and sub_works else None
        levels = levels_of(main or self._usual, second, nvdec=on_nvdec)
        return StreamLevels(spec.id, spec.priority, spec.min_fps, spec.target_fps, levels)

    def _learn(
        self, signals: Signals, limits: Limits, streams: Sequence[StreamRuntime], levels: Sequence[StreamLevels]
    ) -> None:
        """How fast this machine decodes and infers, while nothing is late: what is late is work that wasn't done."""
        expected = fsum(
            next((x.cores for x in own.levels if x.kind is s.seen.level), 0.0)
            for s, own in zip(streams, levels, strict=True)
            if s.main or s.sub
        )
        known = expected > _SPEED_EVIDENCE and signals.decoder_cores > _SPEED_EVIDENCE
        if known and cpu_decode_calm(signals, limits) and not disturbed_by_others(signals, limits):
            measured = min(max(expected / signals.decoder_cores, 0.1), 10.0)
            self._speeds += 1  # the first few count for more
            self._speed += max(_SPEED_GAIN, 1 / (self._speeds + 1)) * (measured - self._speed)
        if signals.inferred_fps * signals.period_s >= limits.few_frames:
            per_fps = signals.inference_cores / signals.inferred_fps
            engine_fps = _ENGINE_FULL * 1000 / signals.inference_ms_per_frame if signals.inference_ms_per_frame else inf
            self._room = Room(
                self._host.cores,
                max(engine_fps, FULL_TAKEN * signals.full_fps),
                per_fps if signals.engine_on_cpu else 0.0,
            )

    def _grant(self, stream: StreamRuntime, fps: float, level: DecodeLevel) -> bool:
        """Whether the stream gets less than before."""
        less = fps < stream.granted_fps or RANK[level] > RANK[stream.level]
        if fps != stream.granted_fps or level is not stream.level:
            stream.granted_fps, stream.level = fps, level
            self._sources.groups.tell(stream.spec.id)
        return less

    def _tell(self, decision: Decision, signals: Signals, *, enabled: bool) -> None:
        state = decision.degradation if enabled else Degradation.NONE
        reason = decision.reason if enabled else ""
        if self.view is None or self.view.state is not state:
            self._since_utc_ns = time.time_ns()
            if state is not Degradation.NONE:
                log.warning("degradation: %s: %s", state.value, reason)
            elif self.view is not None:
                said = "every stream gets what it asks for" if enabled else "degradation.enabled is false"
                log.info("degradation: none: %s", said)
        self.view = DegradationView(
            state, reason, self._since_utc_ns, decision.shortage.stage, _load_view(signals),
            _limit(decision.inference_capacity), _limit(decision.decode_capacity), _limit(decision.network_capacity),
        )  # fmt: skip

    def problems(self) -> Iterable[tuple[str, str, str]]:
        """For health: (severity, subject, message)."""
        view = self.view
        if view is not None and view.state is not Degradation.NONE:
            severity = "error" if view.state is Degradation.OVERCOMMITTED else "warning"
            yield severity, "degradation", view.reason

    def admission(self, streams: Iterable[StreamRuntime], added: Iterable[StreamSpec]) -> str:
        """A warning for whoever adds or changes streams, when not all fit; else empty."""
        new = {spec.id: spec for spec in added}
        present = [
            self._levels_at(s, on_nvdec=_is_coming(s) or _is_there(s))
            for s in streams
            if s.wants_capacity and s.spec.id not in new
        ]
        takes = self._sources.nvdec_takes
        coming = [self._levels_of(spec, None, None, True, takes(spec)) for spec in new.values() if not spec.paused]
        room = replace(self._room, decode_speed=self._speed)
        return shortfall([*present, *coming], room) if coming else ""


def usual(videos: Sequence[Video]) -> Video:
    """What a camera is thought to send that wasn't seen yet: as those that were, in the middle of them."""
    if len(videos) < _FEW_SEEN:
        return UNKNOWN_VIDEO
    return sorted(videos, key=lambda v: v.width * v.height * v.fps)[len(videos) // 2]


def _is_there(stream: StreamRuntime) -> bool:
    """Whether it is decoded on a GPU, and will stay there."""
    return stream.device is stream.seen.device is DecodeDevice.NVDEC


def _is_coming(stream: StreamRuntime) -> bool:
    """Whether it will soon be decoded on a GPU, and isn't yet."""
    wanted, seen = stream.device is DecodeDevice.NVDEC, stream.seen
    return wanted and seen.device is not DecodeDevice.NVDEC and not seen.nvdec_problem


def _fps(stream: StreamRuntime, decision: Decision) -> float:
    """What is granted, to three digits; as much as is asked for where that is all that the level has: how many frames a
    camera sends is only roughly known."""
    granted, level = decision.grants[stream.spec.id], decision.levels[stream.spec.id]
    if granted >= min(stream.spec.target_fps, level.fps) * (1 - 1e-9) and level.kind in _ALL_FRAMES:
        return stream.spec.target_fps
    return float(f"{granted:.3g}")


def _window() -> LatencyWindow:
    return LatencyWindow(slice_ns=RECENT_SLICE_NS)


def _limit(capacity: float) -> float | None:
    return None if capacity == inf else capacity


def _load_view(s: Signals) -> LoadView:
    return LoadView(
        host_cores=s.host_cores,
        idle_cores=s.idle_cores,
        decoder_cores=s.decoder_cores,
        inference_cores=s.inference_cores,
        others_cores=s.others_cores,
        inference_busy=s.inference_busy,
        dropped_share=s.dropped_share,
        late_share=s.late_share,
        decode_lag_s=s.decode_lag_s,
        oldest_waiting_s=s.oldest_waiting_s,
        latency_p95_s=s.latency_p95_s,
        network_bits_per_s=s.network_bits_per_s,
    )
