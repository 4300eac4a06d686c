"""Threads of streams of a higher priority get more of a CPU that is short."""

import os
import threading

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
