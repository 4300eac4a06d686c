"""Watches a running daemon for some seconds and says how well it did. Used by bench and by the demo (`make run`)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from facedetctl.bench.accuracy import Box, Truth, score
from facedetctl.bench.figures import Measured, StreamFigures, Thresholds, check_streams, latency_of
from facedetctl.bench.gpu import GpuWatch
from facedetctl.bench.usage import cpu_seconds, memory_bytes
from facedetctl.local import LocalDaemon
from facedetctl.output import word
from facedetd.v1 import daemon_pb2, detection_pb2, stream_pb2

CALL_TIMEOUT_S = 10.0


class MeasureError(Exception):
    """The measurement can't be trusted or can't begin; the message says why."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """One result as it came: ``at_s`` is the watcher's time.monotonic()."""

    stream_id: str
    at_s: float
    capture_utc_ns: int
    latency_ms: float
    boxes: tuple[Box, ...]


class Watcher:
    """Collects every result of a daemon in a thread of its own, until closed."""

    def __init__(self, daemon: LocalDaemon) -> None:
        self.lost = 0
        self._delivered: list[Delivered] = []
        self._error: grpc.RpcError | None = None
        request = detection_pb2.WatchDetectionsRequest(include_empty=True, together=True)
        self._call: Any = daemon.detections.WatchDetections(request)
        self._thread = threading.Thread(target=self._read, name="bench-watcher", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for message in self._call:
                now = time.monotonic()
                self.lost = message.lost
                self._delivered += (_delivered(found, now) for found in (message.detection, *message.more))
        except grpc.RpcError as error:
            self._error = error

    def close(self) -> Sequence[Delivered]:
        """All results, as they came. Raises MeasureError when some were lost on the way or the daemon ended."""
        if not self._thread.is_alive():
            why = self._error.details() if isinstance(self._error, grpc.Call) else "the daemon ended the call"
            raise MeasureError(f"the results broke off: {why}")
        self._call.cancel()
        self._thread.join(CALL_TIMEOUT_S)
        if self.lost:
            raise MeasureError(f"bench itself was too slow and lost {self.lost} results; the figures would be wrong")
        return self._delivered


def _delivered(found: detection_pb2.Detection, now: float) -> Delivered:
    boxes = tuple((f.box.x_min, f.box.y_min, f.box.x_max, f.box.y_max) for f in found.faces)
    latency_ms = found.latency.ToNanoseconds() / 1e6
    return Delivered(found.stream_id, now, found.capture_time.ToNanoseconds(), latency_ms, boxes)


@dataclass(frozen=True, slots=True)
class _Reading:
    """Everything that only grows, at one moment."""

    at_s: float
    cpu_seconds: float
    sampled: Mapping[str, int]
    dropped: Mapping[str, int]
    received_bytes: int


def _read(daemon: LocalDaemon) -> _Reading:
    stats = daemon.daemon.GetStats(daemon_pb2.GetStatsRequest(), timeout=CALL_TIMEOUT_S)
    return _Reading(
        time.monotonic(),
        cpu_seconds(daemon.pids()),
        {s.spec.id: s.status.frames_sampled for s in stats.streams},
        {s.spec.id: sum(s.status.frames_dropped.values()) for s in stats.streams},
        sum(s.status.bytes_received for s in stats.streams),
    )


def wait_until_streaming(
    daemon: LocalDaemon,
    ids: Collection[str],
    timeout_s: float,
    sleep: Callable[[float], None] = time.sleep,
    told: Callable[[int], None] = lambda missing: None,
) -> None:
    """Wait until each of these streams has a result; ``told`` each time how many haven't yet. Raises
    MeasureError that names those that haven't."""
    deadline = time.monotonic() + timeout_s
    while True:
        asked = time.monotonic()
        stats = daemon.daemon.GetStats(daemon_pb2.GetStatsRequest(), timeout=CALL_TIMEOUT_S)
        pause = max(0.1, 3 * (time.monotonic() - asked))  # of hundreds of streams they take the daemon's time
        up = {
            s.spec.id
            for s in stats.streams
            if s.status.state == stream_pb2.STREAM_STATE_STREAMING and s.status.frames_inferred
        }
        missing = sorted(set(ids) - up)
        told(len(missing))
        if not missing:
            return
        if time.monotonic() > deadline:
            seen = {s.spec.id: _seen(s.status) for s in stats.streams}
            tell = "; ".join(f"{one}: {seen.get(one, 'no such stream')}" for one in missing[:5])
            raise MeasureError(f"{len(missing)} of {len(ids)} streams gave no result within {timeout_s:g} s: {tell}")
        sleep(pause)


def _seen(status: stream_pb2.StreamStatus) -> str:
    state = word(status, "state").replace("-", " ")
    return f"{state}, {status.frames_sampled} frames sampled" + (f" ({status.detail})" if status.detail else "")


def measure(
    daemon: LocalDaemon,
    duration_s: float,
    targets: Mapping[str, float],
    truth: Truth | None,
    thresholds: Thresholds | None = None,
) -> Measured:
    """Watch ``daemon`` for ``duration_s`` from now on; let it warm up before.

    ``targets``: each stream's id and its target fps. ``truth``: see :data:`Truth`; None where it isn't known.
    Counted are the results that come within the window. Latency is the daemon's own: from capture (DESIGN 3) to the
    result at the supervisor. Raises MeasureError, and LookupError where ``truth`` knows no camera or time.
    """
    watcher = Watcher(daemon)
    with GpuWatch() as gpu:
        before = _read(daemon)
        time.sleep(duration_s)
        after = _read(daemon)
    delivered = [d for d in watcher.close() if before.at_s <= d.at_s < after.at_s]
    window_s = after.at_s - before.at_s
    memory = memory_bytes(daemon.pids())  # takes long where much is mapped, and nobody would read results meanwhile
    streams = tuple(
        _figures(stream_id, target, [d for d in delivered if d.stream_id == stream_id], before, after, truth)
        for stream_id, target in targets.items()
    )
    return Measured(
        streams=streams,
        window_s=window_s,
        latency=latency_of(d.latency_ms for d in delivered if d.stream_id in targets),
        cpu_seconds=after.cpu_seconds - before.cpu_seconds,
        memory_bytes=memory,
        network_bps=8 * (after.received_bytes - before.received_bytes) / window_s,
        gpu=gpu.use,
        checks=check_streams(streams, thresholds or Thresholds(), with_accuracy=truth is not None),
    )


def _figures(
    stream_id: str,
    target: float,
    delivered: Sequence[Delivered],
    before: _Reading,
    after: _Reading,
    truth: Truth | None,
) -> StreamFigures:
    sampled = after.sampled.get(stream_id, 0) - before.sampled.get(stream_id, 0)
    dropped = after.dropped.get(stream_id, 0) - before.dropped.get(stream_id, 0)
    return StreamFigures(
        id=stream_id,
        target_fps=target,
        frames=len(delivered),
        fps=len(delivered) / (after.at_s - before.at_s),
        drop_fraction=dropped / sampled if sampled > 0 else 0.0,
        latency=latency_of(d.latency_ms for d in delivered),
        accuracy=score(stream_id, [(d.capture_utc_ns, d.boxes) for d in delivered], truth) if truth else None,
    )
