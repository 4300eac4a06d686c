"""Workers and supervisor killed and stopped at random moments; `make chaos` does the same for longer."""

from __future__ import annotations

import os
import random

import pytest

from tests.faults.chaos import chaos, late, table

ROUNDS = 20
HEARTBEAT_S = 5.0
"""With less a machine that stops for two seconds might cost a worker that nobody hurt."""


@pytest.mark.timeout(600)
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may look into processes that dump no core")
def test_twenty_rounds_of_chaos(light_url: str) -> None:
    """All is asserted but times: those are printed, for this machine may be busy."""
    seed = random.SystemRandom().randrange(10**6)
    found = chaos(light_url, ROUNDS, seed, HEARTBEAT_S, print)
    print(table(found))
    print("late:", *late(found, HEARTBEAT_S), sep="\n")
    assert len(found) == ROUNDS
    assert {f.victim for f in found} > {"supervisor"}
