"""Draws a scene's frames."""

from __future__ import annotations

import math
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from tests.cameras import strip
from tests.cameras.faces import sprite
from tests.cameras.scene import FacePath, Scene

Picture = npt.NDArray[np.uint8]

VERSION = 1
"""Part of the clip cache's key: raise it when a change here changes pictures."""


@lru_cache(maxsize=4)
def _canvas(width: int, height: int, seed: int) -> tuple[Picture, int]:
    """A texture larger than the picture by the returned margin on every side: coloured noise in octaves."""
    margin = max(8, min(width, height) // 12)
    w, h = width + 2 * margin, height + 2 * margin
    rng = np.random.default_rng(seed)
    texture = np.zeros((h, w, 3), np.float32)
    for cells, weight in ((4, 30.0), (12, 16.0), (40, 9.0), (160, 6.0)):
        noise = rng.standard_normal((max(2, cells * h // w), cells, 3), np.float32)
        texture += weight * cv2.resize(noise, (w, h), interpolation=cv2.INTER_CUBIC)
    texture += rng.uniform(90, 150, 3).astype(np.float32)
    return np.clip(texture, 16, 235).astype(np.uint8), margin


def render(scene: Scene, n: int) -> Picture:
    """Frame ``n`` (any whole number; the scene loops) as BGR, shape (height, width, 3)."""
    n %= scene.frames
    canvas, margin = _canvas(scene.width, scene.height, scene.seed)
    angle = 2 * math.pi * n / scene.frames
    left, top = margin + round(margin * math.cos(angle)), margin + round(margin * math.sin(angle))
    picture = canvas[top : top + scene.height, left : left + scene.width].copy()
    for face in scene.faces:
        _paste(picture, face, n, scene.frames)
    strip.draw(picture, n)
    return picture


def _paste(picture: Picture, face: FacePath, n: int, frames: int) -> None:
    cut = sprite(face.photo, face.width, face.height)
    x1, y1, _, _ = face.box(n, frames)
    left, top = x1 - cut.face_x, y1 - cut.face_y
    column, row = math.floor(left), math.floor(top)
    # The part of a pixel that is left over: moves smoothly instead of in steps, as a real camera sees it.
    shift = np.array([[1, 0, left - column], [0, 1, top - row]], np.float32)
    size = (cut.alpha.shape[1] + 1, cut.alpha.shape[0] + 1)
    bgr = cv2.warpAffine(cut.bgr, shift, size, borderMode=cv2.BORDER_REPLICATE)
    alpha = cv2.warpAffine(cut.alpha, shift, size)
    part = picture[row : row + size[1], column : column + size[0]]
    part[:] = cv2.blendLinear(bgr, part, alpha, 1 - alpha)
