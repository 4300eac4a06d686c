"""When a dead worker starts again, when it is given up, and when a living one is killed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from facedetd.supervisor.restarts import (
    BOOT_FAILURES,
    BOOT_LIMIT_NS,
    FREE_RESTARTS,
    GIVEN_UP_MAX_S,
    GIVEN_UP_S,
    HEALTHY_S,
    MAX_DELAY_S,
    WAIT_MAX_S,
    RestartState,
    after_death,
    look_again_s,
    stuck,
)

S = 1_000_000_000
DEATHS = st.lists(st.tuples(st.floats(0, 1000), st.booleans()), max_size=40)


def delays(deaths: list[tuple[float, bool]]) -> list[float]:
    state, found = RestartState(), []
    for lived_s, ready in deaths:
        restart = after_death(state, lived_s, ready)
        state = restart.state
        found.append(restart.delay_s)
    return found


def test_the_first_quick_deaths_are_answered_at_once_and_later_ones_ever_more_slowly() -> None:
    found = delays([(1.0, True)] * 9)
    assert found[:FREE_RESTARTS] == [0.0] * FREE_RESTARTS
    assert found[FREE_RESTARTS:] == [0.5, 1.0, 2.0, 4.0, MAX_DELAY_S, MAX_DELAY_S]


def test_a_worker_that_lived_well_has_recovered() -> None:
    assert delays([(1.0, True)] * 6 + [(HEALTHY_S, True), (1.0, True)])[-2:] == [0.0, 0.0]


def test_one_that_is_never_ready_is_given_up_in_the_end() -> None:
    state = RestartState()
    for _ in range(BOOT_FAILURES - 1):
        restart = after_death(state, 1.0, False)
        assert not restart.halt
        assert restart.delay_s > 0
        state = restart.state
    assert after_death(state, 1.0, False).halt


def test_having_been_ready_once_forgives_failed_boots() -> None:
    state = RestartState()
    for _ in range(BOOT_FAILURES - 1):
        state = after_death(state, 1.0, False).state
    state = after_death(state, 1.0, True).state
    assert not after_death(state, 1.0, False).halt


def test_what_was_given_up_is_tried_ever_more_rarely_but_at_least_once_an_hour() -> None:
    found = delays([(1.0, False)] * 1000)[BOOT_FAILURES - 1 :]
    assert found[0] == GIVEN_UP_S
    assert found == sorted(found)
    assert found[-1] == GIVEN_UP_MAX_S


@given(DEATHS)
def test_delays_are_bounded_whatever_happens(deaths: list[tuple[float, bool]]) -> None:
    state = RestartState()
    for lived_s, ready in deaths:
        restart = after_death(state, lived_s, ready)
        state = restart.state
        lowest, highest = (GIVEN_UP_S, GIVEN_UP_MAX_S) if restart.halt else (0, MAX_DELAY_S)
        assert lowest <= restart.delay_s <= highest


def test_a_device_is_looked_for_ever_more_rarely() -> None:
    found = [look_again_s(n) for n in range(1, 2000)]
    assert found[:6] == [2.0, 4.0, 8.0, 16.0, 32.0, 60.0]
    assert found == sorted(found)
    assert found[-1] == WAIT_MAX_S


def test_a_silent_worker_is_stuck_after_the_limit_and_a_booting_one_after_the_boot_limit() -> None:
    assert not stuck(True, 5 * S, 0, 5 * S)
    assert "5.1 s" in stuck(True, 5 * S + S // 10, 0, 5 * S)
    assert not stuck(False, BOOT_LIMIT_NS, 0, 5 * S)
    assert stuck(False, BOOT_LIMIT_NS + 1, 0, 5 * S)
    assert not stuck(False, BOOT_LIMIT_NS + 1, 0, 2 * BOOT_LIMIT_NS)


def test_a_batch_that_does_not_end_is_stuck_though_the_process_talks() -> None:
    assert "batch" in stuck(True, 0, 5 * S + 1, 5 * S)
    assert not stuck(True, 0, 5 * S, 5 * S)
