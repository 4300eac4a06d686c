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
    DaemonState,
    HealthView,
    InferenceView,
    ModelView,
    Problem,
    ProcessView,
    StatsView,
    WorkerKind,
)
from facedetd.v1 import daemon_pb2

DAEMON_STATES = numbers(DaemonState, daemon_pb2.DaemonState, "DAEMON_STATE")
WORKER_KINDS = numbers(WorkerKind, daemon_pb2.WorkerKind, "WORKER_KIND")
SEVERITIES = {"warning": daemon_pb2.SEVERITY_WARNING, "error": daemon_pb2.SEVERITY_ERROR}


def model_to_proto(model: ModelView) -> daemon_pb2.ModelInfo:
    return daemon_pb2.ModelInfo(
        name=model.name,
        version=model.version,
        head=model.head,
        engine=model.engine,
        input_width=model.input_width,
        input_height=model.input_height,
        sha256=model.sha256,
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
    )
