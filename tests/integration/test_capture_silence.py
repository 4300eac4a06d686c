"""Cameras that stay connected and send no picture any more, and what it costs to watch for them."""

import contextlib
import itertools
import socket
import threading
import time

import av.container.core
import pytest

from facedetd.capture import guard, silence
from facedetd.capture.guard_seccomp import NotConfinable
from facedetd.capture.source import ErrorKind, SourceError, open_source
from facedetd.types import StreamSpec, Transport
from tests.cameras import CameraServer
from tests.cameras.encode import Coding, encode
from tests.cameras.rogue import RogueCamera, Script
from tests.cameras.rtsp import interleaved
from tests.cameras.scene import make_scene
from tests.integration.capture_kit import once_free

pytestmark = pytest.mark.integration

REPORT = bytes.fromhex("80c80006") + bytes(24)  # RTCP's sender report, of a stream that shows nothing


@pytest.fixture(scope="module")
def scene():
    return make_scene(320, 240, frames=25, faces=1)


@pytest.fixture(scope="module")
def clip(scene):
    return encode(scene, coding=Coding(bitrate=300_000, gop=25))


def opened(url, read_s=3.0, connect_s=20.0, **spec):
    stop = threading.Event()
    return open_source(StreamSpec("c", url, **spec), None, connect_s, read_s, stop, time.monotonic_ns)


def ends(packets):
    """What a source's packets end with."""
    with pytest.raises(SourceError) as caught:
        for _ in packets:
            pass
    return caught.value.kind


@pytest.mark.parametrize(
    ("tls", "spec"),
    [(False, {}), (False, {"transport": Transport.UDP}), (True, {"tls_verify": False})],
    ids=["tcp", "udp", "tls"],
)
def test_a_camera_that_goes_silent_is_told(clip, tls, spec):
    with CameraServer([clip], tls=tls) as cameras:
        camera = opened(cameras.url(0), **spec)
        packets = camera.packets()
        assert sum(1 for _ in itertools.islice(packets, 20)) == 20
        cameras.ctl("stall", 0)
        assert ends(packets) is ErrorKind.STALLED
        camera.close()
        cameras.ctl("resume", 0)
        other = once_free(lambda: opened(cameras.url(0), **spec))
        assert sum(1 for _ in itertools.islice(other.packets(), 5)) == 5
        other.close()


def test_a_stream_that_is_stopped_leaves_a_camera_that_went_silent(clip):
    with CameraServer([clip]) as cameras:
        stop = threading.Event()
        camera = open_source(StreamSpec("c", cameras.url(0)), None, 20.0, 600.0, stop, time.monotonic_ns)
        packets = camera.packets()
        assert sum(1 for _ in itertools.islice(packets, 20)) == 20
        cameras.ctl("stall", 0)
        stop.set()
        assert ends(packets) is ErrorKind.STALLED
        camera.close()


@pytest.mark.parametrize("confined", [True, False])
def test_reports_and_crumbs_are_no_pictures(scene, monkeypatch, confined):
    def not_here(*_):
        raise NotConfinable("seccomp user notification: Function not implemented")

    if not confined:
        monkeypatch.setattr(guard, "run_judged", not_here)
    raw = encode(scene, coding=Coding(bitrate=300_000, gop=25, container="raw"))
    begun = interleaved(0, bytes(1200))[:100]
    for crumbs in ([interleaved(1, REPORT)] * 200, [begun[:4], *(begun[i : i + 1] for i in range(4, 100))]):
        script = Script(media=(time.sleep(0.05) or crumb for crumb in crumbs))
        with RogueCamera(raw.path, script=script) as rogue:
            camera = opened(rogue.url, read_s=0.5, connect_s=5)  # FFmpeg waits so long for a picture
            assert ends(camera.packets()) is ErrorKind.STALLED
            camera.close()


def test_pythons_lock_is_not_wanted_while_ffmpeg_reads(clip, monkeypatch):
    """PyAV looks at the clock, with the lock held, whenever FFmpeg asks it whether to go on."""
    looks = itertools.count()
    clock, here = time.monotonic, threading.get_ident()

    def look():
        if threading.get_ident() == here:
            next(looks)
        return clock()

    with CameraServer([clip]) as cameras:
        camera = opened(cameras.url(0))
        monkeypatch.setattr(av.container.core.time, "monotonic", look)
        assert sum(1 for _ in itertools.islice(camera.packets(), 20)) == 20
        asked = next(looks)
        monkeypatch.undo()
        camera.close()
    assert asked <= 60, "once a packet, to note when its read began"


def test_a_reader_that_takes_its_time_is_no_silence(clip):
    with CameraServer([clip]) as cameras:
        camera = opened(cameras.url(0), read_s=2.0)
        packets = camera.packets()
        for _ in range(2):
            next(packets)
            time.sleep(3.0)
        next(packets)
        camera.close()


def test_a_camera_that_takes_nothing_any_more_holds_up_no_end(scene):
    """FFmpeg says TEARDOWN, and would wait for ever for room to say it."""
    raw = encode(scene, coding=Coding(bitrate=300_000, gop=25, container="raw"))
    reads_again = threading.Event()

    def play(request, answer):
        yield answer.encode(request.headers["cseq"])
        reads_again.wait(60)

    with RogueCamera(raw.path, script=Script(on={"PLAY": play})) as rogue:
        camera = opened(rogue.url, read_s=0.5, connect_s=5)
        (connection,) = camera._silence._connections
        with contextlib.suppress(BlockingIOError):  # as weeks of requests to keep the session alive
            while True:
                connection.send(b"\r\n" * 2048, socket.MSG_DONTWAIT)
        closing = threading.Thread(target=camera.close, daemon=True)
        closing.start()
        closing.join(20)
        ended = not closing.is_alive()
        reads_again.set()
    assert ended


def test_nobody_watches_who_is_closed(clip):
    with CameraServer([clip]) as cameras:
        camera = opened(cameras.url(0))
        assert camera._silence in silence._watch._watched
        camera.close()
        assert camera._silence not in silence._watch._watched
