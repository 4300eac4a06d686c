import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import field_mask_pb2 as _field_mask_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Transport(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TRANSPORT_UNSPECIFIED: _ClassVar[Transport]
    TRANSPORT_TCP: _ClassVar[Transport]
    TRANSPORT_UDP: _ClassVar[Transport]

class DecodeMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DECODE_MODE_UNSPECIFIED: _ClassVar[DecodeMode]
    DECODE_MODE_AUTO: _ClassVar[DecodeMode]
    DECODE_MODE_CPU: _ClassVar[DecodeMode]
    DECODE_MODE_GPU: _ClassVar[DecodeMode]

class StreamState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STREAM_STATE_UNSPECIFIED: _ClassVar[StreamState]
    STREAM_STATE_WAITING: _ClassVar[StreamState]
    STREAM_STATE_CONNECTING: _ClassVar[StreamState]
    STREAM_STATE_STREAMING: _ClassVar[StreamState]
    STREAM_STATE_STALLED: _ClassVar[StreamState]
    STREAM_STATE_BACKING_OFF: _ClassVar[StreamState]
    STREAM_STATE_PAUSED: _ClassVar[StreamState]
    STREAM_STATE_ENDED: _ClassVar[StreamState]

class StreamOrigin(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STREAM_ORIGIN_UNSPECIFIED: _ClassVar[StreamOrigin]
    STREAM_ORIGIN_API: _ClassVar[StreamOrigin]
    STREAM_ORIGIN_CONFIG: _ClassVar[StreamOrigin]

class DecodeLevel(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DECODE_LEVEL_UNSPECIFIED: _ClassVar[DecodeLevel]
    DECODE_LEVEL_FULL: _ClassVar[DecodeLevel]
    DECODE_LEVEL_NO_LOOP_FILTER: _ClassVar[DecodeLevel]
    DECODE_LEVEL_REFERENCE_FRAMES: _ClassVar[DecodeLevel]
    DECODE_LEVEL_SUB_STREAM: _ClassVar[DecodeLevel]
    DECODE_LEVEL_KEYFRAMES: _ClassVar[DecodeLevel]
    DECODE_LEVEL_OFF: _ClassVar[DecodeLevel]

class DecodeDevice(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DECODE_DEVICE_UNSPECIFIED: _ClassVar[DecodeDevice]
    DECODE_DEVICE_CPU: _ClassVar[DecodeDevice]
    DECODE_DEVICE_NVDEC: _ClassVar[DecodeDevice]
TRANSPORT_UNSPECIFIED: Transport
TRANSPORT_TCP: Transport
TRANSPORT_UDP: Transport
DECODE_MODE_UNSPECIFIED: DecodeMode
DECODE_MODE_AUTO: DecodeMode
DECODE_MODE_CPU: DecodeMode
DECODE_MODE_GPU: DecodeMode
STREAM_STATE_UNSPECIFIED: StreamState
STREAM_STATE_WAITING: StreamState
STREAM_STATE_CONNECTING: StreamState
STREAM_STATE_STREAMING: StreamState
STREAM_STATE_STALLED: StreamState
STREAM_STATE_BACKING_OFF: StreamState
STREAM_STATE_PAUSED: StreamState
STREAM_STATE_ENDED: StreamState
STREAM_ORIGIN_UNSPECIFIED: StreamOrigin
STREAM_ORIGIN_API: StreamOrigin
STREAM_ORIGIN_CONFIG: StreamOrigin
DECODE_LEVEL_UNSPECIFIED: DecodeLevel
DECODE_LEVEL_FULL: DecodeLevel
DECODE_LEVEL_NO_LOOP_FILTER: DecodeLevel
DECODE_LEVEL_REFERENCE_FRAMES: DecodeLevel
DECODE_LEVEL_SUB_STREAM: DecodeLevel
DECODE_LEVEL_KEYFRAMES: DecodeLevel
DECODE_LEVEL_OFF: DecodeLevel
DECODE_DEVICE_UNSPECIFIED: DecodeDevice
DECODE_DEVICE_CPU: DecodeDevice
DECODE_DEVICE_NVDEC: DecodeDevice

class Point(_message.Message):
    __slots__ = ("x", "y")
    X_FIELD_NUMBER: _ClassVar[int]
    Y_FIELD_NUMBER: _ClassVar[int]
    x: float
    y: float
    def __init__(self, x: _Optional[float] = ..., y: _Optional[float] = ...) -> None: ...

class Polygon(_message.Message):
    __slots__ = ("points",)
    POINTS_FIELD_NUMBER: _ClassVar[int]
    points: _containers.RepeatedCompositeFieldContainer[Point]
    def __init__(self, points: _Optional[_Iterable[_Union[Point, _Mapping]]] = ...) -> None: ...

class Credentials(_message.Message):
    __slots__ = ("username", "password")
    USERNAME_FIELD_NUMBER: _ClassVar[int]
    PASSWORD_FIELD_NUMBER: _ClassVar[int]
    username: str
    password: str
    def __init__(self, username: _Optional[str] = ..., password: _Optional[str] = ...) -> None: ...

class StreamSpec(_message.Message):
    __slots__ = ("id", "url", "sub_url", "priority", "target_fps", "min_fps", "transport", "decode", "regions_of_interest", "labels", "paused", "tls_verify", "ca_file", "username")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    SUB_URL_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    TARGET_FPS_FIELD_NUMBER: _ClassVar[int]
    MIN_FPS_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    DECODE_FIELD_NUMBER: _ClassVar[int]
    REGIONS_OF_INTEREST_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    TLS_VERIFY_FIELD_NUMBER: _ClassVar[int]
    CA_FILE_FIELD_NUMBER: _ClassVar[int]
    USERNAME_FIELD_NUMBER: _ClassVar[int]
    id: str
    url: str
    sub_url: str
    priority: int
    target_fps: float
    min_fps: float
    transport: Transport
    decode: DecodeMode
    regions_of_interest: _containers.RepeatedCompositeFieldContainer[Polygon]
    labels: _containers.ScalarMap[str, str]
    paused: bool
    tls_verify: bool
    ca_file: str
    username: str
    def __init__(self, id: _Optional[str] = ..., url: _Optional[str] = ..., sub_url: _Optional[str] = ..., priority: _Optional[int] = ..., target_fps: _Optional[float] = ..., min_fps: _Optional[float] = ..., transport: _Optional[_Union[Transport, str]] = ..., decode: _Optional[_Union[DecodeMode, str]] = ..., regions_of_interest: _Optional[_Iterable[_Union[Polygon, _Mapping]]] = ..., labels: _Optional[_Mapping[str, str]] = ..., paused: _Optional[bool] = ..., tls_verify: _Optional[bool] = ..., ca_file: _Optional[str] = ..., username: _Optional[str] = ...) -> None: ...

class Latency(_message.Message):
    __slots__ = ("mean", "p50", "p95", "p99")
    MEAN_FIELD_NUMBER: _ClassVar[int]
    P50_FIELD_NUMBER: _ClassVar[int]
    P95_FIELD_NUMBER: _ClassVar[int]
    P99_FIELD_NUMBER: _ClassVar[int]
    mean: _duration_pb2.Duration
    p50: _duration_pb2.Duration
    p95: _duration_pb2.Duration
    p99: _duration_pb2.Duration
    def __init__(self, mean: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., p50: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., p95: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., p99: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class StreamStatus(_message.Message):
    __slots__ = ("state", "detail", "state_since", "codec", "source_width", "source_height", "source_fps", "granted_fps", "actual_fps", "latency", "frames_received", "frames_decoded", "frames_sampled", "frames_not_sampled", "frames_inferred", "faces", "reconnects", "frames_dropped", "frames_waiting", "frames_in_flight", "drop_fraction", "bytes_received", "decode_level", "on_sub_stream", "sub_stream_problem", "packets_skipped", "frames_too_old", "decode_errors", "decode_device", "nvdec_problem")
    class FramesDroppedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    STATE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    STATE_SINCE_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    SOURCE_WIDTH_FIELD_NUMBER: _ClassVar[int]
    SOURCE_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FPS_FIELD_NUMBER: _ClassVar[int]
    GRANTED_FPS_FIELD_NUMBER: _ClassVar[int]
    ACTUAL_FPS_FIELD_NUMBER: _ClassVar[int]
    LATENCY_FIELD_NUMBER: _ClassVar[int]
    FRAMES_RECEIVED_FIELD_NUMBER: _ClassVar[int]
    FRAMES_DECODED_FIELD_NUMBER: _ClassVar[int]
    FRAMES_SAMPLED_FIELD_NUMBER: _ClassVar[int]
    FRAMES_NOT_SAMPLED_FIELD_NUMBER: _ClassVar[int]
    FRAMES_INFERRED_FIELD_NUMBER: _ClassVar[int]
    FACES_FIELD_NUMBER: _ClassVar[int]
    RECONNECTS_FIELD_NUMBER: _ClassVar[int]
    FRAMES_DROPPED_FIELD_NUMBER: _ClassVar[int]
    FRAMES_WAITING_FIELD_NUMBER: _ClassVar[int]
    FRAMES_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    DROP_FRACTION_FIELD_NUMBER: _ClassVar[int]
    BYTES_RECEIVED_FIELD_NUMBER: _ClassVar[int]
    DECODE_LEVEL_FIELD_NUMBER: _ClassVar[int]
    ON_SUB_STREAM_FIELD_NUMBER: _ClassVar[int]
    SUB_STREAM_PROBLEM_FIELD_NUMBER: _ClassVar[int]
    PACKETS_SKIPPED_FIELD_NUMBER: _ClassVar[int]
    FRAMES_TOO_OLD_FIELD_NUMBER: _ClassVar[int]
    DECODE_ERRORS_FIELD_NUMBER: _ClassVar[int]
    DECODE_DEVICE_FIELD_NUMBER: _ClassVar[int]
    NVDEC_PROBLEM_FIELD_NUMBER: _ClassVar[int]
    state: StreamState
    detail: str
    state_since: _timestamp_pb2.Timestamp
    codec: str
    source_width: int
    source_height: int
    source_fps: float
    granted_fps: float
    actual_fps: float
    latency: Latency
    frames_received: int
    frames_decoded: int
    frames_sampled: int
    frames_not_sampled: int
    frames_inferred: int
    faces: int
    reconnects: int
    frames_dropped: _containers.ScalarMap[str, int]
    frames_waiting: int
    frames_in_flight: int
    drop_fraction: float
    bytes_received: int
    decode_level: DecodeLevel
    on_sub_stream: bool
    sub_stream_problem: str
    packets_skipped: int
    frames_too_old: int
    decode_errors: int
    decode_device: DecodeDevice
    nvdec_problem: str
    def __init__(self, state: _Optional[_Union[StreamState, str]] = ..., detail: _Optional[str] = ..., state_since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., codec: _Optional[str] = ..., source_width: _Optional[int] = ..., source_height: _Optional[int] = ..., source_fps: _Optional[float] = ..., granted_fps: _Optional[float] = ..., actual_fps: _Optional[float] = ..., latency: _Optional[_Union[Latency, _Mapping]] = ..., frames_received: _Optional[int] = ..., frames_decoded: _Optional[int] = ..., frames_sampled: _Optional[int] = ..., frames_not_sampled: _Optional[int] = ..., frames_inferred: _Optional[int] = ..., faces: _Optional[int] = ..., reconnects: _Optional[int] = ..., frames_dropped: _Optional[_Mapping[str, int]] = ..., frames_waiting: _Optional[int] = ..., frames_in_flight: _Optional[int] = ..., drop_fraction: _Optional[float] = ..., bytes_received: _Optional[int] = ..., decode_level: _Optional[_Union[DecodeLevel, str]] = ..., on_sub_stream: _Optional[bool] = ..., sub_stream_problem: _Optional[str] = ..., packets_skipped: _Optional[int] = ..., frames_too_old: _Optional[int] = ..., decode_errors: _Optional[int] = ..., decode_device: _Optional[_Union[DecodeDevice, str]] = ..., nvdec_problem: _Optional[str] = ...) -> None: ...

class Stream(_message.Message):
    __slots__ = ("spec", "status", "origin", "has_password")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    HAS_PASSWORD_FIELD_NUMBER: _ClassVar[int]
    spec: StreamSpec
    status: StreamStatus
    origin: StreamOrigin
    has_password: bool
    def __init__(self, spec: _Optional[_Union[StreamSpec, _Mapping]] = ..., status: _Optional[_Union[StreamStatus, _Mapping]] = ..., origin: _Optional[_Union[StreamOrigin, str]] = ..., has_password: _Optional[bool] = ...) -> None: ...

class CreateStreamRequest(_message.Message):
    __slots__ = ("spec", "credentials", "dry_run")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    CREDENTIALS_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    spec: StreamSpec
    credentials: Credentials
    dry_run: bool
    def __init__(self, spec: _Optional[_Union[StreamSpec, _Mapping]] = ..., credentials: _Optional[_Union[Credentials, _Mapping]] = ..., dry_run: _Optional[bool] = ...) -> None: ...

class CreateStreamResponse(_message.Message):
    __slots__ = ("stream", "warnings")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    stream: Stream
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, stream: _Optional[_Union[Stream, _Mapping]] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class GetStreamRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class GetStreamResponse(_message.Message):
    __slots__ = ("stream",)
    STREAM_FIELD_NUMBER: _ClassVar[int]
    stream: Stream
    def __init__(self, stream: _Optional[_Union[Stream, _Mapping]] = ...) -> None: ...

class ListStreamsRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "labels")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    labels: _containers.ScalarMap[str, str]
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ...) -> None: ...

class ListStreamsResponse(_message.Message):
    __slots__ = ("streams", "next_page_token")
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    streams: _containers.RepeatedCompositeFieldContainer[Stream]
    next_page_token: str
    def __init__(self, streams: _Optional[_Iterable[_Union[Stream, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class UpdateStreamRequest(_message.Message):
    __slots__ = ("spec", "update_mask", "credentials")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    UPDATE_MASK_FIELD_NUMBER: _ClassVar[int]
    CREDENTIALS_FIELD_NUMBER: _ClassVar[int]
    spec: StreamSpec
    update_mask: _field_mask_pb2.FieldMask
    credentials: Credentials
    def __init__(self, spec: _Optional[_Union[StreamSpec, _Mapping]] = ..., update_mask: _Optional[_Union[_field_mask_pb2.FieldMask, _Mapping]] = ..., credentials: _Optional[_Union[Credentials, _Mapping]] = ...) -> None: ...

class UpdateStreamResponse(_message.Message):
    __slots__ = ("stream", "warnings")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    stream: Stream
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, stream: _Optional[_Union[Stream, _Mapping]] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class DeleteStreamRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class DeleteStreamResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PauseStreamRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class PauseStreamResponse(_message.Message):
    __slots__ = ("stream",)
    STREAM_FIELD_NUMBER: _ClassVar[int]
    stream: Stream
    def __init__(self, stream: _Optional[_Union[Stream, _Mapping]] = ...) -> None: ...

class ResumeStreamRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class ResumeStreamResponse(_message.Message):
    __slots__ = ("stream",)
    STREAM_FIELD_NUMBER: _ClassVar[int]
    stream: Stream
    def __init__(self, stream: _Optional[_Union[Stream, _Mapping]] = ...) -> None: ...

class StreamImport(_message.Message):
    __slots__ = ("spec", "credentials")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    CREDENTIALS_FIELD_NUMBER: _ClassVar[int]
    spec: StreamSpec
    credentials: Credentials
    def __init__(self, spec: _Optional[_Union[StreamSpec, _Mapping]] = ..., credentials: _Optional[_Union[Credentials, _Mapping]] = ...) -> None: ...

class ImportStreamsRequest(_message.Message):
    __slots__ = ("streams", "dry_run")
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    streams: _containers.RepeatedCompositeFieldContainer[StreamImport]
    dry_run: bool
    def __init__(self, streams: _Optional[_Iterable[_Union[StreamImport, _Mapping]]] = ..., dry_run: _Optional[bool] = ...) -> None: ...

class ImportStreamsResponse(_message.Message):
    __slots__ = ("created", "unchanged", "warnings")
    CREATED_FIELD_NUMBER: _ClassVar[int]
    UNCHANGED_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    created: _containers.RepeatedScalarFieldContainer[str]
    unchanged: _containers.RepeatedScalarFieldContainer[str]
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, created: _Optional[_Iterable[str]] = ..., unchanged: _Optional[_Iterable[str]] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class GetSnapshotRequest(_message.Message):
    __slots__ = ("id", "plain")
    ID_FIELD_NUMBER: _ClassVar[int]
    PLAIN_FIELD_NUMBER: _ClassVar[int]
    id: str
    plain: bool
    def __init__(self, id: _Optional[str] = ..., plain: _Optional[bool] = ...) -> None: ...

class GetSnapshotResponse(_message.Message):
    __slots__ = ("jpeg", "capture_time", "sequence", "width", "height", "faces")
    JPEG_FIELD_NUMBER: _ClassVar[int]
    CAPTURE_TIME_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    FACES_FIELD_NUMBER: _ClassVar[int]
    jpeg: bytes
    capture_time: _timestamp_pb2.Timestamp
    sequence: int
    width: int
    height: int
    faces: int
    def __init__(self, jpeg: _Optional[bytes] = ..., capture_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., sequence: _Optional[int] = ..., width: _Optional[int] = ..., height: _Optional[int] = ..., faces: _Optional[int] = ...) -> None: ...
