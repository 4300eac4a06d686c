"""The brightness of what the cameras showed over the last days, hour by hour."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facedetd.control import StorageError
from facedetd.inference.luma import LUMA_BINS
from facedetd.supervisor.statefile import read_json, replace_json

log = logging.getLogger(__name__)

FILE = "seen-luma.json"
FORMAT = 1
WINDOW_HOURS = 7 * 24
MIN_HOURS = 3 * 24
"""So many hours with frames must lie in the window before it is judged: one night, or a dark day, is no drift."""
MIN_FRAMES = 10_000
_HOUR_S = 3600
_MAX_COUNT = 1 << 50


@dataclass(frozen=True, slots=True)
class Seen:
    """``counts`` of the LUMA_BINS ranges of Y over ``hours`` hours in which frames were looked at."""

    hours: int = 0
    frames: int = 0
    counts: tuple[int, ...] = (0,) * LUMA_BINS

    @property
    def is_enough(self) -> bool:
        """Whether it tells of more than a night or a few moments."""
        return self.hours >= MIN_HOURS and self.frames >= MIN_FRAMES and sum(self.counts) > 0


@dataclass(frozen=True, slots=True)
class LumaWindow:
    """Frames and counts by hour since the Unix epoch. A value: adding gives another."""

    hours: Mapping[int, tuple[int, tuple[int, ...]]]

    def add(self, utc_s: float, frames: int, counts: Sequence[int]) -> LumaWindow:
        """With these, and without what is older than WINDOW_HOURS or lies in a future that a clock once showed."""
        now = int(utc_s // _HOUR_S)
        kept = {hour: row for hour, row in self.hours.items() if now - WINDOW_HOURS < hour <= now}
        had_frames, had_counts = kept.get(now, (0, (0,) * LUMA_BINS))
        kept[now] = had_frames + frames, tuple(a + b for a, b in zip(had_counts, counts, strict=True))
        return LumaWindow(kept)

    def seen(self, utc_s: float) -> Seen:
        now = int(utc_s // _HOUR_S)
        rows = [row for hour, row in self.hours.items() if now - WINDOW_HOURS < hour <= now and row[0]]
        counts = tuple(sum(column) for column in zip(*(row[1] for row in rows), strict=True))
        return Seen(len(rows), sum(row[0] for row in rows), counts or (0,) * LUMA_BINS)

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, "hours": {str(h): [n, *counts] for h, (n, counts) in sorted(self.hours.items())}}


def window_of(data: Any) -> LumaWindow:
    """The inverse of ``to_json``. Raises ValueError."""
    rows = {}
    try:
        if data["format"] != FORMAT:
            raise ValueError(f"format {data['format']!r}")
        for hour, row in data["hours"].items():
            good = re.fullmatch(r"\d{1,9}", hour) and len(row) == 1 + LUMA_BINS
            if not good or not all(type(n) is int and 0 <= n <= _MAX_COUNT for n in row):
                raise ValueError(f"hour {hour[:20]}")
            rows[int(hour)] = row[0], tuple(row[1:])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not what was written: {type(error).__name__}") from None
    return LumaWindow(rows)


class SeenLuma:
    """The window, kept over restarts. What is lost of it costs hours of waiting, so its faults are logged only."""

    def __init__(self, state_dir: Path, utc_s: Callable[[], float]):
        self._path, self._utc_s = state_dir / FILE, utc_s
        self._hour = int(utc_s() // _HOUR_S)
        self.window = LumaWindow({})
        try:
            self.window = window_of(read_json(self._path))
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            log.warning("%s can't be used and begins anew: %s", self._path, error)

    def add(self, frames: int, counts: Sequence[int]) -> None:
        self.window = self.window.add(self._utc_s(), frames, counts)

    @property
    def seen(self) -> Seen:
        return self.window.seen(self._utc_s())

    def take_turn(self) -> bool:
        """Whether an hour has ended since this was last true, or since the start: then it is to be saved."""
        hour = int(self._utc_s() // _HOUR_S)
        due, self._hour = hour != self._hour, hour
        return due

    def save(self) -> None:
        """Blocks for as long as the disk takes. Never raises."""
        try:
            replace_json(self._path, self.window.to_json())
        except StorageError as error:
            log.warning("%s", error)
