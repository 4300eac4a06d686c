"""Workers that are silent or busy for too long are killed; not when it was the supervisor that was away."""

import itertools
import math
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facedetd.config.schema import KEYS
from facedetd.supervisor.heartbeats import Heartbeats
from facedetd.supervisor.starved import Spent

S = 1_000_000_000
MS = 1_000_000
LOOK_MS, BEAT_MS = 500, 1000
LATE_MS = 100
"""By how much looks and beats may be late on a machine that has much to do."""


PID = 2**22 + 1  # nobody's: Linux counts up to 2**22


def nothing(pid):
    """What a process has spent that does nothing."""
    return Spent(0.0, 0.0, 0.0, 2.0)


def worker(last_s, busy_s=0.0):
    killed = []
    return SimpleNamespace(
        ready=True, pid=PID, name="decoder-0",
        last_beat_ns=round(last_s * S), beat=SimpleNamespace(busy_ns=round(busy_s * S)), kill=killed.append,
        killed=killed,
    )  # fmt: skip


def test_who_is_silent_or_busy_for_too_long_is_killed():
    now = [100 * S]
    beats = Heartbeats(lambda: now[0], nothing)
    for _ in range(20):
        now[0] += S // 2
        beats.look([], 5 * S)
    silent, busy, fine = worker(104), worker(110, busy_s=6), worker(109)
    beats.look([silent, busy, fine], 5 * S)
    assert silent.killed and busy.killed and not fine.killed


def test_after_having_been_away_itself_it_waits_anew():
    now = [100 * S]
    beats = Heartbeats(lambda: now[0], nothing)
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
    beats = Heartbeats(lambda: now[0], nothing)
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


class Machine:
    """A worker and its supervisor. The machine stands still now and then, while its clock goes on; when it runs again
    the supervisor looks first, and a beat that is due comes ``LATE_MS`` later."""

    def __init__(self, limit_s, pauses, late):
        """``pauses``: (at, for how long) in ms; at: of the time in which it runs. ``late``: looks and beats in turn are
        by so many ms."""
        self._limit_ns, self._pauses, self._late = round(limit_s * S), list(pauses), itertools.cycle(late)
        self._now = 0
        self._beats = Heartbeats(lambda: self._now, nothing)
        self.worker = worker(0)

    def run(self, until_ms, batch_ms, hangs_ms=math.inf):
        """Whether the worker was killed within the time, of what the machine runs. It runs batch after batch, and does
        nothing any more from ``hangs_ms`` on."""
        look_at, beat_at, batch_since = LOOK_MS * MS, 0, 0
        for ran_ms in range(until_ms):
            self._now += MS
            while self._pauses and self._pauses[0][0] <= ran_ms:
                self._now += self._pauses.pop(0)[1] * MS
                if beat_at <= self._now:
                    beat_at = self._now + LATE_MS * MS
            if ran_ms % batch_ms == 0:
                batch_since = self._now
            if self._now >= look_at:
                self._beats.look([self.worker], self._limit_ns)
                look_at = self._now + (LOOK_MS + next(self._late)) * MS
            if self._now >= beat_at and ran_ms < hangs_ms:
                self.worker.last_beat_ns, self.worker.beat.busy_ns = self._now, self._now - batch_since
                beat_at = self._now + (BEAT_MS + next(self._late)) * MS
            if self.worker.killed:
                return True
        return False


LIMITS = st.floats(KEYS["daemon"]["heartbeat_timeout_s"].low, 8)
LATE = st.lists(st.integers(0, LATE_MS), min_size=1, max_size=5)


def pauses(apart_ms):
    """Each begins at least so long after the end of the one before."""

    def spread(found):
        begins = itertools.accumulate(after + apart_ms for after, _ in found)
        return [(begin, length) for begin, (_, length) in zip(begins, found, strict=True)]

    return st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 20_000)), max_size=8).map(spread)


@settings(deadline=None)
@given(LIMITS, pauses(apart_ms=2 * LATE_MS), LATE)
def test_a_pause_of_the_machine_is_no_silence_of_a_worker(limit_s, pauses, late):
    assert not Machine(limit_s, pauses, late).run(16_000, batch_ms=100)


@settings(deadline=None)
@given(LIMITS, pauses(apart_ms=2000), LATE)
def test_a_pause_of_the_machine_is_no_batch_s_length(limit_s, pauses, late):
    assert not Machine(limit_s, pauses, late).run(16_000, batch_ms=int(limit_s * 500))


