"""Latency and rate windows under a clock that the test moves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facedetd.results.latency import LatencyWindow, merged_view
from facedetd.results.rate import RateWindow

S = 1_000_000_000


class Clock:
    def __init__(self, now=123 * S):
        self.now = now

    def __call__(self):
        return self.now


def nearest_rank(values, percent):
    ordered = sorted(values)
    return ordered[-(-len(ordered) * percent // 100) - 1]


latencies = st.lists(st.integers(1_000, 900 * S), min_size=1, max_size=200)


@given(latencies)
def test_quantiles_are_within_five_percent_and_the_mean_is_exact(values):
    window = LatencyWindow(Clock())
    for value in values:
        window.add(value)
    view = window.view()
    assert view.mean == pytest.approx(sum(values) / len(values) / S)
    for got, percent in ((view.p50, 50), (view.p95, 95), (view.p99, 99)):
        assert got == pytest.approx(nearest_rank(values, percent) / S, rel=0.05)


@given(st.lists(latencies, min_size=1, max_size=4))
def test_merged_is_as_if_all_had_gone_into_one(parts):
    clock = Clock()
    windows = [LatencyWindow(clock) for _ in parts]
    one = LatencyWindow(clock)
    for window, values in zip(windows, parts, strict=True):
        for value in values:
            window.add(value)
            one.add(value)
    assert merged_view(windows) == one.view()


def test_nothing_is_none():
    assert LatencyWindow(Clock()).view() is None
    assert merged_view([]) is None


@pytest.mark.parametrize("value", [-5, 0, 1, 10**20])
def test_what_cannot_be_counts_as_the_nearer_end(value):
    window = LatencyWindow(Clock())
    window.add(value)
    assert 0 < window.view().p99 < 1100


@given(st.lists(st.tuples(st.integers(0, 30 * S), st.integers(10_000, 10 * S)), max_size=60))
def test_the_window_holds_the_last_fifty_to_sixty_seconds(steps):
    clock = Clock()
    window = LatencyWindow(clock)
    seen = []
    for wait, value in steps:
        clock.now += wait
        window.add(value)
        seen.append((clock.now, value))
    first_slice = clock.now // (10 * S) - 5
    inside = [value for at, value in seen if at // (10 * S) >= first_slice]
    view = window.view()
    assert (view is None) == (not inside)
    if view is not None:
        assert view.mean == pytest.approx(sum(inside) / len(inside) / S)
    clock.now += 60 * S
    assert window.view() is None


@pytest.mark.parametrize("gap", [60, 70, 80, 90, 100, 110, 36_000])
def test_after_a_long_silence_nothing_old_is_left(gap):
    clock = Clock()
    window = LatencyWindow(clock)
    window.add(S)
    clock.now += gap * S
    assert window.view() is None
    window.add(2 * S)
    assert window.view().mean == pytest.approx(2)


@pytest.mark.parametrize("fps", [0.5, 1, 5, 12.5, 25, 1000])
@pytest.mark.parametrize("begin", [0, 37_123_456])
def test_an_even_rate_is_right_from_the_second_event_on(fps, begin):
    clock = Clock(55 * S + begin)
    window = RateWindow(clock)
    assert window.rate() == 0
    start = clock.now
    for n in range(int(30 * fps) + 1):
        clock.now = start + round(n * S / fps)
        window.add()
        if n > 0:
            elapsed = min(n / fps, 9.9)
            assert window.rate() == pytest.approx(fps, abs=1.01 / elapsed if n / fps > 9.9 else 1e-6 * fps)


def test_five_events_in_the_first_second_are_not_six():
    clock = Clock()
    window = RateWindow(clock)
    for _ in range(6):
        window.add()
        clock.now += S // 5
    clock.now -= S // 5
    assert window.rate() == pytest.approx(5)


def test_the_first_add_is_a_start_however_much_it_brings():
    clock = Clock()
    window = RateWindow(clock)
    for _ in range(4):
        window.add(8)
        clock.now += S
    clock.now -= S
    assert window.rate() == pytest.approx(8)


def test_silence_brings_the_rate_to_nothing():
    clock = Clock()
    window = RateWindow(clock)
    for _ in range(100):
        clock.now += S // 10
        window.add()
    clock.now += 5 * S
    assert window.rate() == pytest.approx(5, rel=0.03)
    clock.now += 5 * S
    assert window.rate() == 0


@given(
    st.lists(st.tuples(st.integers(0, 3 * S), st.integers(0, 20)), min_size=1, max_size=80),
    st.sampled_from([1, 2.5, 10]),
)
def test_the_rate_is_events_after_a_start_by_the_time_since(steps, seconds):
    clock = Clock()
    window = RateWindow(clock, seconds)
    events = []
    for wait, count in steps:
        clock.now += wait
        window.add(count)
        events += [clock.now] * count
    tick = round(seconds * 1e7)
    oldest = (clock.now // tick - 99) * tick
    if not events or clock.now == (start := max(oldest, events[0])):
        assert window.rate() == 0
    else:
        counted = sum(at >= start and at > events[0] for at in events)
        assert window.rate() == pytest.approx(counted * S / (clock.now - start))


def test_a_window_needs_a_length():
    with pytest.raises(ValueError, match="0"):
        RateWindow(Clock(), 0)
