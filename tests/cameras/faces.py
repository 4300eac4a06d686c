"""Two real faces out of pictures that come inside dev dependencies, cut out with hair and shoulders and a soft edge.

Both pictures are in the public domain: NASA's astronaut Eileen Collins (scikit-image) and the US Navy's
Grace Hopper (matplotlib). Nothing is downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Photo:
    """Where a picture lies and what is in it: ``face`` is the box as face detectors draw it (forehead to chin, mean of
    CenterFace's and YuNet's answers over many scales and places), ``cut`` the part that is pasted; (x1, y1, x2, y2) in
    its pixels."""

    package: str
    path: str
    face: Box
    cut: tuple[int, int, int, int]


PHOTOS = {
    "collins": Photo("skimage", "data/astronaut.png", (181.0, 62.0, 271.0, 176.5), (124, 8, 328, 256)),
    "hopper": Photo(
        "matplotlib", "mpl-data/sample_data/grace_hopper.jpg", (175.0, 116.0, 355.5, 335.0), (82, 18, 450, 472)
    ),
}


def face_aspect(name: str) -> float:
    """Width over height of the face box."""
    x1, y1, x2, y2 = PHOTOS[name].face
    return (x2 - x1) / (y2 - y1)


@dataclass(frozen=True, slots=True, eq=False)
class Sprite:
    """A cut-out at its final size: ``bgr`` uint8 (h, w, 3), ``alpha`` float32 (h, w) in 0-1 and 0 at the border, and
    where the face box's top left corner lies in it."""

    bgr: npt.NDArray[np.uint8]
    alpha: npt.NDArray[np.float32]
    face_x: float
    face_y: float


def sprite_margins(name: str) -> Box:
    """How far the cut-out reaches over the face box (left, top, right, bottom), in face widths and heights."""
    photo = PHOTOS[name]
    (x1, y1, x2, y2), (cx1, cy1, cx2, cy2) = photo.face, photo.cut
    w, h = x2 - x1, y2 - y1
    return (x1 - cx1) / w, (y1 - cy1) / h, (cx2 - x2) / w, (cy2 - y2) / h


@lru_cache(maxsize=4)
def _picture(name: str) -> npt.NDArray[np.uint8]:
    photo = PHOTOS[name]
    module = __import__(photo.package)
    path = Path(str(module.__file__)).parent / photo.path
    picture = cv2.imread(str(path))
    if picture is None:
        raise FileNotFoundError(f"the picture {photo.path} is missing from the installed package {photo.package!r}")
    return np.asarray(picture, np.uint8)


@lru_cache(maxsize=64)
def sprite(name: str, face_width: float, face_height: float) -> Sprite:
    """The cut-out scaled so that its face box measures ``face_width`` x ``face_height`` pixels."""
    photo = PHOTOS[name]
    x1, y1, x2, y2 = photo.face
    cx1, cy1, cx2, cy2 = photo.cut
    sx, sy = face_width / (x2 - x1), face_height / (y2 - y1)
    width, height = max(4, round((cx2 - cx1) * sx)), max(4, round((cy2 - cy1) * sy))
    sx, sy = width / (cx2 - cx1), height / (cy2 - cy1)
    shrink = sx < 1 and sy < 1
    bgr = cv2.resize(
        _picture(name)[cy1:cy2, cx1:cx2],
        (width, height),
        interpolation=cv2.INTER_AREA if shrink else cv2.INTER_CUBIC,
    )
    v, u = np.mgrid[0:height, 0:width].astype(np.float32)
    # A superellipse: full in the middle, down to nothing at the border, so that no straight edge shows.
    radius = np.abs(2 * (u + 0.5) / width - 1) ** 3 + np.abs(2 * (v + 0.5) / height - 1) ** 3
    alpha = np.clip((1.0 - radius) / 0.45, 0, 1)
    return Sprite(
        np.asarray(bgr, np.uint8),
        (alpha * alpha * (3 - 2 * alpha)).astype(np.float32),
        (x1 - cx1) * sx,
        (y1 - cy1) * sy,
    )
