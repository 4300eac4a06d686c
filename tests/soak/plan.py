"""What happens when. A pure function of the seed, so that a run can be had again.

Two decks of events are dealt again and again, shuffled anew each time, so that none is left out for long: one of
cameras, streams and clients, all through the run; and one of faults of the daemon's processes, only in the first part
of each period. The rest of a period lets workers grow old: what leaks slowly shows only in a process that lives for
minutes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

PERIOD_S = 3600.0
STORM_SHARE = 0.35
"""Of a period, its first part: there workers are killed and models changed."""
SUPERVISOR_EVERY = 2
"""In every so many periods, at the end of the storm, the supervisor is killed too."""

BEGIN_S = 5.0
TAIL_S = 20.0
"""At the end nothing new happens, and what was held back is let go."""
HOLD_S = (3.0, 12.0)
"""For how long a camera is away, a stream paused, a watcher there."""
REST_S = 8.0
"""For how long a camera or stream is let alone after that."""
WEATHER_GAP_S = (2.0, 6.0)
STORM_GAP_S = (5.0, 13.0)

ENDS = {
    "down": "up",
    "stall": "resume",
    "corrupt": "clean",
    "add": "remove",
    "add-dead": "remove-dead",
    "pause": "unpause",
    "toml-add": "toml-remove",
    "watch": "unwatch",
    "watch-unread": "unwatch-unread",
}
"""Events that last, and how they end. The end has the same target."""

CAMERA_ACTIONS = ("cut", "down", "stall", "corrupt", "jump")
STREAM_ACTIONS = ("pause", "fps", "regions")
"""On one of the streams that are there all through the run; number i shows camera i."""
NUMBERED_ACTIONS = ("add", "add-dead", "watch", "watch-unread")
"""Each has a new number as its target."""
PROCESS_ACTIONS = (
    "kill-decoder",
    "kill-inference",
    "kill-workers",
    "stop-decoder",
    "stop-inference",
    "stop-supervisor",
    "reload-model",
)

WEATHER = (
    *("cut", "down", "stall", "corrupt", "jump") * 2,
    *("add", "add", "add", "add-dead", "pause", "fps", "fps", "regions", "toml-add"),
    *("watch", "watch", "watch-unread", "snapshot", "snapshot", "scrape", "scrape"),
    *("look", "refuse", "reload", "reload-bad"),
)
STORM = PROCESS_ACTIONS


@dataclass(frozen=True, slots=True)
class Event:
    """``at_s``: seconds from the beginning. ``target``: number of a camera, stream, guest or watcher; of processes any
    number, to be taken modulo how many there are. ``value``: a probability, seconds or frames a second."""

    at_s: float
    action: str
    target: int = 0
    value: float = 0.0


def make_plan(seed: int, duration_s: float, cameras: int) -> tuple[Event, ...]:
    """All events in order of time; ends are among them, and come before the last TAIL_S."""
    rng = random.Random(seed)
    last_s = duration_s - TAIL_S
    events = [*_weather(rng, last_s, cameras), *_storms(rng, duration_s, last_s)]
    return tuple(sorted(events, key=lambda e: e.at_s))


def _dealt(rng: random.Random, deck: Sequence[str]) -> Iterator[str]:
    while True:
        yield from rng.sample(deck, len(deck))


def _weather(rng: random.Random, last_s: float, cameras: int) -> Iterator[Event]:
    free_at = [0.0] * cameras  # a camera and its stream have one trouble at a time
    toml_free_at = 0.0
    number = 0
    deck = _dealt(rng, WEATHER)
    at = BEGIN_S
    while at < last_s - HOLD_S[1]:
        action = next(deck)
        hold = rng.uniform(*HOLD_S)
        target = 0
        if action in CAMERA_ACTIONS or action in STREAM_ACTIONS:
            free = [i for i in range(cameras) if free_at[i] <= at]
            if not free:
                at += 1.0
                continue
            target = rng.choice(free)
            free_at[target] = at + (hold if action in ENDS else 0.0) + REST_S
        elif action in NUMBERED_ACTIONS:
            number += 1
            target = number
        elif action == "toml-add":
            if toml_free_at > at:
                at += 1.0
                continue
            toml_free_at = at + hold + 1.0
        elif action == "snapshot":
            target = rng.randrange(cameras)
        yield Event(at, action, target, _value(rng, action))
        if action in ENDS:
            yield Event(at + hold, ENDS[action], target)
        if action == "add" and rng.random() < 0.5:
            yield Event(at + hold / 2, "move", target)
        at += rng.uniform(*WEATHER_GAP_S)


def _value(rng: random.Random, action: str) -> float:
    match action:
        case "corrupt":
            return rng.choice((0.02, 0.1, 0.5))
        case "jump":
            return rng.choice((-3600.0, -1.0, 0.5, 30.0, 3600.0))
        case "fps":
            return rng.choice((1.0, 2.0, 3.0))
    return 0.0


def storms(duration_s: float) -> tuple[tuple[float, float], ...]:
    """From when to when processes are harmed."""
    period_s = min(PERIOD_S, duration_s)
    begins = [i * period_s for i in range(int(duration_s / period_s + 1e-9))]
    return tuple((begin, begin + STORM_SHARE * period_s) for begin in begins)


def _storms(rng: random.Random, duration_s: float, last_s: float) -> Iterator[Event]:
    deck = _dealt(rng, STORM)
    for number, (begin, end) in enumerate(storms(duration_s)):
        at = begin + BEGIN_S + rng.uniform(*STORM_GAP_S)
        while at < min(end, last_s):
            yield Event(at, next(deck), rng.randrange(1000))
            at += rng.uniform(*STORM_GAP_S)
        if number % SUPERVISOR_EVERY == 0 and end < last_s:
            yield Event(end, "kill-supervisor")
