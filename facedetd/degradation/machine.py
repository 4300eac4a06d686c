"""A modelled machine for the simulator: cameras, decoders, one engine, a CPU they share, and their queues."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from random import Random

from facedetd.degradation.levels import Level, StreamLevels
from facedetd.degradation.signals import Totals

MAX_AGE_S = 1.0
GRANT_DELAY_S, LEVEL_DELAY_S = 0.3, 1.5  # till a decision has reached the sampler; till a keyframe has come
_CATCH_UP = 1.5  # times its own pace is how fast a late stream goes
_BEHIND_S = 1.0  # late for so long: skip to a keyframe
_LATENCY_S = 3.0  # results of the last so many seconds make the p95


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the machine offers now: ``cores`` for all, of which others take ``stolen_cores``; ``engine_ms`` a frame
    on ``engine_cores`` (0: a GPU, which shares nothing); ``network_bits`` a second."""

    cores: float = 2.0
    stolen_cores: float = 0.0
    engine_ms: float = 6.0
    engine_cores: float = 1.0
    network_bits: float = 1e9


@dataclass(slots=True)
class SimStream:
    """``results`` counts since the caller last set it to 0. ``lag_s``: how far its decoder is behind the camera."""

    spec: StreamLevels
    level: Level
    fps: float
    next_sample_s: float
    lag_s: float = 0.0
    behind_s: float = 0.0
    results: int = 0
    pending: list[tuple[float, float, Level]] = field(default_factory=list)  # when, fps, level


