"""What a float model and its INT8 version cost this machine's CPU, under each engine that is there."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from facedetd.inference.engines import CPU_ENGINES
from facedetd.inference.engines.cpu import thread_count
from facedetd.inference.types import DeviceError, ModelError
from facedetd.types import FloatArray

EMBEDDED = "onnxruntime"
TIMED_RUNS = 15


@dataclass(frozen=True, slots=True)
class Times:
    """CPU time of all threads for one picture through the model, medians of runs that took turns, in ms."""

    float_ms: float
    int8_ms: float

    @property
    def slower(self) -> bool:
        return self.int8_ms > self.float_ms


def time_engines(
    float_model: bytes,
    int8_model: bytes,
    planes: FloatArray,
    threads: int,
    engines: Iterable[str] = tuple(CPU_ENGINES),
    cpu: Callable[[], float] = time.process_time,
) -> dict[str, Times]:
    """By engine, those left out that aren't installed or don't take both models; but the embedded one must: raises
    ModelError. ``planes``: the picture, (1, 3, height, width)."""
    height, width = planes.shape[2:]
    names, models = [], []
    for name in engines:
        try:
            both = [CPU_ENGINES[name](data, thread_count(threads), width, height) for data in (float_model, int8_model)]
        except (DeviceError, ModelError):
            if name == EMBEDDED:
                raise
            continue
        names.append(name)
        models += both
    spent: list[list[float]] = [[] for _ in models]
    for _ in range(TIMED_RUNS + 1):
        for model, own in zip(models, spent, strict=True):
            start = cpu()
            model.run(planes)
            own.append(cpu() - start)
    medians = [statistics.median(own[1:]) * 1e3 for own in spent]
    return {name: Times(*medians[2 * i : 2 * i + 2]) for i, name in enumerate(names)}


def advice(times: Mapping[str, Times]) -> str:
    """Where to run which model, if that isn't the INT8 model on the embedded engine; else nothing. Pure."""
    own = times[EMBEDDED]
    name, best = min(times.items(), key=lambda one: one[1].int8_ms)
    if name != EMBEDDED and best.int8_ms < min(own.float_ms, own.int8_ms):
        return (
            f"on this CPU the INT8 model is fastest under {name} ({best.int8_ms:.1f} ms; {EMBEDDED} needs "
            f'{own.float_ms:.1f} for the float model): inference.engine = "{name}"'
        )
    if own.slower:
        return "on this CPU the INT8 model is slower than the float model: use the float model here"
    return ""
