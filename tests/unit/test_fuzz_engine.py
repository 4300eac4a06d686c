"""The fuzzer finds what is broken, says the same twice, and keeps what did it."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.__main__ import Outcome, keep, run_target
from tests.fuzz.mutate import MAX_BYTES, mutate
from tests.fuzz.target import MAX_INPUT, Target
from tests.fuzz.targets import ROOMS, find


@given(
    st.lists(st.binary(max_size=300), min_size=1, max_size=3),
    st.lists(st.binary(max_size=9), max_size=3),
    st.integers(),
)
def test_the_same_seed_makes_the_same_input(seeds: list[bytes], words: list[bytes], number: int) -> None:
    first, second = (mutate(Random(number), seeds, words) for _ in range(2))
    assert first == second and len(first) <= MAX_BYTES


@pytest.mark.parametrize("name", ["config", "header", "urls", "record", "link"])
def test_inputs_are_given_by_seed_and_number_alone(name: str) -> None:
    target: Target = find(name)
    seeds = target.seeds()
    made = [target.input("s", n, seeds) for n in range(200)]
    assert made == [target.input("s", n, seeds) for n in range(200)]
    assert made != [target.input("t", n, seeds) for n in range(200)]
    assert len(set(made)) > 100 and max(map(len, made)) <= MAX_INPUT


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("RAISE", "KeyError at fuzz_broken.py"),
        ("CRASH", "died (SIGSEGV)"),
        ("HANG", "hangs"),
        ("THREAD", "threads left behind"),
        ("DESCRIPTOR", "descriptors left behind"),
        ("MEMORY", "memory left behind"),
        ("TOO_MUCH", "MemoryError at fuzz_broken.py"),
        ("POISON", "a good input fails afterwards: Finding at target.py"),
    ],
)
def test_what_is_broken_is_found(name: str, kind: str, tmp_path: Path) -> None:
    # What hangs ends by this alone; what doesn't must not be taken for it when the machine stops for a moment
    outcome = run_target(f"tests.unit.fuzz_broken:{name}", "1", 1.0, hang_s=3.0 if name == "HANG" else 60.0)
    assert [f["kind"] for f in outcome.findings if f["kind"].startswith(kind)], outcome
    keep(outcome, tmp_path)
    kept = sorted(tmp_path.glob("*.bin"))
    assert kept and all(path.with_suffix(".txt").read_text() for path in kept)
    if name in ("RAISE", "CRASH", "HANG"):
        assert kept[0].read_bytes() == name.lower().encode()


def test_what_is_sound_is_left_alone() -> None:
    outcome = run_target("tests.unit.fuzz_broken:SOUND", "1", 3.0)
    assert outcome.inputs >= 600 and not outcome.findings


def test_every_target_can_be_loaded() -> None:
    for name in ROOMS:
        assert find(name).seeds()


def test_nothing_is_kept_of_nothing(tmp_path: Path) -> None:
    keep(Outcome("x"), tmp_path / "none")
    assert not (tmp_path / "none").exists()
