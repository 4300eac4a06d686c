"""Samples what crosses PCIe while something runs on a GPU."""

from __future__ import annotations

import threading
from statistics import mean
from types import TracebackType

from facedetd.cuda.nvml import Nvml, PcieThroughput

PERIOD_S = 0.1


class PcieWatch:
    """While it is entered (NVML counts 20 ms at each sample). Then ``from_host`` and ``to_host``, bytes/s in the mean;
    None where nothing was told."""

    def __init__(self, nvml: Nvml | None):
        self._nvml = nvml
        self._stop = threading.Event()
        self._seen: list[PcieThroughput] = []
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PcieWatch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(10)

    def _watch(self) -> None:
        while self._nvml and not self._stop.wait(PERIOD_S):
            if throughput := self._nvml.pcie_throughput():
                self._seen.append(throughput)

    @property
    def from_host(self) -> float | None:
        return 1000 * mean(one.received_kb_s for one in self._seen) if self._seen else None

    @property
    def to_host(self) -> float | None:
        return 1000 * mean(one.sent_kb_s for one in self._seen) if self._seen else None