class Machine:
    """Advance it with ``run``; read ``totals``. Deterministic for a seed."""

    def __init__(self, seed: int, tick_s: float = 0.02, *, aligned: bool = False):
        """``aligned``: after a change of rates streams keep the phase of their last sample, so that many that were
        slowed down together go on sampling together. Else each begins at a random point of its new period."""
        self._aligned = aligned
        self.streams: dict[str, SimStream] = {}
        self.totals = Totals(0.0)
        self.now_s = 0.0
        self._random = Random(seed)  # noqa: S311 - a model's noise, no secret
        self._tick_s = tick_s
        self._waiting: dict[str, tuple[float, float]] = {}  # stream: since when, capture time; of a priority first come
        self._on_cpu = True
        self._work_s = 0.0  # of the frame in the engine
        self._in_engine: tuple[str, float] | None = None
        self._latencies: deque[tuple[float, float]] = deque()
        self._counts: dict[str, float] = dict.fromkeys(
            ("received", "received_bytes", "skipped", "sampled", "stale", "inferred", "replaced",
             "busy_s", "inference_cpu_s", "decoder_cpu_s", "host_idle_s"), 0.0)  # fmt: skip

    def add(self, spec: StreamLevels) -> None:
        phase = self._random.random() / spec.target_fps
        self.streams[spec.id] = SimStream(spec, spec.levels[0], spec.target_fps, self.now_s + phase)

    def remove(self, stream_id: str) -> None:
        del self.streams[stream_id]
        self._waiting.pop(stream_id, None)

    def order(self, grants: Mapping[str, float], levels: Mapping[str, Level]) -> None:
        """Carry a decision out, as late as the real workers do."""
        for stream_id, fps in grants.items():
            stream = self.streams.get(stream_id)
            if stream is None:
                continue
            _, last_fps, last_level = stream.pending[-1] if stream.pending else (0.0, stream.fps, stream.level)
            level = levels[stream_id]
            if (fps, level) != (last_fps, last_level):
                delay = GRANT_DELAY_S if level == last_level else LEVEL_DELAY_S * self._random.uniform(0.3, 1.0)
                stream.pending.append((self.now_s + delay, fps, level))

    def run(self, seconds: float, conditions: Conditions) -> None:
        self._on_cpu = conditions.engine_cores > 0
        for _ in range(round(seconds / self._tick_s)):
            self._tick(conditions)
        self.totals = self._measured()

    def _tick(self, at: Conditions) -> None:
        self.now_s += self._tick_s
        for stream in self.streams.values():
            while stream.pending and stream.pending[0][0] <= self.now_s:
                before = stream.fps
                _, stream.fps, stream.level = stream.pending.pop(0)
                if not self._aligned and 0 < stream.fps < before:
                    stream.next_sample_s += self._random.random() * (1 / stream.fps - 1 / before)
            self._sample(stream)
        decode_share, engine_share, decode_cores = self._share_cpu(at)
        bits = sum(s.level.bits_per_s for s in self.streams.values())
        arriving = min(_CATCH_UP, at.network_bits / bits) if bits else 1.0
        for stream in self.streams.values():
            self._decode(stream, min(decode_share, arriving), arriving)
        engine_cores = at.engine_cores * self._infer(engine_share, at) / self._tick_s
        self._counts["decoder_cpu_s"] += decode_cores * self._tick_s
        self._counts["inference_cpu_s"] += engine_cores * self._tick_s
        self._counts["host_idle_s"] += max(0.0, _room(at) - decode_cores - engine_cores) * self._tick_s

    def _share_cpu(self, at: Conditions) -> tuple[float, float, float]:
        """Shares (0-1) of what the decoders and the engine need, and the cores that the decoders use; the scheduler is
        fair to what is runnable."""
        catching_up = any(s.lag_s > self._tick_s for s in self.streams.values())
        decode = sum(s.level.cores for s in self.streams.values()) * (_CATCH_UP if catching_up else 1.0)
        work_s = len(self._waiting) * at.engine_ms / 1000 + (self._work_s if self._in_engine else 0.0)
        engine = at.engine_cores * min(1.0, work_s / self._tick_s)
        room = _room(at)
        engine_gets = min(engine, max(room / 2, room - decode))
        decode_gets = min(decode, room - engine_gets)
        share = decode_gets / decode if decode else 1.0
        return share * (_CATCH_UP if catching_up else 1.0), engine_gets / engine if engine else 1.0, decode_gets

    def _decode(self, stream: SimStream, share: float, arriving: float) -> None:
        """``share`` of this tick's video gets decoded; the rest makes it late, till it skips to a keyframe."""
        tick, count, level = self._tick_s, self._counts, stream.level
        packets = tick * (level.fps if level.fps else 1.0) * min(1.0, arriving)
        count["received"] += packets
        count["received_bytes"] += tick * level.bits_per_s * min(1.0, arriving) / 8
        if level.fps <= 0:
            stream.lag_s = 0.0
            return
        stream.lag_s = max(0.0, stream.lag_s + tick * (1 - share))
        stream.behind_s = stream.behind_s + tick if stream.lag_s > MAX_AGE_S else 0.0
        if stream.behind_s > _BEHIND_S:
            count["skipped"] += stream.lag_s * level.fps
            stream.lag_s = stream.behind_s = 0.0

    def _sample(self, stream: SimStream) -> None:
        fps = min(stream.fps, stream.level.fps)
        if fps <= 0:
            stream.next_sample_s = inf
            return
        if stream.next_sample_s > self.now_s + 1 / fps:  # those that were slow together mustn't go on in step
            stream.next_sample_s = self.now_s + (1.0 if self._aligned else self._random.random()) / fps
        if stream.next_sample_s > self.now_s:
            return
        stream.next_sample_s = max(stream.next_sample_s + 1 / fps, self.now_s - self._tick_s)
        if stream.lag_s > MAX_AGE_S:
            self._counts["stale"] += 1
            return
        self._counts["sampled"] += 1
        if self._waiting.pop(stream.spec.id, None) is not None:
            self._counts["replaced"] += 1
        self._waiting[stream.spec.id] = self.now_s, self.now_s - stream.lag_s

    def _infer(self, share: float, at: Conditions) -> float:
        """Seconds of the engine's work, as long as it would take alone."""
        left = self._tick_s * share
        while left > 0:
            if self._in_engine is None:
                if not self._waiting:
                    break
                stream_id = max(self._waiting, key=lambda i: self.streams[i].spec.priority)
                self._in_engine = stream_id, self._waiting.pop(stream_id)[1]
                self._work_s = at.engine_ms / 1000 * self._random.uniform(0.8, 1.2)
            used = min(left, self._work_s)
            left -= used
            self._work_s -= used
            self._counts["busy_s"] += used / share
            if self._work_s <= 0:
                stream_id, captured_s = self._in_engine
                self._in_engine = None
                self._counts["inferred"] += 1
                self._latencies.append((self.now_s, self.now_s - captured_s))
                if stream_id in self.streams:
                    self.streams[stream_id].results += 1
        return self._tick_s * share - left

    def _measured(self) -> Totals:
        while self._latencies and self._latencies[0][0] < self.now_s - _LATENCY_S:
            self._latencies.popleft()
        latencies = sorted(latency for _, latency in self._latencies)
        lags = sorted(s.lag_s for s in self.streams.values())
        count = self._counts
        return Totals(
            self.now_s,
            received=round(count["received"]),
            received_bytes=round(count["received_bytes"]),
            skipped=round(count["skipped"]),
            sampled=round(count["sampled"]),
            stale=round(count["stale"]),
            inferred=round(count["inferred"]),
            replaced=round(count["replaced"]),
            busy_s=count["busy_s"],
            inference_cpu_s=count["inference_cpu_s"],
            engine_on_cpu=self._on_cpu,
            decoder_cpu_s=count["decoder_cpu_s"],
            host_idle_s=count["host_idle_s"],
            oldest_waiting_s=self.now_s - min(self._waiting.values())[0] if self._waiting else 0.0,
            latency_p95_s=_p95(latencies),
            decode_lag_s=_p95(lags),
            cpu_lag_s=_p95(lags),
        )


def _room(at: Conditions) -> float:
    """The cores that others leave."""
    return max(0.05, at.cores - at.stolen_cores)


def _p95(ordered: list[float]) -> float:
    return ordered[-(-len(ordered) * 95 // 100) - 1] if ordered else 0.0
