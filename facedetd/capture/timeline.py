"""PTS -> capture time, for each packet as it arrives and each frame as it is shown.

A frame was captured at PTS + the smallest (arrival - PTS) seen (DESIGN 3): what arrives later than that was held up
in sockets or decoders, and that counts as age. Packets are observed rather than frames, because arrival is theirs;
with B-frames they come out of display order.

What is made anew for each packet is a NamedTuple: a frozen dataclass takes three times as long to make.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from typing import NamedTuple

_S = 1_000_000_000
_WRAPS = (1 << 32, 1 << 33)  # RTP and MPEG-TS timestamps
_SMALLEST_WRAP = _WRAPS[0] // 2  # ticks back or ahead
_WRAP_SLACK_S = 10
_PTS_LIMIT_NS = 1 << 62  # 146 years: nobody's PTS, and twice that no longer fits a slot's header


class TimeBase(NamedTuple):
    """A tick of a stream's PTS is ``ns / per`` ns. In whole numbers, since Fractions take 4 us a packet."""

    ns: int
    per: int

    @classmethod
    def of(cls, seconds: Fraction) -> TimeBase:
        """``seconds``: of a tick."""
        tick = seconds * _S
        return cls(tick.numerator, tick.denominator)


class TimeEvent(Enum):
    NONE = 0
    NEW_BASE = 1  # PTS jumped or began anew
    LATENCY_ROSE = 2  # frames stayed old although they keep coming: that is the stream's latency now
    UNTRUSTED = 3  # PTS aren't a clock's: arrival counts instead (:mod:`facedetd.capture.pace`)
    TRUSTED = 4  # they are again


@dataclass(frozen=True, slots=True)
class TimelineLimits:
    """Times in ns. ``max_age_ns``: older frames aren't sampled; being so for ``rise_ns`` is a new latency.

    ``leak`` lets the smallest (arrival - PTS) grow, as a fraction of time: a camera's clock that is slow by less
    than that would else look like ever growing age.
    """

    max_age_ns: int
    leak: float = 500e-6
    jump_ns: int = 2 * _S  # PTS further ahead of arrival than this: a jump
    back_ns: int = 1 * _S  # B-frames step back less than this
    rise_ns: int = 10 * _S


class PacketTime(NamedTuple):
    """One packet's times, in ns. ``pts_ns`` is the stream's own, unwrapped; ``media_ns`` the same but going on over
    jumps at the pace of arrival; without a PTS both come from arrival."""

    pts_ns: int
    media_ns: int
    arrival_mono_ns: int
    capture_mono_ns: int
    event: TimeEvent

    @property
    def age_ns(self) -> int:
        return self.arrival_mono_ns - self.capture_mono_ns


class TimelineState(NamedTuple):
    ticks: int | None  # last PTS as it came
    wrapped: int  # ticks to add for the wraps so far
    top_pts_ns: int  # latest PTS of this base
    arrival_ns: int
    offset_ns: float  # the smallest arrival - PTS
    shift_ns: int  # media - PTS
    old_since: tuple[int, int] | None = None  # (arrival, PTS) of the first of a run of too old packets


