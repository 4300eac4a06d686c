"""Which streams NVDEC decodes and which the CPU: pure, asked once a period.

NVDEC's capacity isn't known beforehand (one to eight engines, by the chip): it is what it decodes now divided by how
busy that makes it. The beginning is careful, and each step at most doubles the load, so that a wrong figure does no
harm. From then on streams stay where they are: one is added only while NVDEC stays under ``_FILL``, and taken off only
when it is full indeed, or for one of higher priority that finds no room, and none is moved twice within a minute.

A GPU also takes only so many decoders, busy or not (an H100 236 to 288, by the number of processes): it is full when it
refuses several streams while it decodes others just like them. Then nobody else asks, but for a few now and then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from math import inf

from facedetd.types import NVDEC_CODECS, DecodeDevice, DecodeMode, Video

_UNKNOWN = Video("h264", 1920, 1080, 25.0)
_PIXELS_1080P = 1920 * 1080
_WEIGHT = {"hevc": 0.6}  # of H.264's time a pixel; measured on an H100: 7214 frames/s against 4316 (1080p)
_ASSUMED = 600.0
"""Frames a second of 1080p H.264 that any chip's NVDEC is thought to carry: an H100's seven carry 617 each."""
_FILL, _FULL = 0.85, 0.95
_SETTLE_S = 3.0  # decoders change at a keyframe, and NVML tells of the second before
_REST_S = 60.0
_AT_ONCE = 32  # opening a decoder took 70 ms on an H100, 160 of them 11 s, and others of the process feel it
_GAIN = 0.3
_LEAST_BUSY = 0.05  # NVML tells whole percent
_EVIDENCE = 25.0
_STREAM_BYTES = 45e6  # measured for 1080p: 42 MB
_RESERVE_BYTES = 1.5e9
_AGAIN_S, _LONGEST_S, _FORGIVEN_S = 60.0, 3600.0, 600.0
_FULL_BY, _FULL_WITHIN_S = 3, 30.0
_FULL_FROM = 16
"""Streams: with fewer there it is the refused ones that are odd, not the GPU that is full."""
_MOST_TRIED = 32


@dataclass(frozen=True, slots=True)
class Gauge:
    """``busy``: 0-1, of all NVDEC together; ``memory_free`` in bytes. None: not told."""

    busy: float | None = None
    memory_free: int | None = None


@dataclass(frozen=True, slots=True)
class Wish:
    """A stream that sends or soon will. ``video``: None while unknown. ``device``: where it was put the last time;
    ``there``: whether NVDEC decodes it now, and ``whole``: all its frames; ``problem``: why it doesn't, though it was
    put there."""

    id: str
    priority: int
    mode: DecodeMode
    video: Video | None
    device: DecodeDevice = DecodeDevice.CPU
    there: bool = False
    problem: str = ""
    whole: bool = True

    @property
    def cost(self) -> float:
        """In frames a second of 1080p H.264."""
        v = self.video or _UNKNOWN
        return v.width * v.height / _PIXELS_1080P * v.fps * _WEIGHT.get(v.codec, 1.0)

    @property
    def bytes(self) -> float:
        v = self.video or _UNKNOWN
        return _STREAM_BYTES * max(0.2, v.width * v.height / _PIXELS_1080P)

    @property
    def rank(self) -> tuple[bool, int]:
        """Who may take another's place: the operator's word, then priority."""
        return self.mode is DecodeMode.GPU, self.priority

    @property
    def order(self) -> tuple[bool, int, float, str]:
        """Who comes first; of equals who costs the CPU most."""
        return self.mode is not DecodeMode.GPU, -self.priority, -self.cost, self.id


@dataclass(frozen=True, slots=True)
class Refusal:
    """``alike``: at ``at_s`` others of the same codec and size were decoded there, and it wasn't just before: what has
    a decoder and loses it, as with a process's context, says nothing of how many there are."""

    times: int
    until_s: float
    at_s: float = -inf
    alike: bool = False


@dataclass(frozen=True, slots=True)
class Seats:
    """How many decoders the GPU takes at once: ``most``, as far as was seen; ``more`` than that are tried from
    ``try_s`` on, which doubles when it goes well."""

    most: int
    more: int
    try_s: float

    def at(self, now_s: float) -> int:
        return self.most + (self.more if now_s >= self.try_s else 0)


@dataclass(frozen=True, slots=True)
class Placing:
    """``capacity`` in the unit of ``Wish.cost``; ``moved_s``: when streams were last moved; ``seats`` None: no limit
    was met; ``had``: who had a decoder the last time."""

    capacity: float = _ASSUMED
    measured: bool = False
    changed_s: float = -inf
    refusals: Mapping[str, Refusal] = field(default_factory=dict)
    moved_s: Mapping[str, float] = field(default_factory=dict)
    seats: Seats | None = None
    had: Set[str] = frozenset()


