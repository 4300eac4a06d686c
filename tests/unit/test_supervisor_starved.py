"""A process that wants for CPU, one that is stopped, and one that loops where there is CPU for all."""

import os
import signal
import subprocess
import sys
import time

import pytest

from facedetd.metrics.hostcpu import HostCpu
from facedetd.supervisor.starved import Spent, is_starved, spending


@pytest.mark.parametrize(
    ("process_s", "idle_s", "starved"),
    [(0.05, 0.1, True), (0.0, 0.0, False), (0.004, 0.0, False), (0.05, 0.6, False), (5.0, 5.0, False)],
)
def test_it_works_and_no_cpu_is_left(process_s, idle_s, starved):
    before = Spent(100.0, 7.0, 1000.0, 2.0)
    assert is_starved(before, Spent(105.0, 7.0 + process_s, 1000.0 + idle_s, 2.0)) is starved


def test_two_looks_at_one_moment_say_nothing():
    now = Spent(100.0, 7.0, 1000.0, 2.0)
    assert not is_starved(now, now)


@pytest.fixture
def wanted():
    """More processes than CPUs, all wanting one; the first of them."""
    code = "print(flush=True)\nwhile True: pass"
    many = range(3 * len(os.sched_getaffinity(0)))
    all_ = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in many]
    try:
        for one in all_:
            assert one.stdout.readline()
        yield all_[0].pid
    finally:
        for one in all_:
            one.kill()
            one.wait()
            one.stdout.close()


def between(look, pid):
    before = look(pid)
    time.sleep(1)
    return is_starved(before, look(pid))


def test_one_of_many_that_want_a_cpu_is_starved_and_not_once_it_is_stopped(wanted):
    look = spending()
    assert between(look, wanted)
    os.kill(wanted, signal.SIGSTOP)
    os.waitid(os.P_PID, wanted, os.WSTOPPED)
    assert not between(look, wanted)


def test_where_nobody_can_tell_how_busy_the_machine_is_all_count_as_busy(tmp_path):
    look = spending(HostCpu(tmp_path, tmp_path))
    pid = os.getpid()
    before = look(pid)
    until = time.process_time() + 0.05
    while time.process_time() < until:
        pass
    assert is_starved(before, look(pid))


def test_of_a_process_that_is_gone_there_is_nothing():
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert spending()(gone.pid).process_s == 0.0
