"""Whether several streams are late, or just one that has troubles of its own."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facedetd.ring.segment import COUNTERS_PER_BLOCK, RingSpec
from facedetd.ring.segment import DecoderCounter as D
from facedetd.supervisor.lateness import LateShares, several


@pytest.mark.parametrize(
    ("values", "found"),
    [([], 0), ([7], 7), ([7, 1], 1), ([9, 8, 1, 1, 1], 8), ([9] + [1] * 9, 1), ([9, 8] + [1] * 9, 1)],
)
def test_several(values, found):
    assert several(values) == found


@given(st.lists(st.floats(0, 10), min_size=2), st.floats(0, 1e6))
def test_one_stream_alone_decides_nothing(values, wild):
    calm = sorted(values)[-1]
    assert several([*values, wild]) <= max(calm, sorted([*values, wild])[-2])


@given(st.lists(st.floats(0, 10), min_size=1), st.floats(11, 20))
def test_when_all_are_late_it_shows(values, least):
    assert several([v + least for v in values]) >= least


def ring(ring_id=1, streams=3):
    counters = np.zeros((streams, 2, COUNTERS_PER_BLOCK), np.uint64)
    return SimpleNamespace(spec=RingSpec(ring_id, 1, 16, 16, streams, 2), counters=counters)


def test_shares_of_the_streams_that_received_something():
    shares, segment = LateShares(), ring()
    assert shares.look([segment]) == []
    segment.counters[0, 0, D.RECEIVED] += np.uint64(100)
    segment.counters[0, 0, D.PACKETS_SKIPPED] += np.uint64(25)
    segment.counters[2, 0, D.RECEIVED] += np.uint64(10)
    segment.counters[2, 0, D.SAMPLED] += np.uint64(1)
    segment.counters[2, 0, D.NOT_SAMPLED_STALE] += np.uint64(3)
    assert shares.look([segment]) == [0.25, 0.75]
    assert shares.look([segment]) == []


def test_rings_come_and_go():
    shares = LateShares()
    shares.look([ring(1)])
    new = ring(2)
    new.counters[0, 0, D.RECEIVED] += np.uint64(5)
    assert shares.look([new]) == []
    new.counters[0, 0, D.RECEIVED] += np.uint64(5)
    assert shares.look([new, ring(1)]) == [0.0]
