"""How much of a camera's video is decoded: the levels, what they cost, and who gets which.

Sampling fewer frames hardly helps a decoder: a chain of P-frames must be decoded whole. These levels do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import fsum, inf, isnan

from facedetd.types import DecodeLevel, Video

RANK: Mapping[DecodeLevel, int] = {level: rank for rank, level in enumerate(DecodeLevel)}


@dataclass(frozen=True, slots=True)
class Level:
    """One way to decode a stream: its CPU cost in cores (CPU seconds a second) of the machine where costs were taken,
    the frames a second it gives, the bits a second it draws, and whether it needs the sub-stream's connection."""

    kind: DecodeLevel
    cores: float
    fps: float
    bits_per_s: float = 0.0
    sub_stream: bool = False

    def __post_init__(self) -> None:
        if not (0 <= self.cores < inf and self.fps >= 0 and 0 <= self.bits_per_s < inf):
            raise ValueError(f"a level of {self.cores} cores, {self.fps} fps, {self.bits_per_s} bit/s")


@dataclass(frozen=True, slots=True)
class StreamLevels:
    """A stream and the levels it can have, best first, the first being the one it has when nothing is short."""

    id: str
    priority: int
    min_fps: float
    target_fps: float
    levels: tuple[Level, ...]

    def __post_init__(self) -> None:
        ranks = [RANK[level.kind] for level in self.levels]
        if not ranks or any(a >= b for a, b in pairwise(ranks)):
            raise ValueError(f"stream {self.id}: levels must be in order, each at most once, and at least one")


@dataclass(frozen=True, slots=True)
class LevelAllocation:
    """``cost``: of all chosen levels together. ``minima_fit``: each stream's level gives its min_fps (or as much as
    its camera ever gives) and the cost is within the capacity. ``next_cost``: the capacity that the next step up
    needs; None when all have their first level."""

    levels: Mapping[str, Level]
    cost: float
    minima_fit: bool
    next_cost: float | None


@dataclass(frozen=True, slots=True)
class _Step:
    """Lift one stream by one useful level. Sorted: the worst level is left first, cheap steps before dear ones."""

    rank_left: int
    cost: float
    id: str
    to: Level

    @property
    def order(self) -> tuple[int, float, str]:
        return -self.rank_left, self.cost, self.id


def cores_of(level: Level) -> float:
    return level.cores


def bits_of(level: Level) -> float:
    return level.bits_per_s


def allocate_levels(
    capacity: float, streams: Sequence[StreamLevels], cost_of: Callable[[Level], float] = cores_of
) -> LevelAllocation:
    """Choose each stream's level so that the costs fit into ``capacity`` (in the unit of ``cost_of``; may be inf).

    All begin at their cheapest level and are lifted in an order that doesn't depend on the capacity, as far as that
    reaches: first to the level that gives their min_fps, highest priority first; then, highest priority first, to
    better ones, the most degraded first. The first step that doesn't fit ends it, though a smaller one behind it
    might fit: so no lower priority gains where a higher one waits, and with more capacity no stream falls. What stays
    unused is less than that step's cost. When not even the cheapest levels fit they are what is chosen.
    Levels that make no sense are never chosen: see :func:`useful_levels`.
    Raises ValueError for a capacity below 0 and for an id that comes twice.
    """
    if isnan(capacity) or capacity < 0:
        raise ValueError(f"a capacity of {capacity}; it must be 0 or more")
    if len({s.id for s in streams}) < len(streams):
        raise ValueError("two streams have the same id")
    if capacity == inf:  # as the way below ends, and what is nearly always asked
        best = {s.id: s.levels[0] for s in streams}
        return LevelAllocation(best, fsum(cost_of(level) for level in best.values()), True, None)
    chosen: dict[str, Level] = {}
    to_minima: list[_Step] = []
    above: list[_Step] = []
    for priority in sorted({s.priority for s in streams}, reverse=True):
        to_minima_here: list[_Step] = []
        above_here: list[_Step] = []
        for stream in (s for s in streams if s.priority == priority):
            levels = useful_levels(stream, cost_of)
            need = min(stream.min_fps, levels[0].fps)
            chosen[stream.id] = levels[-1]
            for better, worse in pairwise(levels):
                step = _Step(RANK[worse.kind], cost_of(better) - cost_of(worse), stream.id, better)
                (to_minima_here if worse.fps < need else above_here).append(step)
        to_minima += sorted(to_minima_here, key=lambda s: s.order)
        above += sorted(above_here, key=lambda s: s.order)
    cost = fsum(cost_of(level) for level in chosen.values())
    room = capacity * (1 + 1e-12)
    done = 0
    steps = to_minima + above
    if cost <= room:
        for step in steps:
            if cost + step.cost > room:
                break
            cost += step.cost
            chosen[step.id] = step.to
            done += 1
    next_cost = cost + steps[done].cost if done < len(steps) else None
    return LevelAllocation(chosen, cost, done >= len(to_minima) and cost <= room, next_cost)


