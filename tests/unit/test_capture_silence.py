"""When a read is ended, and that nothing else is."""

import gc
import re
import socket
import threading
import time

import pytest

from facedetd.capture import silence
from facedetd.capture.silence import Silence
from facedetd.threads import no_thread

S = 1_000_000_000


@pytest.fixture
def pair():
    near, far = socket.socketpair()
    with near, far:
        far.settimeout(0)
        yield near, far


def alive(far):
    try:
        return far.recv(1) != b""
    except BlockingIOError:
        return True


def test_a_read_that_lasts_too_long_is_ended_and_no_other(pair):
    near, far = pair
    now = [100 * S]
    one = Silence([near], 5 * S, lambda: now[0])
    assert one.look() == 5 * S
    now[0] += 60 * S
    assert one.look() == 5 * S and alive(far), "nothing is being read"
    one.since_ns = now[0]
    now[0] += 4 * S
    assert one.look() == S and alive(far)
    now[0] += S
    assert one.look() > 0 and not alive(far)
    one.close()
    assert near.fileno() < 0


def test_a_stream_that_is_stopped_leaves_a_silent_camera_at_once_and_a_sending_one_in_order(pair):
    near, far = pair
    now, stop = [100 * S], threading.Event()
    one = Silence([near], 20 * S, lambda: now[0], stop)
    one.since_ns = now[0]
    now[0] += S
    stop.set()
    one.look()
    assert alive(far), "it may be about to say TEARDOWN"
    now[0] += S
    one.look()
    assert not alive(far)
    one.close()


def test_time_in_which_nobody_ran_is_not_the_cameras(pair):
    near, far = pair
    now, stops = [100 * S], [0.0]
    watch = silence._Watch(lambda: now[0])
    one = Silence([near], 5 * S, lambda: now[0])
    silence._watch.remove(one)  # which knows of no stop, and would end it
    watch._watched.add(one)

    class Changed(threading.Condition):
        def wait(self, timeout=None):
            now[0] += round((timeout + stops[0]) * S)

    watch._changed = Changed()
    one.since_ns = began = now[0]
    for stopped in (0, 1.5, 60, 0.4):
        stops[0] = stopped
        watch._turn()
        watch._look()
        assert alive(far) and not one.ran_out(began)
    back, stops[0] = now[0], 0
    while alive(far):
        watch._turn()
    assert 3 * S <= now[0] - back <= 5 * S, "from when it was last away"
    assert one.ran_out(began)
    one.close()


def test_where_pyav_ends_reads_their_length_tells(pair):
    now = [100 * S]
    one = Silence([], 5 * S, lambda: now[0])
    now[0] += 5 * S
    assert not one.ran_out(100 * S) and one.ran_out(100 * S, 0.95)
    now[0] += 1
    assert one.ran_out(100 * S)
    one.close()


def test_it_is_ended_without_anybody_looking(pair):
    near, far = pair
    far.settimeout(30)
    one = Silence([near], S // 20, time.monotonic_ns)
    one.since_ns = time.monotonic_ns()
    assert far.recv(1) == b""
    one.close()


def test_closed_it_ends_nothing_more(pair):
    near, far = pair
    kept = near.dup()
    one = Silence([near], S // 50, time.monotonic_ns)
    one.close()
    one.close()
    one.since_ns = time.monotonic_ns()
    time.sleep(0.2)
    assert alive(far)
    kept.close()


def test_without_a_thread_to_watch_it_says_so(pair, monkeypatch):
    near, _ = pair

    def none(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(silence, "_watch", silence._Watch())
    monkeypatch.setattr(threading.Thread, "start", none)
    with pytest.raises(OSError, match=re.escape(no_thread("to watch for its silence"))):
        Silence([near], S, time.monotonic_ns)
    assert near.fileno() < 0


def test_one_that_nobody_has_any_more_keeps_no_connection():
    """As where opening failed half way: FFmpeg's own end is closed with its container then."""
    near, far = socket.socketpair()
    with far:
        far.settimeout(0)
        one = Silence([near], 5 * S, time.monotonic_ns)
        del near
        assert alive(far)
        with pytest.warns(ResourceWarning):
            del one
            gc.collect()
        assert not alive(far)


def test_want_of_memory_ends_no_watching(pair, monkeypatch):
    near, far = pair
    far.settimeout(30)
    monkeypatch.setattr(silence, "_watch", silence._Watch())
    calls = []

    def clock():
        calls.append(1)
        if len(calls) == 1:
            raise MemoryError
        return time.monotonic_ns()

    one = Silence([near], S // 20, clock)
    one.since_ns = 0
    silence._watch.add(one)  # wakes it
    assert far.recv(1) == b""
    one.close()
