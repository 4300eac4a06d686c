"""Which frames are taken: for each point of an exact time grid the frame nearest to it.

Time is a stream's media time (:mod:`facedetd.capture.timeline`): PTS, so network jitter doesn't matter. Cameras
round and jitter their PTS too, so the decision is made on a smoothed time: predicted by the mean interval, pulled
towards the PTS a little with each frame. The grid itself is ``origin + k / fps`` and never drifts.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor

_S = 1e9
_GAP_NS = 2 * _S  # longer than this without a frame: a new grid
_PULL = 0.2  # of a frame's deviation from its prediction; the rest is taken for jitter
_INTERVAL_PULL = 1 / 16
_ALL = 1.02  # a target this near to the source's rate, or above it, takes all


@dataclass(frozen=True, slots=True)
class SamplerState:
    """``origin_ns`` and ``fps`` make the grid, ``next_k`` is the first point not yet served; ``last_ns`` is the last
    frame's time, ``smooth_ns`` the same without jitter, ``interval_ns`` the mean time between frames (0: unknown)."""

    fps: float
    origin_ns: float
    next_k: int
    last_ns: int
    smooth_ns: float
    interval_ns: float


def step(state: SamplerState | None, time_ns: int, fps: float) -> tuple[SamplerState, bool]:
    """Whether to take the frame at ``time_ns``, for a rate of ``fps`` (<= 0: none).

    The first frame is taken; so is the first after time went back or made a jump, with a new grid from there on.
    """
    if state is None or time_ns < state.last_ns or time_ns - state.last_ns > _gap(state):
        interval = 0.0 if state is None else state.interval_ns
        return SamplerState(fps, time_ns, 1, time_ns, time_ns, interval), fps > 0
    smooth, interval = _smoothed(state, time_ns)
    if fps <= 0:
        return SamplerState(fps, smooth, 0, time_ns, smooth, interval), False
    origin, k = state.origin_ns, state.next_k
    period = _S / fps
    if fps != state.fps:  # the new grid goes on from the last point served, or begins now if its next one has passed
        served = origin + (k - 1) * _S / state.fps if state.fps > 0 else smooth - period
        origin, k = max(served, smooth - period), 1
    reach = smooth + interval / 2  # points before this are nearer to this frame than to the next
    take = origin + k * period < reach or period <= interval * _ALL
    if take:
        # Points that passed unserved are not made up for; one still ahead of this frame is left to the next.
        k = max(k + 1, floor((smooth - origin) / period) + 1)
        if period <= interval * _ALL:
            origin, k = smooth, 1
    return SamplerState(fps, origin, k, time_ns, smooth, interval), take


def _gap(state: SamplerState) -> float:
    return max(_GAP_NS, 4 * state.interval_ns)


def _smoothed(state: SamplerState, time_ns: int) -> tuple[float, float]:
    """(time without jitter, mean interval) after a frame at ``time_ns``, both ns."""
    delta = time_ns - state.last_ns
    if not state.interval_ns:
        return float(time_ns), float(delta)
    interval = state.interval_ns + (min(delta, 4 * state.interval_ns) - state.interval_ns) * _INTERVAL_PULL
    missed = max(1, round((time_ns - state.smooth_ns) / interval))  # frames lost on the way leave whole intervals
    predicted = state.smooth_ns + missed * interval
    return predicted + (time_ns - predicted) * _PULL, interval
