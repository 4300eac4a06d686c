"""How much a stage can carry, found out while it runs: fast down, slow up, and quiet when nothing changes.

A stage is not limited (capacity inf) until it is short. Then its capacity is what it was measured to achieve, less a
margin. Up it goes by trials: a little more, watched for a while, kept or taken back. A trial that failed makes the
next one at that height wait twice as long, so under constant load changes become rare. Only where there is measurably
more to spare than what failed had tried does it try again at once, and in large steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf


@dataclass(frozen=True, slots=True)
class Tuning:
    """Times in s; shares of the capacity. ``settle_s``: till a change shows in what is measured. ``trial_s``: how
    long a rise is watched, settling included. ``quick_s``: calm before a rise into measured spare capacity;
    ``patience_s`` to ``patience_max_s``: calm before a blind one. ``step``: size of a blind rise. ``largest_rise``
    and ``deepest_cut`` bound one change. ``keep``: of what was achieved is planned with. ``confirm``: from this
    severity on a first sight is enough, below it takes a second one."""

    settle_s: float = 2.0
    trial_s: float = 5.0
    quick_s: float = 3.0
    patience_s: float = 20.0
    patience_max_s: float = 640.0
    step: float = 0.05
    taken: float = 0.6  # of the spare capacity measured goes into one rise: the measure is rough
    largest_rise: float = 1.5
    deepest_cut: float = 0.33
    keep: float = 0.92
    confirm: float = 0.15
    lost_gain: float = 0.05  # of the running mean: about the last twenty periods count
    lost_most: float = 0.005  # what may be lost in the long run
    lost_uneasy: float = 0.03  # what a period without calm counts for
    worth: float = 0.08  # measured spare capacity below this share of the load isn't worth a quick rise
    forget_s: float = 60.0  # calm and with room for all for so long: the limit was of another time


@dataclass(frozen=True, slots=True)
class Seen:
    """A stage in one period, all in the stage's own unit. ``severity`` > 0: its lever must be pulled; ``calm``: it
    is clearly not short; ``disturbed``: something else became short, which a trial may be to blame for.
    ``load``: what it is asked for now; ``achieved``: what it did; ``demand``: what all streams at their best would
    ask for; ``spare``: measured unused capacity; ``next_step``: the capacity from which on more would change
    anything (0: at once); ``lost``: the share of the work that was lost, however little; ``floor``: no cut goes
    deeper."""

    severity: float
    calm: bool
    load: float
    achieved: float
    demand: float
    spare: float
    next_step: float = 0.0
    lost: float = 0.0
    disturbed: bool = False
    floor: float = 0.0


@dataclass(frozen=True, slots=True)
class Trial:
    """A rise under watch: the capacity before it, since when, and the spare share that was measured."""

    before: float
    since_s: float
    spare_share: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is believed of one stage. Begin with NOT_LIMITED.

    ``failed_capacity``: the height that didn't hold last time; ``failed_spare_share``: so much spare, as a share of the
    load, isn't believed since then.
    ``rolling``: the last trial was kept. ``suspect``: a small shortage was seen once. ``proven``: what the last cut
    came down to; ``lost``: running mean of what was lost since the last change (a period without calm counts for more).
    """

    capacity: float = inf
    patience_s: float = 0.0  # 0: the tuning's first
    settled_s: float = -inf
    calm_since_s: float | None = None
    suspect: bool = False
    rolling: bool = False
    trial: Trial | None = None
    failed_capacity: float = inf
    failed_spare_share: float = 0.0
    proven: float = 0.0
    lost: float = 0.0


NOT_LIMITED = Estimate()


def advance(estimate: Estimate, seen: Seen, tuning: Tuning, now_s: float, *, may_rise: bool) -> Estimate:
    """The estimate after one period. ``may_rise``: False while another stage is tried or in trouble."""
    if now_s < estimate.settled_s:
        return estimate
    if estimate.trial and (seen.severity > 0 or seen.disturbed):
        return _taken_back(estimate, estimate.trial, tuning, now_s)
    if seen.severity > 0:
        return _cut(estimate, seen, tuning, now_s)
    if estimate.trial:
        if now_s - estimate.trial.since_s < tuning.trial_s:
            return estimate
        if not seen.calm:
            return _taken_back(estimate, estimate.trial, tuning, now_s)
        return _kept(estimate, estimate.trial)
    lost = estimate.lost + tuning.lost_gain * (max(seen.lost, 0 if seen.calm else tuning.lost_uneasy) - estimate.lost)
    estimate = replace(estimate, lost=lost, suspect=False)
    if lost > tuning.lost_most and estimate.proven < estimate.capacity < inf:
        return _given_back(estimate, tuning, now_s)
    if not seen.calm:
        return replace(estimate, calm_since_s=None, rolling=False)
    since = now_s if estimate.calm_since_s is None else estimate.calm_since_s
    calm = replace(estimate, calm_since_s=since)
    if estimate.capacity >= seen.demand:
        return NOT_LIMITED if now_s - since >= tuning.forget_s and estimate.capacity < inf else calm
    return _rise(calm, seen, tuning, now_s, now_s - since) if may_rise else calm


