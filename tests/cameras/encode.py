"""Encodes scenes into clips, once: a clip lies in the cache under a key of everything that shapes it.

A clip holds whole loops with closed GOPs, so a server or a reader can begin again after the last frame.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from tests.cameras import render as drawing
from tests.cameras.faces import Box
from tests.cameras.scene import Scene, truth

CACHE_ENV = "FACEDETD_CAMERA_CACHE"

_ENCODERS = {"h264": "libx264", "h265": "libx265", "mjpeg": "mjpeg"}
_SUFFIXES = {"mp4": ".mp4", "mkv": ".mkv", "ts": ".ts", "raw": ""}
_RAW_FORMATS = {"h264": "h264", "h265": "hevc", "mjpeg": "mjpeg"}
_MATRICES = {"bt709": Colorspace.ITU709, "bt601": Colorspace.ITU601}


@dataclass(frozen=True, slots=True)
class Coding:
    """How to encode. ``codec`` h264, h265 or mjpeg; ``container`` mp4, mkv, ts or raw (Annex B; joined JPEGs);
    ``bitrate`` in bit/s (mjpeg: a mean, roughly); ``gop`` in frames; ``pix_fmt`` for instance yuv420p, yuv420p10le,
    yuv444p, yuvj420p; ``matrix`` bt709 or bt601, ``full_range`` 0-255 instead of 16-235; both are flagged in the stream
    (mjpeg is always bt601, full range).
    """

    codec: str = "h264"
    container: str = "mp4"
    bitrate: int = 4_000_000
    gop: int = 50
    bframes: int = 0
    pix_fmt: str = ""  # the codec's usual one
    matrix: str = "bt709"
    full_range: bool = False
    preset: str = "veryfast"

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("codec", self.codec, _ENCODERS),
            ("container", self.container, _SUFFIXES),
            ("matrix", self.matrix, _MATRICES),
        ):
            if value not in allowed:
                raise ValueError(f"{name} {value!r}: allowed are {', '.join(allowed)}")

    @property
    def suffix(self) -> str:
        return _SUFFIXES[self.container] or "." + self.codec

    @property
    def pixels(self) -> str:
        return self.pix_fmt or ("yuvj420p" if self.codec == "mjpeg" else "yuv420p")


@dataclass(frozen=True, slots=True)
class Clip:
    """An encoded file and what it shows: the scenes one after the other, each a whole loop."""

    path: Path
    scenes: tuple[Scene, ...]
    coding: Coding = field(default_factory=Coding)

    @property
    def fps(self) -> int:
        return self.scenes[0].fps

    @property
    def frames(self) -> int:
        return sum(scene.frames for scene in self.scenes)

    def frame(self, n: int) -> tuple[Scene, int]:
        """The scene of the clip's frame ``n`` and the number there; any whole number, the clip loops."""
        n %= self.frames
        for scene in self.scenes:
            if n < scene.frames:
                return scene, n
            n -= scene.frames
        raise AssertionError("unreachable: n is under the sum of the scenes' frames")

    def truth(self, n: int) -> list[Box]:
        """The face boxes of the clip's frame ``n`` in display order, in pixels of the encoded picture."""
        return truth(*self.frame(n))


def cache_dir() -> Path:
    """Where clips are kept: $FACEDETD_CAMERA_CACHE or ~/.cache/facedetd-cameras."""
    named = os.environ.get(CACHE_ENV)
    return Path(named) if named else Path.home() / ".cache" / "facedetd-cameras"


def encode(*scenes: Scene, coding: Coding | None = None, cache: Path | None = None) -> Clip:
    """The clip of one scene, or of several of the same fps one after the other; encoded only if it isn't in the cache.

    Scenes of different sizes need the container "raw" or "ts": the size then changes mid-stream.
    Raises ValueError for what can't be encoded.
    """
    coding = coding or Coding()
    if not scenes:
        raise ValueError("no scene to encode")
    if len({scene.fps for scene in scenes}) > 1:
        raise ValueError("scenes of one clip need the same fps")
    if len({(s.width, s.height, s.sar) for s in scenes}) > 1 and coding.container not in ("raw", "ts"):
        raise ValueError(f"a clip whose size changes needs the container raw or ts, not {coding.container}")
    folder = cache or cache_dir()
    folder.mkdir(parents=True, exist_ok=True)
    key = hashlib.sha256(repr((scenes, coding, drawing.VERSION, av.__version__)).encode()).hexdigest()[:20]
    path = folder / f"{scenes[0].width}x{scenes[0].height}-{key}{coding.suffix}"
    if not path.exists():
        # Two test runs may want the same clip at once: each writes its own file, the last rename wins.
        unfinished = folder / f".{uuid.uuid4().hex}{coding.suffix}"
        try:
            _write(unfinished, scenes, coding)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    return Clip(path, scenes, coding)


def _write(path: Path, scenes: tuple[Scene, ...], coding: Coding) -> None:
    if coding.container == "raw":
        with path.open("wb") as out:
            for scene in scenes:
                for packet in _raw_packets(scene, coding):
                    out.write(packet)
    elif len(scenes) == 1 or coding.container != "ts":
        _write_container(path, scenes, coding, start=0)
    else:
        # Each part is a transport stream of its own, joined byte by byte with the time going on: the one container
        # in which a decoder meets new parameter sets in the middle.
        start = 0
        with path.open("wb") as out:
            for scene in scenes:
                part = path.with_name(path.name + ".part.ts")
                try:
                    _write_container(part, (scene,), coding, start)
                    out.write(part.read_bytes())
                finally:
                    part.unlink(missing_ok=True)
                start += scene.frames


