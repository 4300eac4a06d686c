"""The rate of calls: a bound that holds for every pattern of calls."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facedetd.api.errors import RateError
from facedetd.api.limits import BURST_S, WORK_BURST_S, WORK_SHARE, Limits, TokenBucket, WorkShare
from facedetd.api.roles import SESSION, Caller, Role, Session
from facedetd.api.services import DaemonServicer


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


class Desk:
    """A share of work whose clocks are ours: an answer takes as long as it is work."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.worked = 1000.0
        self.share = WorkShare(lambda: self.now, lambda: self.worked)
        monkeypatch.setattr(asyncio, "sleep", self._sleep)

    async def _sleep(self, seconds: float) -> None:
        self.now += seconds

    def answer(self, name: str, seconds: float) -> None:
        def make() -> None:
            self.now += seconds
            self.worked += seconds

        asyncio.run(self.share.do(name, make))


@given(answers=st.lists(st.tuples(st.floats(0, 0.2), st.floats(0, 5)), max_size=100))
def test_no_caller_takes_more_of_the_loop_than_its_share(answers: list[tuple[float, float]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        desk = Desk(patch)
        began = desk.now
        for seconds, pause in answers:
            desk.answer("a", seconds)
            assert desk.worked - began <= WORK_BURST_S + 0.2 + WORK_SHARE * (desk.now - began) + 1e-6
            desk.now += pause


def test_who_waits_for_its_turn_keeps_no_other_waiting_and_one_that_fails_counts(monkeypatch) -> None:
    desk = Desk(monkeypatch)

    def fail() -> None:
        desk.worked += 2 * WORK_BURST_S
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        asyncio.run(desk.share.do("a", fail))
    before = desk.now
    desk.answer("b", 0.0)
    assert desk.now == before
    desk.answer("a", 0.0)
    assert desk.now >= before + WORK_BURST_S / WORK_SHARE


class Reached(Exception):
    pass


class Control:
    def health(self) -> None:
        raise Reached


def test_who_asks_for_stats_all_the_time_keeps_nobody_from_asking_how_it_is(monkeypatch) -> None:
    desk = Desk(monkeypatch)
    desk.answer("admin", 100.0)
    before = desk.now

    async def ask() -> None:
        SESSION.set(Session(Caller("admin", Role.ADMIN), lambda: None))
        await DaemonServicer(Control(), None, desk.share).GetHealth(None, None)

    with pytest.raises(Reached):
        asyncio.run(ask())
    assert desk.now == before
