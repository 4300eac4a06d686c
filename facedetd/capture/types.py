"""What passes between a stream's thread and the process around it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Protocol

from facedetd.ring.header import ColorMatrix, ColorRange, Geometry
from facedetd.types import ByteArray, DecodeDevice, DecodeLevel, StreamState


@dataclass(frozen=True, slots=True)
class Slot:
    """A free slot lent to the stream's thread.

    ``key`` names its memory: the same key means the same bytes, with what this thread wrote there before still in
    them (the padding is painted once), so it holds the ring's id as well as the slot's number.
    ``picture`` is the slot itself, (height * 3 / 2, width) uint8: its shape is the model's size.
    """

    key: Hashable
    picture: ByteArray


@dataclass(frozen=True, slots=True)
class SampledFrame:
    """The header fields that the capture side knows. ``sequence`` counts sampled frames, also those for which no
    slot was free; ``frame_number`` counts decoded ones; both from 0 and on over reconnects. Times in ns."""

    sequence: int
    frame_number: int
    pts_ns: int
    arrival_mono_ns: int
    capture_mono_ns: int
    capture_utc_ns: int
    geometry: Geometry
    matrix: ColorMatrix
    range: ColorRange


class FrameSink(Protocol):
    """Where a stream's frames go; called by that stream's thread only.

    A slot from ``acquire`` goes back by exactly one of ``submit`` and ``release``, before the next ``acquire``.
    Every decoded frame leads to exactly one of ``submit``, ``count(not_sampled=1)`` and ``count(no_slot=1)``, so that
    decoded = sampled + not_sampled holds when the sink counts ``sampled`` in ``submit`` and for ``no_slot``.
    """

    @property
    def attached(self) -> bool:
        """Whether there is a ring. Without one nothing is sampled."""

    def acquire(self) -> Slot | None:
        """A free slot, or None when there is none or no ring."""

    def submit(self, slot: Slot, frame: SampledFrame) -> None:
        """Hand the complete slot over; the caller no longer touches it. Counts it as sampled."""

    def release(self, slot: Slot) -> None:
        """Give the slot back unused."""

    def count(
        self,
        *,
        received: int = 0,  # packets
        received_bytes: int = 0,
        skipped: int = 0,  # packets that came too late to decode; those that the decode level leaves out are no such
        decode_errors: int = 0,  # packets that gave no picture, and pictures that are damaged
        not_sampled: int = 0,
        stale: int = 0,  # those of not_sampled that were too old
        no_slot: int = 0,  # sampled and dropped: every slot was busy
    ) -> None:
        """Add to the stream's counters, of which this thread is the only writer."""


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What is known of the source; empty or 0 until it is. Sizes in px as decoded.

    ``fps``, ``keyframe_s`` (from keyframe to keyframe), ``reference_share`` (of frames that others need) and
    ``bits_per_s`` are measured on packets, so they don't depend on the level. ``level`` is the one in force, ``sub``
    whether all of this is the sub-stream's; ``sub_problem`` says why the level asks for that in vain. ``device`` is
    where it is decoded; ``nvdec_problem`` says why not on NVDEC, where it was sent.
    """

    codec: str = ""
    width: int = 0
    height: int = 0
    fps: float = 0.0
    level: DecodeLevel = DecodeLevel.FULL
    sub: bool = False
    keyframe_s: float = 0.0
    reference_share: float = 1.0
    bits_per_s: float = 0.0
    sub_problem: str = ""
    device: DecodeDevice = DecodeDevice.CPU
    nvdec_problem: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A full-size picture of a submitted frame, (height, width, 3) uint8 BGR, and which frame it is."""

    bgr: ByteArray
    sequence: int
    frame_number: int
    capture_utc_ns: int


OnState = Callable[[StreamState, str, StreamInfo], None]
"""Called on changes only, by the stream's thread: state, a short reason fit for an operator, what is known."""

OnSnapshot = Callable[[Snapshot], None]
"""Called by the stream's thread: take the picture and return at once."""


@dataclass(frozen=True, slots=True)
class StreamTimeouts:
    """How long a stream waits; seconds. ``healthy_s`` of streaming forget earlier failures."""

    connect_s: float = 5.0
    read_s: float = 5.0
    backoff_initial_s: float = 1.0
    backoff_max_s: float = 60.0
    healthy_s: float = 10.0
    max_frame_age_s: float = 1.0
