"""The closed loop on a modelled machine: settles, keeps priorities, comes back."""

import builtins
from dataclasses import replace
from math import fsum

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from facedetd.control import Degradation
from facedetd.degradation import simulator
from facedetd.degradation.machine import Conditions
from facedetd.degradation.signals import Limits
from facedetd.degradation.simulator import changes, mean_fps, simulate
from facedetd.degradation.traces import FULL_HD, HIGH, LOW, MIDDLE, SUB, TRACES, Phase, Trace, neighbour, wall

LIMIT = settings(max_examples=8, deadline=None)
COARSE = 0.04
BEGIN, END, DURATION = 30.0, 190.0, 252.0
SETTLED = 110.0
FEW = wall(1)


def overload(engine_ms, counts, min_fps=0.5):
    """Few streams, then ``counts`` of each priority, then few again."""
    at = replace(Conditions(), engine_ms=engine_ms)
    phases = (Phase(0, FEW, at), Phase(BEGIN, wall(counts, min_fps=min_fps), at), Phase(END, FEW, at))
    return Trace("test", "", DURATION, phases)


def assert_back_to_full(moments, end_s):
    """Within 60 s of the end of the load everything is granted, and stays so."""
    for m in moments:
        if m.now_s > end_s + 60:
            assert m.decision.degradation is Degradation.NONE
            assert all(m.decision.grants[s.id] == s.target_fps for s in m.streams)


