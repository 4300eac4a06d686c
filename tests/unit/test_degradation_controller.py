"""One step of the controller: what it decides and what it says."""

from dataclasses import replace
from math import inf

import pytest
from test_degradation_signals import CALM, DROPS, FULL

from facedetd.control import Degradation, Stage
from facedetd.degradation.capacity import Estimate, Trial
from facedetd.degradation.controller import ControllerState, held, least, step
from facedetd.degradation.levels import Level, StreamLevels, levels_of
from facedetd.degradation.signals import Limits, disturbed_by_others, idle_to_take
from facedetd.degradation.words import in_a_line
from facedetd.types import DecodeLevel, Video

LIMITS = Limits()
FULL_HD = Video("h264", 1920, 1080, 25.0, 2.0, 1.0, 4e6)
SUB = Video("h264", 640, 360, 12.0, 2.0, 1.0, 4e5)


def wall(counts, sub=SUB, min_fps=1.0):
    levels = levels_of(FULL_HD, sub)
    return [StreamLevels(f"{p}-{n}", p, min_fps, 5.0, levels) for p, count in counts.items() for n in range(count)]


STREAMS = wall({90: 3, 10: 9})


def test_with_nothing_short_everybody_gets_all():
    state, decision = step(ControllerState(), CALM, STREAMS, LIMITS, 0.0)
    assert set(decision.grants.values()) == {5.0}
    assert least(decision) is DecodeLevel.FULL
    assert (decision.degradation, decision.reason) == (Degradation.NONE, "")
    assert state.inference.capacity == state.decode.capacity == state.network.capacity == inf


def test_inference_short_lowers_rates_by_priority_and_leaves_decoding():
    short = replace(CALM, sampled_fps=60, dropped_fps=30, inferred_fps=30, inference_busy=1.0)
    _, decision = step(ControllerState(), short, STREAMS, LIMITS, 0.0)
    assert [decision.grants[f"90-{n}"] for n in range(3)] == [5.0] * 3
    assert all(1.0 <= decision.grants[f"10-{n}"] < 2.0 for n in range(9))
    assert least(decision) is DecodeLevel.FULL
    assert decision.degradation is Degradation.REDUCED
    assert "inference was short: 50% of the sampled frames" in decision.reason
    assert "9 of 12 streams get fewer frames" in decision.reason


def test_cpu_that_others_have_is_no_spare_cpu():
    """The engine idles nine tenths of the time, but others have nearly all of the CPU that it would need."""
    others = replace(CALM, idle_cores=0.25, sampled_fps=10, inferred_fps=10, inference_busy=0.1, inference_cores=0.2)
    assert disturbed_by_others(others, LIMITS) and 0 < idle_to_take(others, LIMITS) < 0.1
    short = replace(others, sampled_fps=60, dropped_fps=50, inferred_fps=10, inference_busy=1.0, idle_cores=0.0)
    state, _ = step(ControllerState(), short, STREAMS, LIMITS, 0.0)
    cut = state.inference.capacity
    for now in range(1, 15):
        state, _ = step(state, others, STREAMS, LIMITS, float(now))
        assert state.inference.capacity <= cut


def test_what_is_taken_back_without_a_shortage_keeps_its_reason():
    short = replace(CALM, sampled_fps=60, dropped_fps=30, inferred_fps=30, inference_busy=1.0)
    state, _ = step(ControllerState(), short, STREAMS, LIMITS, 0.0)
    proven = state.inference.capacity
    rose = replace(state.inference, capacity=1.2 * proven, lost=1.0, settled_s=0.0)
    state, decision = step(replace(state, inference=rose), CALM, STREAMS, LIMITS, 60.0)
    assert proven <= state.inference.capacity < 1.2 * proven
    assert decision.reason.startswith("inference was short: 50% of the sampled frames")


