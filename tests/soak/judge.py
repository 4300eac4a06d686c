"""From samples to verdicts: what grew, and by how much it may have. Pure.

What belongs to a process is judged inside each process's life, once that is warm: a new process begins small, so growth
across a restart says nothing, and a fall would hide a leak. What belongs to the daemon as a whole is one life.

Growth is the Theil-Sen slope (Sen, JASA 63, 1968): the median of the slopes between all pairs of samples, here weighted
by the time between them, so that near pairs, which are mostly noise, count little. Unlike a least-squares line it
isn't moved far by a fifth of the samples being anything at all.

A bound is a rate and an allowance: caches and pools that fill once aren't leaks. So the bound of the slope is
``rate + allowance / time watched``, which is wide for a short run and near ``rate`` for a long one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import isnan
from statistics import median

import numpy as np

from tests.soak.plan import storms
from tests.soak.watch import KINDS, ProcessSample, Sample

MB = 1e6
WARM_SHARE, WARM_MAX_S, LIFE_WARM_MAX_S = 0.15, 540.0, 120.0
LEAST_SAMPLES = 8
MOST_POINTS = 300
"""Of a life: longer ones are thinned, for pairs grow with the square."""

Life = Sequence[tuple[float, float]]
"""(seconds, value) of one process, or of the whole run."""


@dataclass(frozen=True, slots=True)
class Bound:
    """``rate`` an hour, and ``allowance`` once; in the figure's unit."""

    rate: float
    allowance: float


@dataclass(frozen=True, slots=True)
class Figure:
    """A line of the table. ``slope`` an hour and ``bound`` in the same words; ``ok`` None: it could not be judged."""

    name: str
    unit: str
    start: float
    end: float
    slope: float
    bound: str
    ok: bool | None


# A leak worth finding is one for each of something. In an hour there are about 1500 events, 20 to 90 of each kind,
# and 400 connections to cameras. So:
BOUNDS = {
    # Python objects: 2 MB an hour would be 50 MB a day.
    "supervisor": {"rss": Bound(2.0, 2.0), "descriptors": Bound(6.0, 4.0), "threads": Bound(3.0, 4.0)},
    # A decoder context is 10 MB and FFmpeg's for a connection 50 KB or more; threads come and go with streams,
    # and the C library keeps what they had for the next.
    "decoder": {"rss": Bound(6.0, 10.0), "descriptors": Bound(10.0, 6.0), "threads": Bound(6.0, 6.0)},
    "inference": {"rss": Bound(3.0, 4.0), "descriptors": Bound(6.0, 3.0), "threads": Bound(3.0, 3.0)},
}
TOTAL_BOUNDS = {
    "memory of all processes (PSS)": ("MB", Bound(10.0, 60.0)),
    "processes": ("", Bound(1.0, 1.0)),
    "shared memory": ("MB", Bound(1.0, 4.0)),
    "files": ("", Bound(2.0, 2.0)),
}
LATENCY_FACTOR, LATENCY_MS = 1.5, 150.0
"""Latency in the last third may be so many times that in the first and so much more: others use the machine too, and a
queue that grows passes any such bound."""
LATENCY_WINDOW_S = 60.0
CPU_FACTOR, CPU_CORES = 1.5, 0.05
FPS_FACTOR = 0.7


def slope(lives: Iterable[Life]) -> float:
    """Weighted Theil-Sen slope a second over all pairs inside a life; nan without any pair."""
    slopes, weights = [], []
    for life in lives:
        points = np.array(_thinned(life), float).reshape(-1, 2)
        first, second = np.triu_indices(len(points), 1)
        apart = points[second, 0] - points[first, 0]
        kept = apart > 0
        slopes.append((points[second, 1] - points[first, 1])[kept] / apart[kept])
        weights.append(apart[kept])
    if not sum(map(len, slopes)):
        return float("nan")
    every, weight = np.concatenate(slopes), np.concatenate(weights)
    order = np.argsort(every, kind="stable")
    total = np.cumsum(weight[order])
    return float(every[order][np.searchsorted(total, total[-1] / 2)])


