"""When to lead a ring again to a process that couldn't map it, and when another process shall have it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from facedetd.supervisor.restarts import look_again_s

SURE_S = 2.0
"""Who doesn't refuse a ring so soon after it was led there has taken it: nobody says so."""

HOPELESS = 5
"""So often in a row a decoder group may refuse, which takes half a minute. A fresh process has room before its streams'
threads take it."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The last one of a group's. ``why``: in words; empty: there was none. ``times``: in a row."""

    why: str = ""
    at_s: float = -inf
    times: int = 0


def refused(before: Refusal, why: str, now_s: float) -> Refusal:
    return Refusal(why, now_s, before.times + 1 if is_open(before, now_s) else 1)


def pause_s(refusal: Refusal) -> float:
    return look_again_s(max(refusal.times, 1))


def waits(refusal: Refusal, now_s: float) -> bool:
    """Whether it is too early to try again."""
    return bool(refusal.why) and now_s - refusal.at_s < pause_s(refusal)


def is_open(refusal: Refusal, now_s: float) -> bool:
    """Whether the ring is still wanting, as far as is known."""
    return bool(refusal.why) and now_s - refusal.at_s < pause_s(refusal) + SURE_S
