"""Once a period: what was measured goes in, each stream's frame rate and decode level come out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import fsum, inf

from facedetd.control import Degradation, Stage
from facedetd.degradation.allocation import Demand, allocate
from facedetd.degradation.capacity import NOT_LIMITED, Estimate, Seen, Tuning, advance, unseen
from facedetd.degradation.levels import (
    RANK,
    Level,
    LevelAllocation,
    StreamLevels,
    allocate_levels,
    bits_of,
    cores_of,
)
from facedetd.degradation.signals import (
    FULL_TAKEN,
    NOTHING_SHORT,
    Limits,
    Shortage,
    Signals,
    cpu_decode_calm,
    decode_calm,
    decoders_fill_cpu,
    diagnose,
    disturbed_by_others,
    idle_to_take,
    inference_calm,
    saturated,
    used_up,
)
from facedetd.types import DecodeLevel

INFERENCE_TUNING = Tuning()
# A decode level takes effect at the next keyframe, and a sub-stream's connection takes a second
DECODE_TUNING = Tuning(settle_s=4.0, trial_s=8.0, patience_s=30.0)
# How much the network has to spare can't be measured, so its only ways up are blind
NETWORK_TUNING = Tuning(settle_s=4.0, trial_s=8.0, patience_s=20.0, step=0.2)
_FULL_BUSY = 0.9  # an engine busier than this has nothing to spare
_IDLE_TAKEN = 0.5  # of the idle CPU may go into one rise
_HELD = 0.2  # costs and rates that change by less are measured noise
_DECODE_FLOOR = 0.1  # of the host's cores: decoders get as much from any neighbour, and from less there's no way back
_INFERENCE_FLOOR = 1.0  # frames/s: with less nothing shows that it could be more, and small steps up take hours
_ALONE_S = 10.0  # other programs that come and go more often count as there
_REMEMBERED_S = 4.0  # so old may be what lags tell


@dataclass(frozen=True, slots=True)
class ControllerState:
    """``book``: the levels that decisions rest on; ``chosen``: those decided last; ``causes``: why a stage is
    limited; ``others_s``: when other programs last used much of the CPU; ``misled``: they had just done so when
    inference last fell short; ``full_s``: when the CPU was last used up. What is told of decoding here is in the cores
    of the levels' costs, whatever a core of this machine is worth: so what holds doesn't change as that is learned."""

    inference: Estimate = NOT_LIMITED
    decode: Estimate = NOT_LIMITED
    network: Estimate = NOT_LIMITED
    book: Mapping[str, StreamLevels] = field(default_factory=dict)
    chosen: Mapping[str, Level] = field(default_factory=dict)
    next_cores: float | None = None
    next_bits: float | None = None
    causes: Mapping[Stage, Shortage] = field(default_factory=dict)
    others_s: float = -inf
    misled: bool = False
    full_s: float = -inf


@dataclass(frozen=True, slots=True)
class Decision:
    """``grants``: frames a second to sample; ``levels``: how to decode; both of every stream. ``reason`` is empty
    where ``degradation`` is NONE. ``shortage`` is this period's finding; capacities are in frames a second, cores of
    this machine and bit/s (inf: not limited)."""

    grants: Mapping[str, float]
    levels: Mapping[str, Level]
    degradation: Degradation
    reason: str
    shortage: Shortage
    inference_capacity: float
    decode_capacity: float
    network_capacity: float


def step(
    state: ControllerState,
    signals: Signals,
    streams: Sequence[StreamLevels],
    limits: Limits,
    now_s: float,
    *,
    conclusive: bool = True,
) -> tuple[ControllerState, Decision]:
    """One period (about a second). ``streams``: those that send or soon will, with their levels and present costs;
    a camera that is away needs nothing and is left out. ``now_s`` is monotonic. Not ``conclusive``: what was measured
    says nothing of what the stages carry, only the streams and their costs are new.

    Raises ValueError when two streams have the same id.
    """
    if used_up(signals, limits):
        state = replace(state, full_s=now_s)
    shortage = _diagnosed(state, signals, limits, now_s) if conclusive else NOTHING_SHORT
    book = {s.id: held(state.book.get(s.id), s) for s in streams}
    if len(book) < len(streams):
        raise ValueError("two streams have the same id")
    state = replace(state, book=book)
    if conclusive:
        state = _estimated(state, signals, shortage, limits, now_s)
    else:
        state = replace(
            state,
            network=unseen(state.network, now_s),
            decode=unseen(state.decode, now_s),
            inference=unseen(state.inference, now_s),
        )
    return _decided(state, list(book.values()), shortage, signals.decode_speed)


def _diagnosed(state: ControllerState, signals: Signals, limits: Limits, now_s: float) -> Shortage:
    """Lags and latencies are those of some seconds: where the CPU was used up in these they say nothing of the network,
    nor does what is worked off now."""
    found = diagnose(signals, limits)
    if Stage.NETWORK in found.cut and now_s - state.full_s < _REMEMBERED_S:
        return diagnose(replace(signals, decode_lag_s=0.0, cpu_lag_s=0.0, late_share=0.0, latency_p95_s=0.0), limits)
    return found


def held(old: StreamLevels | None, new: StreamLevels) -> StreamLevels:
    """``new``, with the costs and rates of ``old`` as long as they are about the same: they are measured, and what
    was decided on them mustn't waver with them."""
    if old is None or old.levels is new.levels:  # nearly always, and then it must cost nothing
        return new
    if [x.kind for x in old.levels] != [x.kind for x in new.levels]:
        return new
    pairs = [
        pair
        for a, b in zip(old.levels, new.levels, strict=True)
        for pair in ((a.cores, b.cores), (a.fps, b.fps), (a.bits_per_s, b.bits_per_s))
    ]
    return replace(new, levels=old.levels) if all(abs(a - b) <= _HELD * max(a, b) for a, b in pairs if a != b) else new


