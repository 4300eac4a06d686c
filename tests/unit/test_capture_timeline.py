import itertools
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facedetd.capture.timeline import TimeBase, TimeEvent, TimelineLimits, connected, observe, stamp

S = 1_000_000_000
MS = 1_000_000
RTP = TimeBase.of(Fraction(1, 90_000))
FRAME = 3600  # ticks at 25 fps
LIMITS = TimelineLimits(max_age_ns=S)


def run(packets, limits=LIMITS, base=RTP, held_ns=0):
    state, out = None, []
    for ticks, arrival in packets:
        state, time = observe(state, ticks, base, arrival, limits, held_ns)
        out.append(time)
    return out


def steady(n, start_ticks=0, start_ns=100 * S, latency=0):
    return [(start_ticks + i * FRAME, start_ns + i * 40 * MS + latency) for i in range(n)]


@given(st.lists(st.integers(0, 900 * MS), min_size=2, max_size=200))
def test_age_is_the_delay_beyond_the_smallest(delays):
    packets = [(i * FRAME, 100 * S + i * 40 * MS + d) for i, d in enumerate(delays)]
    times = run(packets, TimelineLimits(S, leak=0.0))
    for i, time in enumerate(times):
        assert time.age_ns == delays[i] - min(delays[: i + 1])
        assert time.pts_ns == i * 40 * MS


@given(st.lists(st.integers(0, 5 * S), min_size=2, max_size=200))
def test_nothing_is_captured_after_it_arrived(delays):
    arrival, packets = 0, []
    for i, d in enumerate(delays):
        arrival = max(arrival, i * 40 * MS + d)
        packets.append((i * FRAME, arrival))
    assert all(t.age_ns >= 0 for t in run(packets))


@pytest.mark.parametrize("bits", [32, 33])
def test_a_wrap_is_no_jump(bits):
    start = 2**bits - 50 * FRAME - 7
    packets = [((t % 2**bits), a) for t, a in steady(200, start)]
    times = run(packets)
    assert {t.event for t in times} == {TimeEvent.NONE}
    assert {b.pts_ns - a.pts_ns for a, b in itertools.pairwise(times)} == {40 * MS}
    assert max(t.age_ns for t in times) < MS


def test_b_frames_around_a_wrap():
    order = [0, 3, 1, 2, 6, 4, 5, 9, 7, 8]
    start = 2**32 - 4 * FRAME
    packets = [((start + i * FRAME) % 2**32, 100 * S + n * 40 * MS) for n, i in enumerate(order)]
    times = run(packets)
    assert {t.event for t in times} == {TimeEvent.NONE}
    assert [round((t.pts_ns - times[0].pts_ns) / 40e6) for t in times] == order


@pytest.mark.parametrize("jump", [100 * 90_000, -100 * 90_000, 3 * 90_000, -2 * 90_000])
def test_a_jump_makes_a_new_base_and_media_time_goes_on(jump):
    first = steady(100, 1_000_000_000)
    last_ticks, last_ns = first[-1]
    second = steady(100, last_ticks + FRAME + jump, last_ns + 40 * MS)
    times = run(first + second)
    assert [i for i, t in enumerate(times) if t.event is TimeEvent.NEW_BASE] == [100]
    assert {b.media_ns - a.media_ns for a, b in itertools.pairwise(times)} == {40 * MS}
    assert max(t.age_ns for t in times) < MS


def test_a_pause_of_the_network_is_no_jump():
    packets = steady(100) + steady(100, 100 * FRAME + 30 * 90_000, 134 * S)
    assert {t.event for t in run(packets)} == {TimeEvent.NONE}


@pytest.mark.parametrize("ppm", [-300, 300])
def test_a_drifting_camera_clock_is_no_age(ppm):
    n = 25 * 3600 * 3
    state, worst = None, 0
    for i in range(n):
        arrival = 100 * S + i * 40 * MS
        state, time = observe(state, round(i * FRAME * (1 + ppm * 1e-6)), RTP, arrival, LIMITS)
        worst = max(worst, time.age_ns)
    assert worst < 5 * MS


def test_latency_that_rose_is_accepted_after_a_while():
    packets = steady(250) + steady(500, 250 * FRAME, 110 * S, latency=3 * S)
    times = run(packets)
    rose = [i for i, t in enumerate(times) if t.event is TimeEvent.LATENCY_ROSE]
    assert len(rose) == 1 and 250 + 250 <= rose[0] <= 250 + 260
    assert all(t.age_ns > S for t in times[250 : rose[0]])
    assert all(t.age_ns < MS for t in times[rose[0] :])


@pytest.mark.parametrize("latency_ms", [930, 999, 1001])
def test_latency_that_is_too_long_only_for_frames_that_were_held_is_accepted_too(latency_ms):
    packets = steady(250) + steady(500, 250 * FRAME, 110 * S, latency=latency_ms * MS)
    times = run(packets, held_ns=80 * MS)
    assert TimeEvent.LATENCY_ROSE in {t.event for t in times}
    assert times[-1].age_ns < MS


def test_latency_that_frames_survive_is_not_forgotten():
    times = run(steady(250) + steady(500, 250 * FRAME, 110 * S, latency=900 * MS), held_ns=80 * MS)
    assert {t.event for t in times} == {TimeEvent.NONE}
    assert all(t.age_ns > 880 * MS for t in times[250:])


def test_a_backlog_that_builds_up_is_not_accepted():
    packets = [(i * FRAME, 100 * S + i * 80 * MS) for i in range(25 * 60)]  # read at half the camera's pace
    times = run(packets)
    assert {t.event for t in times} == {TimeEvent.NONE}
    assert times[-1].age_ns > 50 * S


def test_without_pts_arrival_counts():
    times = run([(None, 5 * S + i * 40 * MS) for i in range(10)])
    assert all(t.capture_mono_ns == t.arrival_mono_ns == t.pts_ns for t in times)
    assert {b.media_ns - a.media_ns for a, b in itertools.pairwise(times)} == {40 * MS}


@given(
    captures=st.lists(st.integers(0, 10 * S), min_size=1, max_size=50),
    steps=st.lists(st.integers(-S * 86_400, S * 86_400), min_size=1, max_size=5),
)
def test_stamps_only_rise_whatever_the_system_clock_does(captures, steps):
    clock, mono, seen = None, 0, []
    for change in steps:
        clock = connected(clock, mono, 1_700_000_000 * S + mono + change)
        for c in captures:
            clock, m, u = stamp(clock, mono + c)
            seen.append((m, u))
        mono += 20 * S
    for a, b in itertools.pairwise(seen):
        assert b[0] > a[0] and b[1] > a[1]


def test_a_corrected_clock_counts_from_the_next_connection():
    clock = connected(None, 10 * S, 1000 * S)
    assert stamp(clock, 11 * S)[2] == 1001 * S
    clock, _, _ = stamp(clock, 11 * S)
    ahead = connected(clock, 20 * S, 2010 * S)
    assert stamp(ahead, 21 * S)[2] == 2011 * S
    back = connected(clock, 20 * S, 500 * S)
    assert stamp(back, 21 * S)[2] == 1011 * S


@pytest.mark.parametrize("ticks", [2**62, -(2**62), 2**63 - 1])
def test_a_pts_beyond_all_reason_counts_as_none(ticks):
    state, time = observe(None, ticks, RTP, 5 * S, LIMITS)
    assert time.pts_ns == time.capture_mono_ns == 5 * S
    state, time = observe(state, 90000, RTP, 6 * S, LIMITS)
    assert time.pts_ns == S and time.capture_mono_ns == 6 * S
