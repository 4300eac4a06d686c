"""Who decodes on NVDEC: pure decisions, and a modelled GPU around them that is measured as roughly as NVML does."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

from facedetd.degradation.decoders import Gauge, Placing, Wish, place_decoders
from facedetd.types import DecodeDevice, DecodeMode, Video

CPU, NVDEC = DecodeDevice
HD = Video("h264", 1920, 1080, 25.0)


def wish(name: str, priority: int = 50, mode: DecodeMode = DecodeMode.AUTO, video: Video | None = HD) -> Wish:
    return Wish(name, priority, mode, video)


@dataclass
class Machine:
    """``capacity``: what its NVDEC carries. ``refuses``: what it gives back. ``decoders``: how many it has at most;
    ``pace``: of which so many are opened, or refused, in a second."""

    wishes: list[Wish]
    capacity: float = 4300.0
    refuses: Callable[[Wish], bool] = lambda w: False
    memory: float = 80e9
    noise: float = 0.0
    seed: int = 0
    limited: bool = True
    decoders: int = 10_000
    pace: int = 10_000
    state: Placing = field(default_factory=Placing)
    now: float = 1000.0
    moves: list[tuple[float, str, DecodeDevice]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)

    def load(self) -> float:
        return sum(w.cost for w in self.wishes if w.there)

    def gauge(self) -> Gauge:
        busy = min(1.0, self.load() / self.capacity * (1 + self.rng.uniform(-self.noise, self.noise)))
        return Gauge(round(busy, 2), int(self.memory - sum(w.bytes for w in self.wishes if w.there)))

    def run(self, seconds: int, gauge: bool = True) -> Machine:
        for _ in range(seconds):
            self.now += 1.0
            self.state, placed = place_decoders(
                self.state, self.wishes, self.gauge() if gauge else None, self.now, limited=self.limited
            )
            assert placed.keys() == {w.id for w in self.wishes}
            after: list[Wish] = []
            free = self.decoders - sum(placed[w.id] is NVDEC and w.there for w in self.wishes)
            asked = 0
            for w in self.wishes:
                if placed[w.id] is not w.device:
                    self.moves.append((self.now, w.id, placed[w.id]))
                opens = placed[w.id] is NVDEC and not w.there and asked < self.pace
                asked += opens
                refused = opens and (free <= 0 or self.refuses(w))
                free -= opens and not refused
                there = placed[w.id] is NVDEC and (w.there or (opens and not refused))
                after.append(replace(w, device=placed[w.id], there=there, problem="no" if refused else ""))
            self.wishes = after
        return self

    def on(self) -> set[str]:
        return {w.id for w in self.wishes if w.there}


def test_nvdec_is_filled_to_its_measured_capacity_and_no_further() -> None:
    machine = Machine([wish(f"cam-{i:03}") for i in range(300)]).run(60)
    assert 0.8 * 4300 < machine.load() <= 0.86 * 4300
    assert len(machine.moves) == len(machine.on())
    assert machine.run(600).moves[-1][0] < 1061


def test_the_beginning_is_careful() -> None:
    machine = Machine([wish(f"cam-{i:03}") for i in range(300)], capacity=700.0).run(1)
    assert machine.load() <= 600
    machine.run(60)
    assert machine.load() <= 0.86 * 700 and machine.gauge().busy < 0.9


def test_no_crowd_joins_at_once() -> None:
    machine = Machine([wish(f"cam-{i:03}", video=replace(HD, fps=2.0)) for i in range(300)]).run(60)
    joined = [when for when, _, _ in machine.moves]
    assert len(machine.on()) == 300 and max(joined.count(when) for when in joined) == 32


def test_all_fit_where_there_is_room() -> None:
    machine = Machine([wish(f"cam-{i}") for i in range(70)]).run(20)
    assert len(machine.on()) == 70 == len(machine.moves)


@pytest.mark.parametrize("codec", ["mjpeg", "vp8", "mpeg4"])
def test_other_codecs_and_streams_of_the_cpu_stay_there(codec: str) -> None:
    wishes = [
        wish("a", video=replace(HD, codec=codec)),
        wish("b", mode=DecodeMode.CPU),
        wish("c"),
        wish("d", video=None),
    ]
    assert Machine(wishes).run(10).on() == {"c", "d"}


def test_without_a_gpu_all_are_decoded_on_the_cpu_and_one_that_goes_takes_none_along() -> None:
    machine = Machine([wish("a"), wish("b", mode=DecodeMode.GPU)]).run(10, gauge=False)
    assert not machine.on() and not machine.moves
    assert machine.run(10).on() == {"a", "b"}
    machine.run(1, gauge=False)
    assert not machine.on()


def test_higher_priority_comes_first_and_the_operators_word_before_it() -> None:
    wishes = [wish(f"low-{i}", 10) for i in range(30)] + [wish(f"high-{i}", 90) for i in range(15)]
    wishes += [wish("word", 0, DecodeMode.GPU)]
    machine = Machine(wishes, capacity=600.0).run(120)
    assert {f"high-{i}" for i in range(15)} | {"word"} <= machine.on()
    assert 0 < len([i for i in machine.on() if i.startswith("low")]) < 10


def test_one_of_higher_priority_takes_the_place_of_a_lower_one() -> None:
    machine = Machine([wish(f"low-{i}", 10) for i in range(40)], capacity=600.0).run(120)
    before = machine.on()
    machine.wishes.append(wish("high", 90))
    machine.run(10)
    assert "high" in machine.on() and len(before - machine.on()) == 1
    moves = len(machine.moves)
    assert len(machine.run(600).moves) == moves


def test_equals_never_take_each_others_place() -> None:
    machine = Machine([wish(f"cam-{i}") for i in range(40)], capacity=600.0).run(120)
    moves = len(machine.moves)
    machine.wishes.append(wish("a-new-one"))
    assert len(machine.run(300).moves) == moves


def test_hevc_costs_less() -> None:
    h264 = Machine([wish(f"cam-{i:03}") for i in range(400)]).run(60)
    hevc = Machine([wish(f"cam-{i:03}", video=replace(HD, codec="hevc")) for i in range(400)]).run(60)
    assert len(hevc.on()) > 1.5 * len(h264.on())


def test_memory_that_is_short_keeps_streams_on_the_cpu() -> None:
    machine = Machine([wish(f"cam-{i:03}") for i in range(300)], memory=3e9).run(60)
    assert 25 <= len(machine.on()) <= 33
    assert machine.gauge().memory_free > 1.4e9
    assert len(machine.moves) == len(machine.on())


def test_what_is_refused_is_tried_again_ever_more_rarely() -> None:
    machine = Machine([wish("ten-bits"), wish("usual")], refuses=lambda w: w.id == "ten-bits").run(4 * 3600)
    tries = [t for t, i, device in machine.moves if i == "ten-bits" and device is NVDEC]
    pauses = [b - a for a, b in itertools.pairwise(tries)]
    assert 5 <= len(tries) <= 12
    assert pauses == sorted(pauses) and 59 <= pauses[0] <= 65 and pauses[-1] <= 3700
    assert machine.on() == {"usual"} and [i for _, i, _ in machine.moves].count("usual") == 1


def test_after_an_outage_streams_come_back_and_it_is_forgotten() -> None:
    broken = True
    machine = Machine([wish(f"cam-{i}") for i in range(10)], refuses=lambda w: broken).run(100)
    assert not machine.on()
    broken = False
    machine.run(300)
    assert len(machine.on()) == 10
    machine.run(1000)
    assert not machine.state.refusals


def test_a_gpu_that_others_use_too_is_left_room() -> None:
    machine = Machine([wish(f"cam-{i:03}") for i in range(300)])
    machine.wishes.append(replace(wish("theirs"), mode=DecodeMode.CPU, there=False))
    others = 0.5 * 4300
    own = machine.load
    machine.load = lambda: own() + others  # type: ignore[method-assign]
    machine.run(200)
    assert own() + others < 0.9 * 4300 and own() > 0.2 * 4300


def test_an_nvdec_that_becomes_full_gives_up_those_of_lowest_priority() -> None:
    machine = Machine([wish(f"cam-{i:03}", priority=i) for i in range(100)], capacity=3000.0).run(60)
    assert len(machine.on()) == 100
    machine.capacity = 2000.0  # other programs decode
    machine.run(30)
    assert machine.load() < 2000
    assert machine.on() == {f"cam-{i:03}" for i in range(100 - len(machine.on()), 100)}
    moves = len(machine.moves)
    assert len(machine.run(600).moves) <= moves + 5


def test_without_a_limit_all_go_to_nvdec_but_what_it_refuses() -> None:
    wishes = [wish(f"cam-{i}") for i in range(300)] + [wish("mine", mode=DecodeMode.CPU)]
    machine = Machine(wishes, refuses=lambda w: w.id == "cam-7", limited=False).run(5)
    assert len(machine.on()) == 299


@pytest.mark.parametrize("limited", [True, False])
def test_a_gpu_that_has_no_decoder_left_isnt_asked_by_everybody(limited: bool) -> None:
    """An H100 had 236 for 700 cameras; as long as each was refused by itself that took two minutes."""
    slow = replace(HD, fps=5.0)
    wishes = [wish(f"cam-{i:03}", video=slow) for i in range(700)]
    machine = Machine(wishes, limited=limited, decoders=236, pace=10).run(120)
    assert len(machine.on()) == 236
    assert machine.state.seats and machine.state.seats.most == 236
    first = [i for t, i, device in machine.moves if device is CPU]
    assert not limited or len(first) <= 40
    tries = len(machine.moves)
    machine.run(600)
    assert len(machine.on()) == 236 and len(machine.moves) - tries < 40
    gone = {f"cam-{i:03}" for i in range(100)}
    machine.wishes = [w for w in machine.wishes if w.id not in gone]
    assert len(machine.run(200).on()) == 236, "others take the places of those that went"


def test_a_gpu_with_more_decoders_than_were_seen_is_filled_step_by_step() -> None:
    machine = Machine([wish(f"cam-{i}") for i in range(300)], limited=False, decoders=50, pace=10).run(120)
    assert len(machine.on()) == 50
    machine.decoders = 400  # another program ended
    assert len(machine.run(300).on()) == 300


def test_odd_cameras_hold_up_others_for_minutes_only() -> None:
    wishes = [wish(f"cam-{i:03}") for i in range(100)] + [wish(f"odd-{i}") for i in range(5)]
    machine = Machine(wishes, refuses=lambda w: w.id.startswith("odd"), limited=False, pace=4).run(30)
    machine.wishes += [wish(f"new-{i}") for i in range(50)]
    assert len(machine.run(600).on()) == 150


def test_of_too_few_decoders_a_higher_priority_gets_one() -> None:
    wishes = [wish(f"low-{i}", priority=10) for i in range(40)]
    machine = Machine(wishes, limited=False, decoders=30, pace=5).run(120)
    machine.wishes.append(wish("high", priority=90))
    machine.decoders = 30
    assert "high" in machine.run(200).on()


class AtKeyframes(Machine):
    """Streams take and leave a decoder at their own next keyframe, of which there is one in ``gop`` seconds."""

    gop = 4

    def run(self, seconds: int, gauge: bool = True) -> AtKeyframes:
        for _ in range(seconds):
            self.now += 1.0
            self.state, placed = place_decoders(self.state, self.wishes, self.gauge(), self.now, limited=self.limited)
            free, after = self.decoders - sum(w.there for w in self.wishes), dict[str, Wish]()
            for number, w in self.rng.sample(list(enumerate(self.wishes)), len(self.wishes)):
                there, problem = w.there, w.problem if placed[w.id] is NVDEC else ""
                if placed[w.id] is not w.device:
                    self.moves.append((self.now, w.id, placed[w.id]))
                if (number + self.now) % self.gop == 0 and there is not (placed[w.id] is NVDEC) and not problem:
                    there, problem = (False, "") if there else (free > 0, "" if free > 0 else "no")
                    free += w.there - there
                after[w.id] = replace(w, device=placed[w.id], there=there, problem=problem)
            self.wishes = [after[w.id] for w in self.wishes]
        return self


@pytest.mark.parametrize("limited", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_who_takes_anothers_decoder_asks_for_it_once_that_has_left_it(limited: bool, seed: int) -> None:
    """Who asked before was refused, for minutes: five of the highest priority waited up to 190 s."""
    slow = replace(HD, fps=5.0)
    wishes = [wish(f"low-{i}", priority=10, video=slow) for i in range(40)]
    machine = AtKeyframes(wishes, limited=limited, decoders=30, seed=seed).run(180)
    machine.moves.clear()
    high = [f"high-{i}" for i in range(5)]
    machine.wishes += [wish(name, priority=90, video=slow) for name in high]
    assert set(high) <= machine.run(40).on()
    assert not [name for _, name, device in machine.moves if name in high and device is CPU]
    machine.run(300)
    assert len(machine.on()) in (29, 30) and set(high) <= machine.on()


@pytest.mark.parametrize("limited", [True, False])
def test_those_who_try_for_more_are_let_be_while_others_of_them_find_theirs(limited: bool) -> None:
    """Else each that found one sent the others back to the CPU for a minute: 40 took 269 s."""
    wishes = [wish(f"cam-{i:03}", video=replace(HD, fps=5.0)) for i in range(200)]
    machine = AtKeyframes(wishes, limited=limited, decoders=160).run(180)
    assert len(machine.on()) == 160
    machine.decoders = 280
    machine.moves.clear()
    assert len(machine.run(120).on()) == 200
    assert len([name for _, name, device in machine.moves if device is CPU]) <= 1


@pytest.mark.parametrize("limited", [True, False])
def test_a_process_that_loses_its_context_is_no_sign_of_too_few_decoders(limited: bool) -> None:
    wishes = [wish(f"cam-{i:03}", video=replace(HD, fps=5.0)) for i in range(200)]
    machine = AtKeyframes(wishes, limited=limited, decoders=280).run(120)
    lost = {f"cam-{i:03}" for i in range(40)}
    machine.wishes = [replace(w, there=False, problem="lost") if w.id in lost else w for w in machine.wishes]
    assert machine.run(10).state.seats is None
    assert len(machine.run(70).on()) == 200


@settings(max_examples=15, deadline=None, phases=[Phase.explicit, Phase.generate])  # to shrink takes minutes
@given(
    st.lists(st.integers(0, 2), min_size=25, max_size=45), st.integers(17, 60), st.integers(1, 9), st.integers(0, 99),
    st.booleans(),
)  # fmt: skip
def test_whatever_there_is_of_decoders_the_highest_have_them(
    priorities: list[int], decoders: int, gop: int, seed: int, limited: bool
) -> None:
    """But where one or two find none, which are no sign yet of a GPU that is full."""
    assume(not 0 < len(priorities) - decoders < 5)
    wishes = [wish(f"cam-{i}", p, video=replace(HD, fps=2.0)) for i, p in enumerate(priorities)]
    machine = AtKeyframes(wishes, limited=limited, decoders=decoders, seed=seed)
    machine.gop = gop
    machine.run(400)
    on, off = ([w.priority for w in machine.wishes if w.there is there] for there in (True, False))
    assert min(decoders, len(wishes)) - len(on) <= 1
    assert sum(p < max(off, default=0) for p in on) <= 1, "one may be about to give way"
    machine.moves.clear()
    machine.run(240)
    assert len(machine.moves) <= 12, "one more is tried a minute, and nobody else is moved"


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from(["h264", "hevc"]), st.sampled_from([360, 720, 1080, 2160]),
                  st.sampled_from([5.0, 12.5, 25.0, 50.0])),
        min_size=1, max_size=120,
    ),
    st.floats(300, 6000), st.floats(0, 0.05), st.integers(0, 9),
)  # fmt: skip
def test_whatever_comes_it_settles_and_never_overfills(
    cameras: list[tuple[int, str, int, float]], capacity: float, noise: float, seed: int
) -> None:
    wishes = [
        wish(f"cam-{i}", priority, video=Video(codec, height * 16 // 9, height, fps))
        for i, (priority, codec, height, fps) in enumerate(cameras)
    ]
    machine = Machine(wishes, capacity, noise=noise, seed=seed)
    most = 0.0
    for _ in range(240):
        machine.run(1)
        most = max(most, machine.load())
    assert most <= max(600.0, capacity)
    last = {}
    for when, name, _ in machine.moves:
        assert when - last.get(name, -1e9) >= 60 or capacity < 620, "nobody is moved twice within a minute"
        last[name] = when
    moves = len(machine.moves)
    machine.run(240)
    assert len(machine.moves) - moves <= len(wishes), "it settles"
    quiet = len(machine.moves)
    assert len(machine.run(240).moves) - quiet <= max(2, len(wishes) // 20)
