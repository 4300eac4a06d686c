"""The record in which the inference process sends a frame's result to the supervisor: one SOCK_SEQPACKET message.

Little-endian. A head of fixed size, then for each face five float32 (x1 y1 x2 y2 score), then a byte for each face
(1: has landmarks), then ten float32 for each face that has them. Stream and model stand as numbers: the supervisor
knows which stream sits at a ring's index, and which model runs.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from facedetd.types import MAX_SIDE, Face

MAX_FACES = 4000
_HEAD = struct.Struct("<4sHHHHIIIQqqqqq")
_MAGIC = b"FDR1"
_BOX_FLOATS = 5
_MARKS = 5
_MARK_FLOATS = 2 * _MARKS
MAX_RECORD_BYTES = _HEAD.size + MAX_FACES * (4 * _BOX_FLOATS + 1 + 4 * _MARK_FLOATS)
"""The largest record, under 256 KiB. The kernel's default send buffer is smaller: set SO_SNDBUF to this."""


class ResultError(ValueError):
    """Bytes that are no result record, or values that don't fit one."""


@dataclass(frozen=True, slots=True)
class RawResult:
    """A frame's result as the inference process knows it. Fields as in FrameResult and SlotHeader; faces hold
    float32 values, in source px."""

    ring_id: int
    stream_index: int
    epoch: int
    sequence: int
    pts_ns: int
    capture_utc_ns: int
    capture_mono_ns: int
    arrival_mono_ns: int
    done_mono_ns: int
    source_width: int
    source_height: int
    batch_size: int
    faces: tuple[Face, ...]


def pack_result(
    ring_id: int,
    stream_index: int,
    epoch: int,
    sequence: int,
    pts_ns: int,
    capture_utc_ns: int,
    capture_mono_ns: int,
    arrival_mono_ns: int,
    done_mono_ns: int,
    source_width: int,
    source_height: int,
    batch_size: int,
    faces: Sequence[Face],
) -> bytes:
    """Make a record of at most MAX_RECORD_BYTES.

    Raises ResultError when there are over MAX_FACES faces, a face has other than 0 or 5 landmarks, or a value
    isn't finite or doesn't fit its field. What this packs, :func:`unpack_result` reads.
    """
    if len(faces) > MAX_FACES:
        raise ResultError(f"{len(faces)} faces in a frame; a record holds at most {MAX_FACES}")
    values: list[float] = []
    marks: list[float] = []
    flags = bytearray()
    for face in faces:
        values += face.box
        values.append(face.score)
        if len(face.landmarks) not in (0, _MARKS):
            raise ResultError(f"a face with {len(face.landmarks)} landmarks; 0 or {_MARKS} are allowed")
        flags.append(1 if face.landmarks else 0)
        for x, y in face.landmarks:
            marks += (x, y)
    if not all(map(math.isfinite, values)) or not all(map(math.isfinite, marks)):
        raise ResultError("a face with a number that isn't finite")
    try:
        head = _HEAD.pack(
            _MAGIC, ring_id, stream_index, batch_size, len(faces), epoch, source_width, source_height,
            sequence, pts_ns, capture_utc_ns, capture_mono_ns, arrival_mono_ns, done_mono_ns,
        )  # fmt: skip
        record = head + struct.pack(f"<{len(values)}f", *values) + flags + struct.pack(f"<{len(marks)}f", *marks)
    except (struct.error, OverflowError) as error:
        raise ResultError(f"a value doesn't fit the result record: {error}") from None
    if min(source_width, source_height, batch_size) < 1 or max(source_width, source_height) > MAX_SIDE:
        raise ResultError(
            f"a frame of {source_width}x{source_height} px in a batch of {batch_size}; each must be over 0, "
            f"a side at most {MAX_SIDE}"
        )
    return record


def unpack_result(data: bytes | bytearray | memoryview) -> RawResult:
    """Read a record. Raises ResultError on anything that :func:`pack_result` wouldn't have made."""
    if len(data) < _HEAD.size:
        raise ResultError(f"a result record of {len(data)} bytes; the head alone has {_HEAD.size}")
    (magic, ring_id, stream_index, batch_size, count, epoch, width, height,
     sequence, pts, utc, capture, arrival, done) = _HEAD.unpack_from(data)  # fmt: skip
    if magic != _MAGIC:
        raise ResultError(f"no result record: it begins with {magic!r}, not {_MAGIC!r}")
    if count > MAX_FACES:
        raise ResultError(f"a result record with {count} faces; at most {MAX_FACES} are allowed")
    if 0 in (width, height, batch_size) or max(width, height) > MAX_SIDE:
        raise ResultError(f"a result record of a {width}x{height} px frame in a batch of {batch_size}")
    flags_at = _HEAD.size + 4 * _BOX_FLOATS * count
    marks_at = flags_at + count
    flags = bytes(data[flags_at:marks_at])
    marked = flags.count(1)
    if len(data) != marks_at + 4 * _MARK_FLOATS * marked or marked + flags.count(0) != count:
        raise ResultError(f"a result record of {len(data)} bytes that doesn't fit its {count} faces")
    values: tuple[float, ...] = struct.unpack_from(f"<{_BOX_FLOATS * count}f", data, _HEAD.size)
    marks: tuple[float, ...] = struct.unpack_from(f"<{_MARK_FLOATS * marked}f", data, marks_at)
    if not all(map(math.isfinite, values)) or not all(map(math.isfinite, marks)):
        raise ResultError("a result record with a number that isn't finite")
    faces: list[Face] = []
    at = 0
    for index in range(count):
        x1, y1, x2, y2, score = values[index * _BOX_FLOATS : (index + 1) * _BOX_FLOATS]
        landmarks: tuple[tuple[float, float], ...] = ()
        if flags[index]:
            own = marks[at : at + _MARK_FLOATS]
            landmarks = tuple(zip(own[::2], own[1::2], strict=True))
            at += _MARK_FLOATS
        faces.append(Face((x1, y1, x2, y2), score, landmarks))
    return RawResult(
        ring_id,
        stream_index,
        epoch,
        sequence,
        pts,
        utc,
        capture,
        arrival,
        done,
        width,
        height,
        batch_size,
        tuple(faces),
    )
