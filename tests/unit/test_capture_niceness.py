"""Threads of streams of a higher priority get more of a CPU that is short."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facedetd.capture.niceness import HIGHEST_NICE, LOWEST_NICE, nice_of, set_nice


@given(st.integers(0, 100), st.integers(0, 100))
def test_a_higher_priority_is_never_less_urgent(a, b):
    assert HIGHEST_NICE <= nice_of(a) <= LOWEST_NICE
    assert (nice_of(a) <= nice_of(b)) or a < b


def test_a_thread_gets_its_own_niceness():
    found = {}

    def run():
        set_nice(threading.get_native_id(), 0)
        found["thread"] = os.getpriority(os.PRIO_PROCESS, 0)

    before = os.getpriority(os.PRIO_PROCESS, 0)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found["thread"] == LOWEST_NICE
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


def test_a_thread_that_has_ended_is_no_error():
    set_nice(2**22 - 1, 50)


RAISES = """
import os, resource, sys, threading
sys.path.insert(0, sys.argv[1])
from facedetd.capture.niceness import set_nice
if os.nice(0):
    sys.exit("not allowed to raise: the test itself was run with nice")
resource.setrlimit(resource.RLIMIT_NICE, (int(sys.argv[2]),) * 2)
os.setuid(65534)
os.nice(5)
for priority in (0, 100):
    set_nice(threading.get_native_id(), priority)
    print(os.getpriority(os.PRIO_PROCESS, 0))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which wants root")
@pytest.mark.parametrize(("limit", "nices"), [(15, ["12", "5"]), (0, ["12", "12"])])
def test_an_ordinary_user_s_process_is_raised_where_the_unit_s_limit_lets_it(limit, nices):
    """LimitNICE=+5 is the kernel's 20 - 5 (getrlimit(2))."""
    command = [os.path.realpath(sys.executable), "-c", RAISES, str(Path.cwd()), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if "not allowed to raise" in done.stderr:
        pytest.skip("root may not raise the hard limit here, or the test was run with nice")
    assert done.stdout.split() == nices, done.stderr
