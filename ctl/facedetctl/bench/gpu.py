"""How busy the NVIDIA GPUs are, from the driver's NVML. Absent where there is no driver: no package is needed."""

from __future__ import annotations

import ctypes
import threading
from types import TracebackType

_LIBRARY = "libnvidia-ml.so.1"


class _Utilisation(ctypes.Structure):  # nvmlUtilization_t: percent over the driver's last sample period
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class _Memory(ctypes.Structure):  # nvmlMemory_v2_t, bytes; the older one counts the driver's reserve as used
    _fields_ = (
        ("version", ctypes.c_uint),
        ("total", ctypes.c_ulonglong),
        ("reserved", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )


_MEMORY_VERSION = ctypes.sizeof(_Memory) | 2 << 24


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
        try:
            nvml = ctypes.CDLL(_LIBRARY)
        except OSError:
            return
        if nvml.nvmlInit_v2() != 0:
            return
        try:
            devices = _devices(nvml)
            sums = [0.0] * len(devices)
            samples = 0
            while devices and not self._stop.wait(self._period_s):
                samples += 1
                used = 0
                for i, device in enumerate(devices):
                    busy, memory = _Utilisation(), _Memory(_MEMORY_VERSION)
                    if nvml.nvmlDeviceGetUtilizationRates(device, ctypes.byref(busy)) == 0:
                        sums[i] += busy.gpu / 100
                    if nvml.nvmlDeviceGetMemoryInfo_v2(device, ctypes.byref(memory)) == 0:
                        used += memory.used
                self.utilisation = max(sums) / samples
                self.memory_bytes = max(used, self.memory_bytes or 0)
        finally:
            nvml.nvmlShutdown()


def _devices(nvml: ctypes.CDLL) -> list[ctypes.c_void_p]:
    count = ctypes.c_uint()
    if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
        return []
    devices = []
    for i in range(count.value):
        device = ctypes.c_void_p()
        if nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(i), ctypes.byref(device)) == 0:
            devices.append(device)
    return devices
