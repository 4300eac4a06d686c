import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facedetd.capture.sampler import lead_ns, step

S = 1_000_000_000
HOUR = 3600


def rtp_times(fps, seconds, jitter_ns=0, seed=0, start=0):
    """Frame times at ``fps`` as a camera gives them: jittered, then rounded to the 90 kHz clock."""
    rng = random.Random(seed)
    for i in range(int(fps * seconds)):
        exact = i / fps + rng.uniform(-jitter_ns, jitter_ns) / S
        yield start + round(exact * 90_000) * S // 90_000


def steps(numbers):
    return [b - a for a, b in itertools.pairwise(numbers)]


def taken(times, fps):
    state, out = None, []
    for i, t in enumerate(times):
        state, take = step(state, t, fps)
        if take:
            out.append((i, t))
    return out


@pytest.mark.parametrize("jitter_ms", [0, 10])
def test_every_fifth_frame_for_an_hour(jitter_ms):
    frames = [i for i, _ in taken(rtp_times(25, HOUR, jitter_ms * 1_000_000), 5)]
    assert frames == list(range(0, 25 * HOUR, 5))


@pytest.mark.parametrize("source, target", [(25, 12), (30, 12), (29.97, 10), (25, 24), (15, 4), (60, 7.5), (25, 0.5)])
def test_mean_rate_is_exact_and_even(source, target):
    seconds = 600
    frames = taken(rtp_times(source, seconds, seed=3), target)
    assert abs(len(frames) - seconds * target) <= 1
    gaps = [b - a for (a, _), (b, _) in itertools.pairwise(frames)]
    assert max(gaps) - min(gaps) <= 1  # every second and every third frame, never first and fourth


@pytest.mark.parametrize("source, target", [(25, 25), (25, 30), (25, 1000), (24.9, 25), (12.5, 12.5)])
def test_a_target_at_or_above_the_source_takes_all(source, target):
    times = list(rtp_times(source, 300, 5_000_000))
    assert len(taken(times, target)) == len(times)


@given(
    source=st.floats(5, 60),
    share=st.floats(0.02, 0.97),
    jitter=st.floats(0, 0.2),
    seed=st.integers(0, 10_000),
    start=st.integers(0, 2**50),
)
def test_taken_frames_stay_at_the_grid(source, share, jitter, seed, start):
    target, interval = source * share, S / source
    frames = taken(rtp_times(source, 60, jitter * interval, seed, start), target)
    period = S / target
    settled = [t for i, t in frames if i > 25 + 2 * source / target]
    away = [t - n * period for n, t in enumerate(settled)]  # one sample for each point of the grid
    if away:
        assert max(away) - min(away) <= interval * (1 + 6 * jitter) + 200_000
    assert abs(len(frames) - 60 * target) <= 2.5  # the ends, and points of the first second, its interval being a guess


@given(losses=st.sets(st.integers(1, 999), max_size=100))
def test_lost_frames_shift_nothing(losses):
    times = [t for i, t in enumerate(rtp_times(25, 40)) if i not in losses]
    late = [t for _, t in taken(times, 5) if t > 4 * S]
    phases = [round(t / 40_000_000) % 5 for t in late]
    grid = max(set(phases), key=phases.count)
    for t, phase in zip(late, phases, strict=True):
        n = round(t / 40_000_000)
        around = {n + d for d in range(-5, 1)} & losses
        assert phase == grid or around  # off the grid only where the frame on it was lost
    assert len(late) >= (len([i for i in range(101, 1000) if i not in losses]) - 5) / 5 * 0.9


@pytest.mark.parametrize("jump", [-50 * S, 50 * S, -(2**33) * 11_111, 4 * S])
def test_a_jump_starts_a_new_grid(jump):
    before = list(rtp_times(25, 10))
    after = [before[-1] + jump + i * 40_000_000 for i in range(250)]
    frames = [t for _, t in taken(before + after, 5) if t in set(after)]
    assert frames == after[::5]


def test_a_wrap_of_the_counter_is_a_jump_back():
    times = [(2**32 * S // 90_000 + i * 40_000_000) % (2**32 * S // 90_000) for i in range(-100, 100)]
    frames = [i for i, _ in taken(times, 5)]
    assert frames == [*range(0, 100, 5), *range(100, 200, 5)]


@given(rates=st.lists(st.sampled_from([1.0, 2.0, 5.0, 8.0, 12.0]), min_size=2, max_size=6))
def test_rate_changes_stay_even(rates):
    state, out = None, []
    for i, t in enumerate(rtp_times(25, 10 * len(rates))):
        rate = rates[i // 250]
        state, take = step(state, t, rate)
        if take:
            out.append(t)
    gaps = [b - a for a, b in itertools.pairwise(out)]
    fastest, slowest = S / max(rates), S / min(rates)
    assert min(gaps) >= fastest - 40_000_000
    assert max(gaps) <= slowest + 40_000_000
    for part, rate in enumerate(rates):
        inside = [t for t in out if part * 10 * S <= t < (part + 1) * 10 * S]
        assert abs(len(inside) - 10 * rate) <= 1.5


def test_no_rate_takes_nothing_and_comes_back():
    times = list(rtp_times(25, 30))
    state, out = None, []
    for t in times:
        state, take = step(state, t, 0 if 10 * S <= t < 20 * S else 5)
        if take:
            out.append(t)
    assert not [t for t in out if 10 * S <= t < 20 * S]
    assert len([t for t in out if t >= 20 * S]) == 50


def test_a_first_frame_whose_time_is_far_off_is_forgotten():
    times = list(rtp_times(25, 60))
    times[0] += 17_000_000  # dated by arrival: RTSP's first packet has no PTS
    frames = [i for i, _ in taken(times, 5)]
    assert set(steps(frames)) <= {4, 5, 6}
    assert set(steps([i for i in frames if i > 30])) == {5}


def test_a_source_that_slows_down_or_speeds_up():
    times = list(rtp_times(25, 20))
    times += [times[-1] + 80_000_000 * i for i in range(1, 251)]
    times += [times[-1] + 40_000_000 * i for i in range(1, 501)]
    out = taken(times, 12.5)
    slow = [i for i, t in out if 500 + 50 <= i < 750]
    assert slow == list(range(550, 750))
    fast = [i for i, t in out if i >= 750 + 75]
    assert set(steps(fast)) == {2}


@given(phase=st.floats(0, 1, exclude_max=True), now=st.integers(0, 10**15), fps=st.floats(0.5, 30))
def test_the_lead_ends_at_the_phase(phase: float, now: int, fps: float) -> None:
    period = 1e9 / fps
    lead = lead_ns(phase, now, fps)
    assert 0 <= lead < period + 1
    off = ((now + lead) / period - phase) % 1
    assert min(off, 1 - off) < 1e-3


@pytest.mark.parametrize("target", [5, 10])
@pytest.mark.parametrize("jitter_ms", [30, 60, 100])
def test_pts_that_step_back_a_little_are_not_sampled_more_often(target, jitter_ms):
    times = list(rtp_times(25, 100, jitter_ms * 1_000_000, start=S))
    assert min(steps(times)) < 0  # what this is about
    assert 0.85 * 100 * target <= len(taken(times, target)) <= 1.01 * 100 * target


def test_pts_in_pairs_that_are_swapped_are_not_sampled_more_often():
    assert abs(len(taken([S + (i ^ 1) * 40_000_000 for i in range(2500)], 5)) - 500) <= 5
