"""Streams and detections, between protocol messages and the daemon's data classes. Pure, both ways.

What a message can't carry is lost on the way out: a stream's systemd ``credential`` and every secret.
Seconds travel as whole nanoseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from facedetd.control import (
    FieldViolation,
    InvalidError,
    LatencyView,
    StreamCounts,
    StreamView,
)
from facedetd.types import (
    DecodeDevice,
    DecodeLevel,
    DecodeMode,
    FrameResult,
    Origin,
    Polygon,
    Secret,
    StreamSpec,
    StreamState,
    Transport,
)
from facedetd.v1 import detection_pb2, stream_pb2

E = TypeVar("E", bound=Enum)
NS = 1_000_000_000


def numbers(words: type[E], proto: Any, prefix: str) -> dict[E, int]:
    """Each word's number in a protocol enum; the names differ only by prefix, case and dashes."""
    return {word: proto.Value(f"{prefix}_{word.value.replace('-', '_').upper()}") for word in words}


TRANSPORTS = numbers(Transport, stream_pb2.Transport, "TRANSPORT")
DECODE_MODES = numbers(DecodeMode, stream_pb2.DecodeMode, "DECODE_MODE")
STREAM_STATES = numbers(StreamState, stream_pb2.StreamState, "STREAM_STATE")
DECODE_LEVELS = numbers(DecodeLevel, stream_pb2.DecodeLevel, "DECODE_LEVEL")
DECODE_DEVICES = numbers(DecodeDevice, stream_pb2.DecodeDevice, "DECODE_DEVICE")
ORIGINS = numbers(Origin, stream_pb2.StreamOrigin, "STREAM_ORIGIN")


def word_of(table: Mapping[E, int], number: int, default: E | None, field: str) -> E:
    """The word of an enum number; 0 (not given) is the default.

    Raises InvalidError for numbers this version doesn't know and for 0 where there is no default.
    """
    if number == 0 and default is not None:
        return default
    for word, known in table.items():
        if known == number:
            return word
    allowed = ", ".join(str(word.value) for word in table)
    raise InvalidError([FieldViolation(field, f"unknown value {number}; allowed are {allowed}")])


def timestamp(ns: int) -> Timestamp:
    stamp = Timestamp()
    stamp.FromNanoseconds(ns)
    return stamp


def duration_ns(ns: int) -> Duration:
    span = Duration()
    span.FromNanoseconds(ns)
    return span


def duration(seconds: float) -> Duration:
    return duration_ns(round(seconds * NS))


def seconds(span: Duration) -> float:
    return span.ToNanoseconds() / NS


# --- stream definitions ---


def spec_to_proto(spec: StreamSpec) -> stream_pb2.StreamSpec:
    return stream_pb2.StreamSpec(
        id=spec.id,
        url=spec.url,
        sub_url=spec.sub_url,
        priority=spec.priority,
        target_fps=spec.target_fps,
        min_fps=spec.min_fps,
        transport=TRANSPORTS[spec.transport],  # type: ignore[arg-type]
        decode=DECODE_MODES[spec.decode],  # type: ignore[arg-type]
        regions_of_interest=[
            stream_pb2.Polygon(points=[stream_pb2.Point(x=x, y=y) for x, y in polygon]) for polygon in spec.rois
        ],
        labels=dict(spec.labels),
        paused=spec.paused,
        tls_verify=spec.tls_verify,
        ca_file=spec.ca_file,
        username=spec.username,
    )


def transport_from_proto(number: int, field: str = "spec.transport") -> Transport:
    return word_of(TRANSPORTS, number, Transport.TCP, field)


def decode_from_proto(number: int, field: str = "spec.decode") -> DecodeMode:
    return word_of(DECODE_MODES, number, DecodeMode.AUTO, field)


def rois_from_proto(polygons: Iterable[stream_pb2.Polygon]) -> tuple[Polygon, ...]:
    return tuple(tuple((point.x, point.y) for point in polygon.points) for polygon in polygons)


