"""What the API may ask of the daemon: a Protocol, the views it answers with, and the errors it raises.

The supervisor implements :class:`ControlPlane`; ``facedetd.api`` calls it and knows nothing else of the daemon.
Views are snapshots: frozen, made on request, safe to keep.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from facedetd.types import DecodeDevice, DecodeLevel, FrameResult, Origin, Secret, StreamSpec, StreamState


class DaemonState(str, Enum):
    STARTING = "starting"
    RUNNING = "running"
    WAITING_FOR_MODEL = "waiting-for-model"
    WAITING_FOR_DEVICE = "waiting-for-device"
    FAILED = "failed"
    STOPPING = "stopping"


class WorkerKind(str, Enum):
    SUPERVISOR = "supervisor"
    DECODER = "decoder"
    INFERENCE = "inference"


class Degradation(str, Enum):
    """NONE: all as wished. REDUCED: less, but all minima are kept. OVERCOMMITTED: not even the minima fit."""

    NONE = "none"
    REDUCED = "reduced"
    OVERCOMMITTED = "overcommitted"


class Stage(str, Enum):
    """What can be short. HOST: another program uses the CPU that decoders and inference need."""

    NONE = "none"
    INFERENCE = "inference"
    DECODE = "decode"
    HOST = "host"
    NETWORK = "network"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One bad field: its path (``spec.url``), what was found and what is allowed. Never holds a secret."""

    field: str
    message: str


class ControlError(Exception):
    """Base of what a control call may raise. ``str()`` is one clear sentence, fit for an operator."""


class NotFoundError(ControlError):
    pass


class ConflictError(ControlError):
    """The id is taken."""


class ReadOnlyError(ControlError):
    """The stream stands in the TOML, so the API can't change it."""


class CapacityError(ControlError):
    """Over a configured cap."""


class UnavailableError(ControlError):
    """Can't be done now (no frame came, the daemon is stopping); trying later may help."""


class StorageError(ControlError):
    """The state file could not be written; nothing was changed."""


class InvalidError(ControlError):
    """Bad input; ``violations`` names every bad field."""

    def __init__(self, violations: Sequence[FieldViolation]):
        self.violations = tuple(violations)
        super().__init__("; ".join(f"{v.field}: {v.message}" for v in self.violations))


@dataclass(frozen=True, slots=True)
class LatencyView:
    """Seconds from capture to result over the last minute."""

    mean: float
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True)
class StreamCounts:
    """Counters of a stream since the daemon began to know it (they outlive workers).

    ``decoded == sampled + not_sampled`` and
    ``sampled == inferred + sum(dropped.values()) + waiting + in_flight`` always hold.
    """

    received: int = 0
    received_bytes: int = 0
    decoded: int = 0
    sampled: int = 0
    not_sampled: int = 0
    inferred: int = 0
    faces: int = 0
    reconnects: int = 0
    waiting: int = 0
    in_flight: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)  # by reason
    skipped: int = 0  # packets that came too late to decode
    too_old: int = 0  # those of not_sampled that were too old
    decode_errors: int = 0  # packets that gave no picture, and damaged pictures

    @property
    def drop_fraction(self) -> float:
        return sum(self.dropped.values()) / self.sampled if self.sampled else 0.0


@dataclass(frozen=True, slots=True)
class StreamView:
    """A stream's definition and what is seen of it. ``spec`` holds no secret."""

    spec: StreamSpec
    origin: Origin
    has_password: bool
    state: StreamState
    detail: str
    state_since_utc_ns: int
    codec: str
    source_width: int
    source_height: int
    source_fps: float
    granted_fps: float
    actual_fps: float
    latency: LatencyView | None
    counts: StreamCounts
    decode_level: DecodeLevel = DecodeLevel.FULL
    on_sub_stream: bool = False
    sub_stream_problem: str = ""
    decode_device: DecodeDevice = DecodeDevice.CPU
    nvdec_problem: str = ""


PROCESS_STATES = ("starting", "running", "waiting", "halted")


@dataclass(frozen=True, slots=True)
class ProcessView:
    kind: WorkerKind
    name: str
    pid: int
    state: str  # one of PROCESS_STATES
    uptime_s: float
    cpu_seconds: float
    cpu: float  # 1.0 is one core
    memory_bytes: int
    restarts: int
    streams: int
    detail: str


@dataclass(frozen=True, slots=True)
class CalibrationView:
    """What an INT8 model was calibrated with. ``drift``: the divergence in bits, 0 to 1, between the brightness of its
    frames and of what the cameras show now; None until enough was seen."""

    at_utc_ns: int
    frames: int
    method: str
    age_s: float
    drift: float | None = None


@dataclass(frozen=True, slots=True)
class ModelView:
    name: str
    version: str
    head: str
    engine: str
    input_width: int
    input_height: int
    sha256: str
    activated: bool = False  # chosen through the API, not by the configuration
    calibration: CalibrationView | None = None  # None: a float model


@dataclass(frozen=True, slots=True)
class InferenceView:
    frames_per_second: float
    mean_batch_size: float
    mean_batch_s: float
    batches: int
    frames: int
    results_lost: int
    oldest_waiting_s: float


@dataclass(frozen=True, slots=True)
class LoadView:
    """What the degradation controller measured over the last period (about a second). CPU in cores, shares 0-1."""

    host_cores: float
    idle_cores: float
    decoder_cores: float
    inference_cores: float
    others_cores: float
    inference_busy: float
    dropped_share: float
    late_share: float
    decode_lag_s: float
    oldest_waiting_s: float
    latency_p95_s: float
    network_bits_per_s: float


