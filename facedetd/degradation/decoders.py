"""Which streams NVDEC decodes and which the CPU: pure, asked once a period.

NVDEC's capacity isn't known beforehand (one to eight engines, by the chip): it is what it decodes now divided by how
busy that makes it. The beginning is careful, and each step at most doubles the load, so that a wrong figure does no
harm. From then on streams stay where they are: one is added only while NVDEC stays under ``_FILL``, and taken off only
when it is full indeed, or for one of higher priority that finds no room, and none is moved twice within a minute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


@dataclass(frozen=True, slots=True)
class Gauge:
    """``busy``: 0-1, of all NVDEC together; ``memory_free`` in bytes. None: not told."""

    busy: float | None = None
    memory_free: int | None = None


@dataclass(frozen=True, slots=True)
class Wish:
    """A stream that sends or soon will. ``video``: None while unknown. ``device``: where it was put the last time;
    ``there``: whether NVDEC decodes all its frames now; ``problem``: why it doesn't, though it was put there."""

    id: str
    priority: int
    mode: DecodeMode
    video: Video | None
    device: DecodeDevice = DecodeDevice.CPU
    there: bool = False
    problem: str = ""

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
    times: int
    until_s: float


@dataclass(frozen=True, slots=True)
class Placing:
    """``capacity`` in the unit of ``Wish.cost``; ``moved_s``: when streams were last moved."""

    capacity: float = _ASSUMED
    measured: bool = False
    changed_s: float = -inf
    refusals: Mapping[str, Refusal] = field(default_factory=dict)
    moved_s: Mapping[str, float] = field(default_factory=dict)


def place_decoders(
    state: Placing, wishes: Sequence[Wish], gauge: Gauge | None, now_s: float, *, limited: bool = True
) -> tuple[Placing, dict[str, DecodeDevice]]:
    """Where each stream shall be decoded. ``gauge`` None: there is no GPU. Not ``limited``: NVDEC gets all that it
    doesn't refuse, however busy it is."""
    state = _known(state, wishes, now_s)
    able = [w for w in wishes if _able(state, w, now_s)] if gauge else []
    on = sorted((w for w in able if w.device is DecodeDevice.NVDEC), key=lambda w: w.order)
    off = sorted((w for w in able if w.device is not DecodeDevice.NVDEC), key=lambda w: w.order)
    if gauge is None or not limited:
        chosen = able
    else:
        settled = now_s - state.changed_s >= _SETTLE_S
        state = _measure(state, on, gauge) if settled else state
        chosen = _fitting(state, on, off, gauge, now_s) if settled else on
    ids = {w.id for w in chosen}
    placed = {w.id: DecodeDevice.NVDEC if w.id in ids else DecodeDevice.CPU for w in wishes}
    moved = {w.id: now_s for w in wishes if placed[w.id] is not w.device}
    if moved:
        state = replace(state, changed_s=now_s, moved_s={**state.moved_s, **moved})
    return state, placed


def has_room(state: Placing, wishes: Sequence[Wish], gauge: Gauge) -> bool:
    """Whether one more usual camera would be put on NVDEC, now or soon."""
    load = sum(w.cost for w in wishes if w.device is DecodeDevice.NVDEC)
    memory = gauge.memory_free is None or gauge.memory_free - _RESERVE_BYTES >= _STREAM_BYTES
    return memory and load + _UNKNOWN.fps <= _FILL * state.capacity


def _known(state: Placing, wishes: Sequence[Wish], now_s: float) -> Placing:
    """What was refused, and what of the past still matters."""
    ids = {w.id for w in wishes}
    refusals = {i: r for i, r in state.refusals.items() if i in ids}
    for w in wishes:
        before = refusals.get(w.id)
        if w.problem and w.device is DecodeDevice.NVDEC:
            times = before.times + 1 if before else 1
            refusals[w.id] = Refusal(times, now_s + min(_AGAIN_S * 2 ** min(times - 1, 20), _LONGEST_S))
        elif before and w.there and now_s - before.until_s > _FORGIVEN_S:
            del refusals[w.id]
    moved = {i: t for i, t in state.moved_s.items() if i in ids and now_s - t < _REST_S}
    return replace(state, refusals=refusals, moved_s=moved)


def _able(state: Placing, wish: Wish, now_s: float) -> bool:
    refusal = state.refusals.get(wish.id)
    waits = refusal is not None and now_s < refusal.until_s
    return wish.mode is not DecodeMode.CPU and not waits and (wish.video is None or wish.video.codec in NVDEC_CODECS)


def _measure(state: Placing, on: Sequence[Wish], gauge: Gauge) -> Placing:
    load = sum(w.cost for w in on if w.there)
    if gauge.busy is None or load < _EVIDENCE:
        return state
    found = load / max(gauge.busy, _LEAST_BUSY)
    smooth = state.capacity + _GAIN * (found - state.capacity) if state.measured else found
    return replace(state, capacity=smooth, measured=True)


def _fitting(state: Placing, on: Sequence[Wish], off: Sequence[Wish], gauge: Gauge, now_s: float) -> list[Wish]:
    """Those on NVDEC from now on. ``on`` and ``off`` in order."""
    kept, load = list(on), sum(w.cost for w in on)
    full = gauge.busy is not None and gauge.busy >= _FULL and load > _FULL * state.capacity
    if full:
        while kept and load > _FILL * state.capacity:
            load -= kept.pop().cost
        return kept
    limit = min(_FILL * state.capacity, max(_ASSUMED, 2 * load))
    room = inf if gauge.memory_free is None else gauge.memory_free - _RESERVE_BYTES
    tired = {i for i, moved_s in state.moved_s.items() if now_s - moved_s < _REST_S}
    for wish in off:
        if wish.id in tired:
            continue
        if len(kept) - len(on) >= _AT_ONCE:
            break
        if load + wish.cost <= limit and wish.bytes <= room:
            kept.append(wish)
            load, room = load + wish.cost, room - wish.bytes
            continue
        # The first that finds no room ends it: no lower priority gains where a higher one waits. It may take the
        # place of one that is worth less, one at a time
        last = next((w for w in reversed(on) if w.id not in tired and w.rank < wish.rank), None)
        if last and load - last.cost + wish.cost <= limit and wish.bytes <= room + last.bytes:
            kept = [w for w in kept if w.id != last.id] + [wish]
        break
    return kept
