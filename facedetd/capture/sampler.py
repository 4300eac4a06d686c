"""Which frames are taken: for each point of an exact time grid the frame nearest to it.

Time is a stream's media time (:mod:`facedetd.capture.timeline`): PTS, so network jitter doesn't matter. Cameras
round and jitter their PTS too, so the decision is made on a smoothed time, a line fitted to the latest frames. The
grid itself is ``origin + k / fps`` and never drifts. It is laid anew through a frame once the fit is good, because
where the rate divides the source's it should pass through frames and not between them.
"""

from __future__ import annotations

from math import ceil, floor
from typing import NamedTuple

_S = 1e9
_GAP_NS = 2 * _S  # longer than this without a frame: a new grid
_BACK_NS = 1 * _S  # further back than this: a new grid; less is a camera whose PTS jitter by more than a frame
_WARM = 20  # frames till the fit is good
_ALL = 1.02  # a target this near to the source's rate, or above it, takes all
_SLOWER = 16  # so many frames in a row with others missing between them: no loss, but a slower source
_SHORTEST_NS = 1e6
_GAINS = [(0.0, 0.0)] + [(2 * (2 * n - 1) / (n * (n + 1)), 6 / (n * (n + 1))) for n in range(1, _WARM + 1)]
"""Kalata's growing-memory gains, position's and speed's, for a line through n frames."""


class Fit(NamedTuple):
    """A line through the latest frames: ``time_ns`` of the last one without its jitter, ``interval_ns`` from frame to
    frame (0: unknown), ``frames`` it rests on (to _WARM), ``gaps`` in a row."""

    time_ns: float
    interval_ns: float = 0.0
    frames: int = 1
    gaps: int = 0


class SamplerState(NamedTuple):
    """``origin_ns`` and ``fps`` make the grid, ``next_k`` is the first point not yet served; ``settled``: it has been
    laid through a frame. ``last_ns`` is the last frame's time as it came. ``owed_ns``: a point of the grid before this
    one that is still to be served. ``served_ns``: the last frame taken."""

    fps: float
    origin_ns: float
    next_k: int
    settled: bool
    last_ns: int
    fit: Fit
    owed_ns: float | None = None
    served_ns: float | None = None

    @property
    def interval_ns(self) -> float:
        return self.fit.interval_ns


def lead_ns(phase: float, capture_mono_ns: int, fps: float) -> float:
    """How long after a frame captured at ``capture_mono_ns`` the next point of the grid ``(k + phase) / fps`` of
    CLOCK_MONOTONIC comes: streams with different phases then take turns instead of all wanting the model at once."""
    period = _S / fps
    return (phase * period - capture_mono_ns) % period


def regridded(state: SamplerState, time_ns: int, capture_mono_ns: int, fps: float, phase: float) -> SamplerState:
    """The state for another rate (<= 0: none), at a frame whose media time is ``time_ns``: the grid is laid anew at the
    stream's phase (:func:`lead_ns`). Streams whose rates change together would else all begin theirs together.

    What the old grid would take next is still taken if it comes first: however often the rate changes, no sample
    comes later for it. Half a period at least lies between that, or the last one served, and the new grid's first.
    """
    if fps <= 0:
        return state._replace(fps=fps, next_k=0, owed_ns=None)
    period = _S / fps
    first = time_ns + lead_ns(phase, capture_mono_ns, fps)
    owed = None
    if state.fps > 0:
        old = _S / state.fps
        if state.served_ns is not None:
            first = _on_grid(first, period, state.served_ns + period / 2)
        pending = state.origin_ns + state.next_k * old if state.owed_ns is None else state.owed_ns
        if pending < first:
            owed, first = pending, _on_grid(first, period, pending + period / 2)
    return state._replace(fps=fps, origin_ns=first, next_k=0, settled=False, owed_ns=owed)


def rephased(state: SamplerState, time_ns: int, capture_mono_ns: int, phase: float) -> SamplerState:
    """The state with its grid moved to the stream's phase, half a period at least after the frame just taken."""
    period = _S / state.fps
    first = _on_grid(time_ns + lead_ns(phase, capture_mono_ns, state.fps), period, time_ns + period / 2)
    return state._replace(origin_ns=first, next_k=0, settled=False)


