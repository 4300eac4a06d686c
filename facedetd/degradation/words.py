"""A period of the controller in one line, for the log at level debug: what a report of odd behaviour needs."""

from __future__ import annotations

from collections import Counter

from facedetd.degradation.capacity import Estimate
from facedetd.degradation.controller import ControllerState, Decision
from facedetd.degradation.levels import RANK
from facedetd.degradation.signals import Signals


def in_a_line(s: Signals, state: ControllerState, decision: Decision) -> str:
    """What was measured, what came of it, and what is believed of each stage; units are in the text."""
    counts = Counter(level.kind for level in decision.levels.values())
    levels = ", ".join(f"{counts[kind]} {kind.value}" for kind in sorted(counts, key=RANK.__getitem__))
    return (
        f"{s.host_cores:g} cores: decoders {s.decoder_cores:.1f}, inference {s.inference_cores:.1f}, "
        f"others {s.others_cores:.1f}, idle {s.idle_cores:.1f}; {s.late_share:.1%} late, lag "
        f"{1000 * s.decode_lag_s:.0f} ms ({1000 * s.cpu_lag_s:.0f} of the CPU's), p95 {1000 * s.latency_p95_s:.0f} ms; "
        f"{s.sampled_fps:.0f} fps sampled, {s.inferred_fps:.0f} inferred, {s.dropped_share:.1%} dropped, "
        f"engine {s.inference_busy:.0%} busy; short: {decision.shortage.stage.value}; "
        f"decode {_believed(state.decode)} cores of {s.decode_speed:.2f}, inference {_believed(state.inference)} fps, "
        f"network {_believed(state.network)} bit/s; {levels}"
    )


def _believed(estimate: Estimate) -> str:
    trial = f" (tried, was {estimate.trial.before:.3g})" if estimate.trial else ""
    return f"{estimate.capacity:.3g}{trial}"
