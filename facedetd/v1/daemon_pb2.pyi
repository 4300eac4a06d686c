import datetime

from facedetd.v1 import stream_pb2 as _stream_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DaemonState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DAEMON_STATE_UNSPECIFIED: _ClassVar[DaemonState]
    DAEMON_STATE_STARTING: _ClassVar[DaemonState]
    DAEMON_STATE_RUNNING: _ClassVar[DaemonState]
    DAEMON_STATE_WAITING_FOR_MODEL: _ClassVar[DaemonState]
    DAEMON_STATE_WAITING_FOR_DEVICE: _ClassVar[DaemonState]
    DAEMON_STATE_FAILED: _ClassVar[DaemonState]
    DAEMON_STATE_STOPPING: _ClassVar[DaemonState]

class WorkerKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WORKER_KIND_UNSPECIFIED: _ClassVar[WorkerKind]
    WORKER_KIND_SUPERVISOR: _ClassVar[WorkerKind]
    WORKER_KIND_DECODER: _ClassVar[WorkerKind]
    WORKER_KIND_INFERENCE: _ClassVar[WorkerKind]

class DegradationState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DEGRADATION_STATE_UNSPECIFIED: _ClassVar[DegradationState]
    DEGRADATION_STATE_NONE: _ClassVar[DegradationState]
    DEGRADATION_STATE_REDUCED: _ClassVar[DegradationState]
    DEGRADATION_STATE_OVERCOMMITTED: _ClassVar[DegradationState]

