"""Cameras over real RTSP: how they open, what errors say, how streams come back."""

import itertools
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from facedetd.capture.source import ErrorKind, SourceError, open_source
from facedetd.capture.stream import StreamThread
from facedetd.capture.types import Slot, StreamTimeouts
from facedetd.types import Secret, StreamSpec, StreamState, Transport
from tests.cameras.client import Account, CameraServer, requirements
from tests.cameras.encode import Coding, encode
from tests.cameras.scene import make_scene
from tests.descriptors import descriptors
from tests.integration.capture_kit import once_free

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(bool(requirements()), reason="the test cameras' Debian packages are missing"),
]

S = 1_000_000_000
# Quick to try again, but a machine that stops for some seconds ends no connection and makes no frame too old
QUICK = StreamTimeouts(connect_s=20, read_s=20, backoff_initial_s=0.1, backoff_max_s=0.5, max_frame_age_s=20)
SOON_STALLED = replace(QUICK, read_s=1.5)
PASSWORD = "p@s:s/w#%? ü"


class CountingSink:
    """A FrameSink that always has a slot and keeps what is said of its frames."""

    def __init__(self):
        self.attached = True
        self.frames, self.counts = [], {}
        self.picture = np.zeros((384 * 3 // 2, 640), np.uint8)

    def acquire(self):
        return Slot((1, 0), self.picture)

    def submit(self, slot, frame):
        self.frames.append(frame)

    def release(self, slot):
        pass

    def count(self, **more):
        for name, n in more.items():
            self.counts[name] = self.counts.get(name, 0) + n


class Run:
    def __init__(self, url, fps=25.0, secret=None, timeouts=QUICK, **spec):
        self.said, self.sink = [], CountingSink()
        self.thread = StreamThread(
            StreamSpec("cam", url, **spec), secret, self.sink, lambda *a: self.said.append(a), timeouts, fps
        )

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.thread.stop()
        assert self.thread.join(15)

    def saw(self, state, after=0):
        return any(s is state for s, _, _ in self.said[after:])

    def frames(self, n, seconds=30):
        want = len(self.sink.frames) + n
        wait_for(lambda: len(self.sink.frames) >= want, seconds, lambda: self.said)


def wait_for(condition, seconds=30, why=lambda: ""):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"it did not happen: {why()}"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def clip():
    return encode(make_scene(640, 360, frames=100, faces=1, seed=1), coding=Coding(bitrate=1_000_000, gop=25))


def opened(url, secret=None, **spec):
    source = open_source(StreamSpec("cam", url, **spec), secret, 20, 20, threading.Event(), time.monotonic_ns)
    try:
        packets = source.packets()
        return source.codec, [next(packets).size for _ in range(5)]
    finally:
        source.close()


def refused(url, secret=None, **spec):
    with pytest.raises(SourceError) as caught:
        opened(url, secret, **spec)
    assert caught.value.__suppress_context__ and caught.value.__cause__ is None
    return caught.value


@pytest.mark.parametrize("scheme", ["digest", "basic"])
def test_passwords_of_any_character(clip, scheme, capfd):
    account = Account("cam@work", PASSWORD, scheme)
    with CameraServer([clip], account=account) as cameras:
        url = cameras.url(0)
        assert opened(url, Secret(PASSWORD), username="cam@work")[0] == "h264"
        for secret, why in ((None, "no password for it"), (Secret("wrong"), "username or password refused")):
            error = refused(url, secret, username="cam@work")
            assert error.kind is ErrorKind.UNAUTHORISED and why in str(error)
            assert "wrong" not in str(error) and "rtsp" not in str(error)
        assert "the stream has none" in str(refused(url))
    out, err = capfd.readouterr()
    assert PASSWORD not in out + err and "p%40s" not in out + err


def test_wrong_path_and_udp(clip):
    with CameraServer([clip]) as cameras:
        assert refused(cameras.url(0) + "nope").kind is ErrorKind.NOT_FOUND
        assert opened(cameras.url(0), transport=Transport.UDP)[0] == "h264"


def test_rtsps_is_verified(clip):
    with CameraServer([clip], tls=True) as cameras:
        error = refused(cameras.url(0))
        assert error.kind is ErrorKind.TLS and "certificate" in str(error)
        assert opened(cameras.url(0), tls_verify=False)[0] == "h264"
        assert opened(cameras.url(0), ca_file=str(cameras.ca_file))[0] == "h264"
        other_name = cameras.url(0).replace("127.0.0.1", "localhost")
        assert refused(other_name, ca_file=str(cameras.ca_file)).kind is ErrorKind.TLS


def test_five_of_twentyfive_with_honest_times(clip):
    with CameraServer([clip]) as cameras, Run(cameras.url(0), fps=5) as run:
        run.frames(30)
        run.thread.stop()
        frames = run.sink.frames
        late = frames[5:]
        assert {b.frame_number - a.frame_number for a, b in itertools.pairwise(late)} == {5}
        # A busy machine delivers late: till the first packet that comes in time each less late one shortens a gap
        gaps = np.diff([f.capture_mono_ns for f in late]) / 1e6
        assert gaps.max() < 205 and np.median(gaps) > 155
        ages = np.array([f.arrival_mono_ns - f.capture_mono_ns for f in frames])
        assert ages.min() >= 0 and np.median(ages) < S
        utc = np.median([time.time_ns() - time.monotonic_ns() for _ in range(9)])
        assert all(abs(f.capture_utc_ns - f.capture_mono_ns - utc) < S / 2 for f in frames)
        sampled = len(frames) + run.sink.counts.get("no_slot", 0)
        decoded = frames[-1].frame_number + 1
        assert sampled + run.sink.counts["not_sampled"] >= decoded
        assert {f.geometry.height for f in frames} == {360}


def test_wrapping_and_jumping_timestamps(clip):
    with CameraServer([clip], timestamp_offsets=[2**32 - 90_000]) as cameras, Run(cameras.url(0), fps=5) as run:
        run.frames(20)
        cameras.ctl("jump", 0, 3000)
        run.frames(15)
        cameras.ctl("jump", 0, -2900)
        run.frames(15)
        run.thread.stop()
        frames = run.sink.frames[3:]
        gaps = np.diff([f.capture_mono_ns for f in frames]) / 1e6
        assert 100 < np.median(gaps) < 500
        # No time of capture is off by a jump or a wrap; on a busy machine it may be by how late a packet came
        assert all(0 <= f.arrival_mono_ns - f.capture_mono_ns < 20 * S for f in frames)
        assert [s for s, _, _ in run.said].count(StreamState.CONNECTING) == 1


def test_cut_stall_and_down_are_told_and_survived(clip):
    with (
        CameraServer([clip, clip]) as cameras,
        Run(cameras.url(0), timeouts=SOON_STALLED) as run,
        Run(cameras.url(1)) as other,
    ):
        run.frames(10)
        other.frames(10)
        for fault, repair, expected in (
            (("cut", 0), None, StreamState.BACKING_OFF),
            (("stall", 0), ("resume", 0), StreamState.STALLED),
            (("down", 0), ("up", 0), StreamState.BACKING_OFF),
        ):
            mark = len(run.said)
            cameras.ctl(*fault)
            wait_for(lambda m=mark, e=expected: run.saw(e, m), why=lambda: run.said)
            if repair:
                cameras.ctl(*repair)
            wait_for(lambda m=mark: run.saw(StreamState.STREAMING, m), why=lambda: run.said)
            run.frames(10)
        sequences = [f.sequence for f in run.sink.frames]
        assert sequences == list(range(len(sequences)))
        utc = [f.capture_utc_ns for f in run.sink.frames]
        assert all(b > a for a, b in itertools.pairwise(utc))
        assert not other.saw(StreamState.BACKING_OFF)
        assert all(a != b for a, b in zip(run.said, run.said[1:], strict=False))


def test_corrupt_packets_are_survived(clip):
    with CameraServer([clip]) as cameras, Run(cameras.url(0)) as run:
        run.frames(10)
        cameras.ctl("corrupt", 0, 0.2)
        wait_for(lambda: run.sink.counts.get("decode_errors", 0) > 3, why=lambda: run.sink.counts)
        cameras.ctl("corrupt", 0, 0)
        run.frames(60)
        assert not run.saw(StreamState.BACKING_OFF)


@pytest.mark.parametrize(
    "coding",
    [Coding(codec="h265", container="mkv"), Coding(codec="mjpeg", container="raw"), Coding(bframes=2, gop=30)],
    ids=["h265", "mjpeg", "b-frames"],
)
def test_codecs(coding):
    other = encode(make_scene(640, 480, frames=100, faces=1, seed=2), coding=coding)
    with CameraServer([other]) as cameras, Run(cameras.url(0)) as run:
        run.frames(50)
        run.thread.stop()
        assert run.said[-1][2].codec == {"h265": "hevc"}.get(coding.codec, coding.codec)
        assert (run.said[-1][2].width, run.said[-1][2].height) == (640, 480)
        assert not run.sink.counts.get("decode_errors")
        pts = np.diff([f.pts_ns for f in run.sink.frames[5:]]) / 1e6
        assert abs(pts - 40).max() < 2, pts


def test_stop_does_not_wait_for_a_dead_camera(clip):
    with CameraServer([clip]) as cameras:
        run = Run(cameras.url(0), timeouts=replace(QUICK, read_s=5))
        with run:
            run.frames(5)
            cameras.ctl("stall", 0)
            time.sleep(0.5)
            run.thread.stop()
            before = dict(run.sink.counts), len(run.sink.frames), len(run.said)
            cameras.ctl("resume", 0)
            time.sleep(0.5)
            assert (dict(run.sink.counts), len(run.sink.frames), len(run.said)) == before


def test_reconnects_leak_no_descriptors(clip):
    with CameraServer([clip]) as cameras:
        opened(cameras.url(0))
        before = descriptors()
        for _ in range(5):
            wait_for(lambda: not cameras.stats(0)["clients"])
            once_free(lambda: opened(cameras.url(0)))
        wait_for(lambda: len(descriptors() - before) <= 1)