def test_a_finding_that_cut_several_stages_is_told_once_as_it_was_last():
    short = replace(
        CALM, idle_cores=0.0, late_share=0.3, late_fps=90, sampled_fps=60, dropped_fps=30, inferred_fps=30,
        inference_busy=1.0, decoder_cores=0.3, inference_cores=0.3,
    )  # fmt: skip
    assert disturbed_by_others(short, LIMITS)
    state, decision = step(ControllerState(), short, STREAMS, LIMITS, 0.0)
    assert len(state.causes) == 2
    assert decision.reason.count("host was short") == 1
    _, decision = step(state, replace(short, late_share=0.0, late_fps=0.0, dropped_fps=20), STREAMS, LIMITS, 9.0)
    assert decision.reason.count("host was short") == 1
    assert "33% of the sampled frames" in decision.reason and "too late" not in decision.reason


def test_decode_short_lowers_levels_by_priority_and_leaves_rates():
    short = replace(FULL, late_share=0.3, late_fps=90, decoder_cores=1.0, inference_cores=0.8)
    _, decision = step(ControllerState(), short, STREAMS, LIMITS, 0.0)
    assert {decision.levels[f"90-{n}"].kind for n in range(3)} == {DecodeLevel.FULL}
    assert least(decision) is DecodeLevel.SUB_STREAM
    assert set(decision.grants.values()) == {5.0}
    assert decision.degradation is Degradation.REDUCED
    assert "decode was short" in decision.reason


def test_keyframes_only_limit_what_can_be_granted_and_it_is_said():
    short = replace(FULL, late_share=0.8, late_fps=90, decoder_cores=0.5, inference_cores=1.4)
    _, decision = step(ControllerState(), short, wall({90: 3, 10: 20}, sub=None), LIMITS, 0.0)
    low = [i for i, level in decision.levels.items() if level.kind is DecodeLevel.KEYFRAMES]
    assert low and all(decision.grants[i] == 0.5 for i in low)
    assert decision.degradation is Degradation.OVERCOMMITTED
    assert "not even every stream's min_fps fits" in decision.reason
    assert {decision.grants[f"90-{n}"] for n in range(3)} == {5.0}


def test_network_short_takes_sub_streams():
    short = replace(CALM, decode_lag_s=0.8, network_bits_per_s=2.5e7)
    _, decision = step(ControllerState(), short, STREAMS, LIMITS, 0.0)
    assert decision.shortage.stage is Stage.NETWORK
    assert sum(level.bits_per_s for level in decision.levels.values()) <= 2.5e7
    assert {decision.levels[f"90-{n}"].kind for n in range(3)} == {DecodeLevel.FULL}


def test_minima_that_dont_fit_make_decoders_give_way():
    """All are at their min and inference is still short, on a CPU that decoders share: they must leave it more."""
    streams = wall({50: 10}, min_fps=4.0)
    short = replace(FULL, sampled_fps=40, decoder_cores=1.3, inference_cores=0.7, **{**DROPS, "inferred_fps": 20.0})
    state, decision = step(ControllerState(), short, streams, LIMITS, 0.0)
    assert decision.degradation is Degradation.OVERCOMMITTED and least(decision) is DecodeLevel.FULL
    _, decision = step(state, short, streams, LIMITS, 10.0)
    assert least(decision) is not DecodeLevel.FULL


def test_a_new_stream_is_served_at_once_and_a_gone_one_forgotten():
    state, _ = step(ControllerState(), CALM, STREAMS, LIMITS, 0.0)
    state, decision = step(state, CALM, [*STREAMS[1:], *wall({50: 1})], LIMITS, 1.0)
    assert decision.grants["50-0"] == 5.0
    assert STREAMS[0].id not in state.book.keys() | decision.grants.keys()


def test_no_streams_at_all():
    _, decision = step(ControllerState(), replace(FULL, late_share=0.5, late_fps=9), [], LIMITS, 0.0)
    assert decision.grants == decision.levels == {}
    assert decision.degradation is Degradation.NONE
    assert least(decision) is DecodeLevel.FULL


