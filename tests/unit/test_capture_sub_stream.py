"""A stream with two videos, both files: what must not go wrong when one can't be had for want of something of ours."""

import threading

from capture_clips import KeepingSink, make_clip

from facedetd.capture import opening
from facedetd.capture import stream as stream_module
from facedetd.capture.stream import StreamThread
from facedetd.types import DecodeLevel, StreamSpec, StreamState
from tests.unit.test_capture_stream import QUICK, wait_for


def stream_of(tmp_path, said, **spec):
    main, sub = make_clip(tmp_path / "main.mp4", 50), make_clip(tmp_path / "sub.mp4", 50)
    spec = StreamSpec("cam", main.as_uri(), sub_url=sub.as_uri(), **spec)
    return StreamThread(spec, None, KeepingSink(), lambda *a: said.append(a), QUICK, 5.0)


def on_sub(said):
    return said[-1][0] is StreamState.STREAMING and said[-1][2].sub


def test_without_a_thread_for_the_sub_stream_the_main_one_goes_on(tmp_path, monkeypatch):
    said, refused = [], []

    class NoThreads:
        Lock = threading.Lock

        def Thread(self, *_, **__):
            refused.append(1)
            raise RuntimeError("can't start new thread")

    thread = stream_of(tmp_path, said)
    thread.start()
    wait_for(lambda: said and said[-1][0] is StreamState.STREAMING)
    with monkeypatch.context() as patch:
        patch.setattr(opening, "threading", NoThreads())
        thread.set_decode(DecodeLevel.SUB_STREAM)
        wait_for(lambda: "no thread can be started" in said[-1][2].sub_problem)
        wait_for(lambda: len(refused) > 1)  # it is tried again
        assert {state for state, _, _ in said[1:]} == {StreamState.STREAMING}
    wait_for(lambda: on_sub(said))
    assert said[-1][2].sub_problem == ""
    thread.stop()
    assert thread.join(10)


def test_what_failed_before_is_forgotten_once_the_video_was_in_use(tmp_path):
    said = []
    thread = stream_of(tmp_path, said)
    thread._backoffs[True] = stream_module.failed(thread._backoffs[True], 0.0)[0]
    thread._backoffs[True] = stream_module.failed(thread._backoffs[True], 0.0)[0]
    thread.start()
    thread.set_decode(DecodeLevel.SUB_STREAM)
    wait_for(lambda: said and on_sub(said))
    thread.set_decode(DecodeLevel.FULL)
    wait_for(lambda: said[-1][0] is StreamState.STREAMING and not said[-1][2].sub)
    assert thread._backoffs[True].failures == 0
    thread.stop()
    assert thread.join(10)


def test_a_thread_that_begins_late_has_the_priority_of_then(tmp_path, monkeypatch):
    said, nice = [], []
    monkeypatch.setattr(stream_module, "set_nice", lambda thread, priority: nice.append(priority))
    thread = stream_of(tmp_path, said, priority=10)
    thread.set_priority(90)
    thread.start()
    wait_for(lambda: nice)
    assert nice == [90]
    thread.stop()
    assert thread.join(10)
