"""When to start a decoder group anew whose CUDA context is lost: its cameras stay, on the CPU, till then. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

PAUSE_S, LONGEST_S = 30.0, 3600.0
"""The first pause gives a driver time that resets itself; it doubles with each loss within an hour of the last."""


@dataclass(frozen=True, slots=True)
class Loss:
    """``why``: in words, of the context that is lost now; empty: none is."""

    why: str = ""
    at_s: float = -inf
    times: int = 0


def lost(before: Loss, why: str, now_s: float) -> Loss:
    times = before.times + 1 if now_s - before.at_s < LONGEST_S + pause_s(before) else 1
    return Loss(why or "CUDA is lost to it", now_s, times)


def pause_s(loss: Loss) -> float:
    return float(min(PAUSE_S * 2 ** min(max(loss.times - 1, 0), 20), LONGEST_S))


def is_due(loss: Loss, now_s: float) -> bool:
    """Whether to end the process, so that another begins."""
    return bool(loss.why) and now_s - loss.at_s >= pause_s(loss)
