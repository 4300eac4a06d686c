"""The words every room of the daemon shares: a stream, a face, a result. Data only, no behaviour beyond it.

Units: times are nanoseconds (``_ns``; ``mono`` is CLOCK_MONOTONIC, ``utc`` is since the Unix epoch),
sizes and positions are pixels of the source picture as decoded, rates are frames per second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

STREAM_ID_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
"""A stream id names metric labels, files and slot headers, so it is short and plain."""

MAX_SIDE = 65535
"""Pixels of a picture's side: no codec has more. What a worker says is larger isn't believed; it wouldn't fit the API's
numbers either."""

NVDEC_CODECS = ("h264", "hevc")
"""What is given to NVDEC. It may still refuse: H.264 of 10 bits, 4:2:2, a size beyond the chip's."""

Point = tuple[float, float]
Polygon = tuple[Point, ...]


class Transport(str, Enum):
    """How RTP travels: inside the RTSP connection, or as datagrams."""

    TCP = "tcp"
    UDP = "udp"


class DecodeMode(str, Enum):
    """Where a stream may be decoded."""

    AUTO = "auto"
    CPU = "cpu"
    GPU = "gpu"


class DecodeDevice(str, Enum):
    """Where a stream is decoded."""

    CPU = "cpu"
    NVDEC = "nvdec"


class StreamState(str, Enum):
    """What a stream is doing now. ``WAITING`` means accepted, not yet given to a decoder group."""

    WAITING = "waiting"
    CONNECTING = "connecting"
    STREAMING = "streaming"
    STALLED = "stalled"
    BACKING_OFF = "backing-off"
    PAUSED = "paused"
    ENDED = "ended"


class Origin(str, Enum):
    """Who owns a stream's definition: the API (changeable, kept in the state file) or the TOML (read-only)."""

    API = "api"
    CONFIG = "config"


class DecodeLevel(str, Enum):
    """From best to worst. Each includes the savings of those before it on the same video.

    FULL: everything. NO_LOOP_FILTER: without the deblocking filter. REFERENCE_FRAMES: frames that no other needs
    aren't decoded (saves only where there are B-frames). SUB_STREAM: the camera's second, smaller video.
    KEYFRAMES: keyframes only, of the sub-stream where there is one. OFF: nothing is decoded.
    """

    FULL = "full"
    NO_LOOP_FILTER = "no-loop-filter"
    REFERENCE_FRAMES = "reference-frames"
    SUB_STREAM = "sub-stream"
    KEYFRAMES = "keyframes"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Video:
    """What a camera sends. ``codec`` is FFmpeg's name, sizes in px, ``keyframe_s`` from keyframe to keyframe,
    ``reference_share`` the share of frames that others need (1 without B-frames)."""

    codec: str
    width: int
    height: int
    fps: float
    keyframe_s: float = 2.0
    reference_share: float = 1.0
    bits_per_s: float = 0.0


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """What the operator asked for. Holds no password: see :class:`Secret`.

    ``url`` and ``sub_url`` carry no userinfo. ``rois`` are polygons in fractions (0-1) of the source picture;
    none means the whole picture. ``credential`` names a systemd credential (streams of the TOML only).
    """

    id: str
    url: str
    sub_url: str = ""
    username: str = ""
    credential: str = ""
    priority: int = 50  # 0-100, higher is served first
    target_fps: float = 5.0
    min_fps: float = 1.0
    transport: Transport = Transport.TCP
    decode: DecodeMode = DecodeMode.AUTO
    tls_verify: bool = True
    ca_file: str = ""
    rois: tuple[Polygon, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    paused: bool = False


def spec_from_dict(values: Mapping[str, Any]) -> StreamSpec:
    """The inverse of ``dataclasses.asdict`` after a way through JSON. Raises TypeError, ValueError or KeyError."""
    v = dict(values)
    v["transport"], v["decode"] = Transport(v["transport"]), DecodeMode(v["decode"])
    v["rois"] = tuple(tuple((float(x), float(y)) for x, y in polygon) for polygon in v["rois"])
    v["labels"] = tuple((str(key), str(value)) for key, value in v["labels"])
    return StreamSpec(**v)


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """A camera password. ``repr`` and ``str`` never show it."""

    value: str

    def __repr__(self) -> str:
        return "Secret(***)"


@dataclass(frozen=True, slots=True)
class Face:
    """One face in source pixels: box corners (x1, y1, x2, y2), score 0-1, and five landmarks
    (right eye, left eye, nose tip, right mouth corner, left mouth corner; sides are the person's own)
    as ((x, y), ...), empty where the model gives none."""

    box: tuple[float, float, float, float]
    score: float
    landmarks: tuple[Point, ...] = ()


@dataclass(frozen=True, slots=True)
class FrameResult:
    """All faces of one inferred frame.

    ``sequence`` counts a stream's sampled frames since its epoch began and orders results within a stream.
    ``capture_mono_ns`` is where latency runs from (DESIGN 3: PTS plus the running minimum of arrival - PTS).
    """

    stream_id: str
    epoch: int
    sequence: int
    pts_ns: int
    capture_utc_ns: int
    capture_mono_ns: int
    arrival_mono_ns: int
    done_mono_ns: int
    source_width: int
    source_height: int
    faces: tuple[Face, ...]
    model_name: str
    model_version: str
    batch_size: int = 1


FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]
