"""Who gets how many frames: the promises of allocate, on random demands."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facedetd.degradation.allocation import Demand, allocate

EPS = 1e-7
FPS = st.floats(0, 60).map(lambda x: round(x, 3))
LIMIT = settings(max_examples=150, deadline=None)


@st.composite
def demands(draw):
    pairs = draw(st.lists(st.tuples(st.integers(0, 3), FPS, FPS), max_size=12))
    return [Demand(f"s{n}", p, min(a, b), max(a, b)) for n, (p, a, b) in enumerate(pairs)]


CAPACITY = st.one_of(st.floats(0, 600), st.just(0.0), st.just(math.inf))


@LIMIT
@given(CAPACITY, demands())
def test_all_that_can_be_used_is_given_and_no_more(capacity, wanted):
    grants = allocate(capacity, wanted).grants
    assert grants.keys() == {d.id for d in wanted}
    fits = allocate(capacity, wanted).minima_fit
    most = math.fsum(d.target_fps if fits else d.min_fps for d in wanted)
    assert math.fsum(grants.values()) == pytest.approx(min(capacity, most), abs=EPS)


@LIMIT
@given(CAPACITY, demands())
def test_never_above_target_nor_under_min_while_the_minima_fit(capacity, wanted):
    result = allocate(capacity, wanted)
    assert result.minima_fit == (math.fsum(d.min_fps for d in wanted) <= capacity * (1 + 1e-12))
    for d in wanted:
        assert 0 <= result.grants[d.id] <= d.target_fps
        assert not result.minima_fit or result.grants[d.id] >= d.min_fps


@LIMIT
@given(CAPACITY, demands())
def test_a_lower_priority_gets_more_than_its_min_only_when_the_higher_have_all(capacity, wanted):
    result = allocate(capacity, wanted)
    for low in wanted:
        floor = low.min_fps if result.minima_fit else 0.0
        if result.grants[low.id] > floor + EPS:
            for high in wanted:
                if high.priority > low.priority:
                    whole = high.target_fps if result.minima_fit else high.min_fps
                    assert result.grants[high.id] >= whole - EPS


@LIMIT
@given(CAPACITY, demands())
def test_max_min_fair_inside_a_priority(capacity, wanted):
    """Who has more than another gives nothing up only because of its own min, or because the other has all."""
    result = allocate(capacity, wanted)
    for a in wanted:
        for b in wanted:
            if a.priority == b.priority and result.grants[a.id] > result.grants[b.id] + EPS:
                floor, whole = (a.min_fps, b.target_fps) if result.minima_fit else (0.0, b.min_fps)
                assert result.grants[a.id] <= floor + EPS or result.grants[b.id] >= whole - EPS


@LIMIT
@given(st.floats(0, 600), st.floats(0, 50), demands())
def test_with_more_capacity_nobody_gets_less(capacity, more, wanted):
    before, after = allocate(capacity, wanted).grants, allocate(capacity + more, wanted).grants
    assert all(after[i] >= before[i] - EPS for i in before)


@LIMIT
@given(CAPACITY, demands(), st.randoms(use_true_random=False))
def test_the_order_doesnt_matter(capacity, wanted, rng):
    shuffled = list(wanted)
    rng.shuffle(shuffled)
    assert allocate(capacity, shuffled) == allocate(capacity, wanted)


@LIMIT
@given(st.floats(0, 600), demands())
def test_what_was_granted_is_granted_again(capacity, wanted):
    once = allocate(capacity, wanted).grants
    again = allocate(math.fsum(once.values()), wanted).grants
    assert all(again[i] == pytest.approx(once[i], abs=1e-6) for i in once)


def test_examples():
    a, b = Demand("a", 9, 1, 10), Demand("b", 9, 1, 4)
    c = Demand("c", 1, 2, 5)
    assert allocate(100, [a, b, c]).grants == {"a": 10, "b": 4, "c": 5}
    assert allocate(12, [a, b, c]).grants == {"a": 6, "b": 4, "c": 2}
    assert allocate(8, [a, b, c]).grants == {"a": 3, "b": 3, "c": 2}
    starved = allocate(3, [a, b, c])
    assert starved.grants == {"a": 1, "b": 1, "c": 1}
    assert not starved.minima_fit
    assert allocate(1, [a, b, c]).grants == {"a": 0.5, "b": 0.5, "c": 0}
    assert allocate(0, []).minima_fit


def test_a_thousand_streams():
    rng = random.Random(7)
    wanted = [Demand(f"s{n}", rng.randrange(100), 0.5, rng.uniform(1, 25)) for n in range(1000)]
    grants = allocate(2000, wanted).grants
    assert math.fsum(grants.values()) == pytest.approx(2000)


@pytest.mark.parametrize("low, high", [(2, 1), (-1, 1), (0, math.inf), (math.nan, 1)])
def test_bad_demands(low, high):
    with pytest.raises(ValueError, match="0 <= min_fps <= target_fps"):
        Demand("x", 1, low, high)


def test_bad_calls():
    with pytest.raises(ValueError, match="capacity of -1"):
        allocate(-1, [])
    with pytest.raises(ValueError, match="capacity of nan"):
        allocate(math.nan, [])
    with pytest.raises(ValueError, match="same id"):
        allocate(1, [Demand("x", 1, 0, 1)] * 2)
