"""Every key of the configuration in one table: what it does and what it may hold; and the rules between keys.

Names, types and defaults come from the dataclasses in ``model`` and ``facedetd.types``; a test holds both together.
The values of a stream are checked by ``streamcheck``, because the API and import files need that too.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facedetd.config.convert import describe, show
from facedetd.config.model import (
    ApiConfig,
    CaptureConfig,
    Config,
    DaemonConfig,
    DegradationConfig,
    InferenceConfig,
    MetricsConfig,
    ModelConfig,
)
from facedetd.config.urls import split_host_port

SECTIONS: dict[str, type] = {
    "daemon": DaemonConfig,
    "api": ApiConfig,
    "metrics": MetricsConfig,
    "model": ModelConfig,
    "inference": InferenceConfig,
    "capture": CaptureConfig,
    "degradation": DegradationConfig,
}

_MOST_DEVICES = 16
_SOCKET_PATH_BYTES = 107  # sun_path of Linux, less its final NUL


@dataclass(frozen=True, slots=True)
class Key:
    """One key. ``check`` returns what is allowed when the value is bad; ``sensitive`` values are never shown."""

    doc: str
    low: float | None = None
    high: float | None = None
    multiple_of: int = 1
    choices: tuple[str, ...] = ()
    check: Callable[[Any], str | None] | None = None
    sensitive: bool = False

    def allowed(self, hint: Any) -> str:
        """What may stand here, in an operator's words."""
        if self.choices:
            return "one of " + ", ".join(f'"{choice}"' for choice in self.choices)
        text = describe(hint)
        if self.multiple_of != 1:
            text = f"a multiple of {self.multiple_of}"
        if self.low is not None and self.high is not None:
            text += f" from {_plain(self.low)} to {_plain(self.high)}"
        return text

    def problem(self, value: Any, hint: Any) -> str | None:
        """``found ...; allowed: ...`` for a value of the right type that isn't allowed, else None."""
        if self.choices and value not in self.choices:
            return f"found {show(value)}; allowed: {self.allowed(hint)}"
        low, high = self.low, self.high
        if (low is not None and value < low) or (high is not None and value > high) or self._uneven(value):
            return f"found {show(value)}; allowed: {self.allowed(hint)}"
        allowed = self.check(value) if self.check else None
        return f"found {show(value)}; allowed: {allowed}" if allowed else None

    def _uneven(self, value: Any) -> bool:
        return self.multiple_of != 1 and value % self.multiple_of != 0


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) else str(number)


def _absolute_path(path: Path) -> str | None:
    text = str(path)
    good = path.is_absolute() and text.isprintable() and ".." not in path.parts
    return None if good else "an absolute path, such as /var/lib/facedetd"


def _socket_path(path: Path) -> str | None:
    if len(str(path).encode(errors="surrogatepass")) > _SOCKET_PATH_BYTES:
        return f"a path of at most {_SOCKET_PATH_BYTES} bytes (the kernel's limit for socket names)"
    return _absolute_path(path)


def _model_name(name: str) -> str | None:
    good = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", name)
    return None if good else "a letter or digit, then up to 62 letters, digits, '.', '_' or '-'"


def _loopback(listen: str) -> str | None:
    """Metrics name every camera and carry neither a password nor TLS, so they stay on this host."""
    if not listen:
        return None
    try:
        host, port = split_host_port(listen)
    except ValueError as error:
        return f'"HOST:PORT", such as "127.0.0.1:9464", or "" for off; {error}'
    if port is None or not host:
        return '"HOST:PORT", such as "127.0.0.1:9464", or "" for off'
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    if loopback:
        return None
    return (
        "a loopback address (127.0.0.0/8, [::1] or localhost), because /metrics has no password and no TLS; "
        "put a proxy that has both in front of it"
    )


def _listen(listen: str) -> str | None:
    allowed = '"ADDRESS:PORT" with an IP address of this host, such as "0.0.0.0:9465" or "[::]:9465", or "" for off'
    if not listen:
        return None
    try:
        host, port = split_host_port(listen)
        ipaddress.ip_address(host)
    except ValueError:
        return allowed
    return None if port is not None and ((":" in host) == listen.startswith("[")) else allowed


def _file_or_none(path: str) -> str | None:
    return _absolute_path(Path(path)) and 'the absolute path of a file, or ""' if path else None


def _group(name: str) -> str | None:
    good = not name or re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}", name)
    return None if good else 'the name of a group, or ""'


def _client_names(names: tuple[str, ...]) -> str | None:
    good = all(0 < len(name) <= 256 and name.isprintable() and name.strip() == name for name in names)
    return None if good else "names as they stand in certificates: up to 256 printable characters, no blank around them"


def _devices(found: tuple[int, ...]) -> str | None:
    good = 0 < len(found) <= _MOST_DEVICES and len(set(found)) == len(found) and all(0 <= d <= 255 for d in found)
    return None if good else f"1 to {_MOST_DEVICES} different integers from 0 to 255, such as [0, 1]"


