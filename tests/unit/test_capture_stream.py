"""Files through source, pipeline and the stream's thread: everything but the network."""

import itertools
import threading
import time
from fractions import Fraction

import av
import numpy as np
import pytest
from capture_clips import KeepingSink, bar_of, make_clip

from facedetd.capture.pipeline import Pipeline
from facedetd.capture.source import ErrorKind, FileSource, SourceError, live_options, open_source
from facedetd.capture.stream import StreamThread
from facedetd.capture.types import StreamTimeouts
from facedetd.types import Secret, StreamSpec, StreamState, Transport

S = 1_000_000_000
QUICK = StreamTimeouts(connect_s=1, read_s=1, backoff_initial_s=0.05, backoff_max_s=0.2)


class FakeTime(threading.Event):
    """A clock and a stop event in one: waiting takes no time but moves the clock."""

    def __init__(self):
        super().__init__()
        self.now = 1000 * S

    def clock(self):
        return self.now

    def wait(self, timeout=None):
        self.now += int((timeout or 0) * S)
        return self.is_set()


def play(path, packets, fps=1000.0, sink=None, max_age_s=1.0, phase=None):
    """Feed so many packets of a file through a pipeline on fake time; the sink, and the time it took in s."""
    clock = FakeTime()
    source = FileSource(str(path), clock, clock.clock)
    sink = sink or KeepingSink()
    pipeline = Pipeline(sink, fps, max_age_s, clock.clock, phase)
    pipeline.begin(source.codec, 5000 * S)
    began, n = clock.now, 0
    for packet in source.packets():
        pipeline.feed(packet)
        n += bool(packet.size)
        if n == packets:
            break
    source.close()
    return sink, pipeline, (clock.now - began) / S


def decoded(sink):
    return len(sink.frames) + sink.counts.get("not_sampled", 0) + sink.counts.get("no_slot", 0)


@pytest.mark.parametrize(
    "codec, pix_fmt, suffix",
    [("libx264", "yuv420p", "mp4"), ("libx264", "yuv420p10le", "mp4"), ("libx265", "yuv420p", "mp4"),
     ("libx265", "yuv420p10le", "mkv"), ("mjpeg", "yuvj420p", "mkv"), ("libx264", "yuv444p", "mkv"),
     ("libx264", "yuv420p", "ts"), ("libx264", "yuv420p", "h264")],
)  # fmt: skip
def test_codecs_and_containers(tmp_path, codec, pix_fmt, suffix):
    clip = make_clip(tmp_path / f"clip.{suffix}", 16, codec=codec, pix_fmt=pix_fmt)
    sink, pipeline, _ = play(clip, 48)
    assert pipeline.info.codec in {"libx264": "h264", "libx265": "hevc"}.get(codec, codec)
    assert (pipeline.info.width, pipeline.info.height) == (160, 96)
    assert not sink.counts.get("decode_errors")
    assert sink.counts["received"] == 48 and decoded(sink) >= 46
    assert [f.sequence for f in sink.frames] == list(range(len(sink.frames)))
    for frame, picture in zip(sink.frames, sink.pictures, strict=True):
        assert bar_of(picture[:96]) == frame.frame_number % 16


def test_a_file_loops_at_its_own_pace_and_its_pts_go_on(tmp_path):
    sink, pipeline, took = play(make_clip(tmp_path / "clip.mp4", 25), 251)
    assert took == pytest.approx(10.0, abs=0.05)
    pts = np.array([f.pts_ns for f in sink.frames])
    assert len(pts) == 251 and set(np.diff(pts)) == {40_000_000}
    assert pipeline.info.fps == pytest.approx(25, abs=0.2)
    assert not pipeline.events


def test_sampling_across_loops_is_even(tmp_path):
    sink, _, _ = play(make_clip(tmp_path / "clip.mp4", 23), 250, fps=5)
    assert [f.frame_number for f in sink.frames] == list(range(0, 250, 5))
    assert decoded(sink) == 250


