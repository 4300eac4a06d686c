"""Makes docs/configuration.md and docs/metrics.md from the code: ``python -m docs.tools.reference_pages`` writes both.

``make docs`` does that; tests/unit/test_docs.py compares.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from facedetd.config.convert import field_types
from facedetd.config.reference import toml_value
from facedetd.config.schema import KEYS, SECTIONS
from facedetd.control import (
    CalibrationView,
    DaemonState,
    Degradation,
    DegradationView,
    GpuView,
    InferenceView,
    LoadView,
    ModelView,
    ProcessView,
    Stage,
    StatsView,
    StreamCounts,
    StreamView,
    WorkerKind,
)
from facedetd.metrics.exporter import Metrics
from facedetd.ring.counts import DROP_REASONS
from facedetd.supervisor.reload import LIVE_KEYS, LIVE_SECTIONS
from facedetd.types import Origin, StreamSpec, StreamState

DOCS = Path(__file__).resolve().parent.parent

CONFIGURATION_HEAD = """\
# Configuration

<!-- Made by `make docs` from facedetd/config; a test compares. -->

The daemon reads one TOML file, `/etc/facedetd/facedetd.toml` (`facedetd --config FILE` names another), and then
`conf.d/*.toml` beside it in order of their names: a later file's key takes the place of an earlier one's, streams add
up. Every key has a default, so an empty file is a configuration.

- `facedetd --check` tells every error at once, each with file, line, key, what was found and what is allowed.
- `facedetd --print-config` prints a file with every key and its default, commented out.
- `facedetctl reload` or SIGHUP makes the daemon read its files anew. A bad configuration changes nothing. Keys marked
  *restart* take effect at the next start; all others, and streams, at once.
"""

STREAM_HEAD = """\
## [[stream]]

Streams may also stand in the TOML. They are read-only through the API then. `id` and `url` must be given. A password
never stands in the file: `credential` names one that systemd loads.

[degradation.md](degradation.md) says what `priority`, `target_fps`, `min_fps` and `sub_url` do under load. `decode` is
for one stream what `capture.decode` is for all: `cpu` never sends it to NVDEC, `gpu` puts it there before all others.
"""

METRICS_HEAD = """\
# Metrics

<!-- Made by `make docs` from facedetd/metrics; a test compares. -->

`http://127.0.0.1:9464/metrics`, in Prometheus's text format or OpenMetrics. The key `metrics.listen` sets the address,
which must be one of this host's loopback, for there is no password and no TLS. The number of series is bounded by the
number of streams, processes and GPUs; no label holds a URL.

For every stream, at every moment:

    decoded = sampled + not_sampled
    sampled = inferred + dropped (all reasons) + in the ring (waiting and in_flight)