KEYS: dict[str, dict[str, Key]] = {
    "daemon": {
        "state_dir": Key("Where streams added through the API, models and the lock are kept.", check=_absolute_path),
        "log_level": Key("How much is logged.", choices=("debug", "info", "warning", "error")),
        "log_format": Key("auto: JSON when stderr goes to the journal, else text.", choices=("auto", "text", "json")),
        "max_streams": Key("How many streams there may be in all; 0: no cap.", low=0, high=100_000),
        "allow_file_sources": Key("Whether file:// streams may be added; for tests and benchmarks only."),
        "heartbeat_timeout_s": Key(
            "A worker stuck for so long is killed (four times that if no CPU is left).",
            low=2.5,
            high=300,
        ),
        "stop_timeout_s": Key("How long workers may take to end before they are killed.", low=0.1, high=60),
    },
    "api": {
        "socket": Key("The control socket. Who may open it may do everything.", check=_socket_path),
        "read_only_socket": Key("The socket of those who may look but change nothing.", check=_socket_path),
        "max_watchers": Key("How many clients may watch detections at a time.", low=1, high=10_000),
        "watcher_queue": Key(
            "How many results a slow watcher may lag before it loses its oldest.", low=1, high=1_000_000
        ),
        "group": Key("The group that may open the control socket; empty: the daemon's own.", check=_group),
        "read_only_group": Key("The group that may open the read-only socket; empty: the daemon's own.", check=_group),
        "max_calls_per_s": Key(
            "Calls a second on each socket, and of each token or client certificate.",
            low=1,
            high=100_000,
        ),
        "listen": Key(
            'The API over TCP with TLS, beside the sockets; "" for off. Wants client_ca_file or token_file.',
            check=_listen,
        ),
        "tls_cert_file": Key("PEM file of the TCP listener's certificate, with its chain.", check=_file_or_none),
        "tls_key_file": Key("PEM file of its private key, readable by the daemon only.", check=_file_or_none),
        "client_ca_file": Key(
            "PEM file of the authority that signs clients' certificates. If set, TCP clients must have one.",
            check=_file_or_none,
        ),
        "admin_clients": Key(
            "Client certificates that may do everything, by their common name or an alternative name.",
            check=_client_names,
        ),
        "read_only_clients": Key(
            "Client certificates that may look but change nothing. One with names in both lists may only look.",
            check=_client_names,
        ),
        "token_file": Key(
            "Lines admin:TOKEN and read-only:TOKEN, readable by the daemon only. If set, TCP calls must carry one.",
            check=_file_or_none,
        ),
    },
    "metrics": {
        "listen": Key('Where Prometheus reads /metrics, on this host only; "" for off.', check=_loopback),
    },
    "model": {
        "name": Key("A model of the store; `facedetctl model list` shows them.", check=_model_name),
        "width": Key("Width of the model's input in pixels.", low=64, high=4096, multiple_of=32),
        "height": Key("Height of the model's input in pixels.", low=64, high=4096, multiple_of=32),
        "min_score": Key("Faces with a lower score are left out.", low=0, high=1),
    },
    "inference": {
        "engine": Key(
            "What runs the model: the CPU, or (tensorrt) an NVIDIA GPU.",
            choices=("onnxruntime", "openvino", "tensorrt"),
        ),
        "precision": Key(
            "With tensorrt: of the plan, which `facedetctl model build` makes.", choices=("fp32", "fp16", "int8")
        ),
        "devices": Key(
            "Which GPUs, as nvidia-smi counts: NVDEC's and tensorrt's, a process each; a CPU engine runs as many.",
            check=_devices,
        ),
        "threads": Key("Threads of the engine; 0: as many as cores, at most 4.", low=0, high=1024),
        "batch_min": Key("A batch waits for at least so many frames, until its deadline.", low=1, high=256),
        "batch_preferred": Key("A batch leaves as soon as it has so many frames.", low=1, high=256),
        "batch_max": Key("A batch never has more frames than this.", low=1, high=256),
        "batch_deadline_ms": Key("How long a frame may wait for company.", low=0, high=10_000),
        "calibration_max_age_days": Key(
            "Health warns of an INT8 model that was calibrated longer ago.", low=1, high=3650
        ),
    },
    "capture": {
        "decode": Key(
            "Where; auto: on NVDEC up to its measured capacity; nvdec: beyond it.",
            choices=("auto", "cpu", "nvdec"),
        ),
        "streams_per_group": Key("Streams that one decoder process serves, a thread each.", low=1, high=1024),
        "slots_per_stream": Key("Frames of a stream that fit into shared memory.", low=2, high=4),
        "connect_timeout_s": Key("How long a camera may take to answer.", low=0.1, high=300),
        "read_timeout_s": Key(
            "A connected camera that sends nothing for so long counts as stalled.", low=0.1, high=300
        ),
        "backoff_initial_s": Key(
            "The longest pause before the first retry; it doubles with each.", low=0.05, high=3600
        ),
        "backoff_max_s": Key(
            "The longest pause between retries; after a refused login four times as long.",
            low=0.05,
            high=3600,
        ),
        "max_frame_age_ms": Key("A frame older than this isn't sampled.", low=10, high=60_000),
    },
    "degradation": {
        "enabled": Key("Whether frame rates and decoding are lowered, by priority, when not everything fits."),
        "latency_bound_ms": Key(
            "95 % of the results shall take less than this, from capture to result.", low=20, high=60_000
        ),
    },
    "stream": {
        "id": Key("The stream's name: a letter or digit, then up to 62 letters, digits, '.', '_' or '-'."),
        "url": Key("rtsp://, rtsps:// or, with daemon.allow_file_sources, file://. No password.", sensitive=True),
        "sub_url": Key("A smaller stream of the same camera, used under load.", sensitive=True),
        "username": Key("Who to log in as at the camera.", sensitive=True),
        "credential": Key(
            "The systemd credential (LoadCredential=NAME:FILE) that holds the camera's password.", sensitive=True
        ),
        "priority": Key("0 to 100; higher is served first when there isn't enough for all."),
        "target_fps": Key("Detections a second wanted, up to 120."),
        "min_fps": Key("Not lowered under this while the minima of all streams fit."),
        "transport": Key('"tcp": RTP inside the RTSP connection; "udp": as datagrams.'),
        "decode": Key('Where to decode: "auto", "cpu" or "gpu".'),
        "tls_verify": Key("Whether the certificate of an rtsps camera is checked."),
        "ca_file": Key("A PEM file of the authorities to trust for rtsps; empty: the system's."),
        "rois": Key("Regions of interest: polygons of [x, y] in fractions of the picture; none: all of it."),
        "labels": Key("Names and values of your own."),
        "paused": Key("Keep the definition, but don't connect."),
    },
}