def test_b_frames_come_in_display_order_with_their_own_times(tmp_path):
    clip = make_clip(tmp_path / "b.mp4", 48, options={"preset": "medium", "bf": "3", "b-adapt": "0", "g": "24"})
    with av.open(str(clip)) as c:
        assert any(p.pts != p.dts for p in c.demux(video=0) if p.size)
    sink, _, _ = play(clip, 96)
    assert len(sink.frames) >= 90
    for frame, picture in zip(sink.frames, sink.pictures, strict=True):
        assert bar_of(picture[:96]) == frame.frame_number % 16
    for a, b in zip(sink.frames, sink.frames[1:], strict=False):
        assert b.pts_ns - a.pts_ns == 40_000_000
        assert b.capture_mono_ns > a.capture_mono_ns and b.capture_utc_ns > a.capture_utc_ns
    late = sink.frames[40:80]  # once the reordering delay is known
    assert all(abs(b.capture_mono_ns - a.capture_mono_ns - 40e6) < 1e6 for a, b in itertools.pairwise(late))


@pytest.mark.parametrize("jump", [1000, 100_000])
def test_pts_that_jump_ahead_in_a_file(tmp_path, jump):
    clip = make_clip(tmp_path / "jump.mkv", 40, pts=lambda i: i if i < 20 else i + jump)
    sink, pipeline, took = play(clip, 40, fps=5)
    assert took < 3  # the jump isn't waited out
    numbers = [f.frame_number for f in sink.frames]
    assert len(numbers) in (8, 9) and max(np.diff(numbers)) <= 6 and min(np.diff(numbers)) >= 4
    assert len(pipeline.events) == 1
    captured = np.diff([f.capture_mono_ns for f in sink.frames])
    assert captured.max() < 300_000_000


def test_a_size_that_changes_mid_stream(tmp_path):
    small = make_clip(tmp_path / "a.h264", 20, fmt="h264").read_bytes()
    large = make_clip(tmp_path / "b.h264", 20, size=(96, 160), fmt="h264").read_bytes()
    both = tmp_path / "both.h264"
    both.write_bytes(small + large)
    sink, pipeline, _ = play(both, 40)
    sizes = [(f.geometry.source_width, f.geometry.source_height) for f in sink.frames]
    assert sizes[0] == (160, 96) and sizes[-1] == (96, 160) and len(set(sizes)) == 2
    assert (pipeline.info.width, pipeline.info.height) == (96, 160)
    tall = sink.frames[-1].geometry
    assert (tall.width, tall.height, tall.pad_x) == (58, 96, 50)
    assert (sink.pictures[-1][:96, :50] == 16).all()


def test_sample_aspect_ratio_of_the_stream_counts(tmp_path):
    sink, _, _ = play(make_clip(tmp_path / "sar.mp4", 5, size=(96, 96), sar=Fraction(2, 1)), 5)
    g = sink.frames[0].geometry
    assert (g.width, g.height) == (160, 80)


def test_damaged_packets_are_counted_and_survived(tmp_path):
    clip = make_clip(tmp_path / "good.h264", 60, fmt="h264")
    data = bytearray(clip.read_bytes())
    rng = np.random.default_rng(2)
    for at in rng.integers(2000, len(data), 40):
        data[at : at + 30] = bytes(rng.integers(0, 256, 30, np.uint8))
    broken = tmp_path / "broken.h264"
    broken.write_bytes(data)
    sink, _, _ = play(broken, 200)
    assert sink.counts["decode_errors"] > 0
    assert len(sink.frames) > 100
    intact, _, _ = play(clip, 200)
    assert not intact.counts.get("decode_errors")
    assert decoded(sink) + sink.counts.get("skipped", 0) <= sink.counts["received"] + 10


def test_no_ring_no_sample_and_no_slot_is_a_drop(tmp_path):
    clip = make_clip(tmp_path / "clip.mp4", 25)
    sink = KeepingSink()
    sink.attached = False
    play(clip, 50, sink=sink)
    assert not sink.frames and sink.counts["not_sampled"] == 50 and "no_slot" not in sink.counts
    sink = KeepingSink(slots=0)
    play(clip, 50, fps=5, sink=sink)
    assert sink.counts["no_slot"] == 10 and sink.counts["not_sampled"] == 40