class Stage(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STAGE_UNSPECIFIED: _ClassVar[Stage]
    STAGE_NONE: _ClassVar[Stage]
    STAGE_INFERENCE: _ClassVar[Stage]
    STAGE_DECODE: _ClassVar[Stage]
    STAGE_HOST: _ClassVar[Stage]
    STAGE_NETWORK: _ClassVar[Stage]

class Severity(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SEVERITY_UNSPECIFIED: _ClassVar[Severity]
    SEVERITY_WARNING: _ClassVar[Severity]
    SEVERITY_ERROR: _ClassVar[Severity]
DAEMON_STATE_UNSPECIFIED: DaemonState
DAEMON_STATE_STARTING: DaemonState
DAEMON_STATE_RUNNING: DaemonState
DAEMON_STATE_WAITING_FOR_MODEL: DaemonState
DAEMON_STATE_WAITING_FOR_DEVICE: DaemonState
DAEMON_STATE_FAILED: DaemonState
DAEMON_STATE_STOPPING: DaemonState
WORKER_KIND_UNSPECIFIED: WorkerKind
WORKER_KIND_SUPERVISOR: WorkerKind
WORKER_KIND_DECODER: WorkerKind
WORKER_KIND_INFERENCE: WorkerKind
DEGRADATION_STATE_UNSPECIFIED: DegradationState
DEGRADATION_STATE_NONE: DegradationState
DEGRADATION_STATE_REDUCED: DegradationState
DEGRADATION_STATE_OVERCOMMITTED: DegradationState
STAGE_UNSPECIFIED: Stage
STAGE_NONE: Stage
STAGE_INFERENCE: Stage
STAGE_DECODE: Stage
STAGE_HOST: Stage
STAGE_NETWORK: Stage
SEVERITY_UNSPECIFIED: Severity
SEVERITY_WARNING: Severity
SEVERITY_ERROR: Severity

class Process(_message.Message):
    __slots__ = ("kind", "name", "pid", "state", "uptime", "cpu_time", "cpu", "memory_bytes", "restarts", "streams", "detail")
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    UPTIME_FIELD_NUMBER: _ClassVar[int]
    CPU_TIME_FIELD_NUMBER: _ClassVar[int]
    CPU_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    RESTARTS_FIELD_NUMBER: _ClassVar[int]
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    kind: WorkerKind
    name: str
    pid: int
    state: str
    uptime: _duration_pb2.Duration
    cpu_time: _duration_pb2.Duration
    cpu: float
    memory_bytes: int
    restarts: int
    streams: int
    detail: str
    def __init__(self, kind: _Optional[_Union[WorkerKind, str]] = ..., name: _Optional[str] = ..., pid: _Optional[int] = ..., state: _Optional[str] = ..., uptime: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., cpu_time: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., cpu: _Optional[float] = ..., memory_bytes: _Optional[int] = ..., restarts: _Optional[int] = ..., streams: _Optional[int] = ..., detail: _Optional[str] = ...) -> None: ...

class Calibration(_message.Message):
    __slots__ = ("at", "frames", "method", "age", "drift")
    AT_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    AGE_FIELD_NUMBER: _ClassVar[int]
    DRIFT_FIELD_NUMBER: _ClassVar[int]
    at: _timestamp_pb2.Timestamp
    frames: int
    method: str
    age: _duration_pb2.Duration
    drift: float
    def __init__(self, at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., frames: _Optional[int] = ..., method: _Optional[str] = ..., age: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., drift: _Optional[float] = ...) -> None: ...

class ModelInfo(_message.Message):
    __slots__ = ("name", "version", "head", "engine", "input_width", "input_height", "sha256", "activated", "calibration")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    INPUT_WIDTH_FIELD_NUMBER: _ClassVar[int]
    INPUT_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    ACTIVATED_FIELD_NUMBER: _ClassVar[int]
    CALIBRATION_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    head: str
    engine: str
    input_width: int
    input_height: int
    sha256: str
    activated: bool
    calibration: Calibration
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., head: _Optional[str] = ..., engine: _Optional[str] = ..., input_width: _Optional[int] = ..., input_height: _Optional[int] = ..., sha256: _Optional[str] = ..., activated: _Optional[bool] = ..., calibration: _Optional[_Union[Calibration, _Mapping]] = ...) -> None: ...

class InferenceStats(_message.Message):
    __slots__ = ("frames_per_second", "mean_batch_size", "mean_batch_time", "batches", "frames", "results_lost", "oldest_waiting")
    FRAMES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    MEAN_BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    MEAN_BATCH_TIME_FIELD_NUMBER: _ClassVar[int]
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    RESULTS_LOST_FIELD_NUMBER: _ClassVar[int]
    OLDEST_WAITING_FIELD_NUMBER: _ClassVar[int]
    frames_per_second: float
    mean_batch_size: float
    mean_batch_time: _duration_pb2.Duration
    batches: int
    frames: int
    results_lost: int
    oldest_waiting: _duration_pb2.Duration
    def __init__(self, frames_per_second: _Optional[float] = ..., mean_batch_size: _Optional[float] = ..., mean_batch_time: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., batches: _Optional[int] = ..., frames: _Optional[int] = ..., results_lost: _Optional[int] = ..., oldest_waiting: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Load(_message.Message):
    __slots__ = ("host_cores", "idle_cores", "decoder_cores", "inference_cores", "other_cores", "inference_busy", "dropped_share", "late_share", "decode_lag", "oldest_waiting", "latency_p95", "network_bits_per_second")
    HOST_CORES_FIELD_NUMBER: _ClassVar[int]
    IDLE_CORES_FIELD_NUMBER: _ClassVar[int]
    DECODER_CORES_FIELD_NUMBER: _ClassVar[int]
    INFERENCE_CORES_FIELD_NUMBER: _ClassVar[int]
    OTHER_CORES_FIELD_NUMBER: _ClassVar[int]
    INFERENCE_BUSY_FIELD_NUMBER: _ClassVar[int]
    DROPPED_SHARE_FIELD_NUMBER: _ClassVar[int]
    LATE_SHARE_FIELD_NUMBER: _ClassVar[int]
    DECODE_LAG_FIELD_NUMBER: _ClassVar[int]
    OLDEST_WAITING_FIELD_NUMBER: _ClassVar[int]
    LATENCY_P95_FIELD_NUMBER: _ClassVar[int]
    NETWORK_BITS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    host_cores: float
    idle_cores: float
    decoder_cores: float
    inference_cores: float
    other_cores: float
    inference_busy: float
    dropped_share: float
    late_share: float
    decode_lag: _duration_pb2.Duration
    oldest_waiting: _duration_pb2.Duration
    latency_p95: _duration_pb2.Duration
    network_bits_per_second: float
    def __init__(self, host_cores: _Optional[float] = ..., idle_cores: _Optional[float] = ..., decoder_cores: _Optional[float] = ..., inference_cores: _Optional[float] = ..., other_cores: _Optional[float] = ..., inference_busy: _Optional[float] = ..., dropped_share: _Optional[float] = ..., late_share: _Optional[float] = ..., decode_lag: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., oldest_waiting: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., latency_p95: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., network_bits_per_second: _Optional[float] = ...) -> None: ...

class Degradation(_message.Message):
    __slots__ = ("state", "reason", "since", "shortage", "load", "inference_capacity_fps", "decode_capacity_cores", "network_capacity_bits_per_second")
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    SHORTAGE_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    INFERENCE_CAPACITY_FPS_FIELD_NUMBER: _ClassVar[int]
    DECODE_CAPACITY_CORES_FIELD_NUMBER: _ClassVar[int]
    NETWORK_CAPACITY_BITS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    state: DegradationState
    reason: str
    since: _timestamp_pb2.Timestamp
    shortage: Stage
    load: Load
    inference_capacity_fps: float
    decode_capacity_cores: float
    network_capacity_bits_per_second: float
    def __init__(self, state: _Optional[_Union[DegradationState, str]] = ..., reason: _Optional[str] = ..., since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., shortage: _Optional[_Union[Stage, str]] = ..., load: _Optional[_Union[Load, _Mapping]] = ..., inference_capacity_fps: _Optional[float] = ..., decode_capacity_cores: _Optional[float] = ..., network_capacity_bits_per_second: _Optional[float] = ...) -> None: ...

class Memory(_message.Message):
    __slots__ = ("limit_bytes", "limit_set_by", "free_bytes", "high_bytes", "rings_bytes", "needed_bytes")
    LIMIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    LIMIT_SET_BY_FIELD_NUMBER: _ClassVar[int]
    FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    HIGH_BYTES_FIELD_NUMBER: _ClassVar[int]
    RINGS_BYTES_FIELD_NUMBER: _ClassVar[int]
    NEEDED_BYTES_FIELD_NUMBER: _ClassVar[int]
    limit_bytes: int
    limit_set_by: str
    free_bytes: int
    high_bytes: int
    rings_bytes: int
    needed_bytes: int
    def __init__(self, limit_bytes: _Optional[int] = ..., limit_set_by: _Optional[str] = ..., free_bytes: _Optional[int] = ..., high_bytes: _Optional[int] = ..., rings_bytes: _Optional[int] = ..., needed_bytes: _Optional[int] = ...) -> None: ...

class Gpu(_message.Message):
    __slots__ = ("index", "uuid", "name", "driver_version", "utilisation", "decoder_utilisation", "memory_used_bytes", "memory_free_bytes", "memory_total_bytes", "own_memory_bytes", "temperature_celsius", "power_watts")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    UUID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    DRIVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    UTILISATION_FIELD_NUMBER: _ClassVar[int]
    DECODER_UTILISATION_FIELD_NUMBER: _ClassVar[int]
    MEMORY_USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    OWN_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_CELSIUS_FIELD_NUMBER: _ClassVar[int]
    POWER_WATTS_FIELD_NUMBER: _ClassVar[int]
    index: int
    uuid: str
    name: str
    driver_version: str
    utilisation: float
    decoder_utilisation: float
    memory_used_bytes: int
    memory_free_bytes: int
    memory_total_bytes: int
    own_memory_bytes: int
    temperature_celsius: float
    power_watts: float
    def __init__(self, index: _Optional[int] = ..., uuid: _Optional[str] = ..., name: _Optional[str] = ..., driver_version: _Optional[str] = ..., utilisation: _Optional[float] = ..., decoder_utilisation: _Optional[float] = ..., memory_used_bytes: _Optional[int] = ..., memory_free_bytes: _Optional[int] = ..., memory_total_bytes: _Optional[int] = ..., own_memory_bytes: _Optional[int] = ..., temperature_celsius: _Optional[float] = ..., power_watts: _Optional[float] = ...) -> None: ...

class GetStatsRequest(_message.Message):
    __slots__ = ("stream_ids",)
    STREAM_IDS_FIELD_NUMBER: _ClassVar[int]
    stream_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, stream_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class GetStatsResponse(_message.Message):
    __slots__ = ("time", "state", "uptime", "model", "streams", "processes", "inference", "watchers", "total_target_fps", "total_actual_fps", "latency", "drop_fraction", "degradation", "gpus", "memory")
    TIME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    UPTIME_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    PROCESSES_FIELD_NUMBER: _ClassVar[int]
    INFERENCE_FIELD_NUMBER: _ClassVar[int]
    WATCHERS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_TARGET_FPS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_ACTUAL_FPS_FIELD_NUMBER: _ClassVar[int]
    LATENCY_FIELD_NUMBER: _ClassVar[int]
    DROP_FRACTION_FIELD_NUMBER: _ClassVar[int]
    DEGRADATION_FIELD_NUMBER: _ClassVar[int]
    GPUS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    time: _timestamp_pb2.Timestamp
    state: DaemonState
    uptime: _duration_pb2.Duration
    model: ModelInfo
    streams: _containers.RepeatedCompositeFieldContainer[_stream_pb2.Stream]
    processes: _containers.RepeatedCompositeFieldContainer[Process]
    inference: InferenceStats
    watchers: int
    total_target_fps: float
    total_actual_fps: float
    latency: _stream_pb2.Latency
    drop_fraction: float
    degradation: Degradation
    gpus: _containers.RepeatedCompositeFieldContainer[Gpu]
    memory: Memory
    def __init__(self, time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., state: _Optional[_Union[DaemonState, str]] = ..., uptime: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., model: _Optional[_Union[ModelInfo, _Mapping]] = ..., streams: _Optional[_Iterable[_Union[_stream_pb2.Stream, _Mapping]]] = ..., processes: _Optional[_Iterable[_Union[Process, _Mapping]]] = ..., inference: _Optional[_Union[InferenceStats, _Mapping]] = ..., watchers: _Optional[int] = ..., total_target_fps: _Optional[float] = ..., total_actual_fps: _Optional[float] = ..., latency: _Optional[_Union[_stream_pb2.Latency, _Mapping]] = ..., drop_fraction: _Optional[float] = ..., degradation: _Optional[_Union[Degradation, _Mapping]] = ..., gpus: _Optional[_Iterable[_Union[Gpu, _Mapping]]] = ..., memory: _Optional[_Union[Memory, _Mapping]] = ...) -> None: ...

class WatchStatsRequest(_message.Message):
    __slots__ = ("stream_ids", "interval")
    STREAM_IDS_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    stream_ids: _containers.RepeatedScalarFieldContainer[str]
    interval: _duration_pb2.Duration
    def __init__(self, stream_ids: _Optional[_Iterable[str]] = ..., interval: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class WatchStatsResponse(_message.Message):
    __slots__ = ("stats",)
    STATS_FIELD_NUMBER: _ClassVar[int]
    stats: GetStatsResponse
    def __init__(self, stats: _Optional[_Union[GetStatsResponse, _Mapping]] = ...) -> None: ...

class GetHealthRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Problem(_message.Message):
    __slots__ = ("severity", "subject", "message", "since")
    SEVERITY_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    severity: Severity
    subject: str
    message: str
    since: _timestamp_pb2.Timestamp
    def __init__(self, severity: _Optional[_Union[Severity, str]] = ..., subject: _Optional[str] = ..., message: _Optional[str] = ..., since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class GetHealthResponse(_message.Message):
    __slots__ = ("state", "serving", "problems", "model")
    STATE_FIELD_NUMBER: _ClassVar[int]
    SERVING_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    state: DaemonState
    serving: bool
    problems: _containers.RepeatedCompositeFieldContainer[Problem]
    model: ModelInfo
    def __init__(self, state: _Optional[_Union[DaemonState, str]] = ..., serving: _Optional[bool] = ..., problems: _Optional[_Iterable[_Union[Problem, _Mapping]]] = ..., model: _Optional[_Union[ModelInfo, _Mapping]] = ...) -> None: ...

class ReloadRequest(_message.Message):
    __slots__ = ("dry_run",)
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    dry_run: bool
    def __init__(self, dry_run: _Optional[bool] = ...) -> None: ...

class ReloadResponse(_message.Message):
    __slots__ = ("changes", "restart_needed")
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    RESTART_NEEDED_FIELD_NUMBER: _ClassVar[int]
    changes: _containers.RepeatedScalarFieldContainer[str]
    restart_needed: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, changes: _Optional[_Iterable[str]] = ..., restart_needed: _Optional[_Iterable[str]] = ...) -> None: ...

class ActivateModelRequest(_message.Message):
    __slots__ = ("name", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class ActivateModelResponse(_message.Message):
    __slots__ = ("model", "previous")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    model: ModelInfo
    previous: ModelInfo
    def __init__(self, model: _Optional[_Union[ModelInfo, _Mapping]] = ..., previous: _Optional[_Union[ModelInfo, _Mapping]] = ...) -> None: ...

class GetVersionRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetVersionResponse(_message.Message):
    __slots__ = ("version", "api_version", "python_version", "libraries", "model")
    class LibrariesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    VERSION_FIELD_NUMBER: _ClassVar[int]
    API_VERSION_FIELD_NUMBER: _ClassVar[int]
    PYTHON_VERSION_FIELD_NUMBER: _ClassVar[int]
    LIBRARIES_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    version: str
    api_version: str
    python_version: str
    libraries: _containers.ScalarMap[str, str]
    model: ModelInfo
    def __init__(self, version: _Optional[str] = ..., api_version: _Optional[str] = ..., python_version: _Optional[str] = ..., libraries: _Optional[_Mapping[str, str]] = ..., model: _Optional[_Union[ModelInfo, _Mapping]] = ...) -> None: ...
