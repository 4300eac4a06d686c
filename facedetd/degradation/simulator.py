"""Replays a load against the controller with a modelled machine and a fake clock, and draws what came of it.

python -m facedetd.degradation.simulator --trace overload --plot overload.svg
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from facedetd.degradation.controller import ControllerState, Decision, step
from facedetd.degradation.levels import StreamLevels
from facedetd.degradation.machine import Machine
from facedetd.degradation.signals import Limits, Signals, signals_between
from facedetd.degradation.traces import TRACES, Trace
from facedetd.types import DecodeLevel

PERIOD_S = 1.0
ABOUT = "Replay a load against the degradation controller on a modelled machine."


@dataclass(frozen=True, slots=True)
class Moment:
    """One period: who was there, what each got (results in the period), what was measured, what was decided."""

    now_s: float
    streams: tuple[StreamLevels, ...]
    results: Mapping[str, int]
    signals: Signals
    decision: Decision


def simulate(
    trace: Trace, limits: Limits | None = None, seed: int = 1, tick_s: float = 0.02, *, aligned: bool = False
) -> list[Moment]:
    """The same for the same arguments. ``aligned``: see Machine."""
    limits = limits or Limits()
    machine, state = Machine(seed, tick_s, aligned=aligned), ControllerState()
    moments = []
    while machine.now_s < trace.duration_s - PERIOD_S / 2:
        phase = trace.at(machine.now_s + tick_s / 2)
        wanted = {s.id: s for s in phase.streams}
        for gone in machine.streams.keys() - wanted.keys():
            machine.remove(gone)
        for spec in phase.streams:
            if spec.id not in machine.streams:
                machine.add(spec)
        for stream in machine.streams.values():
            stream.results = 0
        before = machine.totals
        machine.run(PERIOD_S, phase.conditions)
        signals = signals_between(before, machine.totals, phase.conditions.cores)
        state, decision = step(state, signals, phase.streams, limits, machine.now_s)
        results = {s.spec.id: s.results for s in machine.streams.values()}
        moments.append(Moment(machine.now_s, phase.streams, results, signals, decision))
        machine.order(decision.grants, decision.levels)
    return moments


def mean_fps(moments: Sequence[Moment], stream_id: str, begin_s: float, end_s: float) -> float:
    """Results a second of a stream from ``begin_s`` to ``end_s``."""
    counts = [m.results.get(stream_id, 0) for m in moments if begin_s < m.now_s <= end_s]
    return sum(counts) / len(counts) / PERIOD_S if counts else 0.0


def changes(moments: Sequence[Moment], begin_s: float, end_s: float) -> int:
    """How often what is granted or a level changed from ``begin_s`` to ``end_s``."""
    told = [(dict(m.decision.grants), dict(m.decision.levels)) for m in moments if begin_s <= m.now_s <= end_s]
    return sum(1 for a, b in pairwise(told) if a != b)


def by_priority(moment: Moment) -> dict[int, float]:
    """Mean results a second of a stream, for each priority."""
    found: dict[int, list[int]] = {}
    for stream in moment.streams:
        found.setdefault(stream.priority, []).append(moment.results[stream.id])
    return {p: sum(counts) / len(counts) / PERIOD_S for p, counts in found.items()}


def plot(trace: Trace, moments: Sequence[Moment], limits: Limits, path: Path) -> None:
    """Draw frames a second by priority, latency, and decode levels over time. Raises SystemExit without matplotlib."""
    try:
        import matplotlib as mpl

        mpl.use("Agg")
        mpl.rcParams["svg.hashsalt"] = "facedetd"  # else each run's ids differ
        import matplotlib.pyplot as plt
    except ImportError:
        raise SystemExit("drawing needs matplotlib: install the 'dev' extra, or leave out --plot") from None
    figure, rows = plt.subplots(3, 1, figsize=(9, 7.5), sharex=True, height_ratios=(3, 1.6, 1.6), layout="constrained")
    times = [m.now_s for m in moments]
    _draw_rates(rows[0], moments, times)
    rows[1].plot(times, [m.signals.latency_p95_s * 1000 for m in moments], color="#444444", linewidth=1)
    rows[1].axhline(limits.latency_s * 1000, color="#c0392b", linestyle="--", linewidth=1, label="bound")
    rows[1].set_ylabel("latency p95, ms")
    rows[1].set_ylim(0, limits.latency_s * 2000)
    rows[1].legend(loc="upper left", fontsize="small")
    counts = [
        [sum(1 for level in m.decision.levels.values() if level.kind is kind) for m in moments] for kind in DecodeLevel
    ]
    shown = [(kind, row) for kind, row in zip(DecodeLevel, counts, strict=True) if any(row)]
    tones = ("#2e8b57", "#9acd32", "#c9c94b", "#f0a63c", "#d9603b", "#555555")
    colours = dict(zip(DecodeLevel, tones, strict=True))
    rows[2].stackplot(
        times, *(row for _, row in shown), labels=[kind.value for kind, _ in shown], step="post",
        colors=[colours[kind] for kind, _ in shown],
    )  # fmt: skip
    rows[2].set_ylabel("streams by level")
    rows[2].set_xlabel("seconds")
    rows[2].legend(loc="upper left", fontsize="small", ncols=3)
    rows[0].set_title(f"{trace.name}: {trace.about}", fontsize="medium")
    for row in rows:
        row.set_xlim(0, trace.duration_s)
        for phase in trace.phases[1:]:
            row.axvline(phase.at_s, color="#bbbbbb", linewidth=0.8)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def _draw_rates(axes: Any, moments: Sequence[Moment], times: Sequence[float]) -> None:
    priorities = sorted({s.priority for m in moments for s in m.streams}, reverse=True)
    for number, priority in enumerate(priorities):
        smooth, granted = [], []
        for position, moment in enumerate(moments):
            window = [by_priority(m).get(priority) for m in moments[max(0, position - 2) : position + 1]]
            known = [fps for fps in window if fps is not None]
            smooth.append(sum(known) / len(known) if known else float("nan"))
            grants = [moment.decision.grants[s.id] for s in moment.streams if s.priority == priority]
            granted.append(sum(grants) / len(grants) if grants else float("nan"))
        axes.plot(times, smooth, color=f"C{number}", linewidth=1.6, label=f"priority {priority}: results")
        axes.plot(times, granted, color=f"C{number}", linewidth=0.9, linestyle=":", label="granted")
    axes.set_ylabel("frames a second a stream")
    axes.set_ylim(bottom=0)
    axes.legend(loc="lower right", fontsize="small", ncols=len(priorities))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m facedetd.degradation.simulator", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--trace", choices=sorted(TRACES), default="overload")
    parser.add_argument("--plot", type=Path, help="draw into this file (.svg, .png)")
    parser.add_argument("--latency-ms", type=float, default=500.0, help="bound of the latency's p95 (default 500)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    try:
        limits = Limits(latency_s=options.latency_ms / 1000)
    except ValueError as error:
        parser.error(str(error))
    trace = TRACES[options.trace]()
    moments = simulate(trace, limits, options.seed)
    said = ""
    for number, moment in enumerate(moments, 1):
        reason = f"{moment.decision.degradation.value}: {moment.decision.reason}"
        if number % 10 == 0 or reason != said:
            print(summary(moment), "" if reason == said else reason)
            said = reason
    if options.plot:
        plot(trace, moments, limits, options.plot)
    return 0


def summary(moment: Moment) -> str:
    rates = "  ".join(f"p{p}: {fps:4.1f}" for p, fps in sorted(by_priority(moment).items(), reverse=True))
    return f"{moment.now_s:5.0f} s  {rates}  p95 {moment.signals.latency_p95_s * 1000:4.0f} ms"


if __name__ == "__main__":
    sys.exit(main())