def observe(
    state: TimelineState | None,
    ticks: int | None,
    base: TimeBase,
    arrival_ns: int,
    limits: TimelineLimits,
    held_ns: int = 0,
) -> tuple[TimelineState, PacketTime]:
    """Take note of a packet: its PTS in ticks of ``base`` (None: it has none) and its arrival (monotonic ns).

    ``held_ns``: how much older the last frame was when it was sampled than its packet on arrival. Frames that are too
    old by then are as useless as packets that are at once; a latency between the two would else never be accepted.
    """
    if ticks is None or abs(ticks) * base.ns > _PTS_LIMIT_NS * base.per:
        return _without_pts(state, arrival_ns)
    if state is None:
        return _new_base(None, ticks, ticks * base.ns // base.per, arrival_ns, TimeEvent.NONE)
    last, wrapped, top, last_arrival, last_offset, shift, last_old_since = state
    if last is None:  # RTSP's first packet comes without a PTS; the second is no news
        return _new_base(state, ticks, ticks * base.ns // base.per, arrival_ns, TimeEvent.NONE)
    if abs(ticks - last) > _SMALLEST_WRAP:
        wrapped += _wrap(ticks - last, base)
    pts = (ticks + wrapped) * base.ns // base.per
    passed = arrival_ns - last_arrival
    if pts - top - passed > limits.jump_ns or top - pts > limits.back_ns:
        pts -= wrapped * base.ns // base.per
        return _new_base(state, ticks, pts, arrival_ns, TimeEvent.NEW_BASE)
    offset = min(last_offset + passed * limits.leak, arrival_ns - pts)
    old_since, event = None, TimeEvent.NONE
    if arrival_ns - pts - offset > limits.max_age_ns - min(held_ns, limits.max_age_ns // 2):
        old_since = last_old_since or (arrival_ns, pts)
        lasted, shown = arrival_ns - old_since[0], pts - old_since[1]
        if lasted > limits.rise_ns:
            old_since = None
            # Faster than real time is a backlog being drained, slower one that builds up: neither is a latency.
            if 0.8 * lasted < shown < 1.25 * lasted:
                offset, event = arrival_ns - pts, TimeEvent.LATENCY_ROSE
    time = PacketTime(pts, pts + shift, arrival_ns, int(pts + offset), event)
    return TimelineState(ticks, wrapped, max(pts, top), arrival_ns, offset, shift, old_since), time


def _wrap(step: int, base: TimeBase) -> int:
    """Ticks to add so that a step over the end of a 32- or 33-bit counter (either way: B-frames) is a small one."""
    slack = _WRAP_SLACK_S * _S * base.per // base.ns
    for span in _WRAPS:
        for turn in (span, -span):
            # A step that is small already is none; with coarse ticks the slack could be wider than the counter.
            if abs(step) > span // 2 and abs(step + turn) <= slack:
                return turn
    return 0


def _new_base(
    state: TimelineState | None, ticks: int, pts: int, arrival: int, event: TimeEvent
) -> tuple[TimelineState, PacketTime]:
    shift = 0 if state is None else _media_at(state, arrival) - pts
    new = TimelineState(ticks, 0, pts, arrival, arrival - pts, shift)
    return new, PacketTime(pts, pts + shift, arrival, arrival, event)


def _without_pts(state: TimelineState | None, arrival: int) -> tuple[TimelineState, PacketTime]:
    media = arrival if state is None else _media_at(state, arrival)
    shift = media - arrival
    return TimelineState(None, 0, arrival, arrival, 0.0, shift), PacketTime(
        arrival, media, arrival, arrival, TimeEvent.NONE
    )


def _media_at(state: TimelineState, arrival: int) -> int:
    return state.top_pts_ns + state.shift_ns + max(1, arrival - state.arrival_ns)


@dataclass(frozen=True, slots=True)
class CaptureClock:
    """Stamps frames in the order they are shown. ``utc_offset_ns`` is UTC - monotonic, taken once a connection, so
    that a step of the system clock reorders nothing."""

    utc_offset_ns: int
    last_mono_ns: int = -1
    last_utc_ns: int = -1


def connected(clock: CaptureClock | None, mono_ns: int, utc_ns: int) -> CaptureClock:
    """Take the offset for a new connection. One that would put frames before those already stamped (the system
    clock was set back) is not taken: order within a stream goes before being right about the hour."""
    offset = utc_ns - mono_ns
    if clock is None:
        return CaptureClock(offset)
    if mono_ns + offset <= clock.last_utc_ns:
        return clock
    return CaptureClock(offset, clock.last_mono_ns, clock.last_utc_ns)


def stamp(clock: CaptureClock, capture_mono_ns: int) -> tuple[CaptureClock, int, int]:
    """(clock, monotonic ns, UTC ns) of a frame; both strictly increasing within a stream."""
    mono = max(capture_mono_ns, clock.last_mono_ns + 1)
    utc = max(mono + clock.utc_offset_ns, clock.last_utc_ns + 1)
    return CaptureClock(clock.utc_offset_ns, mono, utc), mono, utc
