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
    now[0] += S // 2
    silent, busy, fine = worker(95), worker(100, busy_s=6), worker(99)
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
