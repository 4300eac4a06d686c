"""Stats and health, between protocol messages and the daemon's data classes. Pure, both ways."""

from __future__ import annotations

from facedetd.api.convert import (
    duration,
    latency_from_proto,
    latency_to_proto,
    numbers,
    seconds,
    stream_from_proto,
    stream_to_proto,
    timestamp,
    word_of,
)
from facedetd.control import (
    CalibrationView,
    DaemonState,
    Degradation,
    DegradationView,
    GpuView,
    HealthView,
    InferenceView,
    LoadView,
    MemoryView,
    ModelView,
    Problem,
    ProcessView,
    Stage,
    StatsView,
    WorkerKind,
)
from facedetd.v1 import daemon_pb2

DAEMON_STATES = numbers(DaemonState, daemon_pb2.DaemonState, "DAEMON_STATE")
DEGRADATIONS = numbers(Degradation, daemon_pb2.DegradationState, "DEGRADATION_STATE")
STAGES = numbers(Stage, daemon_pb2.Stage, "STAGE")
WORKER_KINDS = numbers(WorkerKind, daemon_pb2.WorkerKind, "WORKER_KIND")
SEVERITIES = {"warning": daemon_pb2.SEVERITY_WARNING, "error": daemon_pb2.SEVERITY_ERROR}


def calibration_to_proto(view: CalibrationView) -> daemon_pb2.Calibration:
    return daemon_pb2.Calibration(
        at=timestamp(view.at_utc_ns),
        frames=view.frames,
        method=view.method,
        age=duration(view.age_s),
        drift=view.drift,
    )


def calibration_from_proto(message: daemon_pb2.Calibration) -> CalibrationView:
    return CalibrationView(
        at_utc_ns=message.at.ToNanoseconds(),
        frames=message.frames,
        method=message.method,
        age_s=seconds(message.age),
        drift=message.drift if message.HasField("drift") else None,
    )


def model_to_proto(model: ModelView) -> daemon_pb2.ModelInfo:
    return daemon_pb2.ModelInfo(
        name=model.name,
        version=model.version,
        head=model.head,
        engine=model.engine,
        input_width=model.input_width,
        input_height=model.input_height,
        sha256=model.sha256,
        activated=model.activated,
        calibration=calibration_to_proto(model.calibration) if model.calibration else None,
    )


def model_from_proto(message: daemon_pb2.ModelInfo) -> ModelView:
    return ModelView(
        name=message.name,
        version=message.version,
        head=message.head,
        engine=message.engine,
        input_width=message.input_width,
        input_height=message.input_height,
        sha256=message.sha256,
        activated=message.activated,
        calibration=calibration_from_proto(message.calibration) if message.HasField("calibration") else None,
    )


def process_to_proto(process: ProcessView) -> daemon_pb2.Process:
    return daemon_pb2.Process(
        kind=WORKER_KINDS[process.kind],  # type: ignore[arg-type]
        name=process.name,
        pid=process.pid,
        state=process.state,
        uptime=duration(process.uptime_s),
        cpu_time=duration(process.cpu_seconds),
        cpu=process.cpu,
        memory_bytes=process.memory_bytes,
        restarts=process.restarts,
        streams=process.streams,
        detail=process.detail,
    )


def process_from_proto(message: daemon_pb2.Process) -> ProcessView:
    return ProcessView(
        kind=word_of(WORKER_KINDS, message.kind, None, "kind"),
        name=message.name,
        pid=message.pid,
        state=message.state,
        uptime_s=seconds(message.uptime),
        cpu_seconds=seconds(message.cpu_time),
        cpu=message.cpu,
        memory_bytes=message.memory_bytes,
        restarts=message.restarts,
        streams=message.streams,
        detail=message.detail,
    )


def inference_to_proto(view: InferenceView) -> daemon_pb2.InferenceStats:
    return daemon_pb2.InferenceStats(
        frames_per_second=view.frames_per_second,
        mean_batch_size=view.mean_batch_size,
        mean_batch_time=duration(view.mean_batch_s),
        batches=view.batches,
        frames=view.frames,
        results_lost=view.results_lost,
        oldest_waiting=duration(view.oldest_waiting_s),
    )