def _thinned(life: Life) -> Life:
    step = -(-len(life) // MOST_POINTS)
    chunks = [life[i : i + step] for i in range(0, len(life), step)]
    return [(median(t for t, _ in chunk), median(v for _, v in chunk)) for chunk in chunks]


def growth(name: str, unit: str, lives: Sequence[Life], bound: Bound) -> Figure:
    """Not judged where no life has LEAST_SAMPLES."""
    long = [life for life in lives if len(life) >= LEAST_SAMPLES]
    if not long:
        return Figure(name, unit, float("nan"), float("nan"), float("nan"), "", None)
    span_h = max(life[-1][0] - life[0][0] for life in long) / 3600
    limit = bound.rate + bound.allowance / span_h
    found = slope(long) * 3600
    start, end = (median(v for _, v in part) for part in (long[0][:5], long[-1][-5:]))
    return Figure(name, unit, start, end, found, f"< {limit:.3g}/h", found < limit)


def lives(samples: Iterable[Sample], kind: str, value: Callable[[ProcessSample], float], warm_s: float) -> list[Life]:
    """A life for each process of a kind, from the age of ``warm_s`` on."""
    found: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for sample in samples:
        for process in sample.processes:
            if process.kind == kind and process.age_s >= warm_s:
                found.setdefault((process.pid, process.start_ticks), []).append((sample.at_s, value(process)))
    return list(found.values())


def warm_up_s(duration_s: float, most_s: float = WARM_MAX_S) -> float:
    return min(WARM_SHARE * duration_s, most_s)


def judge(samples: Sequence[Sample], duration_s: float) -> list[Figure]:
    """All figures of a run; ``duration_s`` as it was meant."""
    life_warm_s = warm_up_s(duration_s, LIFE_WARM_MAX_S)
    values: dict[str, tuple[str, Callable[[ProcessSample], float]]] = {
        "rss": ("MB", lambda p: p.rss / MB),
        "descriptors": ("", lambda p: p.descriptors),
        "threads": ("", lambda p: p.threads),
    }
    figures = [
        growth(f"{kind}: {name}", unit, lives(samples, kind, value, life_warm_s), BOUNDS[kind][name])
        for kind in KINDS[:3]
        for name, (unit, value) in values.items()
    ]
    warm = [s for s in samples if s.at_s >= warm_up_s(duration_s)]
    totals: dict[str, Callable[[Sample], float]] = {
        "memory of all processes (PSS)": lambda s: sum(p.pss for p in s.processes) / MB,
        "processes": lambda s: len(s.processes),
        "shared memory": lambda s: s.memfd_bytes / MB,
        "files": lambda s: s.files,
    }
    for name, total in totals.items():
        unit, bound = TOTAL_BOUNDS[name]
        figures.append(growth(name, unit, [[(s.at_s, total(s)) for s in warm]], bound))
    # The latency that is told is the last minute's, and whoever is stopped for seconds is late for good reasons
    calm = [s for s in warm if not any(a <= s.at_s <= b + LATENCY_WINDOW_S for a, b in storms(duration_s))]
    seen = [s for s in calm if s.fps > 0]
    figures.append(_thirds("latency p50", "ms", [(s.at_s, s.p50_ms) for s in seen], LATENCY_FACTOR, LATENCY_MS))
    figures.append(_thirds("latency p95", "ms", [(s.at_s, s.p95_ms) for s in seen], LATENCY_FACTOR, LATENCY_MS))
    cpu = [(s.at_s, s.supervisor_cpu) for s in calm if s.supervisor_cpu is not None]
    figures.append(_thirds("supervisor: CPU", "cores", cpu, CPU_FACTOR, CPU_CORES))
    lost = [(s.at_s, 1 - s.fps / s.wanted_fps) for s in calm if s.wanted_fps > 0]
    figures.append(_thirds("frames a second under target", "share", lost, 1.0, 1 - FPS_FACTOR))
    return figures


def _thirds(name: str, unit: str, life: Life, factor: float, more: float) -> Figure:
    """The median of the last third against that of the first: may be ``factor`` times as much and ``more``."""
    if len(life) < LEAST_SAMPLES:
        return Figure(name, unit, float("nan"), float("nan"), float("nan"), "", None)
    third = len(life) // 3
    start, end = (median(v for _, v in part) for part in (life[:third], life[-third:]))
    limit = factor * start + more
    return Figure(name, unit, start, end, slope([life]) * 3600, f"end < {limit:.3g}", end < limit)


def violations(figures: Iterable[Figure], *, complete: bool) -> list[str]:
    """What broke its bound, in words. In a run that went to its end, what could not be judged is one too."""
    found = []
    for f in figures:
        if f.ok is False:
            pace = "" if isnan(f.slope) else f", {f.slope:+.3g} an hour"
            unit = f.unit and f" {f.unit}"
            found.append(f"{f.name}: from {f.start:.4g} to {f.end:.4g}{unit}{pace}; allowed: {f.bound}")
        elif f.ok is None and complete:
            found.append(f"{f.name}: fewer than {LEAST_SAMPLES} samples of a warm process; nothing to judge by")
    return found
