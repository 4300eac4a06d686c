"""Whether a camera's PTS run as a clock does. Where they don't, frames are dated by their arrival.

PTS at half speed, standing still, or jumping all the time make frames that look ever older, so that none would be
used, or sampled at a rate nobody asked for. A backlog looks the same for a while (PTS slower than arrival while it
builds up, faster while it drains), but buffers end: so PTS are believed for WINDOWS windows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

from facedetd.capture.timeline import PacketTime, TimeEvent, TimelineLimits, TimelineState, observe

_S = 1_000_000_000
WINDOW_NS = 10 * _S
WINDOWS = 3
"""So many windows in a row with a bad pace, and PTS are believed no more; after one with a good pace they are again."""
MOST_JUMPS = 5
"""In a window; a camera whose clock is set now and then stays far under that."""
SLOWEST, FASTEST = 0.8, 1.25


@dataclass(frozen=True, slots=True)
class PaceState:
    """``since_ns`` and ``from_ns``: arrival and media time of the window's beginning. ``bad``: windows in a row.
    ``told_ns``: the last media time given out, at ``arrival_ns``; ``shift_ns`` leads to it from the timeline's, or
    from arrival."""

    timeline: TimelineState
    since_ns: int
    from_ns: int
    told_ns: int
    arrival_ns: int
    jumps: int = 0
    bad: int = 0
    shift_ns: int = 0
    trusted: bool = True


def observe_paced(
    state: PaceState | None,
    ticks: int | None,
    time_base: Fraction,
    arrival_ns: int,
    limits: TimelineLimits,
    held_ns: int = 0,
) -> tuple[PaceState, PacketTime]:
    """As :func:`timeline.observe`, but with capture and media time from arrival while PTS aren't a clock's."""
    timeline, time = observe(state.timeline if state else None, ticks, time_base, arrival_ns, limits, held_ns)
    if state is None:
        return PaceState(timeline, arrival_ns, time.media_ns, time.media_ns, arrival_ns), time
    jumps = state.jumps + (time.event is TimeEvent.NEW_BASE)
    since, start, bad, trusted = state.since_ns, state.from_ns, state.bad, state.trusted
    passed = arrival_ns - since
    if passed >= WINDOW_NS:
        good = jumps <= MOST_JUMPS and SLOWEST * passed <= time.media_ns - start <= FASTEST * passed
        bad = 0 if good else bad + 1
        trusted = good or (trusted and bad < WINDOWS)
        since, start, jumps = arrival_ns, time.media_ns, 0
    base = time.media_ns if trusted else arrival_ns
    shift, event = state.shift_ns, time.event
    if trusted is not state.trusted:
        shift = state.told_ns + max(1, arrival_ns - state.arrival_ns) - base
        event = TimeEvent.TRUSTED if trusted else TimeEvent.UNTRUSTED
    elif not trusted or (event is TimeEvent.NEW_BASE and jumps > MOST_JUMPS):
        event = TimeEvent.NONE  # hundreds a minute are no news
    media = base + shift
    capture = time.capture_mono_ns if trusted else arrival_ns
    told = PaceState(timeline, since, start, media, arrival_ns, jumps, bad, shift, trusted)
    return told, replace(time, media_ns=media, capture_mono_ns=capture, event=event)
