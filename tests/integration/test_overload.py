"""Three times what this machine carries, with three priorities: the real daemon, the real model.

The CPU engine and the decoders use the machine up, so another program that wakes up beside them can break a promise
that is about this machine's own capacity, and so can a machine that gets slower, or stands still: each test has a
second try, and is skipped, saying so, where that was so both times.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.overload import BOUND_MS, LOADS, Outcome, problems, run, table

TRIES = 2
OTHERS = 0.25
"""Cores that other programs may use for five seconds; the tests' own use a fifth of that. With 0.4, of two, the highest
priority was seen to get 68 % of its target."""
SLOWEST = 1.25
"""Times its usual CPU that a frame may take for five seconds; minima and the highest priority's targets leave room for
more than that."""
MOST_MS = 1.5 * BOUND_MS
"""For latency's p95, which is `make overload`'s to measure: here a neighbour of a few seconds may show in it. Without
degradation it would be 1000 ms (``max_frame_age_ms``) and more."""
AWAY_S = 1.0
"""For so long in all the machine may stand still; it is a thirtieth of the time."""


def disturbed(outcome: Outcome) -> bool:
    return outcome.other_cores > OTHERS or outcome.slowest > SLOWEST or outcome.away_s > AWAY_S


def check(load: str, more: Callable[[Outcome], list[str]]) -> None:
    """``more``: what is wrong beside the daemon's promises."""
    outcomes = []
    for _ in range(TRIES):
        outcome = run(LOADS[load], seconds=30.0)
        outcomes.append(outcome)
        print(table(outcome))
        broken = [*problems(outcome, MOST_MS), *more(outcome)]
        if not broken:
            return
    if all(map(disturbed, outcomes)):
        pytest.skip(f"the machine was others', too: {'; '.join(broken)}; {table(outcome)}")
    pytest.fail(f"{'; '.join(broken)}; {table(outcome)}")


@pytest.mark.timeout(600)
def test_inference_is_short() -> None:
    def more(outcome: Outcome) -> list[str]:
        means = [c.mean_of_target for c in outcome.classes]
        found = [f"decoding should be left alone: {outcome.levels}"] if set(outcome.levels) != {"full"} else []
        return found + ([f"a lower priority got more: {means}"] if means != sorted(means, reverse=True) else [])

    check("inference", more)


@pytest.mark.timeout(600)
def test_decoding_is_short() -> None:
    def more(outcome: Outcome) -> list[str]:
        found = []
        if outcome.levels.get("full", 0) < outcome.classes[0].streams:
            found.append(f"the highest priority's decoding was made cheaper: {outcome.levels}")
        if not outcome.levels.keys() - {"full"}:
            found.append("nobody's decoding was made cheaper")
        return found

    check("decode", more)
