"""The inference process's end of a ring: the newest frame of each stream waits, the rest goes back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from facedetd.ring.header import HeaderError, SlotHeader
from facedetd.ring.link import RETURNED, SENT, SlotLink, SlotRecord
from facedetd.ring.segment import InferenceCounter, Segment
from facedetd.types import ByteArray


@dataclass(frozen=True, slots=True)
class WaitingFrame:
    """A complete frame that waits. ``since_ns``: since when this stream waits for its turn (CLOCK_MONOTONIC);
    a newer frame takes over the place in line of the one it replaces, so that a fast stream is not starved."""

    stream: int
    slot: int
    header: SlotHeader
    since_ns: int


class RingReader:
    """``drain`` is called by the receiver thread, ``take`` and ``finish`` by the engine's."""

    def __init__(self, segment: Segment, link: SlotLink, clock_ns: Callable[[], int]):
        self.segment = segment
        self.link = link
        self._clock_ns = clock_ns
        self._lock = threading.Lock()
        self._waiting: dict[int, WaitingFrame] = {}
        self._in_flight: set[int] = set()
        spec = segment.spec
        self._pictures = [segment.picture(i) for i in range(spec.slots)]
        self._headers = [segment.header_view(i) for i in range(spec.slots)]

    @property
    def closed(self) -> bool:
        return self.link.closed

    def picture(self, slot: int) -> ByteArray:
        return self._pictures[slot]

    def drain(self) -> bool:
        """Take in what came; returns whether a new frame waits."""
        fresh = False
        back: list[SlotRecord] = []
        for record in self.link.receive():
            if not self._is_sound(record):
                continue
            header = self._checked_header(record)
            if header is None:
                self._count(record.stream, InferenceCounter.BAD)
                back.append(_returned(record.stream, record.slot))
                continue
            with self._lock:
                old = self._waiting.get(record.stream)
                since = old.since_ns if old else self._clock_ns()
                self._waiting[record.stream] = WaitingFrame(record.stream, record.slot, header, since)
                if old:
                    self._count(record.stream, InferenceCounter.REPLACED)
            if old:
                back.append(_returned(old.stream, old.slot))
            fresh = True
        self.link.send(*back)
        return fresh

    def _is_sound(self, record: SlotRecord) -> bool:
        """Whether the record may be acted on: a decoder that parses hostile bytes is not trusted with indices."""
        spec = self.segment.spec
        if record.kind != SENT or record.stream >= spec.streams:
            return False
        if record.slot // spec.slots_per_stream != record.stream or record.slot >= spec.slots:
            return False
        with self._lock:
            waiting = self._waiting.get(record.stream)
            return record.slot not in self._in_flight and (waiting is None or waiting.slot != record.slot)

    def _checked_header(self, record: SlotRecord) -> SlotHeader | None:
        try:
            header = SlotHeader.unpack(self._headers[record.slot])
        except HeaderError:
            return None
        g, spec = header.geometry, self.segment.spec
        sound = (
            (header.stream_index, header.epoch, header.sequence) == (record.stream, record.epoch, record.sequence)
            and header.generation == spec.generation
            and g.pad_x + g.width <= spec.width
            and g.pad_y + g.height <= spec.height
        )
        return header if sound else None

    def waiting(self) -> list[WaitingFrame]:
        with self._lock:
            return list(self._waiting.values())

    def take(self, stream: int) -> WaitingFrame | None:
        """Move a stream's newest frame into a batch."""
        with self._lock:
            frame = self._waiting.pop(stream, None)
            if frame is not None:
                self._in_flight.add(frame.slot)
                self._count(stream, InferenceCounter.TAKEN)
            return frame

    def finish(self, frames: Sequence[WaitingFrame], outcome: InferenceCounter) -> None:
        """Frames of a batch are done with: count them as INFERRED or FAILED and give their slots back."""
        with self._lock:
            for frame in frames:
                self._in_flight.discard(frame.slot)
                self._count(frame.stream, outcome)
        self.link.send(*(_returned(frame.stream, frame.slot) for frame in frames))

    def discard_waiting(self) -> None:
        """Drop what waits, counted: no engine will run it."""
        with self._lock:
            frames = list(self._waiting.values())
            self._waiting.clear()
            for frame in frames:
                self._count(frame.stream, InferenceCounter.DRAINED)
        self.link.send(*(_returned(frame.stream, frame.slot) for frame in frames))

    @property
    def idle(self) -> bool:
        with self._lock:
            return not self._waiting and not self._in_flight

    def _count(self, stream: int, counter: InferenceCounter) -> None:
        self.segment.counters[stream, 1, counter] += 1

    def close(self) -> None:
        self.link.close()
        self.segment.close()


def _returned(stream: int, slot: int) -> SlotRecord:
    return SlotRecord(RETURNED, stream, slot, 0, 0)
