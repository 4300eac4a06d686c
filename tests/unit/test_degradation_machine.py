"""The modelled machine keeps accounts of its CPU as a real one does."""

from dataclasses import replace

import pytest

from facedetd.degradation.levels import Level
from facedetd.degradation.machine import Conditions, Machine
from facedetd.degradation.traces import wall
from facedetd.types import DecodeLevel

COARSE = 0.05


def machine_with(streams):
    machine = Machine(seed=1, tick_s=COARSE)
    for spec in streams:
        machine.add(spec)
    return machine


@pytest.mark.parametrize("each", [1, 3, 20])
def test_every_frame_is_paid_for_and_the_rest_of_the_cpu_is_idle(each):
    at = Conditions(engine_ms=25.0, engine_cores=2.0, stolen_cores=0.5)
    machine = machine_with(wall(each))
    machine.run(40, at)
    totals = machine.totals
    assert totals.inference_cpu_s == pytest.approx(totals.inferred * 0.025 * 2.0, rel=0.05)
    assert totals.decoder_cpu_s + totals.inference_cpu_s + totals.host_idle_s == pytest.approx(1.5 * 40, rel=0.02)


def test_an_engine_that_wants_all_leaves_decoders_the_little_they_need():
    machine = machine_with(wall((3, 8, 13)))
    machine.run(40, Conditions(engine_ms=25.0, engine_cores=2.0, stolen_cores=1.0))
    assert machine.totals.replaced > 0 and machine.totals.decode_lag_s <= COARSE


def test_streams_that_were_slow_together_dont_sample_together_once_they_are_faster():
    at, streams = Conditions(engine_ms=2.0), wall(20)
    machine = machine_with(streams)
    for fps in (0.01, 0.25):
        machine.order(dict.fromkeys((s.id for s in streams), fps), {s.id: s.levels[0] for s in streams})
        machine.run(20, at)
    sampled = []
    for _ in range(8):
        before = machine.totals.sampled
        machine.run(1, at)
        sampled.append(machine.totals.sampled - before)
    assert max(sampled) < len(streams) / 2  # 15 a second in the mean


def test_decoders_that_need_more_than_there_is_share_it_with_the_engine():
    heavy = tuple(replace(s, levels=(Level(DecodeLevel.FULL, 0.5, 10.0),)) for s in wall(4))
    machine = machine_with(heavy)
    machine.run(20, Conditions(engine_ms=6.0))
    assert machine.totals.host_idle_s < 0.05 * 40
    assert machine.totals.decoder_cpu_s > 20