def labels_from_proto(labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(labels.items()))


def spec_from_proto(message: stream_pb2.StreamSpec, where: str = "spec") -> StreamSpec:
    """A definition; what isn't given takes the defaults of :class:`StreamSpec`. Values are not judged here.

    Raises InvalidError for enum numbers this version doesn't know.
    """
    default = StreamSpec(id=message.id, url=message.url)
    target_fps = message.target_fps if message.HasField("target_fps") else default.target_fps
    return StreamSpec(
        id=message.id,
        url=message.url,
        sub_url=message.sub_url,
        username=message.username,
        priority=message.priority if message.HasField("priority") else default.priority,
        target_fps=target_fps,
        min_fps=message.min_fps if message.HasField("min_fps") else min(default.min_fps, target_fps),
        transport=transport_from_proto(message.transport, f"{where}.transport"),
        decode=decode_from_proto(message.decode, f"{where}.decode"),
        tls_verify=message.tls_verify if message.HasField("tls_verify") else default.tls_verify,
        ca_file=message.ca_file,
        rois=rois_from_proto(message.regions_of_interest),
        labels=labels_from_proto(message.labels),
        paused=message.paused,
    )


def entry_from_proto(
    spec: stream_pb2.StreamSpec, credentials: stream_pb2.Credentials, where: str = ""
) -> tuple[StreamSpec, Secret | None]:
    """A definition with its credentials; the user name may stand in either, but not differently.

    Raises InvalidError as :func:`spec_from_proto` does, and for two user names.
    """
    found = spec_from_proto(spec, f"{where}spec")
    secret = Secret(credentials.password) if credentials.password else None
    if credentials.username and credentials.username != found.username:
        if found.username:
            field = f"{where}credentials.username"
            raise InvalidError([FieldViolation(field, "differs from spec.username; give it once")])
        found = spec_from_proto(_with_username(spec, credentials.username), f"{where}spec")
    return found, secret


def _with_username(spec: stream_pb2.StreamSpec, username: str) -> stream_pb2.StreamSpec:
    copy = stream_pb2.StreamSpec()
    copy.CopyFrom(spec)
    copy.username = username
    return copy


def entry_to_proto(spec: StreamSpec, secret: Secret | None) -> stream_pb2.StreamImport:
    credentials = stream_pb2.Credentials(password=secret.value) if secret else None
    return stream_pb2.StreamImport(spec=spec_to_proto(spec), credentials=credentials)


# --- what is seen of a stream ---


def latency_to_proto(latency: LatencyView) -> stream_pb2.Latency:
    return stream_pb2.Latency(
        mean=duration(latency.mean), p50=duration(latency.p50), p95=duration(latency.p95), p99=duration(latency.p99)
    )


def latency_from_proto(message: stream_pb2.Latency) -> LatencyView:
    return LatencyView(seconds(message.mean), seconds(message.p50), seconds(message.p95), seconds(message.p99))


def stream_to_proto(view: StreamView) -> stream_pb2.Stream:
    counts = view.counts
    return stream_pb2.Stream(
        spec=spec_to_proto(view.spec),
        origin=ORIGINS[view.origin],  # type: ignore[arg-type]
        has_password=view.has_password,
        status=stream_pb2.StreamStatus(
            state=STREAM_STATES[view.state],  # type: ignore[arg-type]
            detail=view.detail,
            state_since=timestamp(view.state_since_utc_ns),
            codec=view.codec,
            source_width=view.source_width,
            source_height=view.source_height,
            source_fps=view.source_fps,
            granted_fps=view.granted_fps,
            actual_fps=view.actual_fps,
            latency=latency_to_proto(view.latency) if view.latency else None,
            frames_received=counts.received,
            bytes_received=counts.received_bytes,
            frames_decoded=counts.decoded,
            frames_sampled=counts.sampled,
            frames_not_sampled=counts.not_sampled,
            frames_inferred=counts.inferred,
            faces=counts.faces,
            reconnects=counts.reconnects,
            frames_waiting=counts.waiting,
            frames_in_flight=counts.in_flight,
            frames_dropped=dict(counts.dropped),
            drop_fraction=counts.drop_fraction,
            decode_level=DECODE_LEVELS[view.decode_level],  # type: ignore[arg-type]
            on_sub_stream=view.on_sub_stream,
            sub_stream_problem=view.sub_stream_problem,
            packets_skipped=counts.skipped,
            frames_too_old=counts.too_old,
            decode_errors=counts.decode_errors,
            decode_device=DECODE_DEVICES[view.decode_device],  # type: ignore[arg-type]
            nvdec_problem=view.nvdec_problem,
        ),
    )


