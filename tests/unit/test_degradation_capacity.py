"""Finding out what a stage can carry: fast down, slow up, quiet in between."""

from dataclasses import replace
from math import inf

from hypothesis import given, settings
from hypothesis import strategies as st

from facedetd.degradation.capacity import NOT_LIMITED, Seen, Tuning, advance

TUNING = Tuning()
CALM = Seen(0.0, True, load=30, achieved=30, demand=90, spare=0)
SHORT = Seen(0.6, False, load=90, achieved=30, demand=90, spare=0)


def run(estimate, seen, begin, end, **more):
    """One period a second; returns the estimate and the times at which its capacity changed."""
    changed = []
    for now in range(begin, end):
        after = advance(estimate, seen, TUNING, now, may_rise=True, **more)
        if after.capacity != estimate.capacity:
            changed.append(now)
        estimate = after
    return estimate, changed


def test_down_at_once_to_what_was_achieved():
    after = advance(NOT_LIMITED, SHORT, TUNING, 0, may_rise=True)
    assert 0.9 * 30 < after.capacity < 30


def test_a_single_weak_sign_changes_nothing_a_second_one_does():
    weak = replace(SHORT, severity=0.05, load=30, achieved=29)
    once = advance(NOT_LIMITED, weak, TUNING, 0, may_rise=True)
    assert once.capacity == inf
    assert advance(once, weak, TUNING, 1, may_rise=True).capacity < 29
    between = advance(once, CALM, TUNING, 1, may_rise=True)
    assert advance(between, weak, TUNING, 2, may_rise=True).capacity == inf


def test_a_period_that_achieved_nothing_costs_no_more_than_the_deepest_cut():
    assert advance(NOT_LIMITED, replace(SHORT, achieved=0), TUNING, 0, may_rise=True).capacity >= 0.3 * 90


def test_what_is_measured_while_a_change_settles_counts_for_nothing():
    cut = advance(NOT_LIMITED, SHORT, TUNING, 0, may_rise=True)
    assert advance(cut, SHORT, TUNING, 1, may_rise=True) == cut
    assert advance(cut, SHORT, TUNING, 2, may_rise=True).capacity < cut.capacity


def test_measured_spare_is_taken_in_large_steps():
    cut = advance(NOT_LIMITED, SHORT, TUNING, 0, may_rise=True)
    free = replace(CALM, spare=60)
    after, changed = run(cut, free, 1, 40)
    assert after.capacity >= 75
    assert len(changed) <= 6


def test_trials_that_fail_become_rare():
    """The stage carries 30 and not a bit more, and shows nothing to spare."""
    estimate = advance(NOT_LIMITED, SHORT, TUNING, 0, may_rise=True)
    changed = []
    for now in range(1, 7200):
        load = min(90, estimate.capacity)
        over = load > 30
        seen = Seen(0.2 if over else 0.0, not over, load, min(load, 30), 90, 0.0)
        after = advance(estimate, seen, TUNING, now, may_rise=True)
        if after.capacity != estimate.capacity:
            changed.append(now)
        estimate = after
    for begin in range(1800, 7200, 600):
        assert len([t for t in changed if begin <= t < begin + 600]) <= 2  # one trial: up and back
    assert 27 < estimate.capacity <= 30


def test_a_failed_trial_goes_back_and_not_below():
    cut = advance(NOT_LIMITED, SHORT, TUNING, 0, may_rise=True)
    tried, _ = run(cut, CALM, 1, 24)
    assert tried.trial and tried.capacity > cut.capacity
    back, _ = run(tried, replace(SHORT, load=tried.capacity, achieved=20), 24, 27)
    assert back.capacity == cut.capacity


def failed_once(estimate, spare, now):
    """The estimate after a rise into ``spare`` that failed, and when it was settled again."""
    tried, _ = run(estimate, replace(CALM, spare=spare), now, now + 6)
    assert tried.trial
    back, _ = run(tried, replace(SHORT, load=tried.capacity, achieved=20), now + 6, now + 9)
    assert back.trial is None
    return back, int(back.settled_s) + 1


