"""Who gets how many frames a second of a known capacity."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum, inf, isnan

Bounds = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Demand:
    """What a stream wants, in frames a second. Higher ``priority`` is served first. Raises ValueError."""

    id: str
    priority: int
    min_fps: float
    target_fps: float

    def __post_init__(self) -> None:
        if not 0 <= self.min_fps <= self.target_fps < inf:
            raise ValueError(
                f"stream {self.id}: rates must be 0 <= min_fps <= target_fps, not {self.min_fps} and {self.target_fps}"
            )


@dataclass(frozen=True, slots=True)
class Allocation:
    """``grants``: frames a second of every stream. ``minima_fit``: nobody is under its min_fps."""

    grants: Mapping[str, float]
    minima_fit: bool


def allocate(capacity: float, demands: Sequence[Demand]) -> Allocation:
    """Share out ``capacity`` (frames a second, may be inf).

    While all minima fit each stream has its min_fps for certain; the rest goes to the highest priority until its
    targets are reached, then to the next. Within a priority it is max-min fair: min(max(L, min_fps), target_fps) with
    one L for all (water-filling; Bertsekas and Gallager, Data Networks, 6.5.2).
    When the minima don't fit, priorities get theirs from the highest down as long as these fit whole; the first
    that doesn't shares what is left (max-min fair, none above its min_fps), and those below get 0.

    The grants add up to min(capacity, sum of targets), but for rounding (1e-9 of it). They don't depend on the order
    of ``demands``; with more capacity none of them falls. Raises ValueError for a capacity below 0 and for an id that
    comes twice.
    """
    if isnan(capacity) or capacity < 0:
        raise ValueError(f"a capacity of {capacity}; it must be 0 or more")
    if len({d.id for d in demands}) < len(demands):
        raise ValueError("two demands have the same id")
    classes = [[d for d in demands if d.priority == p] for p in sorted({d.priority for d in demands}, reverse=True)]
    minima_fit = fsum(d.min_fps for d in demands) <= capacity * (1 + 1e-12)
    grants: dict[str, float] = {}
    for position, members in enumerate(classes):
        left = capacity - fsum(grants.values())
        if minima_fit:
            reserved = fsum(d.min_fps for lower in classes[position + 1 :] for d in lower)
            bounds = [(d.min_fps, d.target_fps) for d in members]
        else:
            reserved = 0.0
            bounds = [(0.0, d.min_fps) for d in members]
        level = water_level(max(0.0, left - reserved), bounds)
        grants.update((d.id, _within(level, b)) for d, b in zip(members, bounds, strict=True))
    return Allocation(grants, minima_fit)


def water_level(capacity: float, bounds: Sequence[Bounds]) -> float:
    """The L for which min(max(L, low), high) over all ``bounds`` adds up to ``capacity``; inf when all highs fit,
    -inf when not even the lows do."""
    if _filled(inf, bounds) <= capacity:
        return inf
    edges = sorted({edge for pair in bounds for edge in pair})
    if _filled(edges[0], bounds) > capacity:
        return -inf
    fits, over = 0, len(edges) - 1  # edges[fits] fits, edges[over] doesn't
    while over - fits > 1:
        middle = (fits + over) // 2
        if _filled(edges[middle], bounds) <= capacity:
            fits = middle
        else:
            over = middle
    edge = edges[fits]
    rising = sum(1 for low, high in bounds if low <= edge < high)
    level = edge + (capacity - _filled(edge, bounds)) / rising
    return min(level, edges[over])


def _filled(level: float, bounds: Iterable[Bounds]) -> float:
    return fsum(_within(level, pair) for pair in bounds)


def _within(level: float, bounds: Bounds) -> float:
    return min(max(level, bounds[0]), bounds[1])