def useful_levels(stream: StreamLevels, cost_of: Callable[[Level], float] = cores_of) -> tuple[Level, ...]:
    """The levels worth choosing, best first: each costs less than the one before it and gives no more of the
    frames wanted (at most those that the first level gives). Thus a level that saves nothing goes, and so does one
    that gives fewer frames than a cheaper one. The first level stays.
    """
    wanted = min(stream.target_fps, stream.levels[0].fps)
    cheaper: list[Level] = []
    for level in stream.levels:
        if not cheaper or cost_of(level) < cost_of(cheaper[-1]):
            cheaper.append(level)
    kept: list[Level] = []
    for level in reversed(cheaper):
        if not kept or min(level.fps, wanted) >= min(kept[-1].fps, wanted):
            kept.append(level)
    return tuple(reversed(kept))


_KEYFRAMES_ONLY = {"mjpeg"}
_PIXELS_1080P = 1920 * 1080
_KEYFRAME_MS, _PACKET_MS = 17.0, 0.1  # keyframes only: decoding one, and throwing a packet away
_LOOP_FILTER_SHARE = 0.12
_REFERENCE_ONLY_SHARE = 0.78
_NVDEC_MS = 1.0  # of CPU a frame of any size: `python -m tests.gpu.bench_decode` on an H100's host
"""Measured on one machine with PyAV (`python -m tests.decode_levels`). How much more or less a core of another does is
learned there, what it is asked for being known (``decode_speed`` of :class:`facedetd.degradation.signals.Signals`)."""


@lru_cache(maxsize=4096)  # cameras of a kind have the same, and it is asked for each of them each second
def levels_of(video: Video, sub: Video | None = None, *, nvdec: bool = False) -> tuple[Level, ...]:
    """Levels and costs of a camera, by a rough model whose ratios matter more than its scale. Costs are the CPU's, also
    where ``nvdec`` decodes; there is no loop filter to leave out there."""
    full_ms = _NVDEC_MS if nvdec else _frame_ms(video)
    levels = [_level(DecodeLevel.FULL, video, full_ms, video.fps)]
    if video.codec not in _KEYFRAMES_ONLY:
        ms = full_ms * (1 if nvdec else 1 - _LOOP_FILTER_SHARE)
        if not nvdec:
            levels.append(_level(DecodeLevel.NO_LOOP_FILTER, video, ms, video.fps))
        if video.reference_share < 1:
            ms, fps = ms * _REFERENCE_ONLY_SHARE, video.fps * video.reference_share
            levels.append(_level(DecodeLevel.REFERENCE_FRAMES, video, ms, fps))
    if sub:
        sub_ms = _NVDEC_MS if nvdec else _frame_ms(sub)
        levels.append(_level(DecodeLevel.SUB_STREAM, sub, sub_ms, sub.fps, sub_stream=True))
    last = sub or video
    if last.codec not in _KEYFRAMES_ONLY:
        keyframes = min(last.fps, 1 / last.keyframe_s)
        keyframe_ms = _NVDEC_MS if nvdec else _KEYFRAME_MS * _size(last)
        ms = _PACKET_MS + keyframe_ms * (keyframes / last.fps if last.fps else 0.0)
        levels.append(_level(DecodeLevel.KEYFRAMES, last, ms, keyframes, sub_stream=sub is not None))
    levels.append(Level(DecodeLevel.OFF, 0.0, 0.0, last.bits_per_s, sub is not None))
    return tuple(levels)


def _level(kind: DecodeLevel, video: Video, ms: float, fps: float, *, sub_stream: bool = False) -> Level:
    """``ms``: of CPU for each packet that comes."""
    return Level(kind, ms * video.fps / 1000, fps, video.bits_per_s, sub_stream)


def _size(video: Video) -> float:
    return video.width * video.height / _PIXELS_1080P


def _frame_ms(video: Video) -> float:
    return (5.3 if video.codec == "h264" and video.reference_share == 1 else 8.0) * _size(video)