def test_a_frame_that_can_not_be_scaled_gives_its_slot_back(tmp_path, monkeypatch):
    sink = KeepingSink(slots=1)

    def fail(*_):
        raise ValueError("no")

    monkeypatch.setattr("facedetd.capture.scaler.Scaler.scale", fail)
    play(make_clip(tmp_path / "clip.mp4", 10), 10, sink=sink)
    assert sink.held is None and sink.free == [0]
    assert sink.counts["not_sampled"] == sink.counts["decode_errors"] == 10


def test_old_frames_are_not_sampled_and_a_backlog_is_skipped(tmp_path):
    """The decoder takes 100 ms a frame: it can't keep up with 25 fps."""
    clip = make_clip(tmp_path / "clip.mp4", 100)
    clock, sink = FakeTime(), KeepingSink()
    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        from facedetd.capture.source import video_stream

        video_stream(container)
        pipeline = Pipeline(sink, 25, 0.5, clock.clock)
        pipeline.begin("h264", 5000 * S)
        began, now_ns = clock.now, 0
        for i, packet in enumerate(p for p in container.demux(stream) if p.size):
            sent = began + i * 40_000_000
            clock.now = max(clock.now + 1_000_000, sent)  # it waited in the socket if we are behind
            before = sink.counts.get("skipped", 0)
            pipeline.feed(packet)
            if sink.counts.get("skipped", 0) == before:
                clock.now += 100_000_000
            now_ns = clock.now
    assert sink.counts["skipped"] > 20
    assert sink.counts["stale"] > 0
    assert decoded(sink) + sink.counts["skipped"] == 100
    assert now_ns - began < 6 * S
    assert max(f.arrival_mono_ns - f.capture_mono_ns for f in sink.frames) <= 0.5 * S


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


class Run:
    """A stream's thread with what it said."""

    def __init__(self, url, fps=5.0, sink=None, secret=None, **spec):
        self.said = []
        self.sink = sink or KeepingSink()
        self.thread = StreamThread(
            StreamSpec("cam", url, **spec), secret, self.sink, lambda *a: self.said.append(a), QUICK, fps
        )
        self.thread.start()

    @property
    def states(self):
        return [s for s, _, _ in self.said]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.thread.stop()
        assert self.thread.join(10)


def test_thread_streams_a_file_changes_its_rate_and_stops(tmp_path):
    clip = make_clip(tmp_path / "clip.mp4", 25)
    with Run(clip.as_uri(), fps=25) as run:
        shots = []
        run.thread.request_snapshot(shots.append)
        wait_for(lambda: len(run.sink.frames) >= 30)
        assert len(shots) == 1 and shots[0].bgr.shape == (96, 160, 3)
        assert shots[0].capture_utc_ns == run.sink.frames[shots[0].sequence].capture_utc_ns
        wait_for(lambda: run.said[-1][2].fps)
        run.thread.set_rate(0, None)
        received = run.sink.counts["received"]
        wait_for(lambda: run.sink.counts["received"] >= received + 2)  # the one that was under way is done
        before = len(run.sink.frames)
        wait_for(lambda: run.sink.counts["received"] >= received + 7)
        assert len(run.sink.frames) == before
        run.thread.set_rate(25, None)
        wait_for(lambda: len(run.sink.frames) > before)
        run.thread.stop()
        after = len(run.sink.frames), dict(run.sink.counts)
        time.sleep(0.15)
        assert (len(run.sink.frames), dict(run.sink.counts)) == after
    assert run.states[0] is StreamState.CONNECTING and set(run.states[1:]) == {StreamState.STREAMING}
    assert len(run.said) == len(set(run.said))
    info = run.said[-1][2]
    assert (info.codec, info.width, info.height) == ("h264", 160, 96) and 20 < info.fps < 30


def test_a_missing_file_backs_off_and_a_new_one_is_found(tmp_path):
    path = tmp_path / "späti 100%.mp4"
    with Run(path.as_uri()) as run:
        wait_for(lambda: len(run.said) >= 2)
        assert "no such file" in run.said[1][1]
        make_clip(tmp_path / "made.mp4", 25).rename(path)
        wait_for(lambda: StreamState.STREAMING in run.states)
    connecting, failed = StreamState.CONNECTING, StreamState.BACKING_OFF
    assert run.states[:4] == [connecting, failed, connecting, StreamState.STREAMING]  # a retry that fails is no news


