import os

import pytest

from facedetd.capture.sink import RingSink
from facedetd.ring.link import SlotLink, link_pair
from facedetd.ring.segment import DecoderCounter as D
from facedetd.ring.segment import RingSpec, Segment
from facedetd.ring.writer import RingWriter


def make_ring(ring_id=1):
    segment = Segment.create(RingSpec(ring_id, 1, 32, 16, streams=3, slots_per_stream=1))
    return RingWriter(segment, SlotLink(link_pair()[0]))


def counted(ring):
    """What isn't 0, as another process that maps the segment sees it: (stream, block, counter) to number."""
    seen = Segment.attach(os.dup(ring.segment.fd)).counters
    return {tuple(int(i) for i in at): int(seen[tuple(at)]) for at in zip(*seen.nonzero(), strict=True)}


@pytest.mark.parametrize(
    ("name", "counters"),
    [
        ("received", [D.RECEIVED]),
        ("received_bytes", [D.RECEIVED_BYTES]),
        ("skipped", [D.PACKETS_SKIPPED]),
        ("decode_errors", [D.DECODE_ERRORS]),
        ("not_sampled", [D.NOT_SAMPLED]),
        ("stale", [D.NOT_SAMPLED_STALE]),
        ("no_slot", [D.SAMPLED, D.NO_SLOT]),
    ],
)
def test_what_is_counted_stands_in_its_own_counter(name, counters):
    ring = make_ring()
    sink = RingSink("a", 1, 0, ring)
    sink.count(**{name: 2})
    sink.count(**{name: 3})
    assert counted(ring) == {(1, 0, counter): 5 for counter in counters}


def test_one_call_counts_several():
    ring = make_ring()
    RingSink("a", 2, 0, ring).count(received=1, received_bytes=2**40, not_sampled=1, stale=1)
    assert counted(ring) == {
        (2, 0, D.RECEIVED): 1,
        (2, 0, D.RECEIVED_BYTES): 2**40,
        (2, 0, D.NOT_SAMPLED): 1,
        (2, 0, D.NOT_SAMPLED_STALE): 1,
    }


def test_after_a_switch_nothing_is_counted_in_the_old_ring():
    old, new = make_ring(1), make_ring(2)
    sink = RingSink("a", 0, 0, old)
    sink.count(received=1)
    sink.switch(new)
    sink.count(received=1, not_sampled=1)
    assert counted(old) == {(0, 0, D.RECEIVED): 1}
    assert counted(new) == {(0, 0, D.RECEIVED): 1, (0, 0, D.NOT_SAMPLED): 1}
    sink.switch(None)
    sink.count(received=1, no_slot=1)
    assert not sink.attached
    assert len(counted(old)) == 1 and len(counted(new)) == 2


def test_attached_only_with_a_ring_that_somebody_reads():
    ring = make_ring()
    sink = RingSink("a", 0, 0, ring)
    assert sink.attached
    ring.relink(None)
    assert not sink.attached and sink.acquire() is None
    assert not RingSink("a", 0, 0, None).attached
