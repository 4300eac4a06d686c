"""What a run left: a JSON file that holds all of it, a CSV of the samples for spreadsheets, and the table."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from tests.soak.expect import Recovery
from tests.soak.judge import Figure
from tests.soak.plan import Event
from tests.soak.watch import KINDS, ProcessSample, Sample

FORMAT = 1


class ResultsError(Exception):
    """A results file can't be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Results:
    """``about``: seed, lengths, machine, date. ``events``: as done, with the time they really began."""

    about: Mapping[str, Any]
    samples: Sequence[Sample]
    events: Sequence[Event]
    recoveries: Sequence[Recovery]
    figures: Sequence[Figure]
    violations: Sequence[str]


def write_json(results: Results, path: Path) -> None:
    figures = [replace(f, **{k: _none(getattr(f, k)) for k in ("start", "end", "slope")}) for f in results.figures]
    whole = {"format": FORMAT, **asdict(replace(results, figures=figures))}
    path.write_text(json.dumps(whole, allow_nan=False) + "\n")


def _none(value: float) -> Any:
    return None if math.isnan(value) else value


def read_json(path: Path) -> Results:
    """Raises ResultsError."""
    try:
        found = json.loads(path.read_text())
        if found["format"] != FORMAT:
            raise ResultsError(f"{path}: format {found['format']}, not {FORMAT}")
        samples = [
            Sample(**{**s, "processes": tuple(ProcessSample(**p) for p in s["processes"]), "zombies": (*s["zombies"],)})
            for s in found["samples"]
        ]
        figures = [
            Figure(**{**f, **{k: math.nan for k in ("start", "end", "slope") if f[k] is None}})
            for f in found["figures"]
        ]
        events = [Event(**e) for e in found["events"]]
        recoveries = [Recovery(**r) for r in found["recoveries"]]
        return Results(found["about"], samples, events, recoveries, figures, found["violations"])
    except OSError as error:
        raise ResultsError(f"{path} can't be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ResultsError(f"{path} is no results file of a soak: {error!r}") from None


def write_csv(samples: Iterable[Sample], path: Path) -> None:
    """A line a sample; bytes, counts, milliseconds, cores. Values of a kind are sums over its processes."""
    rows = [_row(s) for s in samples]
    reasons = sorted({key for row in rows for key in row if key.startswith("dropped_")})
    fixed = [key for key in (rows[0] if rows else ()) if not key.startswith("dropped_")]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*fixed, *reasons], restval=0)
        writer.writeheader()
        writer.writerows(rows)


def _row(s: Sample) -> dict[str, Any]:
    row: dict[str, Any] = {"at_s": round(s.at_s, 1)}
    for kind in KINDS:
        found = s.of(kind)
        row[f"{kind}_processes"] = len(found)
        for field in ("rss", "pss", "descriptors", "threads"):
            row[f"{kind}_{field}"] = sum(getattr(p, field) for p in found)
        row[f"{kind}_cpu_s"] = round(sum(p.cpu_s for p in found), 2)
    cpu = "" if s.supervisor_cpu is None else round(s.supervisor_cpu, 4)
    row |= {"supervisor_cpu": cpu, "zombies": len(s.zombies), "memfd_bytes": s.memfd_bytes, "files": s.files}
    row |= {"p50_ms": round(s.p50_ms, 1), "p95_ms": round(s.p95_ms, 1)}
    row |= {"fps": round(s.fps, 2), "wanted_fps": round(s.wanted_fps, 2)}
    row |= {"streams": s.streams, "watchers": s.watchers}
    return row | {f"dropped_{reason}": count for reason, count in sorted(s.dropped.items())}


def table(figures: Iterable[Figure]) -> str:
    """Name, start, end, slope an hour, bound, verdict."""
    rows = [("figure", "start", "end", "slope/h", "bound", "")]
    for f in figures:
        verdict = {True: "ok", False: "FAIL", None: "not judged"}[f.ok]
        name = f"{f.name} ({f.unit})" if f.unit else f.name
        rows.append((name, _number(f.start), _number(f.end), _number(f.slope, "+"), f.bound, verdict))
    return aligned(rows)


def _number(value: float, sign: str = "") -> str:
    return "-" if math.isnan(value) else f"{value:{sign}.3g}" if abs(value) < 1000 else f"{value:{sign}.0f}"


def recovery_table(recoveries: Iterable[Recovery]) -> str:
    """For each cause: how often, and how long until the last stream was back."""
    by_cause: dict[str, list[float]] = {}
    for r in recoveries:
        by_cause.setdefault(r.cause, []).append(r.took_s)
    rows = [("back after", "times", "median s", "longest s")]
    for cause, took in sorted(by_cause.items()):
        rows.append((cause, str(len(took)), f"{median(took):.1f}", f"{max(took):.1f}"))
    return aligned(rows)


def aligned(rows: Sequence[tuple[str, ...]]) -> str:
    """The first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