def inference_from_proto(message: daemon_pb2.InferenceStats) -> InferenceView:
    return InferenceView(
        frames_per_second=message.frames_per_second,
        mean_batch_size=message.mean_batch_size,
        mean_batch_s=seconds(message.mean_batch_time),
        batches=message.batches,
        frames=message.frames,
        results_lost=message.results_lost,
        oldest_waiting_s=seconds(message.oldest_waiting),
    )


def load_to_proto(view: LoadView) -> daemon_pb2.Load:
    return daemon_pb2.Load(
        host_cores=view.host_cores,
        idle_cores=view.idle_cores,
        decoder_cores=view.decoder_cores,
        inference_cores=view.inference_cores,
        other_cores=view.others_cores,
        inference_busy=view.inference_busy,
        dropped_share=view.dropped_share,
        late_share=view.late_share,
        decode_lag=duration(view.decode_lag_s),
        oldest_waiting=duration(view.oldest_waiting_s),
        latency_p95=duration(view.latency_p95_s),
        network_bits_per_second=view.network_bits_per_s,
    )


def load_from_proto(message: daemon_pb2.Load) -> LoadView:
    return LoadView(
        host_cores=message.host_cores,
        idle_cores=message.idle_cores,
        decoder_cores=message.decoder_cores,
        inference_cores=message.inference_cores,
        others_cores=message.other_cores,
        inference_busy=message.inference_busy,
        dropped_share=message.dropped_share,
        late_share=message.late_share,
        decode_lag_s=seconds(message.decode_lag),
        oldest_waiting_s=seconds(message.oldest_waiting),
        latency_p95_s=seconds(message.latency_p95),
        network_bits_per_s=message.network_bits_per_second,
    )


def degradation_to_proto(view: DegradationView) -> daemon_pb2.Degradation:
    return daemon_pb2.Degradation(
        state=DEGRADATIONS[view.state],  # type: ignore[arg-type]
        reason=view.reason,
        since=timestamp(view.since_utc_ns),
        shortage=STAGES[view.shortage],  # type: ignore[arg-type]
        load=load_to_proto(view.load),
        inference_capacity_fps=view.inference_capacity_fps,
        decode_capacity_cores=view.decode_capacity_cores,
        network_capacity_bits_per_second=view.network_capacity_bits_per_s,
    )


def degradation_from_proto(message: daemon_pb2.Degradation) -> DegradationView:
    m = message
    return DegradationView(
        word_of(DEGRADATIONS, m.state, None, "degradation.state"),
        m.reason,
        m.since.ToNanoseconds(),
        word_of(STAGES, m.shortage, None, "degradation.shortage"),
        load_from_proto(m.load),
        m.inference_capacity_fps if m.HasField("inference_capacity_fps") else None,
        m.decode_capacity_cores if m.HasField("decode_capacity_cores") else None,
        m.network_capacity_bits_per_second if m.HasField("network_capacity_bits_per_second") else None,
    )


def memory_to_proto(view: MemoryView) -> daemon_pb2.Memory:
    return daemon_pb2.Memory(
        limit_bytes=view.limit,
        limit_set_by=view.set_by,
        free_bytes=view.free,
        high_bytes=view.high,
        rings_bytes=view.rings,
        needed_bytes=view.needed,
    )


def memory_from_proto(message: daemon_pb2.Memory) -> MemoryView:
    m = message
    high = m.high_bytes if m.HasField("high_bytes") else None
    return MemoryView(m.limit_bytes, m.limit_set_by, m.free_bytes, high, m.rings_bytes, m.needed_bytes)


def gpu_to_proto(view: GpuView) -> daemon_pb2.Gpu:
    return daemon_pb2.Gpu(
        index=view.index,
        uuid=view.uuid,
        name=view.name,
        driver_version=view.driver,
        utilisation=view.utilisation,
        decoder_utilisation=view.decoder_utilisation,
        memory_used_bytes=view.memory_used_bytes,
        memory_free_bytes=view.memory_free_bytes,
        memory_total_bytes=view.memory_total_bytes,
        own_memory_bytes=view.own_memory_bytes,
        temperature_celsius=view.temperature_c,
        power_watts=view.power_w,
    )