@dataclass(frozen=True, slots=True)
class Clash:
    """Two keys that don't fit together: the keys, the one most likely meant first, and why."""

    keys: tuple[tuple[str, str], ...]
    message: str


def clashes(config: Config) -> list[Clash]:
    """The rules between keys that ``config`` breaks."""
    inference, capture, api = config.inference, config.capture, config.api
    found = []
    if not inference.batch_min <= inference.batch_preferred <= inference.batch_max:
        found.append(
            Clash(
                (("inference", "batch_preferred"), ("inference", "batch_min"), ("inference", "batch_max")),
                f"found batch_min {inference.batch_min}, batch_preferred {inference.batch_preferred}, batch_max "
                f"{inference.batch_max}; allowed: batch_min <= batch_preferred <= batch_max",
            )
        )
    if capture.backoff_initial_s > capture.backoff_max_s:
        found.append(
            Clash(
                (("capture", "backoff_initial_s"), ("capture", "backoff_max_s")),
                f"found backoff_initial_s {capture.backoff_initial_s}, backoff_max_s {capture.backoff_max_s}; "
                "allowed: backoff_initial_s <= backoff_max_s",
            )
        )
    if api.socket == api.read_only_socket:
        found.append(
            Clash(
                (("api", "read_only_socket"), ("api", "socket")),
                f"found {show(api.socket)} for both sockets; allowed: two different paths",
            )
        )
    found += _tcp_clashes(api)
    return found


def _tcp_clashes(api: ApiConfig) -> list[Clash]:
    """TCP is only for those who prove who they are, over TLS."""
    names = ("listen", "tls_cert_file", "tls_key_file", "client_ca_file", "token_file")
    missing = [name for name in ("tls_cert_file", "tls_key_file") if not getattr(api, name)]
    if not api.client_ca_file and not api.token_file:
        missing.append("client_ca_file or token_file")
    if api.listen and missing:
        message = f"found a TCP listener without {', '.join(missing)}; allowed: TLS, with client certificates or tokens"
        return [Clash(tuple(("api", name) for name in names), message)]
    listed = api.admin_clients + api.read_only_clients
    keys = (("api", "client_ca_file"), ("api", "admin_clients"), ("api", "read_only_clients"))
    if api.client_ca_file and not listed:
        message = "found an authority, but nobody has a role; allowed: with names in admin_clients or read_only_clients"
        return [Clash(keys, message)]
    if listed and not api.client_ca_file:
        message = "found names of client certificates without client_ca_file; allowed: both or none"
        return [Clash((keys[1], keys[2], keys[0]), message)]
    doubled = sorted(set(api.admin_clients) & set(api.read_only_clients))
    if doubled:
        message = f"found {show(doubled[0])} in admin_clients too; allowed: in one of both"
        return [Clash((keys[2], keys[1]), message)]
    return []
