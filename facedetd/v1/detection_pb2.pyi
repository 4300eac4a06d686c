import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WatchDetectionsRequest(_message.Message):
    __slots__ = ("stream_ids", "min_score", "include_empty", "together")
    STREAM_IDS_FIELD_NUMBER: _ClassVar[int]
    MIN_SCORE_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_EMPTY_FIELD_NUMBER: _ClassVar[int]
    TOGETHER_FIELD_NUMBER: _ClassVar[int]
    stream_ids: _containers.RepeatedScalarFieldContainer[str]
    min_score: float
    include_empty: bool
    together: bool
    def __init__(self, stream_ids: _Optional[_Iterable[str]] = ..., min_score: _Optional[float] = ..., include_empty: _Optional[bool] = ..., together: _Optional[bool] = ...) -> None: ...

class PixelPoint(_message.Message):
    __slots__ = ("x", "y")
    X_FIELD_NUMBER: _ClassVar[int]
    Y_FIELD_NUMBER: _ClassVar[int]
    x: float
    y: float
    def __init__(self, x: _Optional[float] = ..., y: _Optional[float] = ...) -> None: ...

class Box(_message.Message):
    __slots__ = ("x_min", "y_min", "x_max", "y_max")
    X_MIN_FIELD_NUMBER: _ClassVar[int]
    Y_MIN_FIELD_NUMBER: _ClassVar[int]
    X_MAX_FIELD_NUMBER: _ClassVar[int]
    Y_MAX_FIELD_NUMBER: _ClassVar[int]
    x_min: float
    y_min: float
    x_max: float
    y_max: float
    def __init__(self, x_min: _Optional[float] = ..., y_min: _Optional[float] = ..., x_max: _Optional[float] = ..., y_max: _Optional[float] = ...) -> None: ...

class Landmarks(_message.Message):
    __slots__ = ("right_eye", "left_eye", "nose", "mouth_right", "mouth_left")
    RIGHT_EYE_FIELD_NUMBER: _ClassVar[int]
    LEFT_EYE_FIELD_NUMBER: _ClassVar[int]
    NOSE_FIELD_NUMBER: _ClassVar[int]
    MOUTH_RIGHT_FIELD_NUMBER: _ClassVar[int]
    MOUTH_LEFT_FIELD_NUMBER: _ClassVar[int]
    right_eye: PixelPoint
    left_eye: PixelPoint
    nose: PixelPoint
    mouth_right: PixelPoint
    mouth_left: PixelPoint
    def __init__(self, right_eye: _Optional[_Union[PixelPoint, _Mapping]] = ..., left_eye: _Optional[_Union[PixelPoint, _Mapping]] = ..., nose: _Optional[_Union[PixelPoint, _Mapping]] = ..., mouth_right: _Optional[_Union[PixelPoint, _Mapping]] = ..., mouth_left: _Optional[_Union[PixelPoint, _Mapping]] = ...) -> None: ...

class Face(_message.Message):
    __slots__ = ("box", "score", "landmarks")
    BOX_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    LANDMARKS_FIELD_NUMBER: _ClassVar[int]
    box: Box
    score: float
    landmarks: Landmarks
    def __init__(self, box: _Optional[_Union[Box, _Mapping]] = ..., score: _Optional[float] = ..., landmarks: _Optional[_Union[Landmarks, _Mapping]] = ...) -> None: ...

class Detection(_message.Message):
    __slots__ = ("stream_id", "sequence", "epoch", "capture_time", "pts", "source_width", "source_height", "faces", "model_name", "model_version", "latency", "labels")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    CAPTURE_TIME_FIELD_NUMBER: _ClassVar[int]
    PTS_FIELD_NUMBER: _ClassVar[int]
    SOURCE_WIDTH_FIELD_NUMBER: _ClassVar[int]
    SOURCE_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    FACES_FIELD_NUMBER: _ClassVar[int]
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    LATENCY_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    stream_id: str
    sequence: int
    epoch: int
    capture_time: _timestamp_pb2.Timestamp
    pts: _duration_pb2.Duration
    source_width: int
    source_height: int
    faces: _containers.RepeatedCompositeFieldContainer[Face]
    model_name: str
    model_version: str
    latency: _duration_pb2.Duration
    labels: _containers.ScalarMap[str, str]
    def __init__(self, stream_id: _Optional[str] = ..., sequence: _Optional[int] = ..., epoch: _Optional[int] = ..., capture_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., pts: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., source_width: _Optional[int] = ..., source_height: _Optional[int] = ..., faces: _Optional[_Iterable[_Union[Face, _Mapping]]] = ..., model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., latency: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., labels: _Optional[_Mapping[str, str]] = ...) -> None: ...

class WatchDetectionsResponse(_message.Message):
    __slots__ = ("detection", "lost", "more")
    DETECTION_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    detection: Detection
    lost: int
    more: _containers.RepeatedCompositeFieldContainer[Detection]
    def __init__(self, detection: _Optional[_Union[Detection, _Mapping]] = ..., lost: _Optional[int] = ..., more: _Optional[_Iterable[_Union[Detection, _Mapping]]] = ...) -> None: ...
