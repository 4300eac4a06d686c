"""Cameras of a real RTSP server that go away, fall silent, change, and come back."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from facedetd.v1 import stream_pb2
from tests.cameras import Account, CameraServer, Clip, Coding, encode, make_scene
from tests.faults.camera_kit import BACKING_OFF, SECRET, USER, WITNESS, Field
from tests.integration.daemon_kit import CALL_S, stream, until
from tests.ports import free_port

FPS = 10


def clip_of(width: int, height: int, **coding: object) -> Clip:
    scene = make_scene(width, height, fps=FPS, frames=40, faces=1, seed=width)
    return encode(scene, coding=Coding(**({"bitrate": 200_000, "gop": 10} | coding)))  # type: ignore[arg-type]


@contextmanager
def camera(*clips: Clip, **options: object) -> Iterator[CameraServer]:
    with CameraServer(clips, **options) as server:  # type: ignore[arg-type]
        yield server


def test_refused_then_there(field: Field, light_clip: Clip) -> None:
    port = free_port()
    with field.row() as bad:
        bad.add(f"rtsp://127.0.0.1:{port}/cam0")
        bad.says("^connection refused$")
        with camera(light_clip, port=port):
            bad.recovers()


def test_wrong_password_then_the_right_one(field: Field, light_clip: Clip) -> None:
    with field.row() as bad, camera(light_clip, account=Account(USER, SECRET)) as server:
        bad.add(server.url(0), password="wr0ng/p@ss")
        bad.says("^username or password refused$")
        request = stream_pb2.UpdateStreamRequest(
            spec=stream_pb2.StreamSpec(id=bad.name),
            credentials=stream_pb2.Credentials(username=USER, password=SECRET),
        )
        request.update_mask.paths.append("credentials")
        field.daemon.streams.UpdateStream(request, timeout=CALL_S)
        bad.recovers()
        assert "wr0ng" not in field.daemon.log_text()


def test_no_such_stream_then_there(field: Field, light_clip: Clip) -> None:
    with field.row() as bad, camera(light_clip) as server:
        server.ctl("down", 0)
        bad.add(server.url(0))
        bad.says("no such stream.*404")
        server.ctl("up", 0)
        bad.recovers()


@pytest.mark.parametrize(
    "fault, repair, reason",
    [
        (("stall", 0), ("resume", 0), r"^no packet for 2 s$"),
        (("cut", 0), None, "^the camera ended the stream$|^the camera closed the connection$"),
        (("down", 0), ("up", 0), "404"),
    ],
    ids=["stalls", "cut", "down"],
)
def test_mid_stream(
    field: Field, light_clip: Clip, fault: tuple[object, ...], repair: tuple[object, ...] | None, reason: str
) -> None:
    with field.row() as bad, camera(light_clip) as server:
        bad.add(server.url(0))
        bad.runs()
        for turn in (1, 2):
            server.ctl(*fault)
            bad.says(reason)
            if repair:
                server.ctl(*repair)
            bad.recovers()
            assert bad.status.reconnects >= turn


def test_the_camera_hangs_and_comes_to(field: Field, light_clip: Clip) -> None:
    """Stopped: the kernel accepts and acknowledges for it, but nobody answers."""
    with field.row() as bad, camera(light_clip) as server:
        bad.add(server.url(0))
        bad.runs()
        os.kill(server.pid, signal.SIGSTOP)
        try:
            bad.says("^no packet for 2 s$")
            bad.says("^no answer within 2 s$")
        finally:
            os.kill(server.pid, signal.SIGCONT)
        bad.recovers()


def test_killed_and_another_in_its_place(field: Field, light_clip: Clip) -> None:
    """The same address, but codec and size are others."""
    port = free_port()
    with field.row() as bad:
        for clip, codec, size in (
            (light_clip, "h264", (320, 192)),
            (clip_of(352, 288, codec="h265", container="mkv"), "hevc", (352, 288)),
            (clip_of(640, 360), "h264", (640, 360)),
        ):
            with camera(clip, port=port) as server:
                if codec == "h264" and size == (320, 192):
                    bad.add(server.url(0))
                bad.recovers()
                until(lambda c=codec: bad.status.codec == c, "the new codec")  # type: ignore[misc]
                assert (bad.status.source_width, bad.status.source_height) == size
                os.kill(server.pid, signal.SIGKILL)
                bad.says("^connection refused$")


def test_size_changes_mid_stream(field: Field) -> None:
    scenes = [make_scene(w, h, fps=FPS, frames=30, faces=1, seed=w) for w, h in ((320, 192), (640, 360))]
    clip = encode(*scenes, coding=Coding(bitrate=200_000, gop=10, container="raw"))
    with field.row() as bad, camera(clip) as server:
        bad.add(server.url(0))
        for _ in range(2):
            for width, height in ((320, 192), (640, 360)):
                # Both of one answer: a size lasts 3 s only
                seen = until(
                    lambda w=width: (s := bad.status).source_width == w and s,  # type: ignore[misc]
                    f"{width} px",
                )
                assert seen.source_height == height
                bad.runs(1)
        assert bad.status.reconnects == 0
        assert not [said for said in bad.said if said[0] == BACKING_OFF]


def test_corrupt_packets(field: Field, light_clip: Clip) -> None:
    with field.row() as bad, camera(light_clip) as server:
        bad.add(server.url(0))
        bad.runs()
        server.ctl("corrupt", 0, 0.5)
        until(lambda: server.stats(0)["lost"] > 15, "damage")
        server.ctl("corrupt", 0, 0)
        bad.recovers(10)
        assert bad.status.reconnects == 0


def test_pts_that_jump_and_wrap(field: Field, light_clip: Clip) -> None:
    """The camera's clock is set ahead, set back, and runs over the end of RTP's 32 bits."""
    with field.row() as bad, camera(light_clip, timestamp_offsets=[2**32 - 2 * 90_000]) as server:
        bad.add(server.url(0))
        bad.runs(15)
        for seconds in (3000, -2500, -3):
            server.ctl("jump", 0, seconds)
            bad.runs(5)
        assert bad.status.reconnects == 0
        assert not [said for said in bad.said if said[0] == BACKING_OFF]


def test_a_row_fails_where_the_witness_notices_something(field: Field, light_clip: Clip) -> None:
    with pytest.raises(AssertionError), field.row() as bad, camera(light_clip) as server:
        bad.add(server.url(0))
        bad.runs()
        field.witness.ctl("cut", 0)
        until(lambda: stream(field.daemon, WITNESS).status.reconnects, "the witness to reconnect")
        bad.runs(10)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_back_after_a_minute(field: Field, light_clip: Clip) -> None:
    with field.row() as bad, camera(light_clip) as server:
        bad.add(server.url(0))
        bad.runs()
        server.ctl("down", 0)
        bad.says("404")
        time.sleep(60)
        assert bad.status.state != stream_pb2.STREAM_STATE_STREAMING
        server.ctl("up", 0)
        bad.recovers()
        assert bad.status.reconnects == 1