def test_costs_that_waver_dont_move_the_decision_those_that_change_do():
    old = StreamLevels("x", 1, 1, 5, (Level(DecodeLevel.FULL, 0.10, 25), Level(DecodeLevel.KEYFRAMES, 0.02, 0.5)))
    noisy = replace(old, levels=(Level(DecodeLevel.FULL, 0.11, 24), old.levels[1]))
    assert held(old, noisy).levels == old.levels
    assert held(old, replace(noisy, target_fps=9)).target_fps == 9
    dearer = replace(old, levels=(Level(DecodeLevel.FULL, 0.2, 25), old.levels[1]))
    assert held(old, dearer) is dearer
    other = replace(old, levels=old.levels[:1])
    assert held(old, other) is other
    assert held(None, old) is old


def test_the_same_id_twice():
    with pytest.raises(ValueError, match="same id"):
        step(ControllerState(), CALM, wall({1: 1}) * 2, LIMITS, 0.0)


def test_a_period_in_a_line_says_what_was_seen_and_what_is_believed():
    short = replace(CALM, decode_lag_s=0.8, cpu_lag_s=0.7, idle_cores=0.0, decoder_cores=1.5)
    state, decision = step(ControllerState(), short, STREAMS, LIMITS, 0.0)
    line = in_a_line(short, state, decision)
    assert "idle 0.0" in line and "lag 800 ms (700 of the CPU's)" in line and "short: decode" in line
    assert f"decode {state.decode.capacity:.3g} cores" in line and "inference inf fps" in line
    tried = replace(state, decode=replace(state.decode, trial=Trial(0.5, 0.0, 0.1)))
    assert "(tried, was 0.5) cores" in in_a_line(short, tried, decision)
    assert sum(int(part.split()[0]) for part in line.rsplit("; ", 1)[1].split(", ")) == len(STREAMS)


def test_what_is_learned_of_the_machines_speed_changes_no_level():
    """On an H100's host 262 of 464 cameras that the CPU carried with 2 of 16 cores idle went down to 111 within 30 s,
    because what a camera costs was reckoned anew and what the CPU carries was not."""
    short = replace(FULL, host_cores=2.0, decoder_cores=1.9, inference_cores=0.1, late_share=0.4, late_fps=100)
    state, decision = step(ControllerState(), short, wall({90: 3, 10: 30}, None), LIMITS, 0.0)
    assert state.decode.capacity < 2.0
    before = decision.levels
    for now in range(5, 20):
        measured = replace(CALM, idle_cores=0.05, decode_speed=1.0 - 0.03 * now)
        state, decision = step(state, measured, wall({90: 3, 10: 30}, None), LIMITS, float(now))
        assert decision.levels == before
    assert decision.decode_capacity == pytest.approx(state.decode.capacity / measured.decode_speed)


def test_what_is_tried_and_how_deep_a_cut_goes_are_measured_in_this_machines_cores():
    cameras = wall({90: 3, 10: 60}, None)
    held = Estimate(1.0, proven=1.0)
    rises, floors = [], []
    for speed in (1.0, 0.5):
        state = ControllerState(decode=held)
        idle = replace(CALM, idle_cores=0.6, decode_speed=speed)
        for now in range(10):
            state, _ = step(state, idle, cameras, LIMITS, float(now))
        rises.append(state.decode.capacity - 1.0)
        stuck = replace(FULL, late_share=0.9, late_fps=500, decoder_cores=0.05, inference_cores=1.9, decode_speed=speed)
        state = ControllerState(decode=replace(held, capacity=0.3))
        for now in range(40):
            state, _ = step(state, stuck, wall({10: 1}, None), LIMITS, float(now))
        floors.append(state.decode.capacity)
    assert rises[1] == pytest.approx(rises[0] / 2, rel=0.05) and rises[0] > 0.1
    assert floors == [pytest.approx(0.2), pytest.approx(0.1)]


