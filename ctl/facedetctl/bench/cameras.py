"""The cameras that bench watches: generated scenes over RTSP or from files, or the user's own."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import facedetd
from facedetctl.bench.accuracy import Box, Truth
from facedetctl.credentials import Login

SCENES = 4
"""Different scenes; more cameras than that show them again, from another place in the loop."""


class CamerasError(Exception):
    """The cameras can't be brought up; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class CameraSet:
    """Running cameras. ``urls`` are rtsp:// or file:// without a password; ``fps`` is 0 where it isn't known;
    ``truth`` is None where it isn't."""

    urls: tuple[str, ...]
    fps: float
    truth: Truth | None
    login: Login | None = None

    def for_opencv(self) -> tuple[str, ...]:
        """What cv2.VideoCapture opens: with the password, and paths instead of file://."""
        return tuple(_opencv_name(url, self.login) for url in self.urls)


@dataclass(frozen=True, slots=True)
class SceneOptions:
    """Generated cameras: ``size`` in px, ``bitrate`` in bit/s."""

    size: tuple[int, int] = (1280, 720)
    fps: int = 25
    codec: str = "h264"
    bitrate: int = 4_000_000
    as_files: bool = False


def stream_id(camera: int) -> str:
    return f"cam{camera}"


def encode_clips(count: int, options: SceneOptions) -> tuple[Any, ...]:
    """The clips of ``count`` cameras, out of the cache where they are there. Raises CamerasError."""
    try:
        encode, scene = _tests("encode"), _tests("scene")
        coding = encode.Coding(codec=options.codec, bitrate=options.bitrate)
        clips = [
            encode.encode(scene.make_scene(*options.size, fps=options.fps, seed=seed), coding=coding)
            for seed in range(min(count, SCENES))
        ]
    except (ValueError, ImportError, OSError) as error:
        raise CamerasError(f"the scenes can't be made: {error}") from error
    return tuple(clips[i % len(clips)] for i in range(count))


@contextmanager
def scene_cameras(clips: Sequence[Any], options: SceneOptions) -> Iterator[CameraSet]:
    """One camera a clip, freshly started. Raises CamerasError."""
    if options.as_files:
        # A looped file begins whenever it is opened, so which frame was shown when isn't known.
        yield CameraSet(tuple(clip.path.resolve().as_uri() for clip in clips), options.fps, None)
        return
    client = _tests("client")
    server = client.CameraServer(clips)
    try:
        server.__enter__()
    except (client.CameraError, OSError) as error:
        raise CamerasError(str(error)) from error
    try:
        numbers = {stream_id(i): i for i in range(len(clips))}

        def truth(stream: str, utc_ns: int) -> Sequence[Box]:
            boxes: Sequence[Box] = server.truth(numbers[stream], utc_ns)
            return boxes

        yield CameraSet(tuple(server.url(i) for i in range(len(clips))), options.fps, truth)
    finally:
        server.stop()


def own_cameras(sources: Sequence[str], count: int, login: Login | None) -> CameraSet:
    """``count`` cameras from the user's URLs and files, in turn. Raises CamerasError for what is neither."""
    urls = tuple(_source_url(source) for source in sources)
    return CameraSet(tuple(urls[i % len(urls)] for i in range(count)), 0, None, login)


def _source_url(source: str) -> str:
    parts = urlsplit(source)
    if parts.scheme in ("rtsp", "rtsps"):
        if "@" in parts.netloc:
            raise CamerasError("a URL holds a user or password, which others can read on the command line; "
                               "give them with --credentials-file")  # fmt: skip
        return source
    path = Path(parts.path if parts.scheme == "file" else source)
    if not path.is_file():
        raise CamerasError(f"{source!r}: no such file, and no rtsp:// or rtsps:// URL")
    return path.resolve().as_uri()


def _opencv_name(url: str, login: Login | None) -> str:
    parts = urlsplit(url)
    if parts.scheme == "file":
        return unquote(parts.path)
    if login is None:
        return url
    user = f"{quote(login.username, safe='')}:{quote(login.password, safe='')}@"
    return urlunsplit(parts._replace(netloc=user + parts.netloc))


def _tests(module: str) -> Any:
    """A module of tests/cameras. It isn't installed: it needs the source checkout and its dev dependencies."""
    root = Path(facedetd.__file__).resolve().parent.parent
    if not (root / "tests" / "cameras" / f"{module}.py").is_file():
        raise CamerasError(
            "generated cameras need the source checkout, and this is an installed facedetctl: "
            "run `make bench` there, or give your own cameras or video files with --source"
        )
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    try:
        return importlib.import_module(f"tests.cameras.{module}")
    except ImportError as error:
        raise CamerasError(f"generated cameras need the dev dependencies (pip install -e .[dev]): {error}") from error
