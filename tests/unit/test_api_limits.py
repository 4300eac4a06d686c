"""The rate of calls: a bound that holds for every pattern of calls."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facedetd.api.errors import RateError
from facedetd.api.limits import BURST_S, Limits, TokenBucket


@given(
    rate=st.floats(1, 1000),
    gaps=st.lists(st.floats(0, 20), max_size=300),
)
def test_never_more_than_burst_and_rate(rate: float, gaps: list[float]) -> None:
    bucket, now, taken = TokenBucket(rate, 0.0), 0.0, 0
    for gap in gaps:
        now += gap
        taken += bucket.take(now)
        assert taken <= rate * BURST_S + rate * now + 1e-6


@given(rate=st.floats(1, 1000), calls=st.integers(1, 2000))
def test_who_keeps_to_the_rate_is_never_refused(rate: float, calls: int) -> None:
    bucket = TokenBucket(rate, 0.0)
    assert all(bucket.take(number / rate) for number in range(calls))


def test_a_clock_that_steps_back_gives_nothing() -> None:
    bucket = TokenBucket(1.0, 100.0)
    assert sum(bucket.take(100.0 - step) for step in range(50)) == BURST_S


def test_callers_have_buckets_of_their_own_and_a_new_rate_counts_at_once() -> None:
    limits = Limits(1, lambda: 0.0)
    for _ in range(int(BURST_S)):
        limits.take("a")
    with pytest.raises(RateError, match=r"too many calls through a: at most 1 a second \(api.max_calls_per_s\)"):
        limits.take("a")
    limits.take("b")
    limits.change(1)
    with pytest.raises(RateError):
        limits.take("a")
    limits.change(2)
    limits.take("a")
