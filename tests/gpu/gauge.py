"""Samples a GPU while something runs on it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from types import TracebackType

from facedetd.cuda.nvml import GpuFigures, Nvml, PcieThroughput

PERIOD_S = 0.1


@dataclass(frozen=True, slots=True)
class Reading:
    """Means over the time; memory the most; PCIe in bytes/s (NVML counts 20 ms at each sample). None: not told."""

    memory: int
    busy: float | None
    decoder: float | None
    from_host: float | None
    to_host: float | None
    power_w: float | None
    temperature_c: float | None


class Gauge:
    """While it is entered. ``reading`` afterwards; None without a GPU."""

    def __init__(self, nvml: Nvml | None):
        self._nvml = nvml
        self._stop = threading.Event()
        self._seen: list[GpuFigures] = []
        self._pcie: list[PcieThroughput] = []
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Gauge:
        if self._nvml:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._nvml:
            self._thread.join(10)

    def _watch(self) -> None:
        assert self._nvml
        while not self._stop.is_set():
            self._seen.append(self._nvml.read())
            if throughput := self._nvml.pcie_throughput():
                self._pcie.append(throughput)
            self._stop.wait(PERIOD_S)

    @property
    def reading(self) -> Reading | None:
        if not self._seen:
            return None
        return Reading(
            max(f.memory_used or 0 for f in self._seen),
            _mean([f.busy for f in self._seen]),
            _mean([f.decoder_busy for f in self._seen]),
            _mean([1000 * one.received_kb_s for one in self._pcie]),
            _mean([1000 * one.sent_kb_s for one in self._pcie]),
            _mean([f.power_w for f in self._seen]),
            _mean([f.temperature_c for f in self._seen]),
        )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return mean(known) if known else None
