"""Bench's figures as text and as JSON. Pure, but for :func:`machine`."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from facedetctl.bench.figures import Check, Measured
from facedetctl.bench.gpu import GpuUse
from facedetctl.bench.runner import BenchOptions, Rung
from facedetctl.output import Cell, paint, size

_COLUMNS = (
    ("", -8), ("CAMS", 4), ("TARGET", 6), ("FPS", 5), ("MIN", 5), ("DROP", 6), ("MEAN", 5), ("P50", 5), ("P95", 5),
    ("P99", 5), ("CORES", 5), ("CPU-S", 6), ("MS/FRAME", 8), ("MEMORY", 8), ("NETWORK", 8), ("RECALL", 6), ("IOU", 5),
    ("GPU", 5), ("NVDEC", 5), ("GPU-MEM", 8), ("TEMP", 5), ("POWER", 6),
)  # fmt: skip


def _line(cells: Sequence[str]) -> str:
    parts = [f"{cell:<{-width}}" if width < 0 else f"{cell:>{width}}" for cell, (_, width) in
             zip(cells, _COLUMNS, strict=True)]  # fmt: skip
    return " ".join(parts).rstrip()


def heading() -> str:
    """Latencies in ms; CPU-S: CPU seconds over the window; NETWORK: megabits a second."""
    return _line([name for name, _ in _COLUMNS])


def row(name: str, found: Measured) -> str:
    streams = found.streams
    latency = found.latency
    times = [f"{v:.0f}" for v in (latency.mean, latency.p50, latency.p95, latency.p99)] if latency else ["-"] * 4
    accuracy = found.accuracy
    return _line([
        name,
        str(len(streams)),
        f"{streams[0].target_fps:g}" if streams else "-",
        f"{sum(s.fps for s in streams) / max(1, len(streams)):.2f}",
        f"{min((s.fps for s in streams), default=0.0):.2f}",
        f"{found.drop_fraction:.1%}",
        *times,
        f"{found.cpu_seconds / found.window_s:.2f}",
        f"{found.cpu_seconds:.1f}",
        "-" if found.cpu_ms_per_frame is None else f"{found.cpu_ms_per_frame:.1f}",
        size(found.memory_bytes),
        "-" if found.network_bps is None else f"{found.network_bps / 1e6:.1f}",
        f"{accuracy.recall:.3f}" if accuracy else "-",
        f"{accuracy.mean_iou:.2f}" if accuracy else "-",
        *_gpu_cells(found.gpu),
    ])  # fmt: skip


def _gpu_cells(use: GpuUse) -> list[str]:
    return [
        "" if use.utilisation is None else f"{use.utilisation:.0%}",
        "" if use.decoder_utilisation is None else f"{use.decoder_utilisation:.0%}",
        "" if use.memory_bytes is None else size(use.memory_bytes),
        "" if use.temperature_c is None else f"{use.temperature_c:.0f} °C",
        "" if use.power_w is None else f"{use.power_w:.0f} W",
    ]


def rung_lines(rung: Rung, colour: bool) -> list[str]:
    lines = [row("facedetd", rung.daemon)]
    if rung.baseline:
        lines.append(row("cv2", rung.baseline))
    if rung.ratio is not None:
        lines.append(f"  CPU time a delivered frame: {rung.ratio:.2f} of the cv2 baseline's")
    return lines + [_check_line(check, colour) for check in rung.checks]


def _check_line(check: Check, colour: bool) -> str:
    word = paint(Cell("pass", "green") if check.passed else Cell("FAIL", "red"), colour)
    return f"  {word}  {check.name} {check.wanted}: {check.found}"


def as_json(rungs: Sequence[Rung], options: BenchOptions) -> dict[str, Any]:
    """See docs/benchmarks.md for the fields."""
    return {
        "rungs": [_rung_json(rung) for rung in rungs],
        "pass": bool(rungs) and all(rung.passed for rung in rungs),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
        "options": _options_json(options),
    }


def _rung_json(rung: Rung) -> dict[str, Any]:
    found = {"cameras": rung.cameras, **rung.daemon.as_json(), "baseline": None, "cpu_ratio": None}
    # The rung has one check more than its daemon alone: the ratio to the baseline.
    found["pass"] = rung.passed
    found["checks"] = [{"name": c.name, "wanted": c.wanted, "found": c.found, "passed": c.passed} for c in rung.checks]
    if rung.baseline:
        baseline = rung.baseline.as_json()
        del baseline["pass"], baseline["checks"]
        found["baseline"] = baseline
    if rung.ratio is not None:
        found["cpu_ratio"] = round(rung.ratio, 4)
    return found


def _options_json(options: BenchOptions) -> dict[str, Any]:
    scenes = options.scenes
    found: dict[str, Any] = {
        "duration_s": options.duration_s,
        "warmup_s": options.warmup_s,
        "target_fps": options.target_fps,
        "threads": options.threads,
        "baseline": ("tuned" if options.tuned_baseline else "plain") if options.with_baseline else None,
        "model": {
            "name": options.model.name,
            "head": options.model.head,
            "sha256": options.model.sha256,
            "width": options.model_size[0],
            "height": options.model_size[1],
        },
    }
    if options.sources:
        return {**found, "sources": list(options.sources)}
    return {
        **found,
        "camera": {
            "width": scenes.size[0],
            "height": scenes.size[1],
            "fps": scenes.fps,
            "codec": scenes.codec,
            "bitrate": scenes.bitrate,
            "transport": "file" if scenes.as_files else "rtsp",
        },
    }


def machine() -> dict[str, Any]:
    """What the figures were measured on; ``load`` is the 1-minute load average now."""
    packages = ("facedetd", "av", "onnxruntime", "opencv-python-headless", "numpy", "grpcio")
    return {
        "cpu": _cpu_model(Path("/proc/cpuinfo")),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
        "packages": {name: _version(name) for name in packages},
    }


def _cpu_model(path: Path) -> str:
    for line in path.read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model"):
            return value.strip()
    return platform.machine()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
