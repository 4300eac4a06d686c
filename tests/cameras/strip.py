"""The frame number, drawn into the picture's bottom left corner, so that anyone who holds a picture knows which it is.

16 squares in one row: 12 bits of the number, highest first, then 4 check bits. White is 1.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

DATA_BITS = 12
CHECK_BITS = 4
BITS = DATA_BITS + CHECK_BITS
MAX_INDEX = (1 << DATA_BITS) - 1


def square(width: int, height: int) -> int:
    """Side of one square in pixels, for a picture of this size; large enough to outlive compression."""
    return max(6, min(width // (2 * BITS), height // 60))


def _check(index: int) -> int:
    # The xor of the nibbles and a constant: all black and all white are both wrong.
    return (index ^ (index >> 4) ^ (index >> 8) ^ 0b0101) & 0xF


def draw(picture: npt.NDArray[np.uint8], index: int) -> None:
    """Draws ``index`` (0-4095) into the BGR picture, in place."""
    if not 0 <= index <= MAX_INDEX:
        raise ValueError(f"frame number {index} can't be drawn, allowed are 0 to {MAX_INDEX}")
    height, width = picture.shape[:2]
    side = square(width, height)
    code = (index << CHECK_BITS) | _check(index)
    for bit in range(BITS):
        value = 235 if code >> (BITS - 1 - bit) & 1 else 20
        picture[height - side :, bit * side : (bit + 1) * side] = value


def read(picture: npt.NDArray[np.uint8]) -> int | None:
    """The frame number drawn into a BGR or grey picture of the scene's own size; None when it can't be read."""
    height, width = picture.shape[:2]
    side = square(width, height)
    inner = max(1, side // 4)
    code = 0
    for bit in range(BITS):
        part = picture[height - side + inner : height - inner, bit * side + inner : (bit + 1) * side - inner]
        code = code << 1 | int(part.mean() > 127)
    index = code >> CHECK_BITS
    return index if _check(index) == code & 0xF else None


def apart(one: int, other: int, frames: int) -> int:
    """How many frames lie between two of a scene that is shown again and again."""
    away = (one - other) % frames
    return min(away, frames - away)
