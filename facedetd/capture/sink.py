"""A stream's way into the ring: what ``FrameSink`` promises, kept by a RingWriter that may be replaced meanwhile."""

from __future__ import annotations

import threading

from facedetd.capture.types import SampledFrame, Slot
from facedetd.ring.header import SlotHeader
from facedetd.ring.segment import DecoderCounter
from facedetd.ring.writer import RingWriter
from facedetd.ring.writer import Slot as RingSlot

# Plain ints: an enum's member takes as long to find and to make an index of as the rest of counting
_RECEIVED, _RECEIVED_BYTES = int(DecoderCounter.RECEIVED), int(DecoderCounter.RECEIVED_BYTES)
_NOT_SAMPLED, _NOT_SAMPLED_STALE = int(DecoderCounter.NOT_SAMPLED), int(DecoderCounter.NOT_SAMPLED_STALE)
_PACKETS_SKIPPED, _DECODE_ERRORS = int(DecoderCounter.PACKETS_SKIPPED), int(DecoderCounter.DECODE_ERRORS)


class RingSink:
    """Used by one stream's thread; ``switch`` by the group's main thread."""

    def __init__(self, stream_id: str, index: int, epoch: int, ring: RingWriter | None, priority: int = 0):
        self._stream_id, self._index, self._epoch = stream_id, index, epoch
        self.priority = priority
        """Of the frames submitted from now on. Any thread may set it."""
        # Held for a few instructions at a time: after ``switch`` returns, nothing is counted in the old ring.
        self._lock = threading.Lock()
        self._ring, self._counters = ring, self._block_of(ring)
        self._held: tuple[RingWriter, RingSlot] | None = None

    def switch(self, ring: RingWriter | None) -> None:
        """Frames acquired from now on go to ``ring``; one that is being written still goes to the old."""
        with self._lock:
            self._ring, self._counters = ring, self._block_of(ring)

    def _block_of(self, ring: RingWriter | None) -> memoryview | None:
        return None if ring is None else ring.segment.decoder_block(self._index)

    @property
    def attached(self) -> bool:
        ring = self._ring
        return ring is not None and ring.link is not None

    def acquire(self) -> Slot | None:
        with self._lock:
            ring = self._ring
            slot = ring.acquire(self._index) if ring is not None and ring.attached else None
            if ring is None or slot is None:
                return None
            self._held = (ring, slot)
        return Slot((ring.segment.spec.ring_id, slot.number), slot.picture)

    def submit(self, slot: Slot, frame: SampledFrame) -> None:
        ring, held = self._take_held()
        header = SlotHeader(
            stream_id=self._stream_id,
            stream_index=self._index,
            epoch=self._epoch,
            generation=ring.segment.spec.generation,
            sequence=frame.sequence,
            frame_number=frame.frame_number,
            pts_ns=frame.pts_ns,
            arrival_mono_ns=frame.arrival_mono_ns,
            capture_mono_ns=frame.capture_mono_ns,
            capture_utc_ns=frame.capture_utc_ns,
            geometry=frame.geometry,
            matrix=frame.matrix,
            range=frame.range,
            priority=self.priority,
        )
        ring.submit(self._index, held, header)

    def release(self, slot: Slot) -> None:
        ring, held = self._take_held()
        ring.release(self._index, held)

    def _take_held(self) -> tuple[RingWriter, RingSlot]:
        if self._held is None:
            raise RuntimeError("no slot is held: acquire one first")
        held, self._held = self._held, None
        return held

    def count(
        self,
        *,
        received: int = 0,
        received_bytes: int = 0,
        skipped: int = 0,
        decode_errors: int = 0,
        not_sampled: int = 0,
        stale: int = 0,
        no_slot: int = 0,
    ) -> None:
        with self._lock:
            ring, counters = self._ring, self._counters
            if ring is None or counters is None:
                return
            if received:
                counters[_RECEIVED] += received
            if received_bytes:
                counters[_RECEIVED_BYTES] += received_bytes
            if not_sampled:
                counters[_NOT_SAMPLED] += not_sampled
            if stale:
                counters[_NOT_SAMPLED_STALE] += stale
            if skipped:
                counters[_PACKETS_SKIPPED] += skipped
            if decode_errors:
                counters[_DECODE_ERRORS] += decode_errors
            for _ in range(no_slot):
                ring.drop_for_want_of_a_slot(self._index)
