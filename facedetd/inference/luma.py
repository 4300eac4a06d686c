"""How bright the pictures are that the model gets: a histogram of Y, counted now and then on what is inferred."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from facedetd.ring.header import ColorRange, SlotHeader
from facedetd.types import ByteArray

LUMA_BINS = 16
_STEP = 8  # every eighth pixel, sideways and down
_MIN_S, _MAX_S = 1.0, 2.0
_LIMITED = np.round(16 + np.arange(256) * (219 / 255)).astype(np.uint8)
"""From full range to limited (ITU-T H.273 section 8.3), which is what calibration pictures become."""

Counts = np.ndarray[Any, np.dtype[np.int64]]


def luma_counts(luma: ByteArray) -> Counts:
    """How many pixels of Y, uint8 of any shape, lie in each of the LUMA_BINS ranges. Padding must not be among them."""
    return np.bincount(luma.ravel() // (256 // LUMA_BINS), minlength=LUMA_BINS)


class LumaMeter:
    """Looks at one frame in one to two seconds, at random: streams take turns on a fixed grid, and a fixed period could
    meet the same one for ever. ``see`` is called by the engine's thread, ``take`` by any."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, uniform: Callable[[float, float], float] = random.uniform
    ):
        self._clock, self._uniform = clock, uniform
        self._lock = threading.Lock()
        self._next = clock()
        self._frames, self._counts = 0, np.zeros(LUMA_BINS, np.int64)

    def see(self, header: SlotHeader, picture: Callable[[], ByteArray]) -> None:
        """A frame that is being inferred; ``picture`` gives its NV12, (height * 3 / 2, width), and is rarely asked."""
        now = self._clock()
        if now < self._next:
            return
        self._next = now + self._uniform(_MIN_S, _MAX_S)
        g = header.geometry
        luma = picture()[g.pad_y : g.pad_y + g.height : _STEP, g.pad_x : g.pad_x + g.width : _STEP]
        counts = luma_counts(_LIMITED[luma] if header.range is ColorRange.FULL else luma)
        with self._lock:
            self._frames += 1
            self._counts += counts

    def take(self) -> tuple[int, list[int]]:
        """Frames looked at since the last call, and their counts."""
        with self._lock:
            frames, counts = self._frames, self._counts.tolist()
            self._frames, self._counts = 0, np.zeros(LUMA_BINS, np.int64)
        return frames, counts