@LIMIT
@example(engine_ms=32.375, factor=1.5, seed=29)
@given(engine_ms=st.floats(15, 40), factor=st.floats(1.3, 3.5), seed=st.integers(0, 99))
def test_inference_overload(engine_ms, factor, seed):
    capacity = 1000 / engine_ms
    total = max(4, int(capacity * factor / 5))
    high = max(1, min(total // 4, int(capacity * 0.5 / 5)))
    middle = (total - high) // 2
    counts = (high, middle, total - high - middle)
    moments = simulate(overload(engine_ms, counts, min_fps=0.2), seed=seed, tick_s=COARSE)
    during = [m for m in moments if SETTLED < m.now_s <= END]
    for m in during:
        assert m.decision.degradation is not Degradation.OVERCOMMITTED
        assert all(m.decision.grants[s.id] >= s.min_fps - 1e-9 for s in m.streams)
        assert all(m.decision.grants[s.id] == 5.0 for s in m.streams if s.priority == HIGH)
        assert m.decision.grants[f"p{MIDDLE}-0"] >= m.decision.grants[f"p{LOW}-0"] - 1e-9 or not middle
    for n in range(high):
        assert mean_fps(moments, f"p{HIGH}-{n}", SETTLED, END) >= 0.95 * 5
    delivered = fsum(m.signals.inferred_fps for m in during) / len(during)
    assert delivered >= 0.8 * min(capacity, 5 * total)  # what there is, is used
    over = [m for m in during if m.signals.latency_p95_s > Limits().latency_s]
    assert len(over) <= 10  # of 80; a rise that just doesn't hold costs so many, and 1 of 250 has more than 5
    assert changes(moments, SETTLED, END) <= 10  # of 80: it probes upwards now and then, and 3 of 300 need more than 6
    assert_back_to_full(moments, END)


@LIMIT
@given(each=st.integers(6, 11), sub=st.booleans(), seed=st.integers(0, 99))
def test_decode_overload(each, sub, seed):
    kind = SUB if sub else None
    streams = wall((3, each, each), video=FULL_HD, sub=kind)
    few = wall(1, video=FULL_HD, sub=kind)
    at = replace(Conditions(), engine_ms=4.0)
    trace = Trace("test", "", DURATION, (Phase(0, few, at), Phase(BEGIN, streams, at), Phase(END, few, at)))
    moments = simulate(trace, seed=seed, tick_s=COARSE)
    for n in range(3):
        assert mean_fps(moments, f"p{HIGH}-{n}", SETTLED, END) >= 0.95 * 5
    during = [m for m in moments if SETTLED < m.now_s <= END]
    for m in during:
        levels = m.decision.levels
        assert levels[f"p{HIGH}-0"].cores >= levels[f"p{LOW}-0"].cores
        if sub:  # then all minima fit
            assert all(m.decision.grants[s.id] >= s.min_fps - 1e-9 for s in m.streams)
    assert len([m for m in during if m.signals.latency_p95_s > Limits().latency_s]) <= 6
    assert changes(moments, SETTLED, END) <= 10
    assert_back_to_full(moments, END)


@pytest.mark.parametrize("name", ["thief", "dip"])
def test_what_was_taken_is_back_within_a_minute(name):
    trace = TRACES[name]()
    moments = simulate(trace, tick_s=COARSE)
    assert any(m.decision.degradation is not Degradation.NONE for m in moments)
    assert_back_to_full(moments, trace.phases[-1].at_s)


def test_a_link_that_is_wide_again_carries_everything_again():
    """What it has to spare can't be measured, so this takes longer."""
    trace = TRACES["network"]()
    moments = simulate(trace, tick_s=COARSE)
    narrow = [m for m in moments if 120 < m.now_s <= 240]
    assert all(m.decision.degradation is not Degradation.NONE for m in narrow)
    assert all(mean_fps(moments, s.id, 120, 240) >= 4.75 for s in trace.phases[0].streams)
    assert moments[-1].decision.degradation is Degradation.NONE


def test_cameras_that_come_and_go():
    trace = TRACES["waves"]()
    moments = simulate(trace, tick_s=COARSE)
    for m in moments:
        assert m.decision.grants.keys() == {s.id for s in m.streams}
        if m.decision.degradation is not Degradation.OVERCOMMITTED:
            assert all(m.decision.grants[s.id] >= s.min_fps - 1e-9 for s in m.streams)
    settled = [m for m in moments if (m.now_s - 1) % 60 > 20]
    assert len([m for m in settled if m.signals.latency_p95_s > Limits().latency_s]) <= len(settled) / 50


def test_under_a_load_that_stays_changes_become_rare():
    at = replace(Conditions(), engine_ms=25.0)
    trace = Trace("test", "", 3000, (Phase(0, wall((3, 3, 4), min_fps=0.5), at),))
    moments = simulate(trace, tick_s=COARSE)
    assert changes(moments, 1200, 3000) <= 8
    assert mean_fps(moments, f"p{HIGH}-0", 1200, 3000) >= 0.98 * 5


def test_streams_that_sample_together_cost_rate_but_no_priority():
    moments = simulate(overload(25.0, (3, 8, 8)), tick_s=COARSE, aligned=True)
    assert mean_fps(moments, f"p{HIGH}-0", SETTLED, END) >= 0.9 * 5
    assert_back_to_full(moments, END)


def test_the_same_again():
    trace = overload(25.0, 3)
    assert simulate(trace, seed=5, tick_s=COARSE) == simulate(trace, seed=5, tick_s=COARSE)
    assert simulate(trace, seed=5, tick_s=COARSE) != simulate(trace, seed=6, tick_s=COARSE)


def short_trace():
    return Trace("short", "a test", 20, (Phase(0, wall(1), Conditions()), Phase(8, wall(6), Conditions(engine_ms=25))))


def test_command_line_draws(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(simulator, "TRACES", {"overload": short_trace})
    first, second = tmp_path / "a.svg", tmp_path / "b.svg"
    assert simulator.main(["--plot", str(first)]) == 0
    assert "reduced: inference was short" in capsys.readouterr().out
    assert simulator.main(["--plot", str(second)]) == 0
    assert first.read_bytes() == second.read_bytes() and b"<svg" in first.read_bytes()


def test_command_line_without_matplotlib(tmp_path, monkeypatch):
    real = builtins.__import__

    def fail(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(simulator, "TRACES", {"overload": short_trace})
    monkeypatch.setattr(builtins, "__import__", fail)
    with pytest.raises(SystemExit, match="needs matplotlib"):
        simulator.main(["--plot", str(tmp_path / "a.svg")])


def test_command_line_refuses(capsys):
    with pytest.raises(SystemExit):
        simulator.main(["--latency-ms", "0"])
    assert "latency bound of 0.0 s" in capsys.readouterr().err


@LIMIT
@example(stolen=1.8, minutes=1, seed=40)  # falls short once more when the others have just gone
@example(stolen=1.9, minutes=2, seed=4)
@given(stolen=st.floats(1.6, 1.9), minutes=st.integers(1, 3), seed=st.integers(0, 99))
def test_what_failed_while_others_had_the_cpu_is_not_held_against_it_later(stolen, minutes, seed):
    at = replace(Conditions(), engine_ms=12.0)
    end = 30 + 60 * minutes
    robbed = Phase(30, wall(3), replace(at, stolen_cores=stolen))
    trace = Trace("test", "", end + 80, (Phase(0, wall(3), at), robbed, Phase(end, wall(3), at)))
    for m in simulate(trace, seed=seed, tick_s=COARSE):
        if m.now_s > end + 60:
            assert all(m.decision.grants[s.id] == s.target_fps for s in m.streams)


def after_a_neighbour(seed, **how):
    """What comes from the second on in which others leave the CPU that the high priority needs, and that second."""
    trace = neighbour("", wall((2, 9, 13), min_fps=0.25), seed=seed, **how)
    back_s = trace.duration_s - 90
    moments = [m for m in simulate(trace, seed=seed, tick_s=COARSE) if m.now_s > back_s]
    assert all(m.decision.grants[f"p{HIGH}-0"] >= m.decision.grants[f"p{LOW}-0"] for m in moments)
    return moments, back_s


NEIGHBOUR = {"before_s": st.integers(0, 12), "stolen_s": st.integers(12, 45), "stolen": st.floats(1.0, 1.5)}


@LIMIT
@given(**NEIGHBOUR, rest=st.floats(0.0, 0.7), seed=st.integers(0, 99))
def test_the_high_priority_is_back_30_s_after_others_have_left_the_cpu(before_s, stolen_s, stolen, rest, seed):
    moments, back_s = after_a_neighbour(
        seed, before_s=before_s, stolen_s=stolen_s, stolen=stolen, rest=rest, wobble=0.0
    )
    assert all(m.decision.grants[f"p{HIGH}-0"] >= 0.9 * 5 for m in moments if back_s + 30 < m.now_s <= back_s + 60)


@LIMIT
@example(before_s=2, stolen_s=31, stolen=1.25, rest=0.61, seed=41)  # what failed meanwhile was held against it for long
@example(before_s=8, stolen_s=38, stolen=1.29, rest=0.68, seed=13)
@given(**NEIGHBOUR, rest=st.floats(0.45, 0.7), seed=st.integers(0, 99))
def test_others_that_keep_a_quarter_of_the_cpu_now_more_now_less_dont_keep_the_high_priority_down(
    before_s, stolen_s, stolen, rest, seed
):
    moments, back_s = after_a_neighbour(seed, before_s=before_s, stolen_s=stolen_s, stolen=stolen, rest=rest)
    assert mean_fps(moments, f"p{HIGH}-0", back_s + 30, back_s + 90) >= 0.6 * 5
