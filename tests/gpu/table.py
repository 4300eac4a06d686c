"""What gpu-bench found, as a table and a plot."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, floor
from pathlib import Path
from typing import Any

COLUMNS = (
    "rung", "fps", "least", "drop", "mean ms", "p50", "p99", "cores", "GPU memory", "GPU", "NVDEC", "on NVDEC",
    "processes", "PCIe in/out a frame", "met",
)  # fmt: skip


def targets(row: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """Those of the project for this rung: (what, whether it is met). Pure."""
    name, cameras = row["rung"], row.get("cameras", 0)
    if "latency_ms" not in row or row["latency_ms"] is None or name.startswith(("old", "overload")):
        return []
    mean, p99 = row["latency_ms"][0], row["latency_ms"][3]
    asked = [
        ("5.0 ± 0.1 fps", _frames(row, "fps_min") >= floor(4.9 * row["seconds"])
         and _frames(row, "fps_max") <= ceil(5.1 * row["seconds"])),
        ("drop <= 0.1 %", row["drop_max"] <= 0.001),
    ]  # fmt: skip
    memory = row.get("gpu_memory")
    if name in ("70", "rtsp:70"):
        asked += [("mean < 30 ms", mean < 30), ("p99 < 80 ms", p99 < 80), ("< 4 cores", row["cores"] < 4)]
        asked += [("< 5 GB", memory < 5e9)] if memory is not None else []
    elif cameras >= 100 and ":" not in name:
        asked += [("mean < 60 ms", mean < 60), ("p99 < 150 ms", p99 < 150), ("< 10 cores", row["cores"] < 10)]
        asked += [("< 10 GB", memory < 10e9)] if memory is not None else []
    return asked


def _frames(row: Mapping[str, Any], fps: str) -> int:
    """Frames are counted whole: of exactly 5 a second 8 s may hold 41, which is no rate of 5.1."""
    return round(row[fps] * row["seconds"])


def line(row: Mapping[str, Any]) -> str:
    """One row of the table, in Markdown."""
    if "error" in row:
        return f"| {row['rung']} | {row['error'].splitlines()[0][:300]} |"
    if "fps" not in row:
        return f"| {row['rung']} | {row.get('about', '')} |"
    mean, p50, _, p99 = (f"{v:.1f}" for v in row["latency_ms"]) if row["latency_ms"] else ("-",) * 4
    missed = [what for what, met in targets(row) if not met]
    inward, outward = row.get("pcie_from_host"), row.get("pcie_to_host")
    cells = (
        row["rung"], f"{row['fps']:.2f}", f"{row['fps_min']:.2f}", f"{row['drop_max']:.2%}", mean, p50, p99,
        f"{row['cores']:.2f}", _or_dash(row.get("gpu_memory"), lambda v: f"{v / 1e9:.2f} GB"),
        _or_dash(row.get("gpu"), lambda v: f"{v:.0%}"), _or_dash(row.get("nvdec"), lambda v: f"{v:.0%}"),
        str(row.get("on_nvdec", "-")), str(row.get("groups", "-")),
        f"{inward / 1e6:.2f} / {outward / 1e6:.2f} MB" if inward and outward else "-",
        "no: " + ", ".join(missed) if missed else "yes" if targets(row) else "",
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _or_dash(value: Any, shown: Any) -> str:
    return "-" if value is None else str(shown(value))


def text(kept: Mapping[str, Any]) -> str:
    rows = list(kept["rungs"].values())
    lines = [
        f"{kept['machine']}",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "---|" * len(COLUMNS),
        *(line(row) for row in rows if "fps" in row or "error" in row),
    ]
    for row in rows:
        if "by_priority" in row:
            shares = ", ".join(f"{name} {one['share']:.0%} (p95 {one['p95_ms'] or 0:.0f} ms)"
                               for name, one in row["by_priority"].items())  # fmt: skip
            lines.append(f"{row['rung']}: {shares} of their targets; {row['whole']} streams decoded in full")
        if "devices" in row:
            lines += [f"{row['rung']}: {name}: {found}" for name, found in row["devices"].items()]
        if "plans" in row:
            lines += [f"{row['rung']}: {name}: {found}" for name, found in row["plans"].items()]
        if "rows" in row:
            from tests.gpu.measure import table as measured

            lines.append(measured(row["rows"]))
    return "\n".join(lines)


def plot(kept: Mapping[str, Any], path: Path) -> None:
    """Latency and fps over the number of cameras, of the rungs that are but numbers."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "facedetd"  # else each run's ids differ
    import matplotlib.pyplot as plt

    rows = sorted((r for r in kept["rungs"].values() if r["rung"].isdigit() and "fps" in r), key=lambda r: r["cameras"])
    cameras = [r["cameras"] for r in rows]
    figure, (above, below) = plt.subplots(2, 1, figsize=(7, 5.5), sharex=True, layout="constrained")
    for number, name, colour in ((0, "mean", "#1f5fa8"), (1, "p50", "#2e8b57"), (3, "p99", "#d9603b")):
        above.plot(cameras, [r["latency_ms"][number] for r in rows], "o-", color=colour, lw=1, ms=3, label=name)
    above.set_ylabel("latency, ms")
    above.legend(fontsize="small")
    below.plot(cameras, [r["fps_min"] for r in rows], "o-", color="#d9603b", lw=1, ms=3, label="the slowest camera")
    below.plot(cameras, [r["fps"] for r in rows], "o-", color="#1f5fa8", lw=1, ms=3, label="mean")
    below.set_ylabel("detections/s a camera")
    below.set_xlabel("cameras, 1080p25 H.264, 5 detections/s each")
    below.legend(fontsize="small", loc="lower left")
    above.set_ylim(bottom=0)
    below.set_ylim(0, 1.2 * max((r["fps"] for r in rows), default=1.0))
    about = kept["machine"]
    above.set_title(f"{about['gpu']}, {about['cores']} cores, {about['date']}", fontsize="medium")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)
