"""From counters to a finding: which stage is short."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facedetd.control import Stage
from facedetd.degradation.signals import (
    Limits,
    Signals,
    Totals,
    cpu_decode_calm,
    decode_calm,
    diagnose,
    inference_calm,
    signals_between,
)

LIMITS = Limits()
CALM = Signals(
    period_s=1.0, host_cores=2.0, sampled_fps=40, inferred_fps=40, dropped_fps=0, late_share=0, late_fps=0,
    oldest_waiting_s=0.02, latency_p95_s=0.1, decode_lag_s=0.02, inference_busy=0.3, inference_ms_per_frame=7.5,
    inference_cores=0.3, decoder_cores=0.8, idle_cores=0.8, network_bits_per_s=3e7,
)  # fmt: skip
FULL = replace(CALM, idle_cores=0.0, decoder_cores=1.4, inference_cores=0.6)
DROPS = {"dropped_fps": 12.0, "inferred_fps": 28.0, "inference_busy": 1.0}


def test_nothing_is_short():
    assert diagnose(CALM, LIMITS).stage is Stage.NONE
    few = replace(CALM, cpu_lag_s=0.7, decoder_cores=1.1, opening=True)  # beside those that a GPU decodes in time
    assert diagnose(few, LIMITS).stage is Stage.NONE
    assert decode_calm(CALM, LIMITS) and inference_calm(CALM, LIMITS)


@pytest.mark.parametrize(
    "signals, stage, cut, words",
    [
        (replace(CALM, **DROPS), Stage.INFERENCE, {Stage.INFERENCE}, "30% of the sampled frames were dropped"),
        (replace(CALM, oldest_waiting_s=2.0), Stage.INFERENCE, {Stage.INFERENCE}, "waits for 2000 ms"),
        (replace(CALM, latency_p95_s=0.6, inference_busy=0.9), Stage.INFERENCE, {Stage.INFERENCE}, "up to 600 ms"),
        (replace(FULL, late_share=0.2, late_fps=50), Stage.DECODE, {Stage.DECODE}, "20% of the video came too late"),
        (replace(FULL, decode_lag_s=0.6, **DROPS), Stage.DECODE, {Stage.DECODE}, "600 ms old when sampled"),
        (
            replace(CALM, decode_lag_s=0.6, idle_cores=0.15, decoder_cores=1.5),
            Stage.DECODE, {Stage.DECODE}, "600 ms old",
        ),
        (  # few, beside those that a GPU decodes in time
            replace(FULL, decode_lag_s=0.02, cpu_lag_s=0.7), Stage.DECODE, {Stage.DECODE}, "700 ms old",
        ),
        (replace(CALM, cpu_lag_s=0.7, dropped_fps=12.0), Stage.INFERENCE, {Stage.INFERENCE}, "dropped"),
        (  # decoders have too little of the CPU to be why there is none
            replace(CALM, decode_lag_s=0.6, idle_cores=0.15, decoder_cores=0.1, inference_cores=1.7),
            Stage.NETWORK, {Stage.NETWORK}, "0.1 cores are idle",
        ),
        (
            replace(CALM, decode_lag_s=0.6, idle_cores=0.15, decoder_cores=0.2, inference_cores=0.2),
            Stage.HOST, {Stage.DECODE}, "other programs use 1.5",
        ),
        (replace(CALM, decode_lag_s=0.6), Stage.NETWORK, {Stage.NETWORK}, "0.8 cores are idle"),
        (  # those that open decoders on a GPU keep the others from it
            replace(CALM, decode_lag_s=0.6, cpu_lag_s=0.7, decoder_cores=1.1, opening=True),
            Stage.DECODE, {Stage.DECODE}, "700 ms old",
        ),
        (  # the GPU's alone are late, and so are those whose CPU hardly decodes
            replace(CALM, decode_lag_s=0.6, cpu_lag_s=0.2, decoder_cores=1.1, opening=True),
            Stage.NETWORK, {Stage.NETWORK}, "0.8 cores are idle",
        ),
        (
            replace(CALM, decode_lag_s=0.6, cpu_lag_s=0.7, decoder_cores=0.9, opening=True),
            Stage.NETWORK, {Stage.NETWORK}, "0.8 cores are idle",
        ),
        (  # the usual rule holds as well
            replace(CALM, decode_lag_s=0.6, cpu_lag_s=0.7, idle_cores=0.15, decoder_cores=0.9, inference_cores=0.9,
                    opening=True),
            Stage.DECODE, {Stage.DECODE}, "700 ms old",
        ),
        (replace(CALM, decode_lag_s=0.6, **DROPS), Stage.NETWORK, {Stage.NETWORK, Stage.INFERENCE}, "idle"),
        (
            replace(FULL, decoder_cores=0.5, inference_cores=0.3, decode_lag_s=0.6),
            Stage.HOST, {Stage.DECODE}, "other programs use 1.2 of 2 cores",
        ),
        (
            replace(FULL, decoder_cores=0.5, inference_cores=0.3, decode_lag_s=0.6, **DROPS),
            Stage.HOST, {Stage.DECODE, Stage.INFERENCE}, "other programs",
        ),
    ],
)  # fmt: skip
def test_the_stage_that_is_short(signals, stage, cut, words):
    found = diagnose(signals, LIMITS)
    assert (found.stage, found.cut) == (stage, cut)
    assert words in found.reason
    assert 0 < found.severity <= 1


def test_a_gpu_far_from_full_whose_process_gets_no_cpu_isnt_short():
    """On an H100 whose host was used up by 464 cameras the model's share was cut to a tenth of what the GPU does."""
    late = replace(FULL, latency_p95_s=0.9, inference_busy=0.72, engine_on_cpu=False, full_fps=400.0)
    found = diagnose(late, LIMITS)
    assert (found.stage, found.cut) == (Stage.DECODE, {Stage.DECODE})
    assert "up to 900 ms; decoders use 1.4 of 2 cores" in found.reason
    assert diagnose(replace(late, **DROPS), LIMITS).cut == {Stage.DECODE}
    few = {"decoder_cores": 0.3, "inference_cores": 1.6}  # it is its own process that has the CPU
    for other in ({"full_fps": 50.0}, {"full_fps": 0.0}, {"idle_cores": 0.5}, {"engine_on_cpu": True}, few):
        assert diagnose(replace(late, **other), LIMITS).cut == {Stage.INFERENCE}, other
    theft = replace(late, decoder_cores=0.5)
    assert (diagnose(theft, LIMITS).stage, diagnose(theft, LIMITS).cut) == (Stage.HOST, {Stage.DECODE})


