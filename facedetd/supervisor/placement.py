"""Which decoder group a stream goes to, and which device infers a group's frames. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

SPREAD = 4
"""Streams a group takes before another is started, as long as there are fewer groups than wanted."""


def place(load: Mapping[str, int], capacity: int, spread: int) -> str | None:
    """The group for one more stream, or None: start a new group. ``load``: streams now in each group of its device.

    ``spread`` groups fill evenly first (a lost process takes few cameras with it, every core is used); from there on
    memory decides: a new one only when all are full.
    """
    open_groups = {name: n for name, n in load.items() if n < capacity}
    if not open_groups:
        return None
    name = min(open_groups, key=lambda g: (open_groups[g], g))
    return None if open_groups[name] >= min(SPREAD, capacity) and len(load) < spread else name


@dataclass(frozen=True, slots=True)
class Held:
    """A group: how many streams, the device that is its own, and the one that infers its frames now."""

    streams: int
    home: int
    now: int | None = None


def home_for_one_more(groups: Mapping[str, Held], devices: Sequence[int]) -> int:
    """The device for one more stream: the first of those with the fewest streams and groups. Asked before a group is
    chosen, for three groups would give one of two devices twice the streams of the other."""
    load = _load(groups, {name: held.home for name, held in groups.items()}, devices)
    groups_on = [held.home for held in groups.values()]
    return min(devices, key=lambda d: (load[d], groups_on.count(d)))


def homes(groups: Mapping[str, Held], devices: Sequence[int]) -> dict[str, int]:
    """Each group's own device. As few change it as can be, so that all devices get about as many streams."""
    placed = {name: held.home for name, held in groups.items() if held.home in devices}
    for name in sorted(groups.keys() - placed.keys(), key=lambda n: (-groups[n].streams, n)):
        placed[name] = min(devices, key=_load(groups, placed, devices).__getitem__)
    while True:
        load = _load(groups, placed, devices)
        most, least = max(load.values()), min(devices, key=load.__getitem__)
        gap = most - load[least]
        movable = [name for name, device in placed.items() if load[device] == most and 0 < groups[name].streams < gap]
        if not movable:
            return placed
        placed[min(movable, key=lambda n: (abs(gap - 2 * groups[n].streams), n))] = least


def readers(groups: Mapping[str, Held], ready: Collection[int]) -> dict[str, int | None]:
    """The device that is to infer each group's frames: its own if that is ready, else one that is, without more changes
    than needed; None while none is."""
    chosen: dict[str, int | None] = {}
    for name, held in groups.items():
        chosen[name] = held.home if held.home in ready else held.now if held.now in ready else None
    devices = sorted(ready)
    homeless = [name for name, device in chosen.items() if device is None] if devices else []
    for name in sorted(homeless, key=lambda n: (-groups[n].streams, n)):
        chosen[name] = min(devices, key=_load(groups, chosen, devices).__getitem__)
    return chosen


def _load(
    groups: Mapping[str, Held], placed: Mapping[str, int] | Mapping[str, int | None], devices: Sequence[int]
) -> dict[int, int]:
    """Streams on each device."""
    load = dict.fromkeys(devices, 0)
    for name, device in placed.items():
        if device in load:
            load[device] += groups[name].streams
    return load
