"""Load to replay: which streams there are and what the machine offers, over time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from random import Random

from facedetd.degradation.levels import StreamLevels, levels_of
from facedetd.degradation.machine import Conditions
from facedetd.types import Video

HIGH, MIDDLE, LOW = 90, 50, 10


@dataclass(frozen=True, slots=True)
class Phase:
    """From ``at_s`` on: these streams, these conditions."""

    at_s: float
    streams: tuple[StreamLevels, ...]
    conditions: Conditions


@dataclass(frozen=True, slots=True)
class Trace:
    """``phases`` in order of time, the first at 0."""

    name: str
    about: str
    duration_s: float
    phases: tuple[Phase, ...]

    def at(self, now_s: float) -> Phase:
        return [phase for phase in self.phases if phase.at_s <= now_s][-1]


def wall(
    each: int | tuple[int, ...],
    *,
    priorities: tuple[int, ...] = (HIGH, MIDDLE, LOW),
    video: Video | None = None,
    sub: Video | None = None,
    target_fps: float = 5.0,
    min_fps: float = 1.0,
) -> tuple[StreamLevels, ...]:
    """``each`` cameras of every priority, or as many as it says for each."""
    counts = (each,) * len(priorities) if isinstance(each, int) else each
    levels = levels_of(video or SMALL, sub)
    return tuple(
        StreamLevels(f"p{priority}-{number}", priority, min_fps, target_fps, levels)
        for priority, count in zip(priorities, counts, strict=True)
        for number in range(count)
    )


SMALL = Video("h264", 640, 360, 10.0, 2.0, 1.0, 5e5)
FULL_HD = Video("h264", 1920, 1080, 25.0, 2.0, 1.0, 4e6)
SUB = Video("h264", 640, 360, 12.0, 2.0, 1.0, 4e5)
TWO_CORES = Conditions()


def _overload() -> Trace:
    few, many = wall(2), wall((4, 8, 12), min_fps=0.5)
    slow = replace(TWO_CORES, engine_ms=25.0)
    return Trace(
        "overload", "inference is offered three times what it carries, for four minutes", 420,
        (Phase(0, few, slow), Phase(60, many, slow), Phase(300, few, slow)),
    )  # fmt: skip


def _decode() -> Trace:
    few, many = wall(1, video=FULL_HD, sub=SUB), wall((3, 9, 24), video=FULL_HD, sub=SUB)
    return Trace(
        "decode", "decoders are offered nearly three times what they carry, for four minutes", 420,
        (Phase(0, few, TWO_CORES), Phase(60, many, TWO_CORES), Phase(300, few, TWO_CORES)),
    )  # fmt: skip


def _thief() -> Trace:
    streams = wall(3, video=FULL_HD)
    robbed = replace(TWO_CORES, stolen_cores=1.3)
    return Trace(
        "thief", "another program takes 1.3 of the two cores for three minutes", 360,
        (Phase(0, streams, TWO_CORES), Phase(60, streams, robbed), Phase(240, streams, TWO_CORES)),
    )  # fmt: skip


def _neighbour() -> Trace:
    streams = wall((2, 9, 13), min_fps=0.25)
    return neighbour("as an overload begins another program takes most of the CPU for 40 s, then a quarter", streams)


def neighbour(
    about: str,
    streams: tuple[StreamLevels, ...],
    *,
    before_s: float = 3.0,
    stolen_s: float = 40.0,
    stolen: float = 1.2,
    rest: float = 0.5,
    wobble: float = 0.4,
    seed: int = 1,
) -> Trace:
    """``before_s`` after an overload's begin another program takes ``stolen`` of two cores, ``stolen_s`` later
    ``rest``; each second as much more or less as ``wobble`` allows."""
    random = Random(seed)  # noqa: S311 - a model's noise, no secret
    free = replace(TWO_CORES, engine_ms=25.0, engine_cores=2.0)
    begin_s, end_s = 20.0 + before_s, 20.0 + before_s + stolen_s
    phases = [Phase(0, streams[:1], free), Phase(20, streams, free)]
    for second in range(round(stolen_s) + 90):
        taken = (stolen if second < round(stolen_s) else rest) * random.uniform(1 - wobble, 1 + wobble)
        phases.append(Phase(begin_s + second, streams, replace(free, stolen_cores=taken)))
    return Trace("neighbour", about, end_s + 90, tuple(phases))


def _dip() -> Trace:
    streams = wall(20)
    gpu = Conditions(cores=16.0, engine_ms=2.0, engine_cores=0.0)
    hot = replace(gpu, engine_ms=7.0)
    return Trace(
        "dip", "a GPU gets hot and runs at less than a third of its speed for three minutes", 360,
        (Phase(0, streams, gpu), Phase(60, streams, hot), Phase(240, streams, gpu)),
    )  # fmt: skip


def _waves() -> Trace:
    slow = replace(TWO_CORES, engine_ms=25.0)
    sizes = (2, 5, 3, 8, 4, 6, 1, 7, 2)
    return Trace(
        "waves", "cameras come and go every minute", 60.0 * len(sizes),
        tuple(Phase(60.0 * n, wall(size), slow) for n, size in enumerate(sizes)),
    )  # fmt: skip


def _network() -> Trace:
    streams = wall(3, video=FULL_HD, sub=SUB)
    wide = Conditions(cores=8.0)
    narrow = replace(wide, network_bits=20e6)
    return Trace(
        "network", "the link carries half of the video for three minutes", 420,
        (Phase(0, streams, wide), Phase(60, streams, narrow), Phase(240, streams, wide)),
    )  # fmt: skip


TRACES: Mapping[str, Callable[[], Trace]] = {
    "overload": _overload,
    "decode": _decode,
    "thief": _thief,
    "neighbour": _neighbour,
    "dip": _dip,
    "waves": _waves,
    "network": _network,
}