def gpu_from_proto(message: daemon_pb2.Gpu) -> GpuView:
    m = message
    return GpuView(
        m.index,
        m.uuid,
        m.name,
        m.driver_version,
        m.utilisation if m.HasField("utilisation") else None,
        m.decoder_utilisation if m.HasField("decoder_utilisation") else None,
        m.memory_used_bytes if m.HasField("memory_used_bytes") else None,
        m.memory_free_bytes if m.HasField("memory_free_bytes") else None,
        m.memory_total_bytes if m.HasField("memory_total_bytes") else None,
        m.own_memory_bytes if m.HasField("own_memory_bytes") else None,
        m.temperature_celsius if m.HasField("temperature_celsius") else None,
        m.power_watts if m.HasField("power_watts") else None,
    )


def stats_to_proto(view: StatsView) -> daemon_pb2.GetStatsResponse:
    """Stats with their sums. Paused streams want no frames, so they don't count towards the target."""
    sampled = sum(stream.counts.sampled for stream in view.streams)
    dropped = sum(sum(stream.counts.dropped.values()) for stream in view.streams)
    return daemon_pb2.GetStatsResponse(
        time=timestamp(view.time_utc_ns),
        state=DAEMON_STATES[view.state],  # type: ignore[arg-type]
        uptime=duration(view.uptime_s),
        model=model_to_proto(view.model) if view.model else None,
        streams=[stream_to_proto(stream) for stream in view.streams],
        processes=[process_to_proto(process) for process in view.processes],
        inference=inference_to_proto(view.inference) if view.inference else None,
        watchers=view.watchers,
        total_target_fps=sum(s.spec.target_fps for s in view.streams if not s.spec.paused),
        total_actual_fps=sum(s.actual_fps for s in view.streams),
        latency=latency_to_proto(view.latency) if view.latency else None,
        drop_fraction=dropped / sampled if sampled else 0.0,
        degradation=degradation_to_proto(view.degradation) if view.degradation else None,
        gpus=[gpu_to_proto(gpu) for gpu in view.gpus],
        memory=memory_to_proto(view.memory) if view.memory else None,
    )


def stats_from_proto(message: daemon_pb2.GetStatsResponse) -> StatsView:
    """Raises InvalidError for enum numbers this version doesn't know."""
    return StatsView(
        time_utc_ns=message.time.ToNanoseconds(),
        state=word_of(DAEMON_STATES, message.state, None, "state"),
        uptime_s=seconds(message.uptime),
        model=model_from_proto(message.model) if message.HasField("model") else None,
        streams=tuple(stream_from_proto(stream) for stream in message.streams),
        processes=tuple(process_from_proto(process) for process in message.processes),
        inference=inference_from_proto(message.inference) if message.HasField("inference") else None,
        watchers=message.watchers,
        latency=latency_from_proto(message.latency) if message.HasField("latency") else None,
        degradation=degradation_from_proto(message.degradation) if message.HasField("degradation") else None,
        gpus=tuple(gpu_from_proto(gpu) for gpu in message.gpus),
        memory=memory_from_proto(message.memory) if message.HasField("memory") else None,
    )


def health_to_proto(view: HealthView) -> daemon_pb2.GetHealthResponse:
    return daemon_pb2.GetHealthResponse(
        state=DAEMON_STATES[view.state],  # type: ignore[arg-type]
        serving=view.serving,
        problems=[
            daemon_pb2.Problem(
                severity=SEVERITIES.get(problem.severity, daemon_pb2.SEVERITY_UNSPECIFIED),
                subject=problem.subject,
                message=problem.message,
                since=timestamp(problem.since_utc_ns),
            )
            for problem in view.problems
        ],
        model=model_to_proto(view.model) if view.model else None,
    )


def health_from_proto(message: daemon_pb2.GetHealthResponse) -> HealthView:
    names = {number: name for name, number in SEVERITIES.items()}
    return HealthView(
        state=word_of(DAEMON_STATES, message.state, None, "state"),
        serving=message.serving,
        problems=tuple(
            Problem(names.get(p.severity, "warning"), p.subject, p.message, p.since.ToNanoseconds())
            for p in message.problems
        ),
        model=model_from_proto(message.model) if message.HasField("model") else None,
    )
