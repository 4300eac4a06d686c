"""Which decoder group a stream goes to. Pure."""

from __future__ import annotations

from collections.abc import Mapping

SPREAD = 4
"""Streams a group takes before another is started, as long as there are fewer groups than cores."""


def place(load: Mapping[str, int], capacity: int, cores: int, *, packed: bool = False) -> str | None:
    """The group for one more stream, or None: start a new group. ``load``: streams now in each group.

    A few groups fill evenly first (a lost process takes few cameras with it, every core is used); from there on
    memory decides: a new one only when all are full. ``packed``: from the beginning on.
    """
    open_groups = {name: n for name, n in load.items() if n < capacity}
    if not open_groups:
        return None
    name = min(open_groups, key=lambda g: (open_groups[g], g))
    if not packed and open_groups[name] >= min(SPREAD, capacity) and len(load) < cores:
        return None
    return name