"""

LABELS = {
    "stream": "The stream's id.",
    "kind": "Of a process: " + ", ".join(f"`{kind.value}`" for kind in WorkerKind) + ".",
    "name": "Of a process: `supervisor`, `decoder-0`, `inference-0`, …; of a GPU: what the driver calls it.",
    "gpu": "A GPU's number, in the order of the PCI bus.",
    "state": "See below for streams and the daemon; of the ring: `waiting` for a batch, `in_flight` in one; "
    + "of degradation: "
    + ", ".join(f"`{each.value}`" for each in Degradation)
    + ", see [degradation.md](degradation.md).",
    "stage": "What is short: " + ", ".join(f"`{each.value}`" for each in Stage) + ".",
    "reason": "Why a sampled frame was dropped, see below.",
    "le": "Upper bound of a histogram's bucket.",
}

REASONS = {
    "no_slot": "All slots of the stream were in use: inference is behind.",
    "replaced": "A newer frame of the stream came while it waited: inference is behind.",
    "worker_lost": "A process died with it.",
    "torn": "Slot and message disagreed, so it was not inferred. Should never happen.",
    "inference_failed": "Its batch failed; the log says why.",
    "model_away": "No engine to run it: its ring was given up before.",
}

STREAM_STATES = {
    StreamState.WAITING: "Accepted, not yet with a decoder.",
    StreamState.CONNECTING: "The camera is being asked.",
    StreamState.STREAMING: "Pictures come.",
    StreamState.STALLED: "Connected, but nothing comes.",
    StreamState.BACKING_OFF: "It failed; the next attempt comes after a pause.",
    StreamState.PAUSED: "Paused by the operator.",
    StreamState.ENDED: "Its definition can't be used (see `facedetctl stats`).",
}

DAEMON_STATES = {
    DaemonState.STARTING: "The model is being loaded.",
    DaemonState.RUNNING: "Faces are being detected.",
    DaemonState.WAITING_FOR_MODEL: "Controllable, but there is no model to run.",
    DaemonState.WAITING_FOR_DEVICE: "Controllable, but the device is away. The CPU engine never is.",
    DaemonState.FAILED: "The inference process can't be kept running.",
    DaemonState.STOPPING: "On its way down.",
}


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return [*lines, *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)]


def configuration() -> str:
    lines = [CONFIGURATION_HEAD]
    for section, cls in SECTIONS.items():
        lines += [f"## [{section}]", ""]
        types = field_types(cls)
        rows = []
        for field in dataclasses.fields(cls):
            key = KEYS[section][field.name]
            live = section in LIVE_SECTIONS or f"{section}.{field.name}" in LIVE_KEYS
            default = toml_value(field.default)
            rows.append(
                [f"`{field.name}`", f"`{default}`", key.allowed(types[field.name]), "" if live else "restart", key.doc]
            )
        lines += [*table(("key", "default", "allowed", "", "what it does"), rows), ""]
    types = field_types(StreamSpec)
    rows = []
    for field in dataclasses.fields(StreamSpec):
        if field.name in ("id", "url"):
            default = ""
        else:
            default = {"rois": "`[]`", "labels": "`{}`"}.get(field.name) or f"`{toml_value(field.default)}`"
        key = KEYS["stream"][field.name]
        rows.append([f"`{field.name}`", default, key.allowed(types[field.name]), key.doc])
    return "\n".join([*lines, STREAM_HEAD, *table(("key", "default", "allowed", "what it does"), rows), ""])


def sample_stats() -> StatsView:
    """A view in which everything there can be is there."""
    stream = StreamView(
        spec=StreamSpec("cam", "rtsp://192.0.2.1/"),
        origin=Origin.API,
        has_password=False,
        state=StreamState.STREAMING,
        detail="",
        state_since_utc_ns=0,
        codec="h264",
        source_width=1920,
        source_height=1080,
        source_fps=25.0,
        granted_fps=5.0,
        actual_fps=5.0,
        latency=None,
        counts=StreamCounts(dropped=dict.fromkeys(DROP_REASONS, 0)),
    )
    process = ProcessView(WorkerKind.SUPERVISOR, "supervisor", 1, "running", 1.0, 1.0, 0.0, 1, 0, 1, "")
    return StatsView(
        time_utc_ns=0,
        state=DaemonState.RUNNING,
        uptime_s=1.0,
        model=ModelView(
            "centerface",
            "0",
            "centerface",
            "onnxruntime",
            640,
            384,
            "0",
            calibration=CalibrationView(0, 1000, "entropy", 1.0, 0.0),
        ),
        streams=(stream,),
        processes=(process,),
        inference=InferenceView(0.0, 0.0, 0.0, 0, 0, 0, 0.0),
        watchers=0,
        latency=None,
        degradation=DegradationView(
            Degradation.REDUCED, "", 0, Stage.HOST, LoadView(2.0, 0, 1, 1, 0, 0.5, 0, 0, 0, 0, 0, 0), 10.0, 1.0, 1e6
        ),
        gpus=(GpuView(0, "GPU-0", "a GPU", "580", 0.5, 0.5, 1, 1, 2, 1, 60.0, 300.0),),
    )


def metrics() -> str:
    collected = Metrics(sample_stats)
    collected.observe_result("cam", 0.1)
    collected.observe_batch(1, 0.1)
    text = collected.render().body.decode()
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    labels: dict[str, list[str]] = {name: [] for name in types}
    for sample, inside in re.findall(r"^(\w+)\{(.*)\} ", text, re.MULTILINE):
        name = sample if sample in types else re.sub(r"_(bucket|count|sum)$", "", sample)
        for label in re.findall(r'(\w+)="', inside):
            if label not in labels[name]:
                labels[name].append(label)
    rows = [
        [f"`{name}`", types[name], ", ".join(f"`{label}`" for label in labels[name]), meaning]
        for name, meaning in re.findall(r"^# HELP (\S+) (.*)$", text, re.MULTILINE)
    ]
    return "\n".join(
        [
            METRICS_HEAD,
            *table(("metric", "type", "labels", "meaning"), rows),
            *_meanings("Labels", "label", LABELS),
            *_meanings("Why frames are dropped", "reason", REASONS),
            *_meanings("States of a stream", "state", {s.value: text for s, text in STREAM_STATES.items()}),
            *_meanings("States of the daemon", "state", {s.value: text for s, text in DAEMON_STATES.items()}),
            "",
        ]
    )


def _meanings(title: str, head: str, meanings: Mapping[str, str]) -> list[str]:
    return ["", f"## {title}", "", *table((head, "meaning"), ([f"`{name}`", text] for name, text in meanings.items()))]


PAGES = {"configuration.md": configuration, "metrics.md": metrics}

if __name__ == "__main__":
    for name, make in PAGES.items():
        (DOCS / name).write_text(make())