def _on_grid(point: float, period: float, earliest: float) -> float:
    """The first of ``point``, ``point + period``, ... that isn't before ``earliest``."""
    return point + max(0, ceil((earliest - point) / period)) * period


def with_new_cadence(state: SamplerState) -> SamplerState:
    """For when the frames begin to come at another rate: the grid stays, what was learned of their times goes."""
    return state._replace(settled=False, fit=Fit(state.last_ns))


def step(state: SamplerState | None, time_ns: int, fps: float) -> tuple[SamplerState, bool]:
    """Whether to take the frame at ``time_ns``, for a rate of ``fps`` (<= 0: none).

    The first frame is taken; so is the first after time jumped, back or ahead, with a new grid from there on. Where the
    period is longer than a jump ahead the grid goes on.
    """
    passed = 0 if state is None else time_ns - state.last_ns
    ahead = state is not None and passed > _GAP_NS and passed > 4 * state.interval_ns
    if state is not None and ahead and state.fps == fps > 0 and state.origin_ns + state.next_k * _S / fps > time_ns:
        return state._replace(last_ns=time_ns, fit=Fit(time_ns)), False
    if state is None or ahead or state.last_ns - time_ns > _BACK_NS:
        return SamplerState(fps, time_ns, 1, False, time_ns, Fit(time_ns), None, time_ns), fps > 0
    fit = fitted(state.fit, time_ns, passed)
    time, interval = fit.time_ns, fit.interval_ns
    if fps <= 0:
        return SamplerState(fps, time, 0, False, time_ns, fit), False
    period = _S / fps
    origin, k, settled = state.origin_ns, state.next_k, state.settled
    if fps != state.fps:  # the new grid goes on from the last point served, or begins now if its next one has passed
        served = origin + (k - 1) * _S / state.fps if state.fps > 0 else time - period
        origin, k, settled = max(served, time - period), 1, False
    if period <= interval * _ALL:
        return SamplerState(fps, time, 1, False, time_ns, fit, None, time), True
    reach = time + interval / 2  # points before this are nearer to this frame than to the next
    owed = state.owed_ns if fps == state.fps else None
    pays = owed is not None and owed < reach
    take = origin + k * period < reach
    if take:
        # Further off than half an interval is a frame lost, not a grid misplaced; a frame far off the fit is no guide
        off = abs(time - origin - k * period)
        if not settled and fit.frames >= _WARM and off <= interval / 2 and abs(time_ns - time) <= interval / 4:
            origin, k, settled = time, 0, True
        # Points that passed unserved are not made up for; one still ahead of this frame is left to the next.
        k = max(k + 1, floor((time - origin) / period) + 1)
    if take or pays:
        return SamplerState(fps, origin, k, settled, time_ns, fit, None, time), True
    return SamplerState(fps, origin, k, settled, time_ns, fit, owed, state.served_ns), False


def fitted(fit: Fit, time_ns: int, since_last_ns: int) -> Fit:
    """Take a frame into the fit: an alpha-beta filter whose gains are those of a least-squares line through all
    frames so far, until _WARM of them (_GAINS)."""
    last, interval, n, gaps = fit
    n = min(n + 1, _WARM)
    # Frames lost on the way leave whole intervals; while warming up the interval isn't known well enough to tell
    missed = max(1, round((time_ns - last) / max(interval, _SHORTEST_NS))) if n == _WARM else 1
    gaps = gaps + 1 if missed > 1 else 0
    if gaps >= _SLOWER:
        return Fit(time_ns, max(_SHORTEST_NS, float(since_last_ns)), 2)
    alpha, beta = _GAINS[n]
    predicted = last + missed * interval
    off = time_ns - predicted
    interval = max(_SHORTEST_NS, interval + beta * off / missed)
    time = min(max(predicted + alpha * off, time_ns - interval / 2), time_ns + interval / 2)
    return Fit(time, interval, n, gaps)
