"""Which decoder group a stream goes to, and which device infers a group's frames."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from facedetd.supervisor.placement import SPREAD, Held, home_for_one_more, homes, place, readers

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


DEVICES = st.lists(st.integers(0, 5), min_size=1, max_size=4, unique=True)
GROUPS = st.dictionaries(
    st.sampled_from([f"decoder-{i}" for i in range(12)]),
    st.builds(Held, st.integers(0, 32), st.integers(0, 5), st.none() | st.integers(0, 5)),
)


def loads(groups: dict[str, Held], placed: dict[str, int], devices: list[int]) -> dict[int, int]:
    return {d: sum(groups[n].streams for n in placed if placed[n] == d) for d in devices}


def held(*groups: tuple[int, int]) -> dict[str, Held]:
    return {f"decoder-{i}": Held(streams, home) for i, (streams, home) in enumerate(groups)}


@given(GROUPS, DEVICES)
@example(held((3, 2), (5, 1), (18, 0), (18, 0), (20, 0)), [0, 1, 2])  # two are the fullest, only one can be relieved
def test_every_group_has_a_device_of_those_there_are_and_no_move_would_relieve_the_fullest(
    groups: dict[str, Held], devices: list[int]
) -> None:
    placed = homes(groups, devices)
    assert placed.keys() == groups.keys() and set(placed.values()) <= set(devices)
    load = loads(groups, placed, devices)
    most, least = max(load.values()), min(load.values())
    movable = [groups[n].streams for n, d in placed.items() if load[d] == most and groups[n].streams]
    assert all(least + streams >= most for streams in movable)
    again = {name: Held(held.streams, placed[name]) for name, held in groups.items()}
    assert homes(again, devices) == placed, "what is balanced stays"


def test_a_second_device_gets_half_and_what_stays_does_not_move() -> None:
    one = {f"g{i}": Held(8, 0) for i in range(4)}
    both = homes(one, [0, 1])
    assert sorted(both.values()) == [0, 0, 1, 1]
    back = homes({n: Held(8, d) for n, d in both.items()}, [1])
    assert set(back.values()) == {1}


def test_new_groups_take_turns_also_while_they_are_empty() -> None:
    groups: dict[str, Held] = {}
    for i in range(4):
        groups[f"g{i}"] = Held(0, home_for_one_more(groups, [0, 1]))
    assert [held.home for held in groups.values()] == [0, 1, 0, 1]


@given(GROUPS, st.sets(st.integers(0, 5)))
def test_frames_go_to_the_own_device_if_it_is_ready_else_to_one_that_is(
    groups: dict[str, Held], ready: set[int]
) -> None:
    chosen = readers(groups, ready)
    assert chosen.keys() == groups.keys()
    for name, held in groups.items():
        if not ready:
            assert chosen[name] is None
        elif held.home in ready:
            assert chosen[name] == held.home
        elif held.now in ready:
            assert chosen[name] == held.now, "without a change that isn't needed"
        else:
            assert chosen[name] in ready


def test_the_streams_of_a_lost_device_are_shared_out() -> None:
    groups = {f"g{i}": Held(8, i % 3, i % 3) for i in range(6)}
    chosen = readers(groups, {0, 2})
    assert sorted(chosen[n] for n in ("g1", "g4")) == [0, 2]  # type: ignore[type-var]
