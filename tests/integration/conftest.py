"""What integration tests share: cameras that play known scenes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.cameras import CameraServer, Clip, Coding, encode, make_scene, missing_message, requirements

StartCameras = Callable[..., CameraServer]


@pytest.fixture(scope="session")
def cameras_possible() -> None:
    """Skips where GStreamer is missing; in CI that is a failure, or the tests would be green for nothing."""
    missing = requirements()
    if missing and os.environ.get("CI"):
        pytest.fail(missing_message(missing))
    if missing:
        pytest.skip(missing_message(missing))


@pytest.fixture(scope="session")
def camera_clip() -> Clip:
    """10 s of 1280x720 at 25 fps, H.264 4 Mbit/s, P-frames only, four faces."""
    return encode(make_scene())


@pytest.fixture(scope="session")
def camera_server(cameras_possible: None) -> Iterator[StartCameras]:
    """``camera_server([clip, ..], **options)`` starts a CameraServer and gives it; all end with the session, or
    earlier by ``stop()``."""
    with ExitStack() as servers:

        def start(clips: list[Clip], **options: Any) -> CameraServer:
            return servers.enter_context(CameraServer(clips, **options))

        yield start


@pytest.fixture(scope="session")
def clip_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip cache that begins empty."""
    return tmp_path_factory.mktemp("clips")


@pytest.fixture(scope="module")
def cameras(camera_server: StartCameras) -> CameraServer:
    """Three cameras of 640x360 that are cheap to decode, with two faces each; a server for each test module."""
    coding = Coding(bitrate=800_000, gop=25)
    return camera_server([encode(make_scene(640, 360, faces=2, frames=100, seed=s), coding=coding) for s in range(3)])
