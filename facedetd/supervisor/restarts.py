"""When a dead worker is started again, and when it is given up. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

FREE_RESTARTS = 3
"""So many quick deaths in a row are answered at once: cameras should be back within seconds."""
MAX_DELAY_S = 5.0
HEALTHY_S = 10.0
"""A worker that lived so long has recovered: its next death is its first."""
BOOT_FAILURES = 5
"""A worker that dies so often before it was ready is given up, and then tried once in a long while: nobody may be
there for years to do that, and what was wrong (a full disk, a library being replaced) may be over."""
GIVEN_UP_S, GIVEN_UP_MAX_S = 600.0, 3600.0
WAIT_S, WAIT_MAX_S = 2.0, 60.0


@dataclass(frozen=True, slots=True)
class RestartState:
    quick_deaths: int = 0
    boot_failures: int = 0


@dataclass(frozen=True, slots=True)
class Restart:
    """Start again after ``delay_s``; where ``halt``, that is long, for the worker is given up."""

    state: RestartState
    delay_s: float
    halt: bool = False


def after_death(state: RestartState, lived_s: float, was_ready: bool, max_delay_s: float = MAX_DELAY_S) -> Restart:
    """``lived_s`` runs from the start of the process, ``was_ready``: whether it ever said it was."""
    if not was_ready:
        state = replace(state, boot_failures=state.boot_failures + 1)
        over = state.boot_failures - BOOT_FAILURES
        if over >= 0:
            return Restart(state, _grown(GIVEN_UP_S, 1.5, over, GIVEN_UP_MAX_S), halt=True)
        return Restart(state, _grown(0.5, 2.0, state.boot_failures - 1, MAX_DELAY_S))
    quick = 1 if lived_s >= HEALTHY_S else state.quick_deaths + 1
    over = quick - FREE_RESTARTS
    delay = 0.0 if over <= 0 else _grown(0.5, 2.0, over - 1, max_delay_s)
    return Restart(RestartState(quick), delay)


def look_again_s(tries: int) -> float:
    """Pause before the next look for a device that was away ``tries`` times in a row (1 or more)."""
    return _grown(WAIT_S, 2.0, tries - 1, WAIT_MAX_S)


def _grown(first_s: float, factor: float, times: int, most_s: float) -> float:
    return float(min(most_s, first_s * factor ** min(times, 64)))  # years of deaths must not overflow


BOOT_LIMIT_NS = 60_000_000_000
"""A process that is not ready yet may be silent for so long: it imports, or the machine is busy with its siblings."""


def stuck(ready: bool, silent_ns: int, busy_ns: int, limit_ns: int, share: float = 1.0) -> str:
    """Why a worker is to be killed; empty: it isn't. ``silent_ns``: since its last sign of life (loading a model may
    take long, but doesn't silence it), ``busy_ns``: for how long its batch runs. ``share``: of what it may take."""
    if silent_ns > share * (limit_ns if ready else max(limit_ns, BOOT_LIMIT_NS)):
        return f"no sign of life for {silent_ns / 1e9:.1f} s"
    if busy_ns > share * limit_ns:
        return f"one batch has taken {busy_ns / 1e9:.1f} s"
    return ""
