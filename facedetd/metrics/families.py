"""StatsView as Prometheus metric families. Pure: names, help texts and labels live here and nowhere else.

Names follow Prometheus's rules: base units, ``_total`` for counters. The only per-stream label is the id, so the
number of series is bounded by streams x (a fixed number + drop reasons); no URL and no camera's text is a label.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

from facedetd import __version__
from facedetd.control import (
    PROCESS_STATES,
    CalibrationView,
    DaemonState,
    Degradation,
    DegradationView,
    GpuView,
    LoadView,
    ProcessView,
    Stage,
    StatsView,
    StreamCounts,
    StreamView,
)
from facedetd.types import DecodeDevice, DecodeLevel, StreamState

_STREAM_COUNTERS: tuple[tuple[str, str, Callable[[StreamCounts], int]], ...] = (
    ("frames_received", "Frames that came from the camera.", lambda c: c.received),
    ("frames_decoded", "Frames decoded: sampled + not sampled.", lambda c: c.decoded),
    ("frames_sampled", "Frames chosen for detection: inferred + dropped + in the ring.", lambda c: c.sampled),
    ("frames_not_sampled", "Frames decoded but not chosen for detection.", lambda c: c.not_sampled),
    ("frames_inferred", "Frames whose faces were detected.", lambda c: c.inferred),
    ("faces", "Faces detected, inside the regions of interest.", lambda c: c.faces),
    ("reconnects", "Times the camera was connected to anew.", lambda c: c.reconnects),
    ("packets_skipped", "Packets that came too late to decode.", lambda c: c.skipped),
    ("frames_too_old", "Those of the frames not sampled that were too old.", lambda c: c.too_old),
    ("decode_errors", "Packets that gave no picture, and damaged pictures.", lambda c: c.decode_errors),
    ("received_bytes", "Bytes of video that came from the camera.", lambda c: c.received_bytes),
)


def _on_nvdec(stream: StreamView) -> float:
    return float(stream.decode_device is DecodeDevice.NVDEC)


_STREAM_GAUGES: tuple[tuple[str, str, Callable[[StreamView], float]], ...] = (
    ("target_frames_per_second", "Detections a second asked for.", lambda s: s.spec.target_fps),
    ("granted_frames_per_second", "Detections a second that the load allows now.", lambda s: s.granted_fps),
    ("actual_frames_per_second", "Frames inferred a second over the last ten seconds.", lambda s: s.actual_fps),
    (
        "decode_level",
        "How much of the video is decoded: 0 full, 1 no loop filter, 2 reference frames, 3 sub-stream, 4 keyframes, "
        "5 nothing.",
        lambda s: list(DecodeLevel).index(s.decode_level),
    ),
    ("on_nvdec", "1 while a GPU's NVDEC decodes the stream, 0 while the CPU does.", _on_nvdec),
    ("priority", "Priority of the stream, 0-100; higher is served first.", lambda s: s.spec.priority),
)

_LOAD_GAUGES: tuple[tuple[str, str, Callable[[LoadView], float]], ...] = (
    ("host_cores", "CPU cores the daemon may use.", lambda x: x.host_cores),
    ("host_idle_cores", "CPU cores that nobody used over the last second.", lambda x: x.idle_cores),
    (
        "decode_lag_seconds",
        "Age that frames of a fifth of the streams reach when sampled.",
        lambda x: x.decode_lag_s,
    ),
    ("inference_busy_ratio", "Share of the time in which the engine ran a batch.", lambda x: x.inference_busy),
)

_CAPACITY_GAUGES: tuple[tuple[str, str, Callable[[DegradationView], float | None]], ...] = (
    (
        "inference_capacity_frames_per_second",
        "Frames a second that are planned with; absent while inference isn't short.",
        lambda d: d.inference_capacity_fps,
    ),
    (
        "decode_capacity_cores",
        "CPU cores of decoding that are planned with; absent while decoding isn't short.",
        lambda d: d.decode_capacity_cores,
    ),
    (
        "network_capacity_bits_per_second",
        "Bits a second of video that are planned with; absent while the network isn't short.",
        lambda d: d.network_capacity_bits_per_s,
    ),
)

_GPU_GAUGES: tuple[tuple[str, str, Callable[[GpuView], float | None]], ...] = (
    ("utilisation_ratio", "Share of the last second in which a kernel ran.", lambda g: g.utilisation),
    (
        "decoder_utilisation_ratio",
        "Share of the last second in which its video decoders worked, all together.",
        lambda g: g.decoder_utilisation,
    ),
    ("memory_used_bytes", "Memory in use, by whomever; without the driver's reserve.", lambda g: g.memory_used_bytes),
    ("memory_free_bytes", "Memory that can be had.", lambda g: g.memory_free_bytes),
    ("memory_total_bytes", "Memory: used, free, and the driver's reserve.", lambda g: g.memory_total_bytes),
    ("own_memory_bytes", "Memory in use by this daemon's processes.", lambda g: g.own_memory_bytes),
    ("temperature_celsius", "Temperature of the chip.", lambda g: g.temperature_c),
    ("power_watts", "Power drawn.", lambda g: g.power_w),
)

_PROCESS = ["kind", "name"]


def families(stats: StatsView, cpu_seconds: Sequence[float], results_lost: float) -> Iterator[Metric]:
    """All families of one scrape. ``cpu_seconds`` stands beside ``stats.processes``; it and ``results_lost`` are
    made monotonic by the caller, since those of the view may begin anew with a worker."""
    yield from _daemon(stats)
    yield from _streams(stats.streams)
    if stats.degradation is not None:
        yield from _degradation(stats.degradation)
    yield from _processes(stats.processes, cpu_seconds)
    yield from _inference(stats, results_lost)
    if stats.gpus:
        yield from _gpus(stats.gpus)


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
        if m.calibration is not None:
            yield from _calibration(m.calibration)


def _calibration(view: CalibrationView) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "facedetd_model_calibration_age_seconds",
        "Time since the INT8 model was calibrated; absent for a float model.",
        value=view.age_s,
    )
    if view.drift is not None:
        yield GaugeMetricFamily(
            "facedetd_model_calibration_drift",
            "How far the brightness of the last week's pictures is from the calibration's, 0 to 1 (Jensen-Shannon, "
            "bits); absent for a float model, and until three days were seen.",
            value=view.drift,
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


def _degradation(view: DegradationView) -> Iterator[Metric]:
    state = GaugeMetricFamily(
        "facedetd_degradation", "1 for whether streams get less than asked for, else 0.", labels=["state"]
    )
    for degradation in Degradation:
        state.add_metric([degradation.value], float(view.state is degradation))
    yield state
    shortage = GaugeMetricFamily("facedetd_shortage", "1 for what is short just now, else 0.", labels=["stage"])
    for stage in Stage:
        shortage.add_metric([stage.value], float(view.shortage is stage))
    yield shortage
    for name, text, of_load in _LOAD_GAUGES:
        yield GaugeMetricFamily(f"facedetd_{name}", text, value=of_load(view.load))
    for name, text, of_view in _CAPACITY_GAUGES:
        value = of_view(view)
        if value is not None:
            yield GaugeMetricFamily(f"facedetd_{name}", text, value=value)


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
    state = GaugeMetricFamily(
        "facedetd_process_state",
        "1 for the state the process is in, else 0; a halted one is tried once in a long while.",
        labels=[*_PROCESS, "state"],
    )
    for process, seconds in zip(processes, cpu_seconds, strict=True):
        key = [process.kind.value, process.name]
        for each in PROCESS_STATES:
            state.add_metric([*key, each], float(process.state == each))
        cpu.add_metric(key, seconds)
        memory.add_metric(key, process.memory_bytes)
        restarts.add_metric(key, process.restarts)
        uptime.add_metric(key, process.uptime_s)
    yield from (cpu, memory, restarts, uptime, state)


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


def _gpus(gpus: Sequence[GpuView]) -> Iterator[Metric]:
    """What a GPU doesn't tell is absent: a zero would look like a figure."""
    info = InfoMetricFamily("facedetd_gpu", "An NVIDIA GPU whose driver answers.", labels=["gpu"])
    for gpu in gpus:
        info.add_metric([str(gpu.index)], {"uuid": gpu.uuid, "name": gpu.name, "driver": gpu.driver})
    yield info
    for name, text, of_gpu in _GPU_GAUGES:
        gauge = GaugeMetricFamily(f"facedetd_gpu_{name}", f"{text} Absent where it isn't told.", labels=["gpu"])
        for gpu in gpus:
            if (value := of_gpu(gpu)) is not None:
                gauge.add_metric([str(gpu.index)], value)
        yield gauge