@dataclass(frozen=True, slots=True)
class DegradationView:
    """Who gets less than asked for, and why. ``reason`` is empty where all is as wished; ``shortage`` is what is short
    just now. Capacities are what is planned with, None where there is no limit: frames a second, cores, bit/s."""

    state: Degradation
    reason: str
    since_utc_ns: int
    shortage: Stage
    load: LoadView
    inference_capacity_fps: float | None = None
    decode_capacity_cores: float | None = None
    network_capacity_bits_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class MemoryView:
    """Bytes the daemon may use (``limit``, by the file or machine ``set_by``), can have now (``free``) and is slowed
    down above (``high``; None: nowhere), and what its streams need: their ``rings``, and with an estimate for all else
    ``needed``."""

    limit: int
    set_by: str
    free: int
    high: int | None
    rings: int
    needed: int


@dataclass(frozen=True, slots=True)
class GpuView:
    """An NVIDIA GPU as its driver sees it, with all that use it; None: not told. Shares 0-1. The driver's own reserve
    of memory is neither used nor free. ``own_memory_bytes``: what this daemon's processes use of it."""

    index: int  # in the order of the PCI bus
    uuid: str
    name: str
    driver: str
    utilisation: float | None = None
    decoder_utilisation: float | None = None
    memory_used_bytes: int | None = None
    memory_free_bytes: int | None = None
    memory_total_bytes: int | None = None
    own_memory_bytes: int | None = None
    temperature_c: float | None = None
    power_w: float | None = None


@dataclass(frozen=True, slots=True)
class StatsView:
    time_utc_ns: int
    state: DaemonState
    uptime_s: float
    model: ModelView | None
    streams: tuple[StreamView, ...]
    processes: tuple[ProcessView, ...]
    inference: InferenceView | None
    watchers: int
    latency: LatencyView | None
    watcher_results_lost: int = 0  # by all watchers together, since the daemon began
    degradation: DegradationView | None = None  # None until there was a period to look at
    gpus: tuple[GpuView, ...] = ()  # those whose driver answers
    memory: MemoryView | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    severity: str  # "warning" or "error"
    subject: str
    message: str
    since_utc_ns: int


@dataclass(frozen=True, slots=True)
class HealthView:
    state: DaemonState
    serving: bool
    problems: tuple[Problem, ...]
    model: ModelView | None = None  # the one that runs


@dataclass(frozen=True, slots=True)
class ImportView:
    created: tuple[str, ...]
    unchanged: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReloadView:
    changes: tuple[str, ...]
    restart_needed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SnapshotView:
    jpeg: bytes
    capture_utc_ns: int
    sequence: int
    width: int
    height: int
    faces: int


@dataclass(frozen=True, slots=True)
class WatchFilter:
    """Which results a watcher wants. ``stream_ids`` empty: all."""

    stream_ids: frozenset[str] = frozenset()
    min_score: float = 0.0
    include_empty: bool = False


class Results(Protocol):
    """Results as they come, each with the number of results this watcher has lost so far."""

    def __aiter__(self) -> AsyncIterator[tuple[FrameResult, int]]: ...

    def waiting(self, limit: int, faces: int) -> Sequence[FrameResult]:
        """Those that wait after the last one given: at most ``limit`` of them, with at most ``faces`` in all."""


class ControlPlane(Protocol):
    """All methods run on the supervisor's event loop; none blocks it.

    Async methods raise :class:`ControlError` subclasses; nothing is changed when they do.
    """

    async def create_stream(
        self, spec: StreamSpec, secret: Secret | None, *, dry_run: bool = False
    ) -> tuple[StreamView, tuple[str, ...]]:
        """Admit a stream; returns its view and warnings."""

    def get_stream(self, stream_id: str) -> StreamView: ...

    def stream_specs(self) -> Sequence[StreamSpec]:
        """Of all streams, in order of their ids."""

    async def update_stream(
        self, stream_id: str, changes: Mapping[str, object], secret: Secret | None
    ) -> tuple[StreamView, tuple[str, ...]]:
        """Change fields of the spec. ``changes`` maps names of :class:`StreamSpec`'s fields to new values;
        ``secret`` replaces the password, an empty one removes it, None keeps it."""

    async def delete_stream(self, stream_id: str) -> None: ...

    async def import_streams(self, entries: Sequence[tuple[StreamSpec, Secret | None]], *, dry_run: bool) -> ImportView:
        """Admit all entries or none. An entry equal to the stream that stands is left as it is."""

    async def snapshot(self, stream_id: str, *, plain: bool) -> SnapshotView: ...

    def stats(self, stream_ids: frozenset[str] = frozenset()) -> StatsView: ...

    def health(self) -> HealthView: ...

    async def reload(self, *, dry_run: bool) -> ReloadView: ...

    async def activate_model(self, name: str, version: str) -> tuple[ModelView, ModelView | None]:
        """Go over to a model of the store (version empty: the one stored last) and keep to it; an empty name: back to
        the configuration's. Returns what runs now and what ran before."""

    def model(self) -> ModelView | None:
        """What runs, None while nothing does."""

    def watch(self, wanted: WatchFilter) -> Results:
        """From now on."""
