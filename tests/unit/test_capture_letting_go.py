"""A connection that ended is freed at once, not when Python looks for cycles: a decoder of 2 MB hangs on each, and an
error that a frame of its own traceback names would keep it, for an hour in a process that makes few objects."""

from __future__ import annotations

import contextlib
import gc
import socket
import threading
import time
import weakref

import av.error
import pytest

from facedetd.capture.diagnose import Unreachable, reach
from facedetd.capture.opening import Opening
from facedetd.capture.silence import Silence
from facedetd.capture.source import ErrorKind, LiveSource, SourceError

S = 1_000_000_000


@pytest.fixture(autouse=True)
def no_collection():
    gc.disable()
    yield
    gc.enable()


class Container:
    def __init__(self, error):
        self.error = error

    def demux(self, stream):
        if self.error is not None:
            raise self.error
        yield None  # a packet after the time was over

    def close(self): ...


def live_source(error, after_s):
    source = LiveSource.__new__(LiveSource)
    source._container, source._stream, source._read_ns = Container(error), None, 5 * S
    times = iter([0, *[after_s * S] * 9])
    source._clock = lambda: next(times)
    source._silence = Silence([], source._read_ns, source._clock)
    return source


@pytest.mark.parametrize(
    ("error", "after_s", "kind"),
    [
        (None, 6, ErrorKind.STALLED),
        (av.error.TimeoutError(110, "silent"), 6, ErrorKind.STALLED),
        (av.error.EOFError(0, "end"), 1, ErrorKind.CLOSED),
        (av.error.InvalidDataError(1, "rubbish"), 1, ErrorKind.CLOSED),
    ],
)
def test_a_source_that_ended(error, after_s, kind):
    source = live_source(error, after_s)
    watch = weakref.ref(source)
    try:
        list(source.packets())
    except SourceError as ended:
        found = ended.kind
    assert found is kind
    del source
    if error is not None:
        error.__traceback__ = None  # this test holds it
    assert watch() is None


def test_a_source_without_a_picture_that_was_opened_in_the_background():
    watch = []

    def opener():
        source = live_source(None, 6)
        watch.append(weakref.ref(source))
        return source

    opening = Opening("cam", opener, time.monotonic_ns)
    deadline = time.monotonic() + 20
    while (result := opening.take()) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert isinstance(result, SourceError)
    while watch[0]() is not None and time.monotonic() < deadline:  # the thread may be about to end
        time.sleep(0.01)
    assert watch[0]() is None


@pytest.mark.parametrize("knock", [False, True])
def test_a_port_that_could_not_be_reached(knock):
    stop = threading.Event()
    watch = weakref.ref(stop)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with contextlib.suppress(Unreachable):
            reach("127.0.0.1", unused.getsockname()[1], 5, stop, knock=knock)
    del stop
    assert watch() is None
