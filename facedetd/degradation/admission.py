"""Whether the streams can all have what they ask for, told when they are added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum, inf

from facedetd.degradation.levels import Level, StreamLevels

_PLANNED = 0.95  # of the cores: the rest is the supervisor's and the kernel's


@dataclass(frozen=True, slots=True)
class Room:
    """What the machine can do. ``engine_fps``: frames a second that the engine can run when nothing else is short (inf:
    not known yet). ``cores_per_fps``: CPU that inference takes for a frame a second; 0 on a GPU or while unknown.
    ``decode_speed``: as in Signals."""

    host_cores: float
    engine_fps: float = inf
    cores_per_fps: float = 0.0
    decode_speed: float = 1.0


@dataclass(frozen=True, slots=True)
class Needs:
    """Frames a second to infer, and CPU cores for decoding and inference together."""

    fps: float
    cores: float

    def fits(self, room: Room) -> bool:
        return self.fps <= room.engine_fps and self.cores <= _PLANNED * room.host_cores


def needs(wanted: Sequence[tuple[float, Level]], room: Room) -> Needs:
    """``wanted``: frames a second and decode level of each stream."""
    fps = fsum(fps for fps, _ in wanted)
    decoding = fsum(level.cores for _, level in wanted) / room.decode_speed
    return Needs(fps, decoding + fps * room.cores_per_fps)


def shortfall(streams: Sequence[StreamLevels], room: Room) -> str:
    """What doesn't fit, in words for whoever adds a stream; empty when all fits. An estimate: costs of cameras that
    were not seen yet are those of the others, or of a 1080p25 camera."""
    at_best = needs([(s.target_fps, s.levels[0]) for s in streams], room)
    if at_best.fits(room):
        return ""
    least = needs([(s.min_fps, _cheapest_for(s)) for s in streams], room)
    too_much = f"{_words(at_best)}; there are {_has(room)}"
    if least.fits(room):
        return f"the streams ask for {too_much}: frame rates will be lowered, the lowest priority first"
    return (
        f"not even min_fps of all streams fits: the streams ask for {too_much}, and at their minima for "
        f"{_words(least)}: the lowest priorities will get less than their min_fps"
    )


def _cheapest_for(stream: StreamLevels) -> Level:
    enough = [level for level in stream.levels if level.fps >= stream.min_fps]
    return min(enough or stream.levels[:1], key=lambda level: level.cores)


def _words(needs: Needs) -> str:
    return f"{needs.fps:.0f} detections/s and about {needs.cores:.1f} cores"


def _has(room: Room) -> str:
    engine = "" if room.engine_fps == inf else f"{room.engine_fps:.0f} detections/s and "
    return f"{engine}{room.host_cores:g} cores"