def test_a_failed_rise_says_nothing_of_far_more_than_it_tried():
    """It tried half as much again, while ten times as much was measured as spare."""
    back, now = failed_once(advance(NOT_LIMITED, SHORT, TUNING, 0, may_rise=True), 300, 1)
    again, _ = run(back, replace(CALM, spare=300), now, now + 6)
    assert again.trial and again.capacity > 1.4 * back.capacity


def test_measured_spare_that_fails_again_and_again_isnt_believed():
    estimate, now = advance(NOT_LIMITED, SHORT, TUNING, 0, may_rise=True), 1
    for _ in range(5):
        tried, _ = run(estimate, replace(CALM, spare=60), now, now + 6)
        if not tried.trial:
            break
        estimate, now = failed_once(estimate, 60, now)
    assert not tried.trial
    assert run(estimate, replace(CALM, spare=60), now, now + 20)[1] == []


def test_what_was_lost_before_a_trial_isnt_blamed_on_it():
    cut = advance(NOT_LIMITED, SHORT, TUNING, 0, may_rise=True)
    uneasy, _ = run(cut, replace(CALM, calm=False), 2, 10)
    assert uneasy.lost > TUNING.lost_most
    estimate = uneasy
    for now in range(10, 19):
        after = advance(estimate, replace(CALM, spare=8), TUNING, now, may_rise=True)
        assert after.capacity >= estimate.capacity
        estimate = after
    assert estimate.trial is None and estimate.capacity > 1.1 * cut.capacity  # kept


def test_a_trial_without_calm_fails_too():
    tried, _ = run(advance(NOT_LIMITED, SHORT, TUNING, 0, may_rise=True), CALM, 1, 24)
    back, _ = run(tried, replace(CALM, calm=False), 24, 30)
    assert back.trial is None and back.capacity == tried.trial.before


def test_trouble_elsewhere_fails_a_trial():
    tried, _ = run(advance(NOT_LIMITED, SHORT, TUNING, 0, may_rise=True), CALM, 1, 24)
    back, _ = run(tried, replace(CALM, disturbed=True), 24, 30)
    assert back.capacity == tried.trial.before


def test_no_rise_when_it_may_not_and_none_from_the_dead_band():
    cut = advance(NOT_LIMITED, SHORT, TUNING, 0, may_rise=True)
    dead = replace(CALM, calm=False, spare=60)
    assert run(cut, dead, 1, 500)[0].capacity == cut.capacity
    estimate = cut
    for now in range(1, 500):
        estimate = advance(estimate, CALM, TUNING, now, may_rise=False)
    assert estimate.capacity == cut.capacity


def test_a_limit_that_hasnt_mattered_for_long_is_forgotten():
    cut = advance(NOT_LIMITED, SHORT, TUNING, 0, may_rise=True)
    enough = replace(CALM, load=10, achieved=10, demand=10)
    assert run(cut, enough, 1, 50)[0].capacity == cut.capacity
    assert run(cut, enough, 1, 70)[0].capacity == inf


def test_a_rise_reaches_the_next_step():
    cut = advance(NOT_LIMITED, SHORT, TUNING, 0, may_rise=True)
    tried, _ = run(cut, replace(CALM, next_step=45), 1, 24)
    assert tried.capacity == 45


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.0, 0.05, 0.5]), st.booleans(), st.floats(0, 50)), max_size=60))
def test_never_negative_never_up_in_trouble(history):
    estimate = NOT_LIMITED
    for now, (severity, calm, spare) in enumerate(history):
        load = min(90.0, estimate.capacity)
        seen = Seen(severity, calm and not severity, load, load * (1 - severity), 90, spare)
        after = advance(estimate, seen, TUNING, now, may_rise=True)
        assert after.capacity > 0
        if severity or not calm:
            assert after.capacity <= estimate.capacity or after == NOT_LIMITED
        if after.capacity < inf:
            assert after.patience_s <= TUNING.patience_max_s
        estimate = after
