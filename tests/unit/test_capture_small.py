"""Backoff, gate and pacing: the small pure parts."""

from hypothesis import given
from hypothesis import strategies as st

from facedetd.capture.backoff import Backoff, failed, recovered
from facedetd.capture.gate import Gate, admit
from facedetd.capture.pacing import BACKLOG_NS, due

S = 1_000_000_000
MS = 1_000_000
UNIT = st.floats(0, 1, exclude_max=True)


@given(st.floats(0.1, 5), st.floats(5, 60), st.lists(UNIT, min_size=1, max_size=60))
def test_backoff_stays_within_its_bounds(initial, cap, randoms):
    backoff = Backoff(initial, cap)
    for n, random in enumerate(randoms):
        backoff, delay = failed(backoff, random)
        assert 0.1 * initial <= delay <= min(cap, initial * 2**n) + 1e-9
    assert failed(recovered(backoff), 1.0)[1] <= initial + 1e-9


def test_backoff_uses_its_whole_range():
    backoff = Backoff(1.0, 30.0, failures=10_000)
    assert failed(backoff, 0.999999)[1] > 29.9
    assert failed(backoff, 0.0)[1] == 0.1


def through(packets, max_age=S):
    gate, out = Gate(), []
    for key, age, arrival in packets:
        gate, decode = admit(gate, keyframe=key, age_ns=age, arrival_ns=arrival, max_age_ns=max_age)
        out.append(decode)
    return out


def test_nothing_before_the_first_keyframe():
    assert through([(i == 7, 0, i * 40 * MS) for i in range(20)]) == [False] * 7 + [True] * 13


def test_streams_that_mark_no_keyframe_are_decoded_after_all():
    out = through([(False, 0, i * 40 * MS) for i in range(500)])
    assert out.index(True) == 251 and all(out[251:])


def test_a_short_backlog_is_decoded_a_long_one_skipped():
    burst = [(False, 2 * S, S + i * MS) for i in range(100)]
    assert all(through([(True, 0, 0), *burst, (False, 0, 2 * S)])[1:])
    behind = [(i % 50 == 0, 2 * S, S + i * 20 * MS) for i in range(100)]
    out = through([(True, 0, 0), *behind, (False, 0, 4 * S), (True, 0, 5 * S), (False, 0, 5 * S)])
    assert out[:52] == [True] * 52 and not any(out[52:102])
    assert out[102:] == [True, True]


@given(st.lists(st.integers(0, 300 * MS) | st.integers(0, 8 * S), min_size=2, max_size=100))
def test_pacing_is_never_early_and_keeps_a_backlog_like_a_cameras(naps):
    now, pace, start, shift = 0, None, None, 0
    for i, nap in enumerate(naps):
        now += nap  # the reader was busy
        pace, wait, lost = due(pace, i * 40 * MS + shift, now)
        shift += lost
        now += max(0, wait)
        start = now if start is None else start
        plays_at = start + i * 40 * MS + shift
        assert plays_at <= now <= plays_at + BACKLOG_NS
        assert lost == 0 or now == plays_at  # after a loss there is no backlog: what is next is live


def test_pacing_does_not_wait_out_a_jump():
    pace, _, _ = due(None, 0, 0)
    for jump in (100 * S, -100 * S):
        new, wait, _ = due(pace, jump, 40 * MS)
        assert wait <= 0
        assert due(new, jump + 40 * MS, 40 * MS)[1] == 40 * MS
