"""Where every frame went: the sums hold over rings that come and go, and over a decoder that writes nonsense."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facedetd.control import StreamCounts
from facedetd.ring.counts import pending_frames
from facedetd.ring.segment import DecoderCounter as D
from facedetd.ring.segment import InferenceCounter as I
from facedetd.ring.segment import RingSpec, Segment
from facedetd.supervisor.accounting import Assignment, StreamAccount

MANY = st.lists(st.sampled_from(["sample", "no slot", "skip", "take", "infer", "fail", "replace", "fold", "ring"]))


def segment(ring_id: int = 1) -> Segment:
    return Segment.create(RingSpec(ring_id, 1, 16, 16, 2, 4))


def holds(counts: StreamCounts) -> bool:
    ended = counts.inferred + sum(counts.dropped.values())
    return (
        counts.decoded == counts.sampled + counts.not_sampled
        and counts.sampled == ended + counts.waiting + counts.in_flight
        and min(counts.waiting, counts.in_flight) >= 0
    )


class Life:
    """A stream's life as both ends would count it."""

    def __init__(self) -> None:
        self.account = StreamAccount()
        self.rings = 0
        self.sampled = self.lost = self.waiting = self.taken = 0
        self.ring()

    def ring(self) -> None:
        self.rings += 1
        self.waiting = self.taken = 0
        self.segment = segment(self.rings)
        self.assignment: Assignment | None = self.account.assign("s", self.rings, self.segment, 0)

    def fold(self) -> None:
        if self.assignment:
            self.lost += self.waiting + self.taken
            self.account.fold(self.assignment)
            self.assignment = None
        self.ring()

    def step(self, what: str) -> None:
        decoder, inference = self.segment.counters[0]
        if what == "sample":
            decoder[D.SAMPLED] += 1
            self.sampled += 1
            self.waiting += 1
        elif what == "no slot":
            decoder[D.SAMPLED] += 1
            decoder[D.NO_SLOT] += 1
            self.sampled += 1
        elif what == "skip":
            decoder[D.NOT_SAMPLED] += 1
        elif what == "take" and self.waiting:
            inference[I.TAKEN] += 1
            self.waiting, self.taken = self.waiting - 1, self.taken + 1
        elif what in ("infer", "fail") and self.taken:
            inference[I.INFERRED if what == "infer" else I.FAILED] += 1
            self.taken -= 1
        elif what == "replace" and self.waiting:
            inference[I.REPLACED] += 1
            self.waiting -= 1
        elif what == "fold":
            self.fold()


@given(MANY)
def test_the_sums_hold_at_every_moment(steps: list[str]) -> None:
    life = Life()
    for what in steps:
        life.step(what)
        counts = life.account.counts()
        assert holds(counts)
        assert counts.sampled == life.sampled
        assert counts.dropped["worker_lost"] == life.lost
        assert (counts.waiting, counts.in_flight) == (life.waiting, life.taken)
    life.fold()
    counts = life.account.counts()
    assert counts.waiting == counts.in_flight == 0
    assert holds(counts)


def test_a_place_is_taken_over_with_what_its_last_tenant_counted_left_out() -> None:
    ring, first, second = segment(), StreamAccount(), StreamAccount()
    place = first.assign("a", 1, ring, 1)
    ring.counters[1, 0, D.SAMPLED] = 5
    ring.counters[1, 1, [I.TAKEN, I.INFERRED]] = 5
    first.fold(place)
    second.assign("b", 2, ring, 1)
    ring.counters[1, 0, D.SAMPLED] += 2
    assert (first.counts().sampled, first.counts().inferred) == (5, 5)
    assert (second.counts().sampled, second.counts().inferred, second.counts().waiting) == (2, 0, 2)


def test_a_stream_in_two_rings_at_once_is_counted_in_both() -> None:
    account = StreamAccount()
    old, new = segment(1), segment(2)
    leaving = account.assign("s", 4, old, 0)
    account.assign("s", 4, new, 0)
    old.counters[0, 0, D.SAMPLED] = 3
    new.counters[0, 0, D.SAMPLED] = 2
    old.counters[0, 1, [I.TAKEN, I.INFERRED]] = 3
    assert (account.counts().sampled, account.counts().waiting) == (5, 2)
    account.fold(leaving)
    assert len(account.assignments) == 1
    assert (account.counts().sampled, account.counts().inferred, account.counts().waiting) == (5, 3, 2)


def test_sampled_is_read_last_so_that_a_frame_can_not_end_before_it_was_sampled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    account, ring = StreamAccount(), segment()
    place = account.assign("s", 1, ring, 0)

    class Busy:
        """Counters of a decoder that drops a frame for want of a slot between any two looks at them."""

        def __init__(self, block: Any):
            self.block = block

        def __getitem__(self, key: Any) -> Any:
            self.drop()
            return self.block[key] if isinstance(key, tuple) else Busy(self.block[key])

        def copy(self) -> Any:
            torn = self.block.copy()
            self.drop()
            torn[D.NO_SLOT] = self.block[D.NO_SLOT]  # the higher words are read a moment later
            return torn

        def drop(self) -> None:
            decoder = ring.counters[0, 0]
            decoder[D.SAMPLED] += 1
            decoder[D.NO_SLOT] += 1

    class BusySegment:
        counters = Busy(ring.counters)

    monkeypatch.setattr(place, "segment", BusySegment())
    for _ in range(3):
        assert pending_frames(place.read()) >= 0


@given(st.lists(st.integers(0, 2**64 - 1), min_size=32, max_size=32))
def test_a_decoder_that_writes_nonsense_breaks_no_answer(values: list[int]) -> None:
    account, ring = StreamAccount(), segment()
    place = account.assign("s", 1, ring, 0)
    ring.counters[0] = np.array(values, np.uint64).reshape(2, 16)
    check_encodable(account.counts)
    account.fold(place)
    check_encodable(account.counts)


def check_encodable(counts: Callable[[], StreamCounts]) -> None:
    found = counts()
    plain = [found.received, found.received_bytes, found.decoded, found.sampled, found.not_sampled, found.inferred]
    for value in (*plain, found.waiting, found.in_flight, *found.dropped.values()):
        assert 0 <= value < 2**63
