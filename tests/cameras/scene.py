"""Scenes: which face is where in which frame. Geometry only, all of it pure; ``render.py`` draws them.

A scene is a loop: frame ``frames`` is frame 0 again. Pixels are those of the encoded picture; with non-square pixels
(``sar``) a face is drawn squeezed so that it looks right when shown, and its truth box is squeezed with it.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

from tests.cameras import strip
from tests.cameras.faces import PHOTOS, Box, face_aspect, sprite_margins

MODEL_SIZE = (640, 384)
"""The model input (width, height) that sizes are planned for: no face is under MIN_MODEL_HEIGHT pixels there."""

MIN_MODEL_HEIGHT = 32.0
WANTED_MODEL_HEIGHT = 56.0  # of the smallest face, where there is room
SIZE_RANGE = 1.9
"""Largest face to smallest. CenterFace scores a small face lower when a large one stands beside it (measured: 0.74
alone, 0.39 with others up to three times its size), so a wider range would test the model and not the daemon."""


@dataclass(frozen=True, slots=True)
class FacePath:
    """One face on a closed Lissajous curve.

    ``width`` and ``height`` measure the face box, (``x``, ``y``) is the middle of its path, (``ax``, ``ay``) how far
    it swings to each side, all in pixels; ``turns_x`` and ``turns_y`` are whole swings in a loop, ``phase_x`` and
    ``phase_y`` in radians.
    """

    photo: str
    width: float
    height: float
    x: float
    y: float
    ax: float
    ay: float
    turns_x: int
    turns_y: int
    phase_x: float
    phase_y: float

    def box(self, n: int, frames: int) -> Box:
        """The face box (x1, y1, x2, y2) in frame ``n`` of a loop of ``frames``."""
        angle = 2 * math.pi * (n % frames) / frames
        x = self.x + self.ax * math.sin(self.turns_x * angle + self.phase_x)
        y = self.y + self.ay * math.sin(self.turns_y * angle + self.phase_y)
        return x - self.width / 2, y - self.height / 2, x + self.width / 2, y + self.height / 2

    def swept(self) -> Box:
        """What the cut-out (hair and shoulders too) touches over the whole loop."""
        left, top, right, bottom = sprite_margins(self.photo)
        return (
            self.x - self.ax - self.width * (0.5 + left),
            self.y - self.ay - self.height * (0.5 + top),
            self.x + self.ax + self.width * (0.5 + right),
            self.y + self.ay + self.height * (0.5 + bottom),
        )


@dataclass(frozen=True, slots=True)
class Scene:
    """A loop of ``frames`` pictures of ``width`` x ``height`` at ``fps``. ``seed`` makes the background; ``sar`` is the
    pixel's width to its height."""

    width: int
    height: int
    fps: int
    frames: int
    faces: tuple[FacePath, ...]
    seed: int
    sar: tuple[int, int] = (1, 1)


def truth(scene: Scene, n: int) -> list[Box]:
    """The face boxes of frame ``n`` (any whole number; the scene loops), in pixels of the encoded picture."""
    return [face.box(n, scene.frames) for face in scene.faces]


def model_scale(width: int, height: int, sar: tuple[int, int] = (1, 1)) -> float:
    """Model pixels for each row of the source, when it is letterboxed as it is stored or as it is shown,
    whichever is smaller."""
    shown = width * sar[0] / sar[1]
    return min(MODEL_SIZE[0] / max(width, shown), MODEL_SIZE[1] / height)


def make_scene(
    width: int = 1280,
    height: int = 720,
    fps: int = 25,
    frames: int = 250,
    faces: int = 4,
    seed: int = 0,
    sar: tuple[int, int] = (1, 1),
    speed: float = 0.028,
) -> Scene:
    """A scene with ``faces`` faces of different sizes, none overlapping, none ever leaving the picture.

    ``speed`` bounds what a box loses of its IoU from one frame to the next: shifting a box by (dx, dy) costs at most
    2 (dx / width + dy / height). The same arguments always give the same scene. In a narrow picture (portrait) four
    faces get so small that CenterFace misses 1-3 % of them: ask for two there.
    Raises ValueError for sizes under 160x120, more than 4095 frames, or when the faces find no room.
    """
    if width < 160 or height < 120 or fps < 1 or faces < 0 or min(sar) < 1:
        raise ValueError(f"no scene of {width}x{height} at {fps} fps, {faces} faces, pixel {sar[0]}:{sar[1]}")
    if not 2 <= frames <= strip.MAX_INDEX:
        raise ValueError(f"a scene of {frames} frames, allowed are 2 to {strip.MAX_INDEX}")
    names = sorted(PHOTOS)
    pixel = 1 / model_scale(width, height, sar)
    rng = random.Random(f"{width}x{height} {sar} {faces} {seed}")
    for attempt in range(60):
        smallest = max(MIN_MODEL_HEIGHT, WANTED_MODEL_HEIGHT * 0.97**attempt) * pixel
        largest = max(smallest, min(smallest * max(1.2, SIZE_RANGE * 0.97**attempt), height / 3))
        paths: list[FacePath] = []
        for i in range(faces):
            face_height = largest * (smallest / largest) ** (i / max(1, faces - 1))
            face = _sized(names[(i + seed) % len(names)], face_height, frames, sar, speed, rng)
            placed = _place(face, paths, width, height, rng)
            if placed is None:
                break
            paths.append(placed)
        else:
            return Scene(width, height, fps, frames, tuple(paths), seed, sar)
    raise ValueError(f"{faces} faces of at least {MIN_MODEL_HEIGHT * pixel:.0f} px find no room in {width}x{height}")


def _sized(photo: str, height: float, frames: int, sar: tuple[int, int], speed: float, rng: random.Random) -> FacePath:
    width = height * face_aspect(photo) * sar[1] / sar[0]
    turns_x, turns_y = rng.choice(((1, 2), (2, 1), (1, 1)))
    # Half of the budget for each axis; the fastest step of a swing is 2 pi turns / frames of its amplitude.
    reach = speed / 2 * frames / (4 * math.pi)
    return FacePath(
        photo, width, height, 0.0, 0.0, width * min(1.0, reach / turns_x), height * min(1.0, reach / turns_y),
        turns_x, turns_y, rng.uniform(0, 2 * math.pi), rng.uniform(0, 2 * math.pi),
    )  # fmt: skip


def _place(face: FacePath, others: list[FacePath], width: int, height: int, rng: random.Random) -> FacePath | None:
    """``face`` somewhere where its whole path and cut-out have room beside the others and above the strip."""
    x1, y1, x2, y2 = face.swept()
    room_x = width - (x2 - x1) - 4
    room_y = height - strip.square(width, height) - (y2 - y1) - 4
    if room_x < 0 or room_y < 0:
        return None
    for _ in range(400):
        moved = replace(face, x=2 - x1 + rng.random() * room_x, y=2 - y1 + rng.random() * room_y)
        if not any(_overlap(moved.swept(), other.swept()) for other in others):
            return moved
    return None


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