def _raw_packets(scene: Scene, coding: Coding) -> Iterator[bytes]:
    encoder: Any = av.CodecContext.create(_ENCODERS[coding.codec], "w")
    _configure(encoder, scene, coding)
    for n in range(scene.frames):
        for packet in encoder.encode(_picture(scene, n, n, coding)):
            yield bytes(packet)
    for packet in encoder.encode(None):
        yield bytes(packet)


def _write_container(path: Path, scenes: tuple[Scene, ...], coding: Coding, start: int) -> None:
    formats = {"mp4": "mp4", "mkv": "matroska", "ts": "mpegts"}
    with av.open(str(path), "w", format=formats[coding.container]) as out:
        stream: Any = out.add_stream(_ENCODERS[coding.codec], rate=scenes[0].fps)
        _configure(stream.codec_context, scenes[0], coding)
        n = start
        for scene in scenes:
            for i in range(scene.frames):
                out.mux(stream.encode(_picture(scene, i, n, coding)))
                n += 1
        out.mux(stream.encode(None))


def _configure(encoder: Any, scene: Scene, coding: Coding) -> None:
    encoder.width, encoder.height = scene.width, scene.height
    encoder.pix_fmt = coding.pixels
    encoder.time_base = Fraction(1, scene.fps)
    encoder.framerate = Fraction(scene.fps)
    encoder.sample_aspect_ratio = Fraction(*scene.sar)
    encoder.color_range = 2 if _is_full(coding) else 1
    encoder.colorspace = 1 if _matrix(coding) == "bt709" else 6  # H.273 numbers
    encoder.bit_rate = coding.bitrate
    encoder.gop_size = coding.gop
    encoder.thread_count = 2
    if coding.codec != "mjpeg":
        encoder.thread_type = "FRAME"  # one slice a picture, as most cameras send
    bits = str(coding.bitrate)
    if coding.codec == "h264":
        encoder.max_b_frames = coding.bframes
        encoder.options = {
            "preset": coding.preset,
            "maxrate": bits,
            "bufsize": bits,
            # Filler up to the rate, as cameras set to a constant bit rate send; a GOP of exactly the asked length.
            "nal-hrd": "cbr",
            "x264-params": f"scenecut=0:open-gop=0:keyint={coding.gop}:min-keyint={coding.gop}:b-adapt=0",
        }
    elif coding.codec == "h265":
        encoder.options = {
            "preset": "ultrafast",
            "x265-params": f"log-level=error:scenecut=0:open-gop=0:keyint={coding.gop}:min-keyint={coding.gop}"
            f":bframes={coding.bframes}:b-adapt=0:vbv-maxrate={coding.bitrate // 1000}"
            f":vbv-bufsize={coding.bitrate // 1000}:pools=2",
        }
    else:
        # RTP carries no Huffman tables and at most two quantiser tables, so the standard ones must be used.
        encoder.options = {"huffman": "default", "force_duplicated_matrix": "1"}


def _matrix(coding: Coding) -> str:
    return "bt601" if coding.codec == "mjpeg" else coding.matrix  # JFIF knows no other


def _is_full(coding: Coding) -> bool:
    return coding.full_range or coding.pixels.startswith("yuvj")


def _picture(scene: Scene, n: int, pts: int, coding: Coding) -> av.VideoFrame:
    bgr = np.ascontiguousarray(drawing.render(scene, n))
    frame = av.VideoFrame.from_ndarray(bgr, format="bgr24").reformat(
        format=coding.pixels,
        dst_colorspace=_MATRICES[_matrix(coding)],
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.JPEG if _is_full(coding) else ColorRange.MPEG,
    )
    frame.pts = pts
    frame.time_base = Fraction(1, scene.fps)
    return frame


def shift_times(clip: Clip, out: Path, shifts: tuple[tuple[int, float], ...]) -> Path:
    """Writes ``clip`` as a transport stream whose times jump: from packet ``n`` on, times are moved by ``seconds``, for
    each (n, seconds) of ``shifts``. A negative shift goes back (a camera that restarts); a start near 95443 s wraps
    the 33-bit clock. Pictures stay what they are. ``shifts`` must begin with packet 0.
    """
    if not shifts or shifts[0][0] != 0 or [s[0] for s in shifts] != sorted({s[0] for s in shifts}):
        raise ValueError(f"shifts {shifts!r}: packet numbers must rise, from 0")
    with av.open(str(clip.path)) as source:
        video: Any = source.streams.video[0]
        packets: list[Any] = [p for p in source.demux(video) if p.size and p.pts is not None]
        ends = [*(s[0] for s in shifts[1:]), len(packets)]
        with out.open("wb") as joined:
            for (begin, seconds), end in zip(shifts, ends, strict=True):
                part = out.with_name(f".{out.name}.part.ts")
                try:
                    with av.open(str(part), "w", format="mpegts", options={"mpegts_copyts": "1"}) as target:
                        stream = target.add_stream_from_template(video)
                        for packet in packets[begin:end]:
                            moved = round(seconds / video.time_base)
                            if min(packet.pts, packet.dts if packet.dts is not None else packet.pts) + moved < 0:
                                raise ValueError(f"a shift of {seconds} s moves packets to before 0")
                            packet.pts += moved
                            packet.dts = packet.dts + moved if packet.dts is not None else packet.pts
                            packet.stream = stream
                            target.mux(packet)
                    joined.write(part.read_bytes())
                finally:
                    part.unlink(missing_ok=True)
    return out
