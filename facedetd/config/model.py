"""The whole configuration as frozen data. Defaults here are the documented ones; nothing else holds a default."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from facedetd.types import StreamSpec


@dataclass(frozen=True, slots=True)
class DaemonConfig:
    state_dir: Path = Path("/var/lib/facedetd")
    log_level: str = "info"  # debug, info, warning, error
    log_format: str = "auto"  # text, json; auto: json when stderr goes to the journal, else text
    max_streams: int = 0  # 0: no cap
    allow_file_sources: bool = False  # file:// streams, for tests and benchmarks
    heartbeat_timeout_s: float = 5.0  # a worker without progress for so long is killed and restarted
    stop_timeout_s: float = 4.0


@dataclass(frozen=True, slots=True)
class ApiConfig:
    socket: Path = Path("/run/facedetd/facedetd.sock")
    read_only_socket: Path = Path("/run/facedetd/facedetd-ro.sock")
    max_watchers: int = 64
    watcher_queue: int = 1024  # results a slow watcher may lag (200 cameras: a second) before it loses its oldest
    group: str = ""  # of the admin socket's file; empty: the daemon's own
    read_only_group: str = ""
    max_calls_per_s: int = 500  # of each socket, token and client certificate
    listen: str = ""  # HOST:PORT of TCP with TLS; empty: off
    tls_cert_file: str = ""
    tls_key_file: str = ""
    client_ca_file: str = ""  # not empty: every TCP client needs a certificate of this authority
    admin_clients: tuple[str, ...] = ()  # names in client certificates
    read_only_clients: tuple[str, ...] = ()
    token_file: str = ""  # not empty: every TCP call needs a token of this file


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    listen: str = "127.0.0.1:9464"  # empty: off


@dataclass(frozen=True, slots=True)
class ModelConfig:
    name: str = "centerface"  # a model of the store (`facedetctl model list`)
    width: int = 640  # px, a multiple of 32
    height: int = 384
    min_score: float = 0.5


@dataclass(frozen=True, slots=True)
class InferenceConfig:
    engine: str = "onnxruntime"
    precision: str = "fp16"  # of the plan, with TensorRT
    devices: tuple[int, ...] = (0,)  # indices of the GPUs, with TensorRT; one process each
    threads: int = 0  # 0: as many as cores, at most 4
    batch_min: int = 1
    batch_preferred: int = 1
    batch_max: int = 1  # the CPU engine runs pictures one by one anyway; a GPU wants 16 or more
    batch_deadline_ms: float = 20.0  # how long a frame may wait for company
    calibration_max_age_days: int = 120  # of an INT8 model; health warns of an older one


@dataclass(frozen=True, slots=True)
class CaptureConfig:
    decode: str = "auto"  # auto, cpu, nvdec
    streams_per_group: int = 40
    slots_per_stream: int = 4  # 2-4
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 5.0
    backoff_initial_s: float = 1.0
    backoff_max_s: float = 60.0
    max_frame_age_ms: float = 1000.0  # an older frame isn't sampled


@dataclass(frozen=True, slots=True)
class DegradationConfig:
    enabled: bool = True
    latency_bound_ms: float = 500.0  # 95 % of the results shall take less, from capture to result


@dataclass(frozen=True, slots=True)
class Config:
    daemon: DaemonConfig = field(default_factory=DaemonConfig)
    api: ApiConfig = field(default_factory=ApiConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    capture: CaptureConfig = field(default_factory=CaptureConfig)
    degradation: DegradationConfig = field(default_factory=DegradationConfig)
    streams: tuple[StreamSpec, ...] = ()
