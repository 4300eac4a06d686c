"""What a target is: good inputs to start from, and what happens to an input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Protocol

from tests.fuzz.mutate import mutate

MAX_INPUT = 4 << 20


class Finding(Exception):
    """An input did what no input may do; ``str()`` says what."""


class Fed(Protocol):
    """A target that is set up. Both raise whatever should not happen: anything that comes out is a finding."""

    def feed(self, data: bytes) -> None: ...

    def good(self) -> None:
        """A good input must still work. Called before, in between and after."""


@dataclass(frozen=True, slots=True)
class Target:
    """``open`` sets it up in an empty folder; ``seeds`` are good inputs; ``make`` builds an input in place of a
    mutation. ``growth`` is how many bytes of memory a run may leave behind, ``memory`` what it may ever have beside
    what it has at its start. ``least`` inputs are fed however long that takes."""

    open: Callable[[Path], AbstractContextManager[Fed]]
    seeds: Callable[[], Sequence[bytes]]
    words: tuple[bytes, ...] = ()
    make: Callable[[Random, Sequence[bytes]], bytes] | None = None
    growth: int = 128 << 20
    memory: int = 1 << 30
    good_every: int = 500
    least: int = 0

    def input(self, seed: str, number: int, seeds: Sequence[bytes]) -> bytes:
        rng = Random(f"{seed}/{number}")
        made = self.make is not None and rng.random() < 0.6
        data = self.make(rng, seeds) if made and self.make else mutate(rng, seeds, self.words)
        return data[:MAX_INPUT]


def expect(truth: object, what: str) -> None:
    """Raises Finding unless it is true."""
    if not truth:
        raise Finding(what)
