"""Whether a camera's PTS run as a clock does. Where they don't, frames are dated by their arrival.

PTS at half speed, standing still, or jumping all the time make frames that look ever older, so that none would be
used, or sampled at a rate nobody asked for. A backlog looks the same for a while (PTS slower than arrival while it
builds up, faster while it drains), but buffers end: so PTS are believed for WINDOWS windows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from facedetd.capture.timeline import PacketTime, TimeBase, TimeEvent, TimelineLimits, TimelineState, observe

_S = 1_000_000_000
WINDOW_NS = 10 * _S
WINDOWS = 3
"""So many windows in a row with a bad pace, and PTS are believed no more; after one with a good pace they are again."""
MOST_JUMPS = 5
"""In a window; a camera whose clock is set now and then stays far under that."""
SLOWEST, FASTEST = 0.8, 1.25


@dataclass(frozen=True, slots=True)
class Trust:
    """Whether PTS are believed. ``since_ns`` and ``from_ns``: arrival and media time of the window's beginning.
    ``bad``: windows in a row. ``shift_ns`` leads to the media time given out from the timeline's, or from arrival."""

    since_ns: int
    from_ns: int
    jumps: int = 0
    bad: int = 0
    shift_ns: int = 0
    trusted: bool = True


class PaceState(NamedTuple):
    """``told``: what was given out last."""

    timeline: TimelineState
    told: PacketTime
    trust: Trust

    @property
    def trusted(self) -> bool:
        return self.trust.trusted


def observe_paced(
    state: PaceState | None,
    ticks: int | None,
    base: TimeBase,
    arrival_ns: int,
    limits: TimelineLimits,
    held_ns: int = 0,
) -> tuple[PaceState, PacketTime]:
    """As :func:`timeline.observe`, but with capture and media time from arrival while PTS aren't a clock's."""
    if state is None:
        timeline, time = observe(None, ticks, base, arrival_ns, limits, held_ns)
        return PaceState(timeline, time, Trust(arrival_ns, time.media_ns)), time
    timeline, time = observe(state.timeline, ticks, base, arrival_ns, limits, held_ns)
    before = trust = state.trust
    jumped = time.event is TimeEvent.NEW_BASE
    if jumped or arrival_ns - before.since_ns >= WINDOW_NS:
        trust = _judged(before, time)
    elif trust.trusted and not trust.shift_ns:  # nearly all
        return PaceState(timeline, time, trust), time
    origin, event = time.media_ns if trust.trusted else arrival_ns, time.event
    if trust.trusted is not before.trusted:
        shift = state.told.media_ns + max(1, arrival_ns - state.told.arrival_mono_ns) - origin
        trust = replace(trust, shift_ns=shift)
        event = TimeEvent.TRUSTED if trust.trusted else TimeEvent.UNTRUSTED
    elif not trust.trusted or (jumped and trust.jumps > MOST_JUMPS):
        event = TimeEvent.NONE  # hundreds a minute are no news
    capture = time.capture_mono_ns if trust.trusted else arrival_ns
    told = PacketTime(time.pts_ns, origin + trust.shift_ns, arrival_ns, capture, event)
    return PaceState(timeline, told, trust), told


def _judged(trust: Trust, time: PacketTime) -> Trust:
    """``trust`` after a packet whose PTS jumped, or that ends the window."""
    arrival = time.arrival_mono_ns
    jumps = trust.jumps + (time.event is TimeEvent.NEW_BASE)
    passed = arrival - trust.since_ns
    if passed < WINDOW_NS:
        return replace(trust, jumps=jumps)
    good = jumps <= MOST_JUMPS and SLOWEST * passed <= time.media_ns - trust.from_ns <= FASTEST * passed
    bad = 0 if good else trust.bad + 1
    trusted = good or (trust.trusted and bad < WINDOWS)
    return Trust(arrival, time.media_ns, 0, bad, trust.shift_ns, trusted)