def unseen(estimate: Estimate, now_s: float) -> Estimate:
    """The estimate after a period of which nothing is known: calm and trials begin anew."""
    trial = replace(estimate.trial, since_s=now_s) if estimate.trial else None
    return replace(estimate, calm_since_s=None, suspect=False, rolling=False, trial=trial)


def _longer(estimate: Estimate, tuning: Tuning) -> float:
    return min(tuning.patience_max_s, 2 * (estimate.patience_s or tuning.patience_s))


def _cut(estimate: Estimate, seen: Seen, tuning: Tuning, now_s: float) -> Estimate:
    if seen.severity < tuning.confirm and not estimate.suspect:
        return replace(estimate, calm_since_s=None, suspect=True, rolling=False)
    asked = min(estimate.capacity, seen.load) if seen.load > 0 else estimate.capacity
    if asked == inf:
        return estimate
    achieved = min(seen.achieved, asked)
    capacity = max(achieved * tuning.keep, asked * tuning.deepest_cut, seen.floor)
    return Estimate(
        capacity=capacity,
        # Short although limited: what held before doesn't any more, or only just
        patience_s=_longer(estimate, tuning) if estimate.capacity < inf else estimate.patience_s,
        settled_s=now_s + tuning.settle_s,
        failed_capacity=max(achieved, capacity / tuning.keep),
        failed_spare_share=estimate.failed_spare_share,
        proven=capacity,
    )


def _given_back(estimate: Estimate, tuning: Tuning, now_s: float) -> Estimate:
    """A trial was kept too soon: not short, but a little is lost all the time. What trials added goes, and no more,
    since what doesn't get better by that has another cause."""
    return Estimate(
        capacity=max(estimate.proven, estimate.capacity / (1 + tuning.step)),
        patience_s=_longer(estimate, tuning),
        settled_s=now_s + tuning.settle_s,
        failed_capacity=estimate.capacity,
        failed_spare_share=estimate.failed_spare_share,
        proven=estimate.proven,
    )


def _kept(estimate: Estimate, trial: Trial) -> Estimate:
    """The world has changed where clearly more than what failed now holds."""
    if estimate.capacity >= 1.1 * estimate.failed_capacity:
        return Estimate(estimate.capacity, calm_since_s=trial.since_s, rolling=True, proven=trial.before)
    return replace(estimate, trial=None, calm_since_s=trial.since_s, rolling=True)


def _taken_back(estimate: Estimate, trial: Trial, tuning: Tuning, now_s: float) -> Estimate:
    # Half as much that failed doesn't show that ten times as much isn't there; where it fails again and again it does
    tried = (estimate.capacity / trial.before - 1) / tuning.taken
    lesson = min(trial.spare_share, max(tried, 2 * estimate.failed_spare_share))
    return Estimate(
        capacity=min(estimate.capacity, trial.before),
        patience_s=_longer(estimate, tuning),
        settled_s=now_s + 2 * tuning.settle_s,  # what piled up must be worked off, too
        failed_capacity=estimate.capacity,
        failed_spare_share=max(estimate.failed_spare_share, lesson),
        proven=estimate.proven,
    )


def _rise(estimate: Estimate, seen: Seen, tuning: Tuning, now_s: float, calm_s: float) -> Estimate:
    before = estimate.capacity
    share = seen.spare / seen.load if seen.load > 0 else 1.0
    measured = seen.load + seen.spare
    blind = max(before * (1 + tuning.step), seen.next_step)
    # Spare that was also there when a trial failed is no spare: it must be clearly more than that
    if (
        share >= 1.25 * estimate.failed_spare_share + tuning.worth
        and measured >= blind
        and (estimate.rolling or calm_s >= tuning.quick_s)
    ):
        taken = seen.load + tuning.taken * seen.spare
        after = max(blind, min(taken, before * tuning.largest_rise))
    elif blind < 0.98 * estimate.failed_capacity and (estimate.rolling or calm_s >= tuning.patience_s):
        after = blind  # not as high as what failed, so the lesson of that doesn't apply
    elif calm_s >= (estimate.patience_s or tuning.patience_s):
        after = blind
    else:
        return estimate
    return replace(
        estimate,
        capacity=after,
        trial=Trial(before, now_s, share),
        settled_s=now_s + tuning.settle_s,
        lost=estimate.lost if before > estimate.proven else 0.0,  # before trials added anything it wasn't their doing
    )
