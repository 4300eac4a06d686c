"""Where every frame went: counters of live rings plus what ended rings left behind.

A stream's counters are sums over its assignments, each a place (index) in some ring. While the ring lives they
are read from its segment; when a ring ends, or a place is given up, they are folded into the stream's base, and
what was sampled but never accounted for becomes ``worker_lost``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from facedetd.control import StreamCounts
from facedetd.ring.counts import DROP_REASONS, Counters, pending_frames, read_place
from facedetd.ring.segment import DecoderCounter as D
from facedetd.ring.segment import InferenceCounter as I
from facedetd.ring.segment import Segment

_MOST = np.uint64(2**56)  # no counter gets there by counting; a decoder that writes nonsense must not break the API


@dataclass(slots=True, eq=False)
class Assignment:
    """A stream's place in a ring. ``start``: the place's counters when it was taken over, shape (2, 16)."""

    account: StreamAccount
    stream_id: str
    epoch: int
    segment: Segment
    index: int
    start: Counters = field(init=False)

    def __post_init__(self) -> None:
        self.start = self.segment.counters[self.index].copy()

    def read(self) -> Counters:
        """What this assignment has counted: (2, 16)."""
        return read_place(self.segment, self.index) - self.start


class StreamAccount:
    """All counters of one stream over the daemon's life. ``faces`` is the owner's to raise."""

    def __init__(self) -> None:
        self._base: Counters = np.zeros((2, 16), np.uint64)
        self.assignments: list[Assignment] = []
        self.faces = 0
        self._connections = 0

    def connected(self) -> None:
        self._connections += 1

    def assign(self, stream_id: str, epoch: int, segment: Segment, index: int) -> Assignment:
        """The stream takes a place that no frame of another is under way from."""
        assignment = Assignment(self, stream_id, epoch, segment, index)
        self.assignments.append(assignment)
        return assignment

    def fold(self, assignment: Assignment) -> None:
        """An assignment's ring is no more, or its place is given up: keep what it counted. What had not come to an
        end was lost with a worker."""
        self.assignments.remove(assignment)
        counters = assignment.read()
        counters[0, D.WORKER_LOST] += np.uint64(max(0, pending_frames(counters)))
        counters[1, I.TAKEN] = counters[1, I.INFERRED] + counters[1, I.FAILED]  # none is in flight any more
        self._base += counters

    def counts(self) -> StreamCounts:
        total = self._base.copy()
        for assignment in self.assignments:
            total += assignment.read()
        total = np.minimum(total, _MOST)
        pending = max(0, pending_frames(total))
        taken_unfinished = int(total[1, I.TAKEN]) - int(total[1, I.INFERRED]) - int(total[1, I.FAILED])
        in_flight = max(0, min(pending, taken_unfinished))
        sampled, not_sampled = int(total[0, D.SAMPLED]), int(total[0, D.NOT_SAMPLED])
        return StreamCounts(
            received=int(total[0, D.RECEIVED]),
            received_bytes=int(total[0, D.RECEIVED_BYTES]),
            decoded=sampled + not_sampled,
            sampled=sampled,
            not_sampled=not_sampled,
            inferred=int(total[1, I.INFERRED]),
            faces=self.faces,
            reconnects=max(0, self._connections - 1),
            waiting=pending - in_flight,
            in_flight=in_flight,
            skipped=int(total[0, D.PACKETS_SKIPPED]),
            too_old=int(total[0, D.NOT_SAMPLED_STALE]),
            decode_errors=int(total[0, D.DECODE_ERRORS]),
            dropped={reason: int(total[place]) for reason, place in DROP_REASONS.items()},
        )
