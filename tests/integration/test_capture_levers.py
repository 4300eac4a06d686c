"""Decode levels over real RTSP: pictures by the number drawn into them; the sub-stream taken over and given back."""

import itertools
import socket
import threading
import time

import numpy as np
import pytest

from facedetd.capture.stream import StreamThread
from facedetd.capture.types import Slot, StreamTimeouts
from facedetd.types import DecodeLevel, StreamSpec, StreamState
from tests.cameras import strip
from tests.cameras.client import CameraServer, requirements
from tests.cameras.encode import Coding, encode
from tests.cameras.scene import make_scene

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(bool(requirements()), reason="the test cameras' Debian packages are missing"),
]

FULL, NO_FILTER, REFERENCE, SUB, KEYFRAMES, OFF = DecodeLevel
# Quick to try again, but a machine that stops for some seconds ends no connection and makes no frame too old
QUICK = StreamTimeouts(connect_s=20, read_s=20, backoff_initial_s=0.1, backoff_max_s=0.5, max_frame_age_s=20)
SIZE, SUB_SIZE = (640, 360), (320, 176)


class ReadingSink:
    """A FrameSink that reads each picture's number; ``read`` holds (info at that time, number or None)."""

    def __init__(self):
        self.attached = True
        self.lock = threading.Lock()
        self.frames, self.numbers, self.counts = [], [], {}
        self.picture = np.zeros((SIZE[1] * 3 // 2, SIZE[0]), np.uint8)
        self.closed = False

    def acquire(self):
        assert not self.closed, "the sink is used after stop() returned"
        return Slot((1, 0), self.picture)

    def submit(self, slot, frame):
        assert not self.closed
        g = frame.geometry
        luma = slot.picture[g.pad_y : g.pad_y + g.height, g.pad_x : g.pad_x + g.width]
        with self.lock:
            self.numbers.append(strip.read(luma) if (g.width, g.height) == (g.source_width, g.source_height) else -1)
            self.frames.append(frame)

    def release(self, slot):
        pass

    def count(self, **more):
        assert not self.closed
        for name, n in more.items():
            self.counts[name] = self.counts.get(name, 0) + n

    def accounted(self):
        """decoded = sampled + not_sampled, where decoded frames are numbered without a gap."""
        return self.frames[-1].frame_number + 1 <= len(self.frames) + self.counts.get("not_sampled", 0)


class Run:
    def __init__(self, url, level=FULL, fps=25.0, timeouts=QUICK, **spec):
        self.said, self.sink = [], ReadingSink()
        self.thread = StreamThread(
            StreamSpec("cam", url, **spec), None, self.sink, lambda *a: self.said.append(a), timeouts, fps, level=level
        )

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.thread.stop()
        self.sink.closed = True
        assert self.thread.join(15)

    @property
    def info(self):
        return self.said[-1][2]

    def at(self, level, sub=False, seconds=40):
        wanted = StreamState.STREAMING, level, sub
        wait_for(
            lambda: self.said and (self.said[-1][0], self.info.level, self.info.sub) == wanted,
            seconds,
            lambda: self.said,
        )
        return self

    def frames(self, n, seconds=60):
        want = len(self.sink.frames) + n
        wait_for(lambda: len(self.sink.frames) >= want, seconds, lambda: (self.said, self.sink.counts))


def wait_for(condition, seconds=40, why=lambda: ""):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"it did not happen: {why()}"
        time.sleep(0.02)


def check_pictures(sink, coding_frames):
    """Every picture could be read, and its number is what its time says: in between, time and number go on alike."""
    with sink.lock:
        frames, numbers = list(sink.frames), list(sink.numbers)
    assert None not in numbers, "a picture is broken"
    assert [f.sequence for f in frames] == list(range(len(frames)))
    for (a, b), (i, j) in zip(itertools.pairwise(frames), itertools.pairwise(numbers), strict=True):
        assert b.capture_mono_ns > a.capture_mono_ns and b.frame_number > a.frame_number
        if -1 not in (i, j) and a.geometry == b.geometry and a.sequence > 5:
            passed = round((b.pts_ns - a.pts_ns) / 40e6)
            if 0 < passed < coding_frames:
                assert (j - i) % coding_frames == passed


def clip(coding, size=SIZE, seed=1):
    return encode(make_scene(*size, frames=100, faces=1, seed=seed), coding=coding)


@pytest.mark.parametrize(
    "coding",
    [
        Coding(bitrate=1_000_000, gop=20),
        Coding(bitrate=1_000_000, gop=20, bframes=2),
        Coding(codec="h265", container="mkv", bitrate=1_000_000, gop=20, bframes=2),
        Coding(codec="mjpeg", container="raw"),
    ],
    ids=["h264", "b-frames", "h265", "mjpeg"],
)
def test_every_level_and_back_on_one_connection(coding):
    with CameraServer([clip(coding)]) as cameras, Run(cameras.url(0)) as run:
        run.at(FULL).frames(30)
        for level in (NO_FILTER, REFERENCE, KEYFRAMES, FULL, KEYFRAMES, NO_FILTER, OFF, REFERENCE, FULL):
            run.thread.set_decode(level)
            run.at(level)
            if level is not OFF:
                run.frames(2 if level is KEYFRAMES else 12)
        run.frames(30)
        wait_for(lambda: run.info.fps)
        run.thread.stop()
        assert not run.sink.counts.get("decode_errors") and not run.sink.counts.get("skipped")
        assert run.sink.accounted()
        check_pictures(run.sink, 100)
        assert cameras.stats(0)["clients"] <= 1
        assert [s for s, _, _ in run.said].count(StreamState.CONNECTING) == 1
        assert run.info.fps == pytest.approx(25, rel=0.15)
        assert run.info.reference_share < 0.9 if coding.bframes else run.info.reference_share == 1
        if coding.codec != "mjpeg":
            assert run.info.keyframe_s == pytest.approx(0.8, rel=0.15)
            assert run.info.bits_per_s == pytest.approx(1e6, rel=0.4)


@pytest.fixture(scope="module")
def two_videos():
    main = clip(Coding(bitrate=1_000_000, gop=25, bframes=2))
    sub = clip(Coding(bitrate=300_000, gop=25), SUB_SIZE, seed=2)
    return [main, sub]


def test_the_sub_stream_is_taken_over_and_given_back(two_videos):
    with CameraServer(two_videos) as cameras, Run(cameras.url(0), sub_url=cameras.url(1)) as run:
        run.at(FULL).frames(10)
        for level, sub in ((SUB, True), (KEYFRAMES, True), (SUB, True), (FULL, False), (OFF, True), (NO_FILTER, False)):
            run.thread.set_decode(level)
            run.at(level, sub)
            assert (run.info.width, run.info.height) == (SUB_SIZE if sub else SIZE)
            if level is not OFF:
                run.frames(3 if level is KEYFRAMES else 15)
            wait_for(lambda s=sub: cameras.stats(0 if s else 1)["clients"] == 0, why=lambda: cameras.ctl("stats"))
        run.thread.stop()
        check_pictures(run.sink, 100)
        assert run.sink.accounted() and not run.sink.counts.get("decode_errors")
        states = [s for s, _, _ in run.said]
        assert states.count(StreamState.CONNECTING) == 1 and StreamState.BACKING_OFF not in states
        # From one to the other without a hole: the main goes on till the sub-stream's first picture is there
        at_full_rate = [f for f in run.sink.frames if f.sequence < 20]
        assert max(np.diff([f.capture_mono_ns for f in at_full_rate])) < 2_000_000_000


def test_a_sub_stream_that_is_down_leaves_the_main_stream_and_is_tried_again(two_videos):
    with CameraServer(two_videos) as cameras, Run(cameras.url(0), sub_url=cameras.url(1)) as run:
        run.at(FULL)
        cameras.ctl("down", 1)
        run.thread.set_decode(SUB)
        wait_for(lambda: run.info.sub_problem, why=lambda: run.said)
        assert "404" in run.info.sub_problem and not run.info.sub
        run.at(NO_FILTER).frames(20)
        run.thread.set_decode(KEYFRAMES)
        run.at(KEYFRAMES).frames(2)
        assert "404" in run.info.sub_problem
        cameras.ctl("up", 1)
        run.at(KEYFRAMES, sub=True)
        assert not run.info.sub_problem
        assert StreamState.BACKING_OFF not in {s for s, _, _ in run.said}
        run.thread.stop()
        check_pictures(run.sink, 100)


def test_a_sub_stream_that_breaks_gives_way_to_the_main_stream_till_it_is_back(two_videos):
    with CameraServer(two_videos) as cameras, Run(cameras.url(0), level=SUB, sub_url=cameras.url(1)) as run:
        run.at(SUB, sub=True).frames(10)
        assert cameras.stats(0)["starts"] == []  # the main stream was never asked for
        cameras.ctl("down", 1)
        run.at(NO_FILTER).frames(10)
        wait_for(lambda: run.info.sub_problem, why=lambda: run.said)
        cameras.ctl("up", 1)
        run.at(SUB, sub=True).frames(10)
        run.thread.stop()
        assert run.sink.accounted()
        check_pictures(run.sink, 100)


def test_a_main_stream_that_is_down_leaves_the_sub_stream_and_says_so(two_videos):
    with CameraServer(two_videos) as cameras, Run(cameras.url(0), level=SUB, sub_url=cameras.url(1)) as run:
        run.at(SUB, sub=True)
        cameras.ctl("down", 0)
        run.thread.set_decode(FULL)
        wait_for(lambda: "404" in run.said[-1][1], why=lambda: run.said)
        assert run.info.sub and not run.info.sub_problem and run.said[-1][0] is StreamState.STREAMING
        run.frames(20)
        cameras.ctl("up", 0)
        run.at(FULL).frames(10)
        assert run.said[-1][1] == ""


def test_both_down_and_back(two_videos):
    with CameraServer(two_videos) as cameras, Run(cameras.url(0), level=SUB, sub_url=cameras.url(1)) as run:
        run.at(SUB, sub=True)
        cameras.ctl("down", 0)
        cameras.ctl("down", 1)
        # Retries are no news, so they are counted where they are
        failures = run.thread._backoffs
        wait_for(lambda: failures[False].failures >= 2 and failures[True].failures >= 3, why=lambda: run.said)
        cameras.ctl("up", 1)
        run.at(SUB, sub=True).frames(10)


def test_stop_does_not_wait_for_a_sub_stream_that_hangs(two_videos, unused_listener):
    patient = StreamTimeouts(connect_s=60, read_s=20)
    with CameraServer(two_videos[:1]) as cameras:
        run = Run(cameras.url(0), sub_url=f"rtsp://127.0.0.1:{unused_listener}/x", timeouts=patient)
        with run:
            run.at(FULL)
            run.thread.set_decode(SUB)
            run.at(NO_FILTER).frames(10)
        assert not run.info.sub_problem  # __exit__ saw the thread end while the connect still hung


@pytest.fixture
def unused_listener():
    """A port that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_the_sub_stream_s_rate_is_sampled_evenly_after_a_switch(two_videos):
    with CameraServer(two_videos) as cameras, Run(cameras.url(0), fps=5, sub_url=cameras.url(1)) as run:
        run.frames(10)
        run.thread.set_decode(SUB)
        run.at(SUB, sub=True).frames(20)
        run.thread.stop()
        late = [f for f in run.sink.frames if f.geometry.source_width == SUB_SIZE[0]][5:]
        assert {b.frame_number - a.frame_number for a, b in itertools.pairwise(late)} == {5}
