"""Workers that are silent or busy for too long are killed; not when it was the supervisor that was away."""

from types import SimpleNamespace

from facedetd.supervisor.heartbeats import Heartbeats

S = 1_000_000_000


def worker(last_s, busy_s=0.0):
    killed = []
    return SimpleNamespace(
        ready=True, last_beat_ns=round(last_s * S), beat=SimpleNamespace(busy_ns=round(busy_s * S)), kill=killed.append,
        killed=killed,
    )  # fmt: skip


def test_who_is_silent_or_busy_for_too_long_is_killed():
    now = [100 * S]
    beats = Heartbeats(lambda: now[0])
    for _ in range(20):
        now[0] += S // 2
        beats.look([], 5 * S)
    silent, busy, fine = worker(104), worker(110, busy_s=6), worker(109)
    beats.look([silent, busy, fine], 5 * S)
    assert silent.killed and busy.killed and not fine.killed


def test_after_having_been_away_itself_it_waits_anew():
    now = [100 * S]
    beats = Heartbeats(lambda: now[0])
    now[0] += 60 * S
    other = worker(100)
    beats.look([other], 5 * S)
    assert not other.killed
    for _ in range(20):
        now[0] += S // 2
        beats.look([other], 5 * S)
    assert other.killed


def test_a_batch_that_was_under_way_when_all_stood_still_may_end():
    """A paused machine or a frozen control group: its processes' clocks go on."""
    now = [100 * S]
    beats = Heartbeats(lambda: now[0])
    now[0] += 60 * S
    frozen = worker(160, busy_s=60)  # its first word after that
    beats.look([frozen], 5 * S)
    now[0] += S // 2
    frozen.last_beat_ns, frozen.beat.busy_ns = now[0], now[0] - 100 * S
    beats.look([frozen], 5 * S)
    assert not frozen.killed
    for _ in range(10):
        now[0] += S // 2
        frozen.last_beat_ns, frozen.beat.busy_ns = now[0], now[0] - 100 * S
        beats.look([frozen], 5 * S)
    assert frozen.killed
