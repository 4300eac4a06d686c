"""When a batch leaves, and how large it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facedetd.inference.batching import BatchPolicy, Decision, decide

MS = 1_000_000


@st.composite
def policies(draw: st.DrawFn) -> BatchPolicy:
    sizes = sorted(draw(st.lists(st.integers(1, 16), min_size=3, max_size=3)))
    return BatchPolicy(sizes[0], sizes[1], sizes[2], draw(st.integers(0, 50 * MS)))


AGES = st.lists(st.integers(0, 100 * MS), max_size=40)
NOW = 10**12


def look(ages: list[int], policy: BatchPolicy, idle: bool = True) -> Decision:
    return decide([NOW - age for age in ages], NOW, idle, policy)


@given(AGES, policies(), st.booleans())
def test_never_more_than_the_maximum_nor_than_there_are(ages: list[int], policy: BatchPolicy, idle: bool) -> None:
    count = look(ages, policy, idle).count
    assert 0 <= count <= min(len(ages), policy.maximum)


@given(AGES.filter(bool), policies(), st.booleans())
def test_a_frame_never_waits_longer_than_its_deadline(ages: list[int], policy: BatchPolicy, idle: bool) -> None:
    decision = look(ages, policy, idle)
    left = policy.deadline_ns - max(ages)
    if left <= 0:
        assert decision.count > 0
    elif decision.count == 0:
        assert decision.wait_ns == left  # it looks again then, and not later


@given(AGES, policies())
def test_an_idle_device_waits_for_no_more_than_the_minimum(ages: list[int], policy: BatchPolicy) -> None:
    if len(ages) >= policy.minimum:
        assert look(ages, policy, idle=True).count == min(len(ages), policy.maximum)


@given(AGES, policies(), st.booleans())
def test_the_preferred_size_leaves_at_once(ages: list[int], policy: BatchPolicy, idle: bool) -> None:
    if len(ages) >= policy.preferred:
        assert look(ages, policy, idle).count >= policy.preferred


@given(AGES, policies(), st.booleans())
def test_what_decides_is_the_waiting_not_its_order(ages: list[int], policy: BatchPolicy, idle: bool) -> None:
    assert look(ages, policy, idle) == look(sorted(ages), policy, idle)


def test_nothing_waits_for_ever_and_nothing_is_polled_for() -> None:
    assert look([], BatchPolicy(1, 1, 4, 20 * MS)) == Decision(0, None)
    assert look([5 * MS], BatchPolicy(2, 4, 8, 20 * MS)) == Decision(0, 15 * MS)
    assert look([20 * MS], BatchPolicy(2, 4, 8, 20 * MS)) == Decision(1)
    assert look([1, 2], BatchPolicy(2, 4, 8, 20 * MS), idle=False) == Decision(0, 20 * MS - 2)


@pytest.mark.parametrize("sizes", [(0, 1, 1), (2, 1, 4), (1, 5, 4)])
def test_sizes_that_cannot_be_are_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="minimum <= preferred <= maximum"):
        BatchPolicy(*sizes, deadline_ns=0)
