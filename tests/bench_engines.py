"""What a picture costs under each engine of the CPU: python -m tests.bench_engines MODEL.onnx … --pictures FILE ….

Engines and models take turns, picture by picture, so that what else the machine does falls on all alike. Timed is what
the inference process does: conversion from NV12, the model, decoding of boxes. Prints a table; with --json, a JSON
object. An engine that isn't installed is left out, and said.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from facedetd.inference.engines import CPU_ENGINES
from facedetd.inference.types import DeviceError
from facedetd.workshop.detector import Detector, load_detector
from facedetd.workshop.pictures import read_picture
from facedetd.workshop.quantize import cpu_name


@dataclass(frozen=True, slots=True)
class Cost:
    """Of a picture, medians in ms: by the wall clock, and CPU time of all threads of this process."""

    engine: str
    model: str
    wall_ms: float
    cpu_ms: float


def measure(
    detectors: Sequence[tuple[str, str, Detector]],
    pictures: Sequence[Path],
    rounds: int,
    wall: Callable[[], float] = time.perf_counter,
    cpu: Callable[[], float] = time.process_time,
) -> list[Cost]:
    """``detectors``: engine, model, and what runs it. Two rounds more than asked for are run first."""
    frames = [[d.frame(read_picture(path), d.width, d.height) for path in pictures] for _, _, d in detectors]
    spent: list[list[tuple[float, float]]] = [[] for _ in detectors]
    for turn in range(-2, rounds):
        for (_, _, detector), own, times in zip(detectors, frames, spent, strict=True):
            start = wall(), cpu()
            found = detector.engine.infer([own[turn % len(own)]])
            detector.head.decode(found, detector.width, detector.height, 0.5)
            if turn >= 0:
                times.append((wall() - start[0], cpu() - start[1]))
    return [
        Cost(engine, model, *(statistics.median(one) * 1e3 for one in zip(*times, strict=True)))
        for (engine, model, _), times in zip(detectors, spent, strict=True)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", metavar="MODEL", type=Path, nargs="+")
    parser.add_argument("--pictures", type=Path, nargs="+", required=True, metavar="FILE")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--width", type=int)
    parser.add_argument("--height", type=int)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    detectors = []
    for engine in CPU_ENGINES:
        try:
            detectors += [
                (engine, path.name, load_detector(path, args.width, args.height, args.threads, engine=engine))
                for path in args.models
            ]
        except DeviceError as error:
            print(error, file=sys.stderr)
    costs = measure(detectors, args.pictures, args.rounds)
    width, height = detectors[0][2].width, detectors[0][2].height
    if args.json:
        rows = [{"engine": c.engine, "model": c.model, "wall_ms": c.wall_ms, "cpu_ms": c.cpu_ms} for c in costs]
        print(json.dumps({"cpu": cpu_name(), "width": width, "height": height, "threads": args.threads, "rows": rows}))
        return 0
    print(f"{width}x{height}, {args.threads} threads, {cpu_name()}, median of {args.rounds}")
    print(f"{'engine':<12} {'model':<32} {'wall ms':>8} {'CPU ms':>8}")
    for c in costs:
        print(f"{c.engine:<12} {c.model:<32} {c.wall_ms:8.1f} {c.cpu_ms:8.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
