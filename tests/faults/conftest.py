"""What the fault tests share: the cameras of the integration tests, and a daemon with one that stays well."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from facedetctl.local import LocalDaemon
from tests.cameras import CameraServer, Clip, Coding, encode, make_scene
from tests.cameras.plain import PlainCameras
from tests.faults.camera_kit import SETTINGS, Field
from tests.integration.conftest import StartCameras, camera_clip, camera_server, cameras, cameras_possible
from tests.integration.daemon_kit import model_store

__all__ = ["camera_clip", "camera_server", "cameras", "cameras_possible"]


@pytest.fixture(scope="session")
def light_clip() -> Clip:
    """320x192 at 10 fps with a keyframe a second: nearly nothing to decode."""
    return encode(make_scene(320, 192, fps=10, frames=50, faces=1, seed=4), coding=Coding(bitrate=200_000, gop=10))


@pytest.fixture(scope="module")
def light_url(light_clip: Clip) -> Iterator[str]:
    """Of a camera that plays ``light_clip``: ours, which several streams can share for little CPU."""
    with PlainCameras(light_clip.path, 1) as urls:
        yield urls[0]


@pytest.fixture(scope="session")
def raw_clip() -> Clip:
    """The same as NAL units, for rogue cameras."""
    coding = Coding(bitrate=200_000, gop=10, container="raw")
    return encode(make_scene(320, 192, fps=10, frames=50, faces=1, seed=4), coding=coding)


@pytest.fixture(scope="module")
def field(camera_server: StartCameras, light_clip: Clip) -> Iterator[Field]:
    """One daemon for all rows of a module, and its witness."""
    good: CameraServer = camera_server([light_clip])
    with LocalDaemon(SETTINGS, models=model_store()) as daemon:
        try:
            made = Field(daemon, good)
        except BaseException:
            print(daemon.log_text())
            raise
        try:
            yield made
        finally:
            made.close()
            good.stop()