def _estimated(
    state: ControllerState, signals: Signals, shortage: Shortage, limits: Limits, now_s: float
) -> ControllerState:
    """What the stages can carry, seen from this period. One stage rises at a time, so that cause and effect are
    told apart: decoding before inference, which it feeds."""
    streams = state.book.values()
    in_force = [state.chosen.get(s.id, s.levels[0]) for s in streams]
    decode_load = fsum(level.cores for level in in_force)
    speed = signals.decode_speed
    bits = fsum(level.bits_per_s for level in in_force)
    cut = dict.fromkeys(shortage.cut, shortage.severity)
    if _minima_need_decoders_cpu(state, signals, shortage, limits):
        cut[Stage.DECODE] = shortage.severity
    if now_s < state.decode.settled_s:  # decoders still work off what they were late with
        cut.pop(Stage.NETWORK, None)
    calm_decode, calm_inference = cpu_decode_calm(signals, limits), inference_calm(signals, limits)
    host_in_trouble = bool(cut.keys() - {Stage.NETWORK})
    # Filled up by ourselves: a rise would rob the other stage. (Who else fills it may give way, so that can be tried.)
    others = disturbed_by_others(signals, limits)
    others_s, misled = now_s if others else state.others_s, state.misled
    believed = state.inference
    if misled and now_s - others_s >= _ALONE_S:  # what failed while others had the CPU says nothing of now
        believed = replace(believed, patience_s=0.0, failed_capacity=inf, failed_spare_share=0.0)
        misled = False
    full = idle_to_take(signals, limits) <= 0 and not others

    network = advance(
        state.network,
        Seen(
            cut.get(Stage.NETWORK, 0.0), decode_calm(signals, limits), bits,
            signals.network_bits_per_s * (1 - signals.late_share), fsum(s.levels[0].bits_per_s for s in streams),
            0.0, state.next_bits or 0.0,
        ),
        NETWORK_TUNING, now_s, may_rise=not cut,
    )  # fmt: skip
    decode = advance(
        state.decode,
        Seen(
            0.0 if state.inference.trial else cut.get(Stage.DECODE, 0.0),
            calm_decode and Stage.INFERENCE not in cut,
            min(decode_load, signals.host_cores * speed),  # unseen cameras may be reckoned far too high
            min(signals.decoder_cores * speed, decode_load * (1 - signals.late_share)),
            fsum(s.levels[0].cores for s in streams),
            _IDLE_TAKEN * idle_to_take(signals, limits) * speed,
            state.next_cores or 0.0,
            lost=signals.late_share,
            disturbed=Stage.INFERENCE in cut,
            floor=_DECODE_FLOOR * signals.host_cores * speed,
        ),
        DECODE_TUNING, now_s, may_rise=not (host_in_trouble or full or state.inference.trial),
    )  # fmt: skip
    inference = advance(
        believed,
        Seen(
            0.0 if state.decode.trial else cut.get(Stage.INFERENCE, 0.0),
            # Where decoders are neither short nor calm a trial shows whether they bear it: else nothing would ever rise
            calm_inference and Stage.DECODE not in cut,
            signals.sampled_fps,
            signals.inferred_fps,
            fsum(min(s.target_fps, level.fps) for s, level in zip(streams, in_force, strict=True)),
            _spare_fps(signals, limits),
            lost=signals.dropped_share,
            disturbed=Stage.DECODE in cut,
            floor=_INFERENCE_FLOOR,
        ),
        INFERENCE_TUNING, now_s, may_rise=not (host_in_trouble or (full and signals.engine_on_cpu) or decode.trial),
    )  # fmt: skip
    if inference.capacity < believed.capacity:
        misled = now_s - others_s < _ALONE_S  # also while it works off what piled up under them
    causes = dict(state.causes)
    changes = {
        Stage.NETWORK: (state.network, network),
        Stage.DECODE: (state.decode, decode),
        Stage.INFERENCE: (state.inference, inference),
    }
    for stage, (before, after) in changes.items():
        if after.capacity < before.capacity and before.trial is None and shortage.stage is not Stage.NONE:
            causes.pop(stage, None)  # the newest stands last
            causes[stage] = shortage
        elif after.capacity == inf:
            causes.pop(stage, None)
    return replace(
        state, network=network, decode=decode, inference=inference, causes=causes, others_s=others_s, misled=misled
    )


