"""Which decoder group a stream goes to."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from facedetd.supervisor.placement import SPREAD, place

LOADS = st.dictionaries(st.sampled_from([f"decoder-{i}" for i in range(12)]), st.integers(0, 20))
CAPACITY = st.integers(1, 16)
CORES = st.integers(1, 16)


def fill(streams: int, capacity: int, cores: int) -> dict[str, int]:
    load: dict[str, int] = {}
    for _ in range(streams):
        name = place(load, capacity, cores) or f"decoder-{len(load)}"
        load[name] = load.get(name, 0) + 1
    return load


@given(LOADS, CAPACITY, CORES)
def test_a_group_that_is_full_gets_no_more_and_the_emptiest_comes_first(
    load: dict[str, int], capacity: int, cores: int
) -> None:
    name = place(load, capacity, cores)
    if name is None:
        full = all(n >= capacity for n in load.values())
        assert full or (len(load) < cores and min(load.values()) >= min(SPREAD, capacity))
    else:
        assert load[name] < capacity
        assert load[name] == min(load.values())


@given(st.integers(0, 200), CAPACITY, CORES)
def test_no_more_groups_than_cores_until_all_are_full(streams: int, capacity: int, cores: int) -> None:
    load = fill(streams, capacity, cores)
    assert sum(load.values()) == streams
    assert max(load.values(), default=0) <= capacity
    assert len(load) <= max(min(cores, streams), -(-streams // capacity))


def test_few_streams_share_few_processes_and_many_use_every_core() -> None:
    assert fill(4, 16, 2) == {"decoder-0": 4}
    assert fill(8, 16, 2) == {"decoder-0": 4, "decoder-1": 4}
    assert fill(32, 16, 2) == {"decoder-0": 16, "decoder-1": 16}
    assert len(fill(350, 16, 2)) == 22


def test_the_same_load_gives_the_same_group() -> None:
    assert place({"b": 1, "a": 1}, 16, 4) == place({"a": 1, "b": 1}, 16, 4) == "a"