@pytest.mark.parametrize("content, kind", [(b"", ErrorKind.UNSUPPORTED), (b"hello" * 1000, ErrorKind.UNSUPPORTED)])
def test_a_file_that_is_no_video(tmp_path, content, kind):
    path = tmp_path / "x.mp4"
    path.write_bytes(content)
    with pytest.raises(SourceError) as caught:
        FileSource(str(path), threading.Event(), time.monotonic_ns)
    assert caught.value.kind is kind


def test_a_refused_camera_says_so_without_its_password():
    with Run("rtsp://127.0.0.1:1/x", username="cam", secret=Secret("p@ss:w/rd%")) as run:
        wait_for(lambda: len(run.said) >= 2)
    assert run.said[1][:2] == (StreamState.BACKING_OFF, "connection refused")
    assert "p@ss" not in repr(run.said) and "p%40ss" not in repr(run.said)


def test_an_unknown_name_says_so():
    with pytest.raises(SourceError) as caught:
        open_source(StreamSpec("c", "rtsp://nosuch.invalid/x"), None, 2, 2, threading.Event(), time.monotonic_ns)
    assert caught.value.kind is ErrorKind.UNREACHABLE and "nosuch.invalid" in str(caught.value)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


def test_other_schemes_are_refused():
    for url in ("http://127.0.0.1/x", "concat:/etc/passwd", "rtmp://x/y", "/etc/passwd"):
        with pytest.raises(SourceError) as caught:
            open_source(StreamSpec("c", url), None, 1, 1, threading.Event(), time.monotonic_ns)
        assert caught.value.kind is ErrorKind.UNSUPPORTED


def test_protocols_are_closed_to_what_a_scheme_needs():
    def allowed(url, **spec):
        return set(live_options(StreamSpec("c", url, **spec), url.split(":")[0])["protocol_whitelist"].split(","))

    assert allowed("rtsp://h/") == {"tcp"}
    assert allowed("rtsp://h/", transport=Transport.UDP) == {"tcp", "udp", "rtp"}
    assert allowed("rtsps://h/") == {"tls", "tcp"}
    assert live_options(StreamSpec("c", "rtsps://h/"), "rtsps")["tls_verify"] == "1"


def test_cameras_in_step_take_turns_and_stay_even(tmp_path):
    clip = make_clip(tmp_path / "clip.mp4", 50)
    turns = []
    for phase in (0.0, 0.2, 0.4, 0.6, 0.8):
        sink, _, _ = play(clip, 150, fps=5.0, phase=phase)
        times = [f.capture_mono_ns for f in sink.frames]
        assert {round((b - a) / 1e6) for a, b in itertools.pairwise(times)} == {200}
        turns.append(round(times[0] / 1e6) % 200)
    assert len({round(turn / 40) % 5 for turn in turns}) == 5


@pytest.mark.parametrize(
    ("kind", "times"),
    [(ErrorKind.REFUSED, 1), (ErrorKind.TIMED_OUT, 1), (ErrorKind.NOT_FOUND, 2), (ErrorKind.UNAUTHORISED, 4),
     (ErrorKind.FORBIDDEN, 4), (ErrorKind.LED_ELSEWHERE, 4)],
)  # fmt: skip
def test_what_a_person_must_put_right_is_tried_more_rarely(kind, times, monkeypatch):
    mute = []

    def refuse(*_, **how):
        mute.append(how["mute"])
        raise SourceError(kind, "no")

    monkeypatch.setattr("facedetd.capture.stream.open_source", refuse)
    waits = []
    timeouts = StreamTimeouts(backoff_initial_s=1.0, backoff_max_s=4.0)
    spec = StreamSpec("cam", "rtsp://127.0.0.1/x")
    thread = StreamThread(spec, None, KeepingSink(), lambda *_: None, timeouts, jitter=lambda: 1.0)

    def wait(delay):
        waits.append(delay)
        if len(waits) == 5:
            thread.stop()

    monkeypatch.setattr(thread._stop, "wait", wait)
    thread.start()
    assert thread.join(20)
    assert waits == [times * d for d in (1.0, 2.0, 4.0, 4.0, 4.0)]
    assert mute == [False, *[kind is ErrorKind.TIMED_OUT] * 4]