def _spare_fps(signals: Signals, limits: Limits) -> float:
    """What inference could do on top, by the engine's idle time and, where it runs on the CPU, by the CPU's."""
    if not signals.inference_ready or signals.inferred_fps <= 0:
        return 0.0
    spare = max(0.0, signals.inferred_fps * (_FULL_BUSY / max(signals.inference_busy, 0.01) - 1))
    spare = max(spare, FULL_TAKEN * signals.full_fps - signals.inferred_fps)  # a busy engine may have small batches
    if signals.engine_on_cpu and signals.inference_cores > 0:  # not what others have: a rise that counted on it fails
        spare = min(spare, idle_to_take(signals, limits) * signals.inferred_fps / signals.inference_cores)
    return spare


def _minima_need_decoders_cpu(state: ControllerState, signals: Signals, shortage: Shortage, limits: Limits) -> bool:
    """Inference is short although all are at their minima, and decoders have CPU it could use: decode less, too."""
    return (
        Stage.INFERENCE in shortage.cut
        and state.inference.capacity < fsum(s.min_fps for s in state.book.values())
        and saturated(signals, limits)
        and decoders_fill_cpu(signals, limits)
    )


def _decided(
    state: ControllerState, streams: Sequence[StreamLevels], shortage: Shortage, speed: float
) -> tuple[ControllerState, Decision]:
    by_network = allocate_levels(state.network.capacity, streams, bits_of)
    # What the network forbids is no choice for the CPU
    allowed = [
        s
        if by_network.levels[s.id] is s.levels[0]
        else replace(s, levels=tuple(x for x in s.levels if RANK[x.kind] >= RANK[by_network.levels[s.id].kind]))
        for s in streams
    ]
    by_cpu: LevelAllocation = allocate_levels(state.decode.capacity, allowed, cores_of)
    levels = by_cpu.levels
    demands = [
        Demand(s.id, s.priority, min(s.min_fps, levels[s.id].fps), min(s.target_fps, levels[s.id].fps)) for s in streams
    ]
    allocation = allocate(state.inference.capacity, demands)
    lower = [s for s in streams if allocation.grants[s.id] < min(s.target_fps, s.levels[0].fps) * (1 - 1e-9)]
    worse = [s for s in streams if levels[s.id].kind is not s.levels[0].kind]
    if not (allocation.minima_fit and by_cpu.minima_fit and by_network.minima_fit):
        degradation = Degradation.OVERCOMMITTED
    elif lower or worse:
        degradation = Degradation.REDUCED
    else:
        degradation = Degradation.NONE
    reason = "" if degradation is Degradation.NONE else _reason(state, lower, worse, degradation)
    state = replace(state, chosen=levels, next_cores=by_cpu.next_cost, next_bits=by_network.next_cost)
    return state, Decision(
        allocation.grants, levels, degradation, reason, shortage,
        state.inference.capacity, state.decode.capacity / speed, state.network.capacity,
    )  # fmt: skip


def _reason(
    state: ControllerState, lower: Sequence[StreamLevels], worse: Sequence[StreamLevels], degradation: Degradation
) -> str:
    total = len(state.book)
    newest = {cause.stage: cause.reason for cause in state.causes.values()}  # one finding may have cut several stages
    parts = [f"{stage.value} was short: {reason}" for stage, reason in newest.items()]
    if lower:
        parts.append(f"{len(lower)} of {total} streams get fewer frames")
    if worse:
        parts.append(f"{len(worse)} of {total} are decoded with savings")
    if degradation is Degradation.OVERCOMMITTED:
        parts.append("not even every stream's min_fps fits")
    return "; ".join(parts)


def least(decision: Decision) -> DecodeLevel:
    """The worst decode level of any stream."""
    return max((level.kind for level in decision.levels.values()), key=RANK.__getitem__, default=DecodeLevel.FULL)
