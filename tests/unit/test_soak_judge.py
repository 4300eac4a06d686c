"""The soak's judgement: a leak is found, noise is not, and nothing passes that could not be judged."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facedetd.v1 import stream_pb2
from tests.soak import judge, plan, results
from tests.soak.actions import Actions
from tests.soak.drive import accounts_broken, rest_figures
from tests.soak.expect import RESULTS, SILENT_S, Expectations, Fault, Progress
from tests.soak.judge import Bound, growth, slope
from tests.soak.watch import ProcessSample, Sample

HOUR = 3600.0
MB = 1_000_000


def process(kind: str, pid: int, age_s: float, **values: int) -> ProcessSample:
    return replace(ProcessSample(kind, pid, pid, age_s, 60 * MB, 50 * MB, 20, 8, age_s * 0.02), **values)


def run(hours: float, leaks: dict[str, float] | None = None, noise: float = 0.0, every_s: float = 10.0) -> list[Sample]:
    """A run with one process of each kind that leaks so many MB an hour, the decoder restarted every ten minutes."""
    rng = random.Random(1)
    found: list[Sample] = []
    for i in range(int(hours * HOUR / every_s)):
        at = i * every_s

        def rss(kind: str, age_s: float) -> int:
            return round((60 + (leaks or {}).get(kind, 0.0) * age_s / HOUR + rng.gauss(0, noise)) * MB)

        life, age = divmod(at, 600.0)
        processes = (
            process("supervisor", 1, at, rss=rss("supervisor", at)),
            process("decoder", 100 + int(life), age, rss=rss("decoder", age)),
            process("inference", 2, at, rss=rss("inference", at)),
        )
        latency = 100 + rng.gauss(0, 10 * noise)
        found.append(Sample(at, processes, (), 12 * MB, 7, latency, latency * 1.5, 16, 16, {}, 8, 0, 0.02))
    return found


def broken(samples: list[Sample], hours: float) -> list[str]:
    return judge.violations(judge.judge(samples, hours * HOUR), complete=True)


@pytest.mark.parametrize(("kind", "leak"), [("supervisor", 30.0), ("decoder", 120.0), ("inference", 30.0)])
def test_a_leak_is_found_in_the_process_that_has_it(kind: str, leak: float) -> None:
    found = broken(run(1.0, {kind: leak}, noise=1.0), 1.0)
    assert [line.split(",")[0].split(" from")[0] for line in found if "PSS" not in line] == [f"{kind}: rss:"]


@pytest.mark.parametrize("hours", [0.1, 1.0, 3.0])
def test_noise_alone_is_no_leak(hours: float) -> None:
    assert broken(run(hours, noise=1.0), hours) == []


def test_a_slow_leak_of_the_supervisor_is_found_in_an_hour_and_not_sooner() -> None:
    """6 MB an hour: 10 % over what the allowance leaves after an hour, well under it after five minutes."""
    assert broken(run(1.0, {"supervisor": 6.0}, noise=0.3), 1.0)
    assert not broken(run(1 / 12, {"supervisor": 6.0}, noise=0.3, every_s=5), 1 / 12)
    assert broken(run(1 / 12, {"supervisor": 80.0}, noise=0.3, every_s=5), 1 / 12)


def test_restarts_neither_hide_a_leak_nor_look_like_one() -> None:
    falling = [(float(t), 100 - t / 10 + t % 100 * 0.5) for t in range(0, 600, 10)]  # each life grows, the sum falls
    lives = [[p for p in falling if p[0] // 100 == n] for n in range(6)]
    assert slope([falling]) < 0.05 < slope(lives)


lines = st.tuples(st.floats(-1e3, 1e3), st.floats(-10, 10))


@given(lines, st.integers(2, 400))
def test_the_slope_of_a_line_is_its_slope(line: tuple[float, float], count: int) -> None:
    base, steep = line
    life = [(float(t), base + steep * t) for t in range(count)]
    assert slope([life]) == pytest.approx(steep, abs=1e-6)


@given(lines, st.lists(st.floats(-50, 50), min_size=10, max_size=60), st.floats(-5, 5), st.floats(-1e4, 1e4))
def test_the_slope_follows_what_is_added(
    line: tuple[float, float], noise: list[float], more: float, shift: float
) -> None:
    life = [(float(t), line[0] + line[1] * t + n) for t, n in enumerate(noise)]
    steeper = [(t, v + more * t + shift) for t, v in life]
    assert slope([steeper]) == pytest.approx(slope([life]) + more, abs=1e-6)


@given(st.integers(30, 200), st.integers(0, 2**32), st.floats(1, 1e6))
def test_a_fifth_of_wild_samples_moves_it_by_no_more_than_the_noise(count: int, seed: int, wild: float) -> None:
    rng = random.Random(seed)
    life = [(float(t), 3.0 * t + rng.uniform(-1, 1)) for t in range(count)]
    for i in rng.sample(range(count), count // 5):
        life[i] = (life[i][0], rng.choice((-wild, wild)) * 1000)
    assert slope([life]) == pytest.approx(3.0, abs=10 / count + 0.2)


@given(st.lists(st.floats(-1, 1), min_size=8, max_size=100), st.floats(0, 20))
def test_what_stays_within_a_quarter_of_the_allowance_never_breaks_a_bound(noise: list[float], rate: float) -> None:
    life = [(10.0 * t, 50 + n) for t, n in enumerate(noise)]
    assert growth("x", "MB", [life], Bound(rate, 4.0 + 1e-6)).ok


def test_what_could_not_be_judged_does_not_pass() -> None:
    figures = judge.judge(run(0.02), HOUR)
    assert {f.ok for f in figures} == {None}
    assert len(judge.violations(figures, complete=True)) == len(figures)
    assert judge.violations(figures, complete=False) == []


def test_latency_and_cpu_that_grow_are_found_and_a_busy_machine_is_not() -> None:
    calm = run(0.5, noise=1.0)
    busy = [replace(s, p95_ms=s.p95_ms + (200 if i % 3 == 0 else 0)) for i, s in enumerate(calm)]
    assert broken(busy, 0.5) == []
    queue = [replace(s, p95_ms=150 + s.at_s**2 / 1e3, supervisor_cpu=0.02 + s.at_s**2 / 1e7) for s in calm]
    assert {line.split(": from")[0] for line in broken(queue, 0.5)} == {"latency p95", "supervisor: CPU"}


def test_one_descriptor_more_a_minute_is_a_leak_and_so_is_a_few_at_rest() -> None:
    def leaking(sample: Sample) -> Sample:
        supervisor, *others = sample.processes
        more = replace(supervisor, descriptors=20 + int(sample.at_s // 60))
        return replace(sample, processes=(more, *others))

    samples = run(1.0)
    assert [line.split(": from")[0] for line in broken([leaking(s) for s in samples], 1.0)] == [
        "supervisor: descriptors"
    ]
    assert [f.name for f in rest_figures(samples[0], leaking(samples[-1])) if not f.ok] == [
        "at rest: descriptors of supervisor"
    ]
    slow = replace(samples[-1], p95_ms=600.0)
    assert [f.name for f in rest_figures(samples[0], slow) if not f.ok] == ["at rest: latency p95"]


# ---- who must be back


def see(**inferred: int) -> dict[str, Progress]:
    return {name: Progress(count, 0) for name, count in inferred.items()}


def test_a_stream_is_back_when_results_come_after_the_old_process_is_gone() -> None:
    expected = Expectations()
    expected.expect(Fault("a kill", 0.0, 10.0, gone=frozenset({7})), ["a"])
    assert expected.look(1.0, see(a=50), frozenset({7})) == []  # results of the dying
    assert expected.look(2.0, see(a=60), frozenset({8})) == []
    assert expected.look(3.0, see(a=60 + RESULTS - 1), frozenset({8})) == []
    assert expected.pending == ("a",)
    assert expected.look(4.0, see(a=60 + RESULTS), frozenset({8})) == []
    assert [(r.cause, r.streams, r.took_s) for r in expected.recoveries] == [("a kill", 1, 4.0)]


def test_a_stream_that_stays_away_is_told_once() -> None:
    expected = Expectations()
    expected.expect(Fault("a cut", 0.0, 10.0, reconnects={"a": 1}), ["a", "b"])
    for now in range(1, 11):
        assert expected.look(now, see(a=now, b=now), frozenset()) == []  # a never noticed the cut
    assert [line.split(" within")[0] for line in expected.look(11.0, see(a=11, b=11), frozenset())] == [
        "a was not back"
    ]
    assert expected.look(12.0, see(a=12, b=12), frozenset()) == []
    assert [r.streams for r in expected.recoveries] == [1]


def test_silence_without_a_reason_is_told_and_away_on_purpose_is_not() -> None:
    expected = Expectations()
    for now in range(int(SILENT_S) + 1):
        assert expected.look(now, see(a=5, b=now, c=now), frozenset()) == []
    expected.forget("c")
    said = expected.look(SILENT_S + 1, see(a=5, b=100), frozenset())
    assert len(said) == 1
    assert said[0].startswith("a gave no result")


def test_a_daemon_that_counts_anew_is_no_way_to_be_back() -> None:
    expected = Expectations()
    expected.expect(Fault("a kill", 0.0, 10.0), ["a"])
    expected.look(1.0, see(a=1000), frozenset())
    expected.look(2.0, see(a=0), frozenset())
    assert expected.pending == ("a",)
    expected.look(3.0, see(a=RESULTS), frozenset())
    assert expected.pending == ()


# ---- the plan


@given(st.integers(0, 2**32), st.floats(180, 5000), st.integers(2, 12))
def test_a_plan_is_repeatable_whole_and_ends_in_time(seed: int, duration_s: float, cameras: int) -> None:
    events = plan.make_plan(seed, duration_s, cameras)
    assert events == plan.make_plan(seed, duration_s, cameras)
    assert [e.at_s for e in events] == sorted(e.at_s for e in events)
    assert all(0 < e.at_s <= duration_s - plan.TAIL_S for e in events)
    begun: dict[tuple[str, int], float] = {}
    troubled: set[int] = set()
    for event in events:
        if event.action in plan.ENDS:
            begun[plan.ENDS[event.action], event.target] = event.at_s
        elif event.action in plan.ENDS.values():
            assert begun.pop((event.action, event.target)) <= event.at_s
        if event.action in (*plan.CAMERA_ACTIONS, *plan.STREAM_ACTIONS):
            assert event.target not in troubled
            assert event.target < cameras
        if event.action in plan.ENDS and event.action in (*plan.CAMERA_ACTIONS, "pause"):
            troubled.add(event.target)
        if event.action in ("up", "resume", "clean", "unpause"):
            troubled.discard(event.target)
    assert not begun


def test_five_minutes_hold_nearly_every_kind_of_event_and_leave_workers_time_to_grow_old() -> None:
    wanted = {*plan.WEATHER, *plan.PROCESS_ACTIONS, "kill-supervisor"}
    for seed in range(20):
        events = plan.make_plan(seed, 300.0, 8)
        assert len(wanted - {e.action for e in events}) <= 1
        harmful = [e.at_s for e in events if e.action in (*plan.PROCESS_ACTIONS, "kill-supervisor")]
        assert max(harmful) <= 300 * plan.STORM_SHARE


def test_every_event_can_be_done() -> None:
    actions = {*plan.WEATHER, *plan.STORM, *plan.ENDS.values(), "move", "kill-supervisor"}
    assert [a for a in sorted(actions) if not hasattr(Actions, "do_" + a.replace("-", "_"))] == []


# ---- accounts and files


def test_accounts_that_are_off_by_one_frame_are_found() -> None:
    status = stream_pb2.StreamStatus(
        frames_decoded=10, frames_sampled=6, frames_not_sampled=4, frames_inferred=3, frames_waiting=1,
        frames_in_flight=1, frames_dropped={"replaced": 1},
    )  # fmt: skip
    assert accounts_broken(status) == ""
    status.frames_inferred -= 1
    assert accounts_broken(status) == "sampled 6, inferred or dropped 3, in the ring 2"
    status.frames_decoded += 1
    assert accounts_broken(status) == "decoded 11, sampled 6, not 4"


@pytest.fixture
def found() -> results.Results:
    samples = run(0.1)
    figures = [*judge.judge(samples, 360.0), judge.Figure("x", "", math.nan, math.nan, math.nan, "", None)]
    about = {"minutes": 6.0, "seed": 3, "cameras": 8, "date": "2026-11-22", "machine": "none"}
    events = plan.make_plan(3, 360.0, 8)
    return results.Results(about, samples, events, [], figures, ["something"])


def test_results_come_back_from_their_file_as_they_were(found: results.Results, tmp_path: Path) -> None:
    results.write_json(found, tmp_path / "r.json")
    again = results.read_json(tmp_path / "r.json")
    assert list(again.samples) == list(found.samples)
    assert list(again.events) == list(found.events)
    assert results.table(again.figures) == results.table(found.figures)
    results.write_csv(found.samples, tmp_path / "s.csv")
    assert len((tmp_path / "s.csv").read_text().splitlines()) == len(found.samples) + 1


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 9}', '{"format": 1, "samples": [{}]}'])
def test_a_file_that_is_no_result_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(results.ResultsError, match=r"r\.json"):
        results.read_json(path)


def test_the_same_results_give_the_same_picture(found: results.Results, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from tests.soak.plot import draw

    for name in ("a.svg", "b.svg"):
        draw(found, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