@settings(deadline=None)
@given(LIMITS, pauses(apart_ms=2 * LATE_MS), LATE, st.integers(0, 5000))
def test_who_hangs_is_found_within_the_limit_and_two_looks_of_running(limit_s, pauses, late, hangs_ms):
    assert Machine(limit_s, pauses, late).run(hangs_ms + int(limit_s * 1000) + 2 * LOOK_MS, 100, hangs_ms)


@settings(deadline=None)
@given(LIMITS, pauses(apart_ms=2000), LATE)
def test_a_batch_that_hangs_is_found_within_the_limit_a_beat_and_two_looks_of_running(limit_s, pauses, late):
    assert Machine(limit_s, pauses, late).run(int(limit_s * 1000) + BEAT_MS + 3 * LOOK_MS, batch_ms=10**6)


def test_who_beat_when_the_machine_came_back_and_hangs_since_is_found():
    now = [100 * S]
    beats = Heartbeats(lambda: now[0], nothing)
    now[0] += 3600 * S
    hung = worker(3700)
    beats.look([hung], 5 * S)
    for _ in range(11):
        assert not hung.killed
        now[0] += S // 2
        beats.look([hung], 5 * S)
    assert hung.killed


def test_pauses_are_forgotten_once_nothing_can_have_begun_before_them():
    now = [0]
    beats = Heartbeats(lambda: now[0], nothing)
    for _ in range(1000):
        now[0] += 3 * S
        beats.look([], 5 * S)
    assert len(beats._gaps) < 400


class Cpus:
    """A machine of two, and the one process: in each second it gets ``works`` of CPU time, and ``idle`` is left."""

    def __init__(self, works, idle):
        self.now, self.works, self.idle = 100 * S, works, idle
        self._process_s = self._idle_s = 0.0

    def spent(self, pid):
        assert pid == PID
        return Spent(self.now / S, self._process_s, self._idle_s, 2.0)

    def pass_half_a_second(self):
        self.now += S // 2
        self._process_s += self.works / 2
        self._idle_s += self.idle / 2


def lives_s(works, idle, limit_s=5.0, ready=True, busy=False):
    """For how long a worker is let be that says nothing, or is busy."""
    cpus = Cpus(works, idle)
    beats = Heartbeats(lambda: cpus.now, cpus.spent)
    one = worker(100)
    one.ready = ready
    while not one.killed:
        cpus.pass_half_a_second()
        if busy:
            one.last_beat_ns, one.beat.busy_ns = cpus.now, cpus.now - 100 * S
        beats.look([one], round(limit_s * S))
        assert cpus.now < 2000 * S
    return (cpus.now - 100 * S) / S


@pytest.mark.parametrize("busy", [False, True])
def test_who_wants_for_cpu_is_given_more_time_and_not_for_ever(busy, caplog):
    assert lives_s(works=0.0, idle=0.0, busy=busy) == 5.5  # stopped, or it waits for what doesn't come
    assert lives_s(works=1.0, idle=0.9, busy=busy) == 5.5  # in a loop, and there is CPU for all
    assert not caplog.records
    assert lives_s(works=0.02, idle=0.02, busy=busy) == 20.5
    assert [r.levelname for r in caplog.records] == ["WARNING"]  # once, not twice a second
    assert "decoder-0" in caplog.text and "no CPU is left for it" in caplog.text


def test_so_is_who_wants_for_it_to_begin_with():
    assert lives_s(works=0.0, idle=0.0, ready=False) == 60.5
    assert lives_s(works=0.1, idle=0.0, ready=False) == 240.5


def test_nobody_is_a_suspect_who_is_gone():
    """Another process may get its number."""
    cpus = Cpus(0.1, 0.0)
    beats = Heartbeats(lambda: cpus.now, cpus.spent)
    one = worker(100)
    for _ in range(8):
        cpus.pass_half_a_second()
        beats.look([one], 5 * S)
    assert beats._suspects
    beats.look([], 5 * S)
    assert not beats._suspects


def test_who_hangs_after_it_wanted_for_cpu_is_killed():
    cpus = Cpus(0.1, 0.0)
    beats = Heartbeats(lambda: cpus.now, cpus.spent)
    one = worker(100)
    while not one.killed:
        if cpus.now >= 106 * S:
            cpus.works, cpus.idle = 0.0, 2.0
        cpus.pass_half_a_second()
        beats.look([one], 5 * S)
    assert cpus.now <= 107 * S
