"""Which packets are worth decoding: none before a keyframe, and no backlog that can't be caught up with."""

from __future__ import annotations

from dataclasses import dataclass

_S = 1_000_000_000
BEHIND_NS = 1 * _S
"""A short hiccup's backlog decodes faster than it came in, so it is decoded; one that lasts longer is skipped."""
NO_KEYFRAME_NS = 10 * _S
"""Streams with intra refresh may never mark a keyframe: after so long, decode what there is."""


@dataclass(frozen=True, slots=True)
class Gate:
    """``skipping`` packets until a fresh keyframe; ``since_ns``: when that, or being behind, began."""

    skipping: bool = True
    since_ns: int | None = None


OPEN = Gate(False)


def admit(gate: Gate, *, keyframe: bool, age_ns: int, arrival_ns: int, max_age_ns: int) -> tuple[Gate, bool]:
    """Whether to decode this packet. The decoder must be flushed first when ``skipping`` ends."""
    fresh = age_ns <= max_age_ns
    if not gate.skipping and fresh:
        return OPEN, True
    since = arrival_ns if gate.since_ns is None else gate.since_ns
    waited = arrival_ns - since
    if gate.skipping:
        if (keyframe and fresh) or waited > NO_KEYFRAME_NS:
            return OPEN, True
        return Gate(True, since), False
    if waited > BEHIND_NS:
        return Gate(True, arrival_ns), False
    return Gate(False, since), True
