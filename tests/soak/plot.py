"""Draws a run: memory, descriptors and threads, latency, frames a second, and what happened when."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.soak.plan import CAMERA_ACTIONS, ENDS, PROCESS_ACTIONS
from tests.soak.results import Results
from tests.soak.watch import KINDS, ProcessSample, Sample

COLOURS = {"supervisor": "#1f5fa8", "decoder": "#2e8b57", "inference": "#d9603b", "other": "#888888"}
ROWS = ("supervisor", "processes", "cameras", "streams, clients")
_ENDED_BY = {end: begin for begin, end in ENDS.items()}


def draw(results: Results, path: Path) -> None:
    """Into ``path`` (.svg, .png); the same for the same results."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "facedetd"  # else each run's ids differ
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        6, 1, figsize=(9, 11), sharex=True, height_ratios=(2, 1.4, 1.4, 1.6, 1.4, 1.1), layout="constrained"
    )
    samples = results.samples
    minutes = [s.at_s / 60 for s in samples]
    _by_kind(axes[0], minutes, samples, "memory (RSS), MB", lambda p: p.rss / 1e6)
    axes[0].plot(minutes, [sum(p.pss for p in s.processes) / 1e6 for s in samples], "k:", lw=1, label="all (PSS)")
    axes[0].legend(loc="lower right", fontsize="x-small", ncols=5)
    _by_kind(axes[1], minutes, samples, "descriptors", lambda p: p.descriptors)
    _by_kind(axes[2], minutes, samples, "threads", lambda p: p.threads)
    axes[3].plot(minutes, [s.p95_ms for s in samples], color="#d9603b", lw=1, label="p95")
    axes[3].plot(minutes, [s.p50_ms for s in samples], color="#1f5fa8", lw=1, label="p50")
    axes[3].set_ylabel("latency, ms")
    axes[3].legend(loc="upper right", fontsize="x-small", ncols=2)
    axes[4].plot(minutes, [s.wanted_fps for s in samples], color="#888888", lw=1, ls=":", label="wanted")
    axes[4].plot(minutes, [s.fps for s in samples], color="#2e8b57", lw=1, label="results")
    axes[4].set_ylabel("frames/s")
    axes[4].legend(loc="lower right", fontsize="x-small", ncols=2)
    _events(axes[5], results)
    for row in axes[:5]:
        row.set_ylim(bottom=0)
        for event in results.events:
            if event.action == "kill-supervisor":
                row.axvline(event.at_s / 60, color="#1f5fa8", lw=0.8, ls="--")
    axes[5].set_xlim(0, max(1.0, *minutes) if minutes else 1.0)
    axes[5].set_xlabel("minutes")
    about = results.about
    axes[0].set_title(
        f"{about['minutes']:g} minutes, seed {about['seed']}, {about['cameras']} cameras, {about['date']}: "
        f"{len(results.events)} events, {len(results.violations)} violations",
        fontsize="medium",
    )
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def _by_kind(
    axes: Any, minutes: Sequence[float], samples: Sequence[Sample], name: str, value: Callable[[ProcessSample], float]
) -> None:
    for kind in KINDS[:3]:
        sums = [sum(map(value, s.of(kind))) if s.of(kind) else float("nan") for s in samples]
        axes.plot(minutes, sums, color=COLOURS[kind], lw=1, label=kind)
    axes.set_ylabel(name)


def row_of(action: str) -> int:
    """Where in ROWS an event is marked."""
    action = _ENDED_BY.get(action, action)
    if "supervisor" in action:
        return 0
    return 1 if action in PROCESS_ACTIONS else 2 if action in CAMERA_ACTIONS else 3


def _events(axes: Any, results: Results) -> None:
    tones = (COLOURS["supervisor"], COLOURS["inference"], COLOURS["decoder"], COLOURS["other"])
    for row, tone in enumerate(tones):
        at = [e.at_s / 60 for e in results.events if row_of(e.action) == row]
        axes.plot(at, [-row] * len(at), "|", color=tone, markersize=9)
    axes.set_yticks([-row for row in range(len(ROWS))], ROWS)
    axes.set_ylim(0.5 - len(ROWS), 0.5)