def place_decoders(
    state: Placing, wishes: Sequence[Wish], gauge: Gauge | None, now_s: float, *, limited: bool = True
) -> tuple[Placing, dict[str, DecodeDevice]]:
    """Where each stream shall be decoded. ``gauge`` None: there is no GPU. Not ``limited``: NVDEC gets all that it
    doesn't refuse, however busy it is."""
    state = _known(state, wishes, now_s)
    able = [w for w in wishes if _able(state, w, now_s)] if gauge else []
    on = _seated(state, [w for w in able if w.device is DecodeDevice.NVDEC])
    off = sorted((w for w in able if w.device is not DecodeDevice.NVDEC), key=lambda w: w.order)
    room = _room(state, wishes, on, now_s)
    if gauge is None or (not limited and state.seats is None):
        chosen = able
    elif not limited:
        chosen = _filled(on, off, room, _tired(state, now_s))
    elif now_s - state.changed_s >= _SETTLE_S:
        state = _measure(state, on, gauge)
        chosen = _fitting(state, on, off, gauge, room, now_s)
    else:
        chosen = on
    ids = {w.id for w in chosen}
    placed = {w.id: DecodeDevice.NVDEC if w.id in ids else DecodeDevice.CPU for w in wishes}
    moved = {w.id: now_s for w in wishes if placed[w.id] is not w.device}
    if moved:
        state = replace(state, changed_s=now_s, moved_s={**state.moved_s, **moved})
    return state, placed


def has_room(state: Placing, wishes: Sequence[Wish], gauge: Gauge, *, limited: bool = True) -> bool:
    """Whether one more usual camera would be put on NVDEC, now or soon."""
    on = [w for w in wishes if w.device is DecodeDevice.NVDEC]
    if state.seats and len(on) >= state.seats.most:
        return False
    memory = gauge.memory_free is None or gauge.memory_free - _RESERVE_BYTES >= _STREAM_BYTES
    return not limited or (memory and sum(w.cost for w in on) + _UNKNOWN.fps <= _FILL * state.capacity)


def _known(state: Placing, wishes: Sequence[Wish], now_s: float) -> Placing:
    """What was refused, and what of the past still matters."""
    ids = {w.id for w in wishes}
    refusals = {i: r for i, r in state.refusals.items() if i in ids}
    there = {_kind(w) for w in wishes if w.there}
    for w in wishes:
        before = refusals.get(w.id)
        if w.problem and w.device is DecodeDevice.NVDEC:
            times = before.times + 1 if before else 1
            until_s = now_s + min(_AGAIN_S * 2 ** min(times - 1, 20), _LONGEST_S)
            refusals[w.id] = Refusal(times, until_s, now_s, _kind(w) in there and w.id not in state.had)
        elif before and w.there and now_s - before.until_s > _FORGIVEN_S:
            del refusals[w.id]
    moved = {i: t for i, t in state.moved_s.items() if i in ids and now_s - t < _REST_S}
    had = {w.id for w in wishes if w.there}
    seats = _counted(state.seats, len(had), refusals, now_s)
    return replace(state, refusals=refusals, moved_s=moved, seats=seats, had=had)


def _kind(wish: Wish) -> tuple[str, int, int] | None:
    v = wish.video
    return (v.codec, v.width, v.height) if v else None


def _counted(seats: Seats | None, there: int, refusals: Mapping[str, Refusal], now_s: float) -> Seats | None:
    """What this moment's refusals, and the number that is ``there``, say of the GPU's decoders."""
    recent = [r.at_s for r in refusals.values() if r.alike and now_s - r.at_s < _FULL_WITHIN_S]
    if seats is None:
        full = there >= _FULL_FROM and len(recent) >= _FULL_BY
        return Seats(there, 1, now_s + _AGAIN_S) if full else None
    if now_s in recent:
        return Seats(max(there, 1), 1, now_s + _AGAIN_S)
    return Seats(there, min(2 * seats.more, _MOST_TRIED), now_s + _SETTLE_S) if there > seats.most else seats


def _seated(state: Placing, on: Sequence[Wish]) -> list[Wish]:
    """In order, without those for whom the GPU has no decoder: who has one keeps it. Those who try for more are let be
    till one is refused, also while others of them have found theirs."""
    if state.seats and len(on) > (seats := state.seats.most + state.seats.more):
        on = sorted(on, key=lambda w: (not w.there, w.order))[:seats]
    return sorted(on, key=lambda w: w.order)


