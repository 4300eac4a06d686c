"""Harder versions of calibration pictures: smaller faces, less light, less sharp, more noise.

An INT8 model loses boxes whose score lies near the threshold, and an easy set has none: all its faces are large and
plain to see. Of a harder version the same model has boxes of every score, without anyone having to find such scenes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np

from facedetd.inference.types import BatchFrame
from facedetd.types import ByteArray
from facedetd.workshop.calibrate import CalibrationError
from facedetd.workshop.pictures import PictureError, nv12_frame, read_picture

MOST_COPIES = 4
"""Copies across and down; every copy is so much smaller."""
BLUR, NOISE = 1.8, (1.0, 12.0)
"""Standard deviations: of the blur up to this, in px; of the noise from and to, in levels of 255."""
GAIN, LIFT = (0.15, 1.1), (0.0, 60.0)
"""Contrast times, and brightness plus, from and to."""


def harder(bgr: ByteArray, width: int, height: int, seed: int) -> ByteArray:
    """The picture, no larger than width x height px, as a sheet of 1x1 to 4x4 copies of it, each with a contrast,
    brightness, blur and noise of its own, some mirrored. The same seed gives the same. Pure."""
    rng = np.random.default_rng(seed)
    fit = min(width / bgr.shape[1], height / bgr.shape[0], 1.0)
    wide, high = (max(MOST_COPIES, int(side * fit)) for side in (bgr.shape[1], bgr.shape[0]))
    copies = int(rng.integers(1, MOST_COPIES + 1))
    made = np.zeros((high, wide, 3), np.uint8)
    for row in range(copies):
        for column in range(copies):
            top, bottom = row * high // copies, (row + 1) * high // copies
            left, right = column * wide // copies, (column + 1) * wide // copies
            small = cv2.resize(bgr, (right - left, bottom - top), interpolation=cv2.INTER_AREA)
            part = np.asarray(small if rng.random() < 0.5 else small[:, ::-1], np.float32)
            blur = rng.uniform(0, BLUR)
            if blur > 0.3:  # less shows nothing
                part = np.asarray(cv2.GaussianBlur(part, (0, 0), blur), np.float32)
            lit = part * rng.uniform(*GAIN) + rng.uniform(*LIFT)
            noise = rng.normal(0, rng.uniform(*NOISE), part.shape)
            made[top:bottom, left:right] = np.clip(lit + noise, 0, 255)
    return made


class HarderFrames:
    """Harder versions of pictures as the model gets them, made anew each time they are gone through. Going through
    them raises CalibrationError that names the picture."""

    def __init__(self, files: Iterable[Path], width: int, height: int) -> None:
        self._files, self._size = tuple(files), (width, height)

    def __iter__(self) -> Iterator[BatchFrame]:
        for seed, path in enumerate(self._files):
            try:
                picture = read_picture(path, upright=True)
            except PictureError as error:
                raise CalibrationError(str(error)) from None
            yield nv12_frame(harder(picture, *self._size, seed), *self._size)
