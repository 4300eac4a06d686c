"""Makes pictures to calibrate with out of a few photos and clips: python -m tests.calibration_pictures.

For measuring the workshop where there are no cameras. Each picture is a sheet of crops of what --from names, in one of
several sizes: one crop to six by six of them, so that faces of many sizes come, each with a light of its own, some
mirrored, grey, blurred or noisy. The same sources, count, seed and OpenCV give the same pictures. Name nothing that
accuracy is measured on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]
"""(height, width, 3), BGR"""

PHOTOS, CLIPS = (".jpg", ".jpeg", ".png"), (".gif", ".mp4", ".mkv", ".avi", ".mov", ".webm")
CLIP_FRAMES = 12
SHEETS = ((1280, 720), (1024, 683), (1024, 1024), (683, 1024), (640, 480), (1920, 1080))
"""Width, height in px."""
GRIDS = (1, 1, 1, 2, 3, 4, 6)
"""Crops across and down a sheet, as often as they stand here."""
GAINS = (0.5, 0.7, 0.85, 1.0, 1.0, 1.0, 1.15, 1.4)
QUALITIES = (70, 80, 90)


class SourceError(Exception):
    """There is nothing to make pictures of; the message says what was found and what is allowed."""


def find_sources(named: Sequence[Path]) -> list[Path]:
    """Photos and clips: the files named, and those at any depth of the folders named, in order. Raises SourceError."""
    found = []
    for path in named:
        if not path.exists():
            raise SourceError(f"--from {path}: no such file or folder")
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in PHOTOS + CLIPS) if path.is_dir() else [path]
        if not inside:
            raise SourceError(f"--from {path}: nothing in it ends in {', '.join(PHOTOS + CLIPS)}")
        found += inside
    return found


def read_source(path: Path) -> list[Picture]:
    """The photo, or up to CLIP_FRAMES frames of the clip, evenly spread. Raises SourceError."""
    if path.suffix.lower() in PHOTOS:
        photo = cv2.imread(str(path))
        if photo is None:
            raise SourceError(f"{path}: not a picture that can be read")
        return [_bytes(photo)]
    try:
        with av.open(str(path)) as container:
            frames = [_bytes(frame.to_ndarray(format="bgr24")) for frame in container.decode(video=0)]
    except (av.FFmpegError, IndexError, OSError) as error:
        raise SourceError(f"{path}: not a photo ({', '.join(PHOTOS)}) or a clip that can be decoded: {error}") from None
    if not frames:
        raise SourceError(f"{path}: no frames in it")
    return frames[:: max(1, -(-len(frames) // CLIP_FRAMES))]


def _bytes(values: npt.NDArray[Any]) -> Picture:
    """For the type checker: OpenCV and PyAV say less of what they return."""
    return values.astype(np.uint8, copy=False)


def lit(picture: Picture, rng: np.random.Generator) -> Picture:
    """Darker or brighter; one in six grey, one in eight blurred, one in four noisy."""
    values = picture.astype(np.float32) * rng.choice(GAINS) + rng.uniform(-20, 20)
    if rng.random() < 1 / 6:
        values = np.repeat(values.mean(axis=2, keepdims=True), 3, axis=2)
    if rng.random() < 1 / 8:
        values = cv2.GaussianBlur(values, (0, 0), float(rng.uniform(0.6, 1.6))).astype(np.float32)
    if rng.random() < 1 / 4:
        values = values + rng.normal(0, rng.uniform(2, 10), values.shape)
    return _bytes(np.clip(values, 0, 255))


def crop(picture: Picture, width: int, height: int, rng: np.random.Generator) -> Picture:
    """35 to 100 % of each side, at a random place, scaled and cut to width x height px; one in two mirrored."""
    share = rng.uniform(0.35, 1)
    high, wide = (max(1, int(side * share)) for side in picture.shape[:2])
    top, left = (int(rng.integers(0, side - part + 1)) for side, part in zip(picture.shape, (high, wide), strict=False))
    part = picture[top : top + high, left : left + wide]
    part = part[:, ::-1] if rng.random() < 0.5 else part
    scale = max(width / wide, height / high)
    size = max(width, round(wide * scale)), max(height, round(high * scale))
    scaled = cv2.resize(part, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    top, left = (size[1] - height) // 2, (size[0] - width) // 2
    return _bytes(scaled[top : top + height, left : left + width])


def sheet(sources: Sequence[Picture], rng: np.random.Generator) -> Picture:
    """One picture. A photo or a frame of a clip is as likely as any other."""
    width, height = SHEETS[int(rng.integers(len(SHEETS)))]
    grid = int(rng.choice(GRIDS))
    made = np.zeros((height, width, 3), np.uint8)
    for row in range(grid):
        for column in range(grid):
            top, bottom = row * height // grid, (row + 1) * height // grid
            left, right = column * width // grid, (column + 1) * width // grid
            part = sources[int(rng.integers(len(sources)))]
            made[top:bottom, left:right] = lit(crop(part, right - left, bottom - top, rng), rng)
    return made


def make(named: Sequence[Path], output: Path, count: int, seed: int) -> None:
    """Raises SourceError, OSError."""
    sources = [picture for path in find_sources(named) for picture in read_source(path)]
    output.mkdir(parents=True, exist_ok=True)
    if any(output.iterdir()):
        raise SourceError(f"--output {output}: is not empty")
    for number in range(count):
        rng = np.random.default_rng((seed, number))
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.choice(QUALITIES))]
        _, data = cv2.imencode(".jpg", sheet(sources, rng), quality)
        (output / f"{number:04d}.jpg").write_bytes(data.tobytes())


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.calibration_pictures", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--from", dest="named", type=Path, nargs="+", required=True, metavar="PATH",
        help="photos and clips with faces, or folders of them; none that accuracy is measured on",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="a new or empty folder")
    parser.add_argument("--count", type=int, default=200, metavar="N", help="pictures to make (200)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="another one gives other pictures (1)")
    args = parser.parse_args()
    try:
        make(args.named, args.output, args.count, args.seed)
    except (SourceError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    print(f"{args.count} pictures in {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
