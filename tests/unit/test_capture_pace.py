"""PTS that aren't a clock's are found out, and frames dated by their arrival; a stream that gives nothing says why."""

from __future__ import annotations

import random
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facedetd.capture.pace import WINDOW_NS, WINDOWS, PaceState, observe_paced
from facedetd.capture.timeline import PacketTime, TimeBase, TimeEvent, TimelineLimits
from facedetd.capture.trouble import BLIND_NS, LATE_NS, Trouble, noticed, said

S = 1_000_000_000
RTP = TimeBase.of(Fraction(1, 90_000))
LIMITS = TimelineLimits(max_age_ns=S)
FOUND_S = (WINDOWS + 1) * WINDOW_NS / S


def play(
    pts_s: Callable[[float], float],
    seconds: float,
    state: PaceState | None = None,
    begin_s: float = 0.0,
    fps: float = 10,
) -> tuple[PaceState, list[PacketTime]]:
    """A camera whose frame at ``t`` seconds has the PTS ``pts_s(t)`` and comes at once."""
    times = []
    for n in range(int(seconds * fps)):
        t = begin_s + n / fps
        state, time = observe_paced(state, round(pts_s(t) * 90_000), RTP, round((100 + t) * S), LIMITS)
        times.append(time)
    assert state is not None
    return state, times


BAD: dict[str, Callable[[float], float]] = {
    "half": lambda t: t / 2,
    "double": lambda t: t * 2,
    "frozen": lambda t: 7.0,
    "backwards": lambda t: 10_000 - t,
    "random": lambda t: random.Random(t).random() * 40_000,
}


@pytest.mark.parametrize("pts_s", BAD.values(), ids=BAD.keys())
def test_no_clock_is_found_out_and_one_that_is_believed_again(pts_s: Callable[[float], float]) -> None:
    state, times = play(pts_s, 2 * FOUND_S)
    assert not state.trusted
    assert [time.event for time in times].count(TimeEvent.UNTRUSTED) == 1
    late = [time for time in times if time.arrival_mono_ns >= (100 + FOUND_S) * S]
    assert late
    assert all(time.age_ns == 0 for time in late)
    steps = [b.media_ns - a.media_ns for a, b in pairwise(late)]
    assert steps == [S // 10] * len(steps)
    state, times = play(lambda t: t, 3 * WINDOW_NS / S, state, 2 * FOUND_S)
    assert state.trusted
    assert [time.event for time in times].count(TimeEvent.TRUSTED) == 1
    media = [time.media_ns for time in times]
    assert media == sorted(set(media))


@settings(max_examples=30)
@given(
    st.floats(0.82, 1.23),  # with the jitter at both ends of a window within the bounds
    st.lists(st.floats(3, 3000) | st.floats(-3000, -3), max_size=5),
    # Steps too small for a jump change a window's pace; three in a row can't be told from a bad clock
    st.lists(st.tuples(st.integers(0, 4), st.floats(-3, 3)), max_size=WINDOWS - 1),
    st.floats(0, 0.15),
    st.sampled_from([1.0, 5.0, 25.0]),
)
def test_a_clock_is_believed_that_drifts_jitters_and_is_set(
    pace: float, sets: list[float], small: list[tuple[int, float]], jitter: float, fps: float
) -> None:
    rng = random.Random(pace)
    for place, step in small:
        sets[place : place + 1] = [step]

    def pts_s(t: float) -> float:
        steps = sum(sets[: int(t // 13)])  # a jump every 13 s
        return 20_000 + pace * t + steps + rng.random() * jitter

    state, times = play(pts_s, 90, fps=fps)
    assert state.trusted
    assert not [time for time in times if time.event in (TimeEvent.UNTRUSTED, TimeEvent.TRUSTED)]


def test_a_backlog_that_builds_up_for_twenty_seconds_is_no_bad_clock() -> None:
    state, times = play(lambda t: t if t < 10 else 10 + (t - 10) * 0.5 if t < 30 else t - 10, 120)
    assert state.trusted
    assert max(time.age_ns for time in times) > 9 * S  # it shows as age


def test_jumps_without_end_are_told_a_few_times() -> None:
    _, times = play(BAD["random"], 300)
    assert sum(time.event is not TimeEvent.NONE for time in times) < 30


def test_what_gives_nothing_says_why() -> None:
    def after(seconds: float, **what: bool) -> str:
        trouble = Trouble()
        for tick in range(int(seconds * 10) + 1):
            trouble = noticed(trouble, tick * S // 10, **{"late": False, "blind": False, **what})
        return said(trouble, int(seconds * S), trusted=True, max_age_s=1)

    assert after(60) == ""
    assert after(LATE_NS / S - 1, late=True) == after(BLIND_NS / S - 1, blind=True) == ""
    assert "more than 1 s late" in after(LATE_NS / S + 1, late=True, blind=True)
    assert "no picture" in after(BLIND_NS / S + 1, blind=True)
    assert "not a clock's" in said(Trouble(), 0, trusted=False, max_age_s=1)
    assert noticed(Trouble(1, 2), 9 * S, late=False, blind=False) == Trouble()
