"""The decoder group's end of a ring: free slots, submission, and what came back."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from facedetd.ring.counts import pending_frames, read_place
from facedetd.ring.header import SlotHeader
from facedetd.ring.link import RETURNED, SENT, SlotLink, SlotRecord
from facedetd.ring.segment import DecoderCounter, InferenceCounter, Segment
from facedetd.types import ByteArray


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot its holder may write: ``number`` in the ring and ``picture``, (height * 3 / 2, width) uint8."""

    number: int
    picture: ByteArray


class RingWriter:
    """Slots of stream i are ``i * slots_per_stream`` and following. Safe for one thread a stream plus
    the main thread."""

    def __init__(self, segment: Segment, link: SlotLink | None):
        self.segment = segment
        self.link = link
        spec = segment.spec
        self._lock = threading.Lock()
        k = spec.slots_per_stream
        self._free = [[i * k + j for j in range(k)] for i in range(spec.streams)]
        self._pictures = [segment.picture(i) for i in range(spec.slots)]
        self._headers = [segment.header_view(i) for i in range(spec.slots)]
        self._sent: set[int] = set()

    @property
    def size(self) -> tuple[int, int]:
        """The model's (width, height) in px."""
        return self.segment.spec.width, self.segment.spec.height

    @property
    def attached(self) -> bool:
        return self.link is not None

    def acquire(self, stream: int) -> Slot | None:
        with self._lock:
            free = self._free[stream]
            number = free.pop() if free else None
        return None if number is None else Slot(number, self._pictures[number])

    def release(self, stream: int, slot: Slot) -> None:
        """Give back a slot that was acquired and not submitted."""
        with self._lock:
            self._free[stream].append(slot.number)

    def submit(self, stream: int, slot: Slot, header: SlotHeader) -> None:
        """Hand a complete slot over. Counts it as sampled."""
        self._write_header(slot, header)
        with self._lock:
            # Counted before it is sent: should this process die in between, the frame shows as worker_lost.
            self.segment.counters[stream, 0, DecoderCounter.SAMPLED] += 1
            if self.link is None:  # the inference process went while the frame was scaled
                self.segment.counters[stream, 0, DecoderCounter.WORKER_LOST] += 1
                self._free[stream].append(slot.number)
                return
            self._sent.add(slot.number)
            self.link.send(SlotRecord(SENT, stream, slot.number, header.epoch, header.sequence))

    def drop_for_want_of_a_slot(self, stream: int) -> None:
        """Count a frame as sampled and dropped, both at once: ``relink`` sees neither half of it alone."""
        with self._lock:
            self.segment.counters[stream, 0, DecoderCounter.SAMPLED] += 1
            self.segment.counters[stream, 0, DecoderCounter.NO_SLOT] += 1

    def _write_header(self, slot: Slot, header: SlotHeader) -> None:
        data = header.pack()
        self._headers[slot.number][: len(data)] = data

    def take_back(self) -> None:
        """Read returned slots off the link. Main thread only."""
        records = self.link.receive() if self.link else []
        k = self.segment.spec.slots_per_stream
        with self._lock:
            for record in records:
                if record.kind == RETURNED and record.slot in self._sent:
                    self._sent.remove(record.slot)
                    self._free[record.slot // k].append(record.slot)

    def relink(self, link: SlotLink | None) -> None:
        """The inference process is dead and reaped: reclaim every slot it had and go on with its successor,
        or, where ``link`` is None, with none: nothing is sampled then.

        What was sampled and not accounted for by the dead process is counted as worker_lost. The caller is
        the only thread that touches the link meanwhile; stream threads that submit wait on the lock.
        """
        with self._lock:
            old, self.link = self.link, link
            if old:
                old.close()
            k = self.segment.spec.slots_per_stream
            for slot in self._sent:
                self._free[slot // k].append(slot)
            self._sent.clear()
            for stream in range(self.segment.spec.streams):
                counters = self.segment.counters[stream]
                lost = max(0, pending_frames(read_place(self.segment, stream)))
                # The dead process's batch is no longer in flight; its counters have no other writer now.
                counters[1, InferenceCounter.TAKEN] = (
                    counters[1, InferenceCounter.INFERRED] + counters[1, InferenceCounter.FAILED]
                )
                # Last: with it the stream's frames have all come to an end, and its place may be given on.
                counters[0, DecoderCounter.WORKER_LOST] += lost

    def outstanding(self, stream: int) -> int:
        """Slots of a stream that are with the inference process or on their way."""
        k = self.segment.spec.slots_per_stream
        with self._lock:
            return sum(1 for slot in self._sent if slot // k == stream)

    @property
    def in_writing(self) -> int:
        """Slots that stream threads hold."""
        with self._lock:
            free = sum(len(slots) for slots in self._free)
            return self.segment.spec.slots - free - len(self._sent)

    def is_left(self) -> bool:
        """For a ring that no thread acquires from any more: whether all that was written has been sent off."""
        if self.link:
            self.link.flush()
        return self.in_writing == 0 and not (self.link and self.link.wants_write)

    def close(self) -> None:
        if self.link:
            self.link.close()
        self.segment.close()
