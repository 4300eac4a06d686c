"""What workers say, checked. A decoder parses hostile camera bytes, so its words are acted on only as read here."""

from __future__ import annotations

import math
from dataclasses import dataclass

from facedetd.inference.luma import LUMA_BINS
from facedetd.ipc import Message
from facedetd.supervisor.streams import Seen
from facedetd.types import MAX_SIDE, DecodeDevice, DecodeLevel, StreamState

_INT64_MAX = 2**63 - 1
_UINT32_MAX = 2**32 - 1
MAX_TEXT = 2000


class BadMessageError(ValueError):
    """A message with a field that is missing or can't be; ``str()`` names it."""


@dataclass(frozen=True, slots=True)
class Beat:
    """A sign of life. Of an inference process also: for how long the batch that runs now has run, results that could
    not be sent, age of the oldest frame that waits, and (size, seconds) of each batch since the last beat. Of a
    decoder also ``lags``: (index, ns) of streams that sampled since the last beat, the age of their oldest frame.
    ``resident_bytes``: the process's memory, which nobody else can see in the confined service.
    ``luma``: how bright the ``luma_frames`` were that the inference process looked at since the last beat."""

    busy_ns: int = 0
    results_lost: int = 0
    oldest_ns: int = 0
    timings: tuple[tuple[int, float], ...] = ()
    lags: tuple[tuple[int, int], ...] = ()
    luma_frames: int = 0
    luma: tuple[int, ...] = ()
    resident_bytes: int = 0


@dataclass(frozen=True, slots=True)
class StreamReport:
    """A stream's new state: its index in the group, and which of the index's tenants it is about."""

    index: int
    epoch: int
    seen: Seen


def number(message: Message, key: str, highest: int = _INT64_MAX) -> int:
    """Raises BadMessageError unless the field is a whole number from 0 to ``highest``."""
    value = message.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= highest:
        raise BadMessageError(f"{_name(message)}: {key} is {_shown(value)}, not a whole number from 0 to {highest}")
    return value


def text(message: Message, key: str) -> str:
    """Raises BadMessageError unless the field is text of at most MAX_TEXT characters."""
    value = message.get(key)
    if not isinstance(value, str) or len(value) > MAX_TEXT or not _encodes(value):
        raise BadMessageError(f"{_name(message)}: {key} is {_shown(value)}, not text of up to {MAX_TEXT} characters")
    return value


def real(message: Message, key: str) -> float:
    """Raises BadMessageError unless the field is a finite number that isn't negative."""
    value = message.get(key)
    if not _is_real(value):
        raise BadMessageError(f"{_name(message)}: {key} is {_shown(value)}, not a finite number from 0 up")
    return float(value)  # type: ignore[arg-type]


def read_beat(message: Message) -> Beat:
    """Raises BadMessageError."""
    lags = message.get("lags", [])
    if not isinstance(lags, list) or not all(map(_is_lag, lags)):
        raise BadMessageError("beat: lags is no list of indices and nanoseconds")
    timings = message.get("timings", [])
    if not isinstance(timings, list) or not all(map(_is_timing, timings)):
        raise BadMessageError("beat: timings is no list of sizes and seconds")
    luma = message.get("luma", [])
    if not isinstance(luma, list) or len(luma) not in (0, LUMA_BINS) or not all(map(_is_count, luma)):
        raise BadMessageError(f"beat: luma is no list of {LUMA_BINS} counts")
    whole = {
        key: number(message, key)
        for key in ("busy_ns", "results_lost", "oldest_ns", "resident_bytes")
        if key in message
    }
    luma_frames = number(message, "luma_frames", _UINT32_MAX) if luma else 0
    return Beat(
        **whole,
        timings=tuple((size, float(seconds)) for size, seconds in timings),
        lags=tuple((index, ns) for index, ns in lags),
        luma_frames=luma_frames,
        luma=tuple(luma),
    )


def read_report(message: Message) -> StreamReport:
    """Raises BadMessageError."""
    try:
        state = StreamState(text(message, "state"))
    except ValueError as error:
        raise BadMessageError(f"state: {error}") from None
    seen = Seen(
        state,
        text(message, "detail"),
        text(message, "codec"),
        number(message, "width", MAX_SIDE),
        number(message, "height", MAX_SIDE),
        real(message, "fps"),
        _level(message),
        message.get("sub") is True,
        real(message, "keyframe_s"),
        real(message, "reference_share"),
        real(message, "bits_per_s"),
        text(message, "sub_problem"),
        _device(message),
        text(message, "nvdec_problem"),
    )
    return StreamReport(number(message, "index"), number(message, "epoch"), seen)


def _level(message: Message) -> DecodeLevel:
    level = text(message, "level")
    try:
        return DecodeLevel(level)
    except ValueError:
        raise BadMessageError(f"state: level is {_shown(level)}, no decode level") from None


def _device(message: Message) -> DecodeDevice:
    device = text(message, "device")
    try:
        return DecodeDevice(device)
    except ValueError:
        raise BadMessageError(f"state: device is {_shown(device)}, nothing that decodes") from None


def _is_lag(value: object) -> bool:
    if not isinstance(value, list) or len(value) != 2:
        return False
    return all(type(x) is int and 0 <= x <= _INT64_MAX for x in value)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= _UINT32_MAX


def _is_timing(value: object) -> bool:
    if not isinstance(value, list) or len(value) != 2:
        return False
    return type(value[0]) is int and 0 < value[0] <= _UINT32_MAX and _is_real(value[1])


def _is_real(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return 0 <= value <= _INT64_MAX and math.isfinite(value)


def _encodes(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # JSON lets half a surrogate pair through
        return False
    return True


def _name(message: Message) -> str:
    return _shown(message.get("ev"))


def _shown(value: object) -> str:
    return repr(value)[:60]
