"""What a bad camera, or a full machine, does to one stream's way from packet to slot."""

import itertools
import threading
import time
from types import SimpleNamespace

import av
import numpy as np
import pytest
from capture_clips import KeepingSink, make_clip
from test_capture_stream import QUICK, Run, S, play, wait_for

from facedetd.capture import source as source_module
from facedetd.capture.scaler import Scaler
from facedetd.capture.silence import Silence
from facedetd.capture.snapshot import SnapshotError, draw_and_encode
from facedetd.capture.source import ErrorKind, LiveSource, SourceError, open_source
from facedetd.capture.stream import StreamThread
from facedetd.types import Face, StreamSpec, StreamState


def test_a_scaler_that_fails_in_an_unknown_way_keeps_no_slot_and_the_count_is_whole(tmp_path, monkeypatch):
    sink = KeepingSink(slots=1)
    monkeypatch.setattr(Scaler, "scale", lambda *_: {}["surprise"])
    with pytest.raises(KeyError):
        play(make_clip(tmp_path / "clip.mp4", 10), 10, sink=sink)
    assert sink.held is None and sink.free == [0]
    assert sink.counts["not_sampled"] == 1


@pytest.mark.parametrize("error", [MemoryError, ValueError, av.error.InvalidDataError(1, "no")])
def test_a_snapshot_that_can_not_be_taken_leaves_the_stream_alone(tmp_path, monkeypatch, error):
    failing = iter([True])
    bgr = Scaler.bgr

    def once(self, frame):
        if next(failing, False):
            raise error
        return bgr(self, frame)

    monkeypatch.setattr(Scaler, "bgr", once)
    with Run(make_clip(tmp_path / "clip.mp4", 25).as_uri(), fps=25) as run:
        shots = []
        run.thread.request_snapshot(shots.append)
        wait_for(lambda: shots)
    assert set(run.states) == {StreamState.CONNECTING, StreamState.STREAMING}
    assert shots[0].sequence >= 1 and run.sink.frames[0].sequence == 0


@pytest.mark.parametrize("codec, suffix", [("libx264", "mp4"), ("libx265", "mkv"), ("mjpeg", "mkv")])
def test_pictures_over_the_limit_are_not_decoded(tmp_path, monkeypatch, codec, suffix):
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    clip = make_clip(tmp_path / f"clip.{suffix}", 10, size=(320, 192), codec=codec, pix_fmt=pix_fmt)
    monkeypatch.setattr(source_module, "MAX_PIXELS", 320 * 192)
    assert len(play(clip, 10)[0].frames) >= 8
    monkeypatch.setattr(source_module, "MAX_PIXELS", 320 * 192 - 1)
    sink, pipeline, _ = play(clip, 10)
    assert not sink.frames and sink.counts["decode_errors"] >= 8 and pipeline.info.width == 0


def test_packets_without_a_picture_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(source_module, "MAX_PIXELS", 100)
    monkeypatch.setattr("facedetd.capture.stream._NO_PICTURE_NS", S // 10)
    with Run(make_clip(tmp_path / "clip.mp4", 25).as_uri()) as run:
        wait_for(lambda: len(run.said) >= 2)
        time.sleep(0.2)
    assert [(s, d) for s, d, _ in run.said] == [
        (StreamState.CONNECTING, ""),
        (StreamState.CONNECTING, "packets come, but no picture that can be decoded yet"),
    ]


def test_a_file_without_pts_loops_at_its_own_pace_too(tmp_path):
    sink, pipeline, took = play(make_clip(tmp_path / "clip.h264", 16, fmt="h264"), 161, fps=5)
    assert took == pytest.approx(6.4, abs=0.1)
    assert abs(len(sink.frames) - 32) <= 1
    assert not pipeline.events


def live(demux, clock, read_s=5.0):
    source = LiveSource.__new__(LiveSource)
    source._container = SimpleNamespace(demux=demux, close=lambda: None)
    source._stream, source._clock, source._read_ns = None, clock, int(read_s * S)
    source._silence = Silence([], source._read_ns, clock)
    return source


def test_a_slow_reader_is_not_taken_for_a_silent_camera():
    now = itertools.count()
    clock = SimpleNamespace(now=0)

    def demux(_):
        for _ in range(5):
            clock.now += S // 25
            yield SimpleNamespace(size=1, n=next(now))

    seen = 0
    with pytest.raises(SourceError) as caught:
        for _ in live(demux, lambda: clock.now).packets():
            clock.now += 60 * S  # stopped, starved, or asleep
            seen += 1
    assert seen == 5 and caught.value.kind is ErrorKind.CLOSED


def test_a_silent_camera_is_told_from_one_that_closes():
    clock = SimpleNamespace(now=0)

    def demux(_):
        yield SimpleNamespace(size=1)
        clock.now += 6 * S
        yield SimpleNamespace(size=1)

    with pytest.raises(SourceError) as caught:
        list(live(demux, lambda: clock.now).packets())
    assert caught.value.kind is ErrorKind.STALLED


def test_a_stream_goes_on_after_want_of_memory_for_saying_how_it_is(tmp_path):
    """Its thread is all that would ever connect again."""
    states = []

    def on_state(state, detail, info):
        states.append(state)
        if len(states) in (1, 3, 5):
            raise MemoryError

    clip = make_clip(tmp_path / "clip.mp4", 25)
    thread = StreamThread(StreamSpec("cam", clip.as_uri()), None, KeepingSink(), on_state, QUICK, 5.0)
    thread.start()
    wait_for(lambda: len(states) > 5 and states[-1] is StreamState.STREAMING)
    thread.stop()
    assert thread.join(10)


@pytest.mark.parametrize("host", ["a..b", "a" * 64 + ".example", "xn--ä"])
def test_a_host_that_is_no_name_says_so(host):
    with pytest.raises(SourceError) as caught:
        open_source(StreamSpec("c", f"rtsp://{host}/x"), None, 2, 2, threading.Event(), time.monotonic_ns)
    assert caught.value.kind is ErrorKind.UNREACHABLE and "not known" in str(caught.value)


def test_landmarks_far_outside_are_not_drawn():
    picture = np.zeros((48, 64, 3), np.uint8)
    face = Face((8, 8, 40, 40), 0.9, ((1e30, 5.0), (-1e30, 5.0), (20.0, 3e9), (-1.0, -1.0), (20.0, 20.0)))
    assert draw_and_encode(picture, [face])[:2] == b"\xff\xd8"


def test_a_picture_too_large_for_jpeg_is_a_snapshot_error():
    with pytest.raises(SnapshotError, match="70000x2"):
        draw_and_encode(np.zeros((2, 70000, 3), np.uint8), [])
