"""What a measurement yields, as data: figures a stream, sums, thresholds and checks. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from facedetctl.bench.accuracy import Accuracy
from facedetctl.bench.gpu import GpuUse


@dataclass(frozen=True, slots=True)
class LatencyMs:
    """Milliseconds."""

    mean: float
    p50: float
    p95: float
    p99: float


def latency_of(values_ms: Iterable[float]) -> LatencyMs | None:
    """None where there is no value. Percentiles are values that were seen: the smallest that at least that share of
    them doesn't exceed (nearest rank)."""
    ordered = sorted(values_ms)
    if not ordered:
        return None
    p50, p95, p99 = (ordered[max(0, math.ceil(len(ordered) * share / 100) - 1)] for share in (50, 95, 99))
    return LatencyMs(sum(ordered) / len(ordered), p50, p95, p99)


@dataclass(frozen=True, slots=True)
class StreamFigures:
    """One stream over the window: ``frames`` delivered, ``fps`` that rate, ``drop_fraction`` dropped / sampled.
    ``latency`` is None where nothing came; ``accuracy`` None where the truth isn't known."""

    id: str
    target_fps: float
    frames: int
    fps: float
    drop_fraction: float
    latency: LatencyMs | None
    accuracy: Accuracy | None

    def as_json(self) -> dict[str, Any]:
        latency = self.latency
        return {
            "id": self.id,
            "target_fps": self.target_fps,
            "fps": round(self.fps, 3),
            "drop_fraction": round(self.drop_fraction, 5),
            "recall": round(self.accuracy.recall, 4) if self.accuracy else None,
            "mean_iou": round(self.accuracy.mean_iou, 4) if self.accuracy else None,
            "latency_ms": latency_json(latency),
        }


def latency_json(latency: LatencyMs | None) -> dict[str, float | None]:
    if latency is None:
        return dict.fromkeys(("mean", "p50", "p95", "p99"))
    return {name: round(value, 2) for name, value in asdict(latency).items()}


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What each stream must reach; None: not asked. ``fps_tolerance`` is a fraction of the target, the drop fraction
    and the p95 latency must stay under their limit, recall and mean IoU reach theirs."""

    fps_tolerance: float | None = 0.05
    max_drop: float | None = 0.03
    max_p95_ms: float | None = 250.0
    min_recall: float | None = 0.95
    min_mean_iou: float | None = 0.6


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the checklist: what is wanted, and the stream that is worst at it."""

    name: str
    wanted: str
    found: str
    passed: bool


@dataclass(frozen=True, slots=True)
class Measured:
    """A daemon, or the baseline, over a window of ``window_s`` seconds.

    ``cpu_seconds`` are those of all its processes; ``memory_bytes`` at the window's end; ``network_bps`` bits a second
    of camera data that came in, without the headers of RTP and below, None where nobody counted.
    """

    streams: tuple[StreamFigures, ...]
    window_s: float
    latency: LatencyMs | None
    cpu_seconds: float
    memory_bytes: int
    network_bps: float | None
    gpu: GpuUse
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def frames(self) -> int:
        return sum(stream.frames for stream in self.streams)

    @property
    def cpu_ms_per_frame(self) -> float | None:
        return 1000 * self.cpu_seconds / self.frames if self.frames else None

    @property
    def drop_fraction(self) -> float:
        """Mean over the streams."""
        return sum(s.drop_fraction for s in self.streams) / len(self.streams) if self.streams else 0.0

    @property
    def accuracy(self) -> Accuracy | None:
        known = [stream.accuracy for stream in self.streams if stream.accuracy]
        return sum(known, Accuracy()) if known else None

    def as_json(self) -> dict[str, Any]:
        per_frame = self.cpu_ms_per_frame
        found: dict[str, Any] = {
            "streams": [stream.as_json() for stream in self.streams],
            "pass": self.passed,
            "checks": [asdict(check) for check in self.checks],
            "window_s": round(self.window_s, 3),
            "frames": self.frames,
            "latency_ms": latency_json(self.latency),
            "cpu_seconds": round(self.cpu_seconds, 2),
            "cpu_ms_per_frame": None if per_frame is None else round(per_frame, 2),
            "memory_bytes": self.memory_bytes,
        }
        if self.network_bps is not None:
            found["network_bps"] = round(self.network_bps)
        told = {f"gpu_{name}": value for name, value in asdict(self.gpu).items() if value is not None}
        return found | {name: round(value, 3) for name, value in told.items()}


def check_streams(streams: Sequence[StreamFigures], limits: Thresholds, *, with_accuracy: bool) -> tuple[Check, ...]:
    """One check for each threshold that is asked for; ``with_accuracy`` False leaves out those that need the truth.
    A stream that delivered nothing fails all of them."""
    if not streams:
        return (Check("streams", "at least one", "none", False),)
    checks = []
    if (tolerance := limits.fps_tolerance) is not None:
        worst = max(streams, key=lambda s: abs(s.fps / s.target_fps - 1))
        off = worst.fps / worst.target_fps - 1
        found = f"{worst.fps:.2f} of {worst.target_fps:g} fps ({off:+.1%})"
        checks.append(Check("fps", f"target ±{tolerance:.0%}", _of(worst, found), abs(off) <= tolerance))
    if (limit := limits.max_drop) is not None:
        worst = max(streams, key=lambda s: s.drop_fraction)
        passed = worst.drop_fraction < limit and all(s.frames for s in streams)
        checks.append(Check("drop", f"< {limit:.1%}", _of(worst, f"{worst.drop_fraction:.2%}"), passed))
    if (limit := limits.max_p95_ms) is not None:
        worst = max(streams, key=lambda s: s.latency.p95 if s.latency else math.inf)
        p95 = worst.latency.p95 if worst.latency else math.inf
        checks.append(Check("p95 latency", f"< {limit:g} ms", _of(worst, f"{p95:.0f} ms"), p95 < limit))
    if with_accuracy and (limit := limits.min_recall) is not None:
        worst = min(streams, key=_recall)
        checks.append(Check("recall", f">= {limit:g}", _of(worst, f"{_recall(worst):.3f}"), _recall(worst) >= limit))
    if with_accuracy and (limit := limits.min_mean_iou) is not None:
        worst = min(streams, key=_iou)
        checks.append(Check("mean IoU", f">= {limit:g}", _of(worst, f"{_iou(worst):.3f}"), _iou(worst) >= limit))
    return tuple(checks)


def _of(stream: StreamFigures, found: str) -> str:
    return f"{found} ({stream.id})"


def _recall(stream: StreamFigures) -> float:
    return stream.accuracy.recall if stream.accuracy else 0.0


def _iou(stream: StreamFigures) -> float:
    return stream.accuracy.mean_iou if stream.accuracy else 0.0