def test_a_period_of_which_nothing_is_known_leaves_what_was_found_out():
    """While decoders opened on a GPU, what was believed went down every five seconds, and trials failed."""
    trial = Trial(20.0, 0.0, 0.5)
    state = ControllerState(inference=Estimate(30.0, trial=trial, settled_s=2.0), decode=Estimate(1.5, proven=1.2))
    short = replace(FULL, decode_lag_s=0.9, cpu_lag_s=0.9, **DROPS)
    for now in range(20):
        state, decision = step(state, short, STREAMS, LIMITS, float(now), conclusive=False)
        assert (state.inference.capacity, state.decode.capacity) == (30.0, 1.5)
        assert decision.shortage.stage is Stage.NONE
    for now in range(20, 24):  # and then it is watched as long as ever
        state, _ = step(state, replace(CALM, decode_lag_s=0.2, cpu_lag_s=0.2), STREAMS, LIMITS, float(now))
        assert state.inference.trial
    state, decision = step(state, CALM, STREAMS[:2], LIMITS, 25.0, conclusive=False)
    assert set(decision.levels) == {STREAMS[0].id, STREAMS[1].id}


def test_a_network_isnt_calm_while_a_gpus_streams_are_late():
    state = ControllerState(network=Estimate(1e6, proven=1e6))
    late = replace(CALM, decode_lag_s=0.25)
    for now in range(60):
        state, _ = step(state, late, STREAMS, LIMITS, float(now))
    assert state.network.capacity <= 1e6


def test_a_slow_machine_achieves_less_of_what_the_levels_cost():
    short = replace(FULL, host_cores=2.0, decoder_cores=1.9, inference_cores=0.1, late_share=0.1, late_fps=100)
    usual, _ = step(ControllerState(), short, wall({10: 30}), LIMITS, 0.0)
    slow, decision = step(ControllerState(), replace(short, decode_speed=0.5), wall({10: 30}), LIMITS, 0.0)
    assert slow.decode.capacity == pytest.approx(usual.decode.capacity / 2)
    assert decision.decode_capacity == pytest.approx(usual.decode.capacity)


def test_cameras_not_seen_yet_dont_make_the_machine_larger_than_it_is():
    """70 cameras of 5 fps that had just come were reckoned as such of 25: a third of that was 3 of 2 cores, so that the
    first cut was none."""
    short = replace(FULL, host_cores=2.0, decoder_cores=1.9, inference_cores=0.1, decode_lag_s=0.8, cpu_lag_s=0.8)
    state, _ = step(ControllerState(), short, wall({10: 70}), LIMITS, 0.0)
    assert 1.0 < state.decode.capacity < 2.0


def test_lags_of_when_the_cpu_was_used_up_say_nothing_of_the_network():
    """They are the worst of some seconds; the levels are down already, and CPU is idle again."""
    state, _ = step(ControllerState(), replace(FULL, decode_lag_s=0.9, cpu_lag_s=0.9), STREAMS, LIMITS, 0.0)
    left = replace(CALM, decode_lag_s=0.9, cpu_lag_s=0.9, late_share=0.1, late_fps=30.0, latency_p95_s=0.9)
    left = replace(left, inference_busy=0.8)
    for now in (1.0, 2.0, 3.0):
        state, decision = step(state, left, STREAMS, LIMITS, now)
        assert decision.shortage.stage is Stage.NONE and state.network.capacity == inf
    _, decision = step(state, replace(left, **DROPS), STREAMS, LIMITS, 3.5)
    assert decision.shortage.stage is Stage.INFERENCE
    for now in (4.5, 5.5, 6.5):
        state, decision = step(state, left, STREAMS, LIMITS, now)
    assert decision.shortage.stage is Stage.NETWORK and state.network.capacity < inf


def test_a_cpu_that_inference_fills_isnt_what_makes_a_network_slow():
    busy = replace(CALM, idle_cores=0.15, decoder_cores=0.1, inference_cores=1.6, decode_lag_s=0.9, cpu_lag_s=0.9)
    state, decision = step(ControllerState(), busy, STREAMS, LIMITS, 0.0)
    assert decision.shortage.stage is Stage.NETWORK and state.network.capacity < inf