def test_no_shortage_of_what_isnt_there_or_too_few_to_tell():
    assert diagnose(replace(CALM, inference_ready=False, **DROPS), LIMITS).stage is Stage.NONE
    assert diagnose(replace(CALM, sampled_fps=1, dropped_fps=1), LIMITS).stage is Stage.NONE
    late_elsewhere = replace(CALM, latency_p95_s=0.9, inference_busy=0.2)
    assert diagnose(late_elsewhere, LIMITS).stage is Stage.NONE


WAITED = {"oldest_waiting_s": 1.2, "latency_p95_s": 1.5, "inference_busy": 1.0}


def test_what_piled_up_and_is_worked_off_is_no_shortage_any_more():
    """The frames that waited longest come last, and their latency shows when the engine has caught up."""
    assert diagnose(replace(CALM, inferred_fps=40, **WAITED), LIMITS).stage is Stage.INFERENCE
    catching_up = replace(CALM, inferred_fps=44, **WAITED)
    assert diagnose(catching_up, LIMITS).stage is Stage.NONE
    assert not inference_calm(catching_up, LIMITS)  # and nothing rises
    dropping = replace(catching_up, dropped_fps=8)
    assert diagnose(dropping, LIMITS).stage is Stage.INFERENCE


def test_an_engine_that_stands_still_does_not_catch_up():
    stuck = replace(CALM, sampled_fps=0, inferred_fps=0, oldest_waiting_s=3.0)
    assert diagnose(stuck, LIMITS).stage is Stage.INFERENCE


