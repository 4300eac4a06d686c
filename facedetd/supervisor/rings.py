"""The rings that live, who holds their ends, and what becomes of their counters when nobody does."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from facedetd.ring.counts import Counters
from facedetd.ring.segment import COUNTERS_PER_BLOCK, RingSpec, Segment, no_memory
from facedetd.supervisor.accounting import Assignment
from facedetd.supervisor.memory import read_memory
from facedetd.supervisor.streams import StreamRuntime
from facedetd.supervisor.workers import Worker

MAX_RING_ID = 2**16 - 1
"""What a result record has room for."""


@dataclass(slots=True, eq=False)
class Ring:
    """A segment with both its ends, as the supervisor follows them."""

    segment: Segment
    writer: Worker | None
    """The decoder group that holds one end; None once it is gone or has left it for a new one."""
    reader: Worker | None = None
    """The inference process that holds the other; None once it is gone or has closed it."""
    assignments: dict[int, Assignment] = field(default_factory=dict)

    @property
    def ring_id(self) -> int:
        return self.segment.spec.ring_id

    @property
    def generation(self) -> int:
        return self.segment.spec.generation


class Rings:
    def __init__(self) -> None:
        self._rings: dict[int, Ring] = {}
        self._ended: Counters = np.zeros((2, COUNTERS_PER_BLOCK), np.uint64)
        self._ids = itertools.cycle(range(1, MAX_RING_ID + 1))

    def make(self, generation: int, size: tuple[int, int], streams: int, slots: int, writer: Worker) -> Ring:
        """A ring for pictures of ``size`` (width, height). Raises RingError or OSError."""
        ring_id = next(i for i in self._ids if i not in self._rings)
        spec = RingSpec(ring_id, generation, *size, streams, slots)
        room = read_memory().room
        if spec.size > room:  # to try would make the kernel kill someone: a limited control group has no other way
            raise no_memory(spec, f"{room / 1e6:.0f} MB are left")
        segment = Segment.create(spec)
        ring = self._rings[ring_id] = Ring(segment, writer)
        return ring

    def owner(self, ring_id: int, index: int, epoch: int, streams: Mapping[str, StreamRuntime]) -> StreamRuntime | None:
        """The stream of ``streams``, which are by id, that a result is of. None when it was removed while the frame was
        under way: another of the same id may be there by now."""
        ring = self._rings.get(ring_id)
        assignment = ring.assignments.get(index) if ring else None
        if assignment is None or assignment.epoch != epoch:
            return None
        stream = streams.get(assignment.stream_id)
        return stream if stream and stream.account is assignment.account else None

    def left(self, writer: Worker, ring_id: int) -> None:
        """A decoder writes a ring no more (it has a new one)."""
        ring = self._rings.get(ring_id)
        if ring and ring.writer is writer:
            ring.writer = None
            self._settle()

    def closed(self, reader: Worker, ring_id: int) -> Ring | None:
        """The inference process has run the last frame of a ring that its decoder has closed. Returns the ring, None
        when the process holds no such ring."""
        ring = self._rings.get(ring_id)
        if ring is None or ring.reader is not reader:
            return None
        ring.reader = None
        self._settle()
        return ring

    def down(self, worker: Worker) -> None:
        """A worker is dead and reaped."""
        for ring in self._rings.values():
            if ring.writer is worker:
                ring.writer = None
            if ring.reader is worker:
                ring.reader = None
        self._settle()

    def _settle(self) -> None:
        """Fold the counters of rings that have no end left, and give back their memory."""
        for ring_id, ring in list(self._rings.items()):
            if ring.writer is None and ring.reader is None:
                del self._rings[ring_id]
                for assignment in ring.assignments.values():
                    assignment.account.fold(assignment)
                self._ended += _sums(ring.segment)
                ring.segment.close()

    def segments(self) -> list[Segment]:
        """Of the rings that live."""
        return [ring.segment for ring in self._rings.values()]

    def totals(self) -> Counters:
        """All that was ever counted, over all streams: (2, 16)."""
        total = self._ended.copy()
        for ring in self._rings.values():
            total += _sums(ring.segment)
        return total


def _sums(segment: Segment) -> Counters:
    sums: Counters = segment.counters.sum(axis=0, dtype=np.uint64)
    return sums
