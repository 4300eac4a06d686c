"""How busy the NVIDIA GPUs are, from the driver's NVML. Absent where there is no driver: no package is needed."""

from __future__ import annotations

import threading
from types import TracebackType

from facedetd.cuda.nvml import Nvml


class GpuWatch:
    """Samples all GPUs in a thread while it is entered. Without NVML or a GPU all figures stay None.

    ``utilisation`` is the busiest GPU's mean (0-1); ``memory_bytes`` the most that was in use on all GPUs together.
    """

    def __init__(self, period_s: float = 0.5) -> None:
        self.utilisation: float | None = None
        self.memory_bytes: int | None = None
        self._period_s = period_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="gpu-watch", daemon=True)

    def __enter__(self) -> GpuWatch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(5)

    def _watch(self) -> None:
        gpus = _all()
        sums = [0.0] * len(gpus)
        samples = 0
        while gpus and not self._stop.wait(self._period_s):
            try:
                figures = [gpu.read() for gpu in gpus]
            except OSError:  # gone: what was seen of it stays
                return
            samples += 1
            sums = [before + (now.busy or 0.0) for before, now in zip(sums, figures, strict=True)]
            self.memory_bytes = max(sum(now.memory_used or 0 for now in figures), self.memory_bytes or 0)
            self.utilisation = max(sums) / samples


def _all() -> list[Nvml]:
    found: list[Nvml] = []
    try:
        while True:
            found.append(Nvml(len(found)))
    except OSError:
        return found