def test_between_short_and_calm_lies_a_dead_band():
    some = replace(CALM, sampled_fps=100, dropped_fps=2)
    assert diagnose(some, LIMITS).stage is Stage.NONE and not inference_calm(some, LIMITS)
    old = replace(CALM, decode_lag_s=0.25)
    assert diagnose(old, LIMITS).stage is Stage.NONE and not decode_calm(old, LIMITS)
    assert cpu_decode_calm(old, LIMITS) and not cpu_decode_calm(replace(old, cpu_lag_s=0.25), LIMITS)
    late = replace(CALM, late_share=0.02, late_fps=10)
    assert not decode_calm(late, LIMITS) and not cpu_decode_calm(late, LIMITS)


SHARE, RATE = st.floats(0, 1), st.floats(0, 200)


SIGNALS = st.builds(
    Signals, period_s=st.floats(0.5, 5), host_cores=st.floats(1, 64), sampled_fps=RATE, inferred_fps=RATE,
    dropped_fps=RATE, late_share=SHARE, late_fps=RATE, oldest_waiting_s=st.floats(0, 9),
    latency_p95_s=st.floats(0, 9), decode_lag_s=st.floats(0, 9), inference_busy=SHARE,
    inference_ms_per_frame=RATE, inference_cores=st.floats(0, 8), decoder_cores=st.floats(0, 8),
    idle_cores=st.floats(0, 64), network_bits_per_s=st.floats(0, 1e9), cpu_lag_s=st.floats(0, 9),
    inference_ready=st.booleans(), engine_on_cpu=st.booleans(), full_fps=RATE,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(SIGNALS)
def test_a_finding_names_its_reason_and_lever_and_is_never_calm(signals):
    found = diagnose(signals, LIMITS)
    assert (found.stage is Stage.NONE) == (found.severity == 0) == (not found.reason) == (not found.cut)
    assert found.severity <= 1
    assert found.cut <= {Stage.DECODE, Stage.INFERENCE, Stage.NETWORK}
    if Stage.NETWORK in found.cut:
        assert not decode_calm(signals, LIMITS)
    if Stage.INFERENCE in found.cut:
        assert not inference_calm(signals, LIMITS)
    if Stage.DECODE in found.cut and decode_calm(signals, LIMITS) and cpu_decode_calm(signals, LIMITS):
        assert not inference_calm(signals, LIMITS) and not signals.engine_on_cpu


def test_signals_are_what_happened_in_between():
    old = Totals(10.0, received=100, received_bytes=1000, sampled=50, inferred=40, busy_s=1.0, host_idle_s=5.0)
    new = Totals(
        12.0, received=300, received_bytes=501000, skipped=20, sampled=90, stale=10, inferred=60, replaced=12,
        no_slot=4, busy_s=2.0, inference_cpu_s=0.8, decoder_cpu_s=1.2, host_idle_s=7.0, oldest_waiting_s=0.3,
    )  # fmt: skip
    s = signals_between(old, new, 2.0)
    assert (s.sampled_fps, s.inferred_fps, s.dropped_fps) == (20, 10, 8)
    assert s.dropped_share == pytest.approx(0.4)
    assert s.late_share == pytest.approx(0.2)  # 10 of 50 too old, 20 of 200 packets skipped
    assert s.late_fps == 15
    assert (s.inference_busy, s.inference_ms_per_frame) == (0.5, 50)
    assert (s.idle_cores, s.others_cores) == (1.0, 0.0)
    assert s.network_bits_per_s == 2e6
    assert s.oldest_waiting_s == 0.3


def test_counters_that_went_back_and_time_that_stood():
    s = signals_between(Totals(1.0, sampled=50), Totals(2.0, sampled=10), 2.0)
    assert s.sampled_fps == 0
    with pytest.raises(ValueError, match="period of 0"):
        signals_between(Totals(1.0), Totals(1.0), 2.0)
    with pytest.raises(ValueError, match="latency bound of 0"):
        Limits(latency_s=0)