def _able(state: Placing, wish: Wish, now_s: float) -> bool:
    refusal = state.refusals.get(wish.id)
    waits = refusal is not None and now_s < refusal.until_s
    return wish.mode is not DecodeMode.CPU and not waits and (wish.video is None or wish.video.codec in NVDEC_CODECS)


def _measure(state: Placing, on: Sequence[Wish], gauge: Gauge) -> Placing:
    load = sum(w.cost for w in on if w.there and w.whole)
    if gauge.busy is None or load < _EVIDENCE:
        return state
    found = load / max(gauge.busy, _LEAST_BUSY)
    smooth = state.capacity + _GAIN * (found - state.capacity) if state.measured else found
    return replace(state, capacity=smooth, measured=True)


def _fitting(
    state: Placing, on: Sequence[Wish], off: Sequence[Wish], gauge: Gauge, room: _Room, now_s: float
) -> list[Wish]:
    """Those on NVDEC from now on. ``on`` and ``off`` in order; ``room``: of decoders."""
    kept, load = list(on), sum(w.cost for w in on)
    full = gauge.busy is not None and gauge.busy >= _FULL and load > _FULL * state.capacity
    if full:
        while kept and load > _FILL * state.capacity:
            load -= kept.pop().cost
        return kept
    room = replace(
        room,
        cost=min(_FILL * state.capacity, max(_ASSUMED, 2 * load)) - load,
        bytes=inf if gauge.memory_free is None else gauge.memory_free - _RESERVE_BYTES,
        at_once=_AT_ONCE,
    )
    return _filled(on, off, room, _tired(state, now_s))


def _room(state: Placing, wishes: Sequence[Wish], on: Sequence[Wish], now_s: float) -> _Room:
    """Of decoders."""
    if state.seats is None:
        return _Room()
    seats = state.seats.most - len(on)
    leaving = sum(w.there for w in wishes) - sum(w.there for w in on)
    coming = any(not w.there and w.id in state.moved_s for w in on)  # a try would take from them what is theirs
    tries = 0 if coming or leaving else state.seats.at(now_s) - len(on) - max(0, seats)
    return _Room(seats=seats, free=seats - leaving, tries=tries)


def _tired(state: Placing, now_s: float) -> set[str]:
    return {i for i, moved_s in state.moved_s.items() if now_s - moved_s < _REST_S}


@dataclass(frozen=True, slots=True)
class _Room:
    """What is left: of ``Wish.cost``, of memory, of decoders (``seats``, of which all but ``free`` are somebody's still
    till a keyframe, and ``tries`` more that there may be); and how many may come at once."""

    cost: float = inf
    bytes: float = inf
    seats: float = inf
    free: float = inf
    tries: float = 0
    at_once: float = inf

    def fits(self, wish: Wish) -> bool:
        return wish.cost <= self.cost and wish.bytes <= self.bytes

    def with_one_less(self, wish: Wish) -> _Room:
        return replace(self, cost=self.cost + wish.cost, bytes=self.bytes + wish.bytes, seats=self.seats + 1)

    def with_one_more(self, wish: Wish, *, tried: bool = False) -> _Room:
        left = replace(self, cost=self.cost - wish.cost, bytes=self.bytes - wish.bytes, at_once=self.at_once - 1)
        if tried:
            return replace(left, tries=self.tries - 1)
        return replace(left, seats=self.seats - 1, free=self.free - 1, tries=0)


def _filled(on: Sequence[Wish], off: Sequence[Wish], room: _Room, tired: Set[str]) -> list[Wish]:
    """``on`` and who of ``off`` finds room; both in order."""
    kept = list(on)
    for wish in off:
        if wish.id in tired:
            continue
        if room.at_once < 1:
            break
        if room.fits(wish) and room.seats >= 1:
            if room.free >= 1:
                kept.append(wish)
            room = room.with_one_more(wish)  # also who waits till another has left its decoder
            continue
        # The first that finds no room ends it: no lower priority gains where a higher one waits. It may take the
        # place of one that is worth less, one at a time, and only who can't tries for one more than there ever was
        last = next((w for w in reversed(on) if w.id not in tired and w.rank < wish.rank), None)
        less = room.with_one_less(last) if last else room
        if last and less.fits(wish) and less.seats >= 1:
            kept = [w for w in kept if w.id != last.id] + ([wish] if room.free >= 1 else [])
            break
        if not room.fits(wish) or room.tries < 1:
            break
        kept.append(wish)
        room = room.with_one_more(wish, tried=True)
    return kept
