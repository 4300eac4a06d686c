"""What the driver's management library (NVML) tells of a GPU: no CUDA context is made, and nothing but it is loaded.

Names and numbers are those of NVIDIA's nvml.h, version 12. A figure that a GPU or driver doesn't give is None.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

_LIBRARY = "libnvidia-ml.so.1"


@dataclass(frozen=True, slots=True)
class GpuFigures:
    """``busy`` and ``decoder_busy`` are 0-1, over the driver's last sample period (a sixth of a second to a second),
    the latter over all NVDEC together. Memory in bytes."""

    name: str
    busy: float | None = None
    decoder_busy: float | None = None
    memory_used: int | None = None
    memory_free: int | None = None


class _Utilisation(ctypes.Structure):  # nvmlUtilization_t, percent
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class _Memory(ctypes.Structure):  # nvmlMemory_v2_t; the older one counts the driver's reserve as used
    _fields_ = (
        ("version", ctypes.c_uint),
        ("total", ctypes.c_ulonglong),
        ("reserved", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )


_MEMORY_VERSION = ctypes.sizeof(_Memory) | 2 << 24


class Nvml:
    """One GPU. A call may take as long as the driver likes: not for a loop that must not block."""

    def __init__(self, index: int, library: str = _LIBRARY):
        """``index``: in the order of the PCI bus. Raises OSError: no driver, or no such GPU."""
        try:
            self._nvml = ctypes.CDLL(library)
        except OSError:
            raise OSError(f"NVIDIA's driver isn't installed ({library} isn't there)") from None
        if code := self._nvml.nvmlInit_v2():
            raise OSError(f"NVML can't be used: error {code}")
        self._device = ctypes.c_void_p()
        if code := self._nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(self._device)):
            raise OSError(f"NVML knows no GPU {index}: error {code}")
        name = ctypes.create_string_buffer(96)
        unknown = self._nvml.nvmlDeviceGetName(self._device, name, ctypes.c_uint(len(name)))
        self._name = "" if unknown else name.value.decode(errors="replace")

    def read(self) -> GpuFigures:
        """Raises OSError: the GPU or its driver is gone."""
        call, device = self._nvml, self._device
        busy, decoder, period = _Utilisation(), ctypes.c_uint(), ctypes.c_uint()
        memory = _Memory(_MEMORY_VERSION)
        code = call.nvmlDeviceGetMemoryInfo_v2(device, ctypes.byref(memory))
        if code in (1, 15, 999):  # uninitialised, GPU is lost, unknown
            raise OSError(f"the GPU is gone: NVML's error {code}")
        has_busy = call.nvmlDeviceGetUtilizationRates(device, ctypes.byref(busy)) == 0
        has_decoder = call.nvmlDeviceGetDecoderUtilization(device, ctypes.byref(decoder), ctypes.byref(period)) == 0
        return GpuFigures(
            self._name,
            busy.gpu / 100 if has_busy else None,
            decoder.value / 100 if has_decoder else None,
            None if code else memory.used,
            None if code else memory.free,
        )