def stream_from_proto(message: stream_pb2.Stream) -> StreamView:
    """Raises InvalidError for enum numbers this version doesn't know."""
    status = message.status
    return StreamView(
        spec=spec_from_proto(message.spec),
        origin=word_of(ORIGINS, message.origin, None, "origin"),
        has_password=message.has_password,
        state=word_of(STREAM_STATES, status.state, None, "status.state"),
        detail=status.detail,
        state_since_utc_ns=status.state_since.ToNanoseconds(),
        codec=status.codec,
        source_width=status.source_width,
        source_height=status.source_height,
        source_fps=status.source_fps,
        granted_fps=status.granted_fps,
        actual_fps=status.actual_fps,
        latency=latency_from_proto(status.latency) if status.HasField("latency") else None,
        counts=StreamCounts(
            received=status.frames_received,
            received_bytes=status.bytes_received,
            decoded=status.frames_decoded,
            sampled=status.frames_sampled,
            not_sampled=status.frames_not_sampled,
            inferred=status.frames_inferred,
            faces=status.faces,
            reconnects=status.reconnects,
            waiting=status.frames_waiting,
            in_flight=status.frames_in_flight,
            dropped=dict(status.frames_dropped),
            skipped=status.packets_skipped,
            too_old=status.frames_too_old,
            decode_errors=status.decode_errors,
        ),
        decode_level=word_of(DECODE_LEVELS, status.decode_level, DecodeLevel.FULL, "status.decode_level"),
        on_sub_stream=status.on_sub_stream,
        sub_stream_problem=status.sub_stream_problem,
        decode_device=word_of(DECODE_DEVICES, status.decode_device, DecodeDevice.CPU, "status.decode_device"),
        nvdec_problem=status.nvdec_problem,
    )


# --- detections ---


def _landmarks(points: tuple[tuple[float, float], ...]) -> detection_pb2.Landmarks | None:
    if len(points) != 5:
        return None
    right_eye, left_eye, nose, mouth_right, mouth_left = (detection_pb2.PixelPoint(x=x, y=y) for x, y in points)
    return detection_pb2.Landmarks(
        right_eye=right_eye, left_eye=left_eye, nose=nose, mouth_right=mouth_right, mouth_left=mouth_left
    )


def detection_to_proto(result: FrameResult, labels: Mapping[str, str]) -> detection_pb2.Detection:
    """One frame's faces, without the monotonic times, which mean nothing outside this machine."""
    return detection_pb2.Detection(
        stream_id=result.stream_id,
        sequence=result.sequence,
        epoch=result.epoch,
        capture_time=timestamp(result.capture_utc_ns),
        pts=duration_ns(result.pts_ns),
        source_width=result.source_width,
        source_height=result.source_height,
        faces=[
            detection_pb2.Face(
                box=detection_pb2.Box(x_min=face.box[0], y_min=face.box[1], x_max=face.box[2], y_max=face.box[3]),
                score=face.score,
                landmarks=_landmarks(face.landmarks),
            )
            for face in result.faces
        ],
        model_name=result.model_name,
        model_version=result.model_version,
        latency=duration_ns(result.done_mono_ns - result.capture_mono_ns),
        labels=labels,
    )
