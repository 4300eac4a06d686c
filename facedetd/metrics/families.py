"""StatsView as Prometheus metric families. Pure: names, help texts and labels live here and nowhere else.

Names follow Prometheus's rules: base units, ``_total`` for counters. The only per-stream label is the id, so the
number of series is bounded by streams x (a fixed number + drop reasons); no URL and no camera's text is a label.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

from facedetd import __version__
from facedetd.control import DaemonState, ProcessView, StatsView, StreamCounts, StreamView
from facedetd.types import StreamState

_STREAM_COUNTERS: tuple[tuple[str, str, Callable[[StreamCounts], int]], ...] = (
    ("frames_received", "Frames that came from the camera.", lambda c: c.received),
    ("frames_decoded", "Frames decoded: sampled + not sampled.", lambda c: c.decoded),
    ("frames_sampled", "Frames chosen for detection: inferred + dropped + in the ring.", lambda c: c.sampled),
    ("frames_not_sampled", "Frames decoded but not chosen for detection.", lambda c: c.not_sampled),
    ("frames_inferred", "Frames whose faces were detected.", lambda c: c.inferred),
    ("faces", "Faces detected, inside the regions of interest.", lambda c: c.faces),
    ("reconnects", "Times the camera was connected to anew.", lambda c: c.reconnects),
    ("received_bytes", "Bytes of video that came from the camera.", lambda c: c.received_bytes),
)

_STREAM_GAUGES: tuple[tuple[str, str, Callable[[StreamView], float]], ...] = (
    ("target_frames_per_second", "Detections a second asked for.", lambda s: s.spec.target_fps),
    ("granted_frames_per_second", "Detections a second that the load allows now.", lambda s: s.granted_fps),
    ("actual_frames_per_second", "Frames inferred a second over the last ten seconds.", lambda s: s.actual_fps),
    ("priority", "Priority of the stream, 0-100; higher is served first.", lambda s: s.spec.priority),
)

_PROCESS = ["kind", "name"]


def families(stats: StatsView, cpu_seconds: Sequence[float], results_lost: float) -> Iterator[Metric]:
    """All families of one scrape. ``cpu_seconds`` stands beside ``stats.processes``; it and ``results_lost`` are
    made monotonic by the caller, since those of the view may begin anew with a worker."""
    yield from _daemon(stats)
    yield from _streams(stats.streams)
    yield from _processes(stats.processes, cpu_seconds)
    yield from _inference(stats, results_lost)


def _daemon(stats: StatsView) -> Iterator[Metric]:
    python = platform.python_version()
    yield InfoMetricFamily("facedetd_build", "The running version.", {"version": __version__, "python": python})
    state = GaugeMetricFamily("facedetd_state", "1 for the state the daemon is in, else 0.", labels=["state"])
    for each in DaemonState:
        state.add_metric([each.value], float(stats.state is each))
    yield state
    yield GaugeMetricFamily("facedetd_uptime_seconds", "Time since the daemon began.", value=stats.uptime_s)
    yield GaugeMetricFamily("facedetd_watchers", "Clients that watch detections now.", value=stats.watchers)
    yield CounterMetricFamily(
        "facedetd_watcher_results_lost_total",
        "Results that watchers lost because they read too slowly.",
        value=stats.watcher_results_lost,
    )
    if stats.model is not None:
        m = stats.model
        yield InfoMetricFamily(
            "facedetd_model",
            "The model that runs.",
            {
                "name": m.name,
                "version": m.version,
                "head": m.head,
                "engine": m.engine,
                "input": f"{m.input_width}x{m.input_height}",
                "sha256": m.sha256,
            },
        )


def _streams(streams: Sequence[StreamView]) -> Iterator[Metric]:
    for name, text, count in _STREAM_COUNTERS:
        counter = CounterMetricFamily(f"facedetd_stream_{name}_total", text, labels=["stream"])
        for s in streams:
            counter.add_metric([s.spec.id], count(s.counts))
        yield counter
    dropped = CounterMetricFamily(
        "facedetd_stream_frames_dropped_total", "Sampled frames that were not inferred.", labels=["stream", "reason"]
    )
    # A reason seen on one stream is 0 on the others: a series that begins above 0 hides its first increase.
    reasons = sorted({reason for s in streams for reason in s.counts.dropped})
    ring = GaugeMetricFamily(
        "facedetd_stream_ring_frames",
        "Sampled frames in the ring: waiting for a batch, or in flight.",
        labels=["stream", "state"],
    )
    state = GaugeMetricFamily(
        "facedetd_stream_state", "1 for the state the stream is in, else 0.", labels=["stream", "state"]
    )
    for s in streams:
        for reason in reasons:
            dropped.add_metric([s.spec.id, reason], s.counts.dropped.get(reason, 0))
        ring.add_metric([s.spec.id, "waiting"], s.counts.waiting)
        ring.add_metric([s.spec.id, "in_flight"], s.counts.in_flight)
        for each in StreamState:
            state.add_metric([s.spec.id, each.value], float(s.state is each))
    yield dropped
    yield ring
    yield state
    for name, text, value in _STREAM_GAUGES:
        gauge = GaugeMetricFamily(f"facedetd_stream_{name}", text, labels=["stream"])
        for s in streams:
            gauge.add_metric([s.spec.id], value(s))
        yield gauge


def _processes(processes: Sequence[ProcessView], cpu_seconds: Sequence[float]) -> Iterator[Metric]:
    cpu = CounterMetricFamily(
        "facedetd_process_cpu_seconds_total", "CPU time, user and system, over all restarts.", labels=_PROCESS
    )
    memory = GaugeMetricFamily(
        "facedetd_process_resident_memory_bytes", "Resident memory, shared pages included.", labels=_PROCESS
    )
    restarts = CounterMetricFamily(
        "facedetd_process_restarts_total", "Times the process was started anew after it ended.", labels=_PROCESS
    )
    uptime = GaugeMetricFamily("facedetd_process_uptime_seconds", "Time since the process began.", labels=_PROCESS)
    for process, seconds in zip(processes, cpu_seconds, strict=True):
        key = [process.kind.value, process.name]
        cpu.add_metric(key, seconds)
        memory.add_metric(key, process.memory_bytes)
        restarts.add_metric(key, process.restarts)
        uptime.add_metric(key, process.uptime_s)
    yield from (cpu, memory, restarts, uptime)


def _inference(stats: StatsView, results_lost: float) -> Iterator[Metric]:
    yield CounterMetricFamily(
        "facedetd_inference_results_lost_total",
        "Results that didn't reach the supervisor because it was behind.",
        value=results_lost,
    )
    if stats.inference is not None:
        yield GaugeMetricFamily(
            "facedetd_inference_queue_age_seconds",
            "Age of the oldest frame that waits for a batch.",
            value=stats.inference.oldest_waiting_s,
        )
