"""Readings of /proc, real and made."""

import os
import subprocess
import sys
import time

import psutil
import pytest

from tests.procfs import read_usage

PAGE = os.sysconf("SC_PAGE_SIZE")
TICKS = os.sysconf("SC_CLK_TCK")


def fake(tmp_path, stat):
    folder = tmp_path / "7"
    folder.mkdir()
    (folder / "stat").write_bytes(stat)
    return read_usage(7, tmp_path)


STAT = b"7 (%s) S 1 7 7 0 -1 4194304 100 0 0 0 1234 66 5 6 20 0 3 0 98765 1000000 250 18446744073709551615\n"


@pytest.mark.parametrize("name", [b"python3", b"a b", b"x) S 9 (y", b")", b"\xff\xfe"])
def test_fields_are_found_whatever_the_name_holds(tmp_path, name):
    usage = fake(tmp_path, STAT % name)
    assert usage.cpu_seconds == pytest.approx(1300 / TICKS)
    assert usage.resident_bytes == 250 * PAGE
    assert usage.start_ticks == 98765


@pytest.mark.parametrize("stat", [b"", b"7 (x", b"7 (x) S 1 2", b"no parentheses", STAT.replace(b"1234", b"twelve")])
def test_what_cannot_be_read_is_none(tmp_path, stat):
    assert fake(tmp_path, stat) is None


def test_ourselves_against_psutil():
    until = time.process_time() + 0.05
    while time.process_time() < until:
        pass
    usage = read_usage(os.getpid())
    seen = psutil.Process()
    assert 0 < usage.cpu_seconds <= sum(seen.cpu_times()[:2]) + 1 / TICKS
    assert usage.resident_bytes == pytest.approx(seen.memory_info().rss, rel=0.2)


def test_a_process_that_ends_is_a_zombie_without_memory_and_then_nothing():
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    zombie = read_usage(child.pid)
    assert zombie.resident_bytes == 0
    child.wait()
    assert read_usage(child.pid) is None
