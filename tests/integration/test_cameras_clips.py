"""Encoded clips, read back with PyAV: every frame is the one it claims to be."""

from __future__ import annotations

import itertools
from pathlib import Path

import av
import pytest

from tests.cameras import Clip, Coding, encode, make_scene, shift_times, strip

SCENE = make_scene(320, 240, frames=30, faces=1)


def read_back(clip: Clip, path: Path | None = None) -> tuple[list[tuple[int, int]], list[float | None]]:
    """Sizes and times of all frames; fails where a frame shows another number than the clip says."""
    sizes, times = [], []
    with av.open(str(path or clip.path)) as source:
        for n, frame in enumerate(source.decode(video=0)):
            assert strip.read(frame.to_ndarray(format="bgr24")) == clip.frame(n)[1]
            sizes.append((frame.width, frame.height))
            times.append(frame.time)
    return sizes, times


@pytest.mark.parametrize(
    "coding",
    [
        Coding(),
        Coding(container="mkv", bframes=2),
        Coding(container="ts"),
        Coding(container="raw", gop=10),
        Coding(codec="h265", bframes=2, pix_fmt="yuv420p10le"),
        Coding(codec="h265", container="raw"),
        Coding(pix_fmt="yuv420p10le", container="mkv"),
        Coding(codec="mjpeg", container="mkv"),
        Coding(codec="mjpeg", container="raw"),
        Coding(matrix="bt601", full_range=True),
    ],
    ids=lambda c: "-".join(str(v) for v in (c.codec, c.container, c.bframes, c.pixels, c.matrix)),
)
def test_every_frame_is_there_and_flagged(coding: Coding, clip_cache: Path) -> None:
    clip = encode(SCENE, coding=coding, cache=clip_cache)
    sizes, times = read_back(clip)
    assert sizes == [(320, 240)] * 30
    if coding.container != "raw":
        assert times == pytest.approx([times[0] + n / 25 for n in range(30)], abs=2e-3)
    with av.open(str(clip.path)) as source:
        first = next(source.decode(video=0))
        codec = source.streams.video[0].codec_context
        assert codec.name == {"h264": "h264", "h265": "hevc", "mjpeg": "mjpeg"}[coding.codec]
        assert first.color_range == (2 if coding.full_range or coding.codec == "mjpeg" else 1)
        assert (
            first.colorspace
            == {"bt709": 1, "bt601": 5 if coding.codec == "mjpeg" else 6}[
                "bt601" if coding.codec == "mjpeg" else coding.matrix
            ]
        )
        assert ("10le" in codec.pix_fmt) == ("10le" in coding.pix_fmt)


def test_keyframes_stand_where_asked(clip_cache: Path) -> None:
    clip = encode(SCENE, coding=Coding(gop=10), cache=clip_cache)
    with av.open(str(clip.path)) as source:
        assert [n for n, p in enumerate(source.demux(video=0)) if p.size and p.is_keyframe] == [0, 10, 20]


def test_pixels_that_are_not_square_and_odd_sizes(clip_cache: Path) -> None:
    wide = encode(make_scene(352, 288, frames=5, faces=1, sar=(12, 11)), cache=clip_cache)
    with av.open(str(wide.path)) as source:
        assert source.streams.video[0].sample_aspect_ratio == pytest.approx(12 / 11)
    odd = encode(make_scene(323, 241, frames=5, faces=1), coding=Coding(pix_fmt="yuv444p"), cache=clip_cache)
    assert read_back(odd)[0] == [(323, 241)] * 5


@pytest.mark.parametrize("container", ["raw", "ts"])
def test_the_size_changes_in_the_middle(container: str, clip_cache: Path) -> None:
    other = make_scene(240, 320, frames=20, faces=1)
    clip = encode(SCENE, other, coding=Coding(container=container), cache=clip_cache)
    assert read_back(clip)[0] == [(320, 240)] * 30 + [(240, 320)] * 20


def test_the_cache_is_used_and_told_apart(clip_cache: Path) -> None:
    first = encode(SCENE, coding=Coding(gop=7), cache=clip_cache)
    written = first.path.stat().st_mtime_ns
    assert encode(SCENE, coding=Coding(gop=7), cache=clip_cache) == first
    assert first.path.stat().st_mtime_ns == written
    assert encode(SCENE, coding=Coding(gop=8), cache=clip_cache).path != first.path
    assert not list(clip_cache.glob(".*")), "something unfinished was left"


@pytest.mark.parametrize(
    ("shifts", "steps"),
    [
        (((0, 0.0), (10, 30.0)), {9: 30.04}),
        (((0, 20.0), (10, -0.4)), {9: -20.36}),
        (((0, 5.0), (10, 5.0), (20, 0.0)), {19: -4.96}),
    ],
    ids=["jump", "restart", "late-restart"],
)
def test_times_that_jump(
    shifts: tuple[tuple[int, float], ...], steps: dict[int, float], clip_cache: Path, tmp_path: Path
) -> None:
    clip = encode(SCENE, coding=Coding(gop=10), cache=clip_cache)
    path = shift_times(clip, tmp_path / "odd.ts", shifts)
    with av.open(str(path)) as source:
        # The demuxer's own times: the decoder's output would hide what a step does to it.
        times = [float(p.pts * p.time_base) for p in source.demux(video=0) if p.pts is not None]
    assert len(times) == 30
    base = dict.fromkeys(range(29), 0.04) | steps
    assert [b - a for a, b in itertools.pairwise(times)] == pytest.approx(list(base.values()), abs=2e-3)
