"""What the driver's management library (NVML) tells of a GPU: no CUDA context is made, and nothing but it is loaded.

Names and numbers are those of NVIDIA's nvml.h, version 12. A figure that a GPU or driver doesn't give is None: a part
of a GPU (MIG) or a rented one (vGPU) gives few, an old driver lacks calls.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

BusPlace: TypeAlias = tuple[int, int, int]
"""On the PCI bus: domain, bus, device."""

_LIBRARY = "libnvidia-ml.so.1"
_UNINITIALISED, _TOO_SMALL, _NO_SUCH_CALL, _LOST, _UNKNOWN = 1, 7, 13, 15, 999
_TEXT = 96  # bytes; NVML's longest (NVML_DEVICE_UUID_V2_BUFFER_SIZE)
_MOST_PROCESSES = 4096
_NOT_TOLD = 2**64 - 1


@dataclass(frozen=True, slots=True)
class GpuFigures:
    """``busy`` and ``decoder_busy`` are 0-1, over the driver's last sample period (a sixth of a second to a second),
    the latter over all NVDEC together. Memory in bytes, the driver's own reserve neither used nor free."""

    name: str
    busy: float | None = None
    decoder_busy: float | None = None
    memory_used: int | None = None
    memory_free: int | None = None
    memory_total: int | None = None
    temperature_c: float | None = None
    power_w: float | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """``index`` is the GPU's place in the order of the PCI bus. A text is empty where it isn't told."""

    index: int
    name: str
    uuid: str
    driver: str


@dataclass(frozen=True, slots=True)
class PcieThroughput:
    """KB/s over the last 20 ms, seen from the GPU: ``received`` came from the host, ``sent`` went there."""

    received_kb_s: int
    sent_kb_s: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that is shown of a GPU. ``processes``: bytes of its memory by process id, as the driver's own pid namespace
    counts them; empty where it doesn't tell."""

    identity: Identity
    figures: GpuFigures
    processes: Mapping[int, int] = field(default_factory=dict)


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


class _Process(ctypes.Structure):  # nvmlProcessInfo_t of nvmlDeviceGetComputeRunningProcesses_v3
    _fields_ = (
        ("pid", ctypes.c_uint),
        ("memory", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    )


class _Pci(ctypes.Structure):  # nvmlPciInfo_t of nvmlDeviceGetPciInfo_v3
    _fields_ = (
        ("short_id", ctypes.c_char * 16),
        ("domain", ctypes.c_uint),
        ("bus", ctypes.c_uint),
        ("device", ctypes.c_uint),
        ("kind", ctypes.c_uint),
        ("board", ctypes.c_uint),
        ("id", ctypes.c_char * 32),
    )


def _opened(library: str) -> ctypes.CDLL:
    """NVML, ready for calls. Raises FileNotFoundError: no driver; OSError: one that can't be used."""
    try:
        nvml = ctypes.CDLL(library)
    except OSError:
        raise FileNotFoundError(f"NVIDIA's driver isn't installed ({library} isn't there)") from None
    if code := nvml.nvmlInit_v2():
        raise OSError(f"NVML can't be used: error {code}")
    return nvml


class Nvml:
    """One GPU. A call may take as long as the driver likes: not for a loop that must not block."""

    def __init__(self, index: int, library: str = _LIBRARY):
        """``index``: in the order of the PCI bus. Raises OSError: no driver, or no such GPU."""
        self._nvml = _opened(library)
        self._device = ctypes.c_void_p()
        if code := self._nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(self._device)):
            self.close()
            raise OSError(f"NVML knows no GPU {index}: error {code}")
        self.identity = Identity(
            index,
            self._text("nvmlDeviceGetName", self._device),
            self._text("nvmlDeviceGetUUID", self._device),
            self._text("nvmlSystemGetDriverVersion"),
        )

    def close(self) -> None:
        """Not to be used any more. NVML counts who uses it: only when all have let go does it see a new driver."""
        self._nvml.nvmlShutdown()

    def place(self) -> BusPlace | None:
        """None: not told. Raises OSError: the GPU or its driver is gone."""
        found = _Pci()
        if self._code("nvmlDeviceGetPciInfo_v3", ctypes.byref(found)):
            return None
        return found.domain, found.bus, found.device

    def read(self) -> GpuFigures:
        """Raises OSError: the GPU or its driver is gone."""
        busy, decoder, period = _Utilisation(), ctypes.c_uint(), ctypes.c_uint()
        temperature, milliwatts = ctypes.c_uint(), ctypes.c_uint()
        memory = _Memory(_MEMORY_VERSION)
        code = self._code("nvmlDeviceGetMemoryInfo_v2", ctypes.byref(memory))
        if code == _UNKNOWN:  # elsewhere some GPUs answer so for a figure they don't have
            raise OSError(f"the GPU is gone: NVML's error {code}")
        has_busy = not self._code("nvmlDeviceGetUtilizationRates", ctypes.byref(busy))
        has_decoder = not self._code("nvmlDeviceGetDecoderUtilization", ctypes.byref(decoder), ctypes.byref(period))
        has_temperature = not self._code("nvmlDeviceGetTemperature", 0, ctypes.byref(temperature))  # 0: of the chip
        has_power = not self._code("nvmlDeviceGetPowerUsage", ctypes.byref(milliwatts))
        return GpuFigures(
            self.identity.name,
            busy.gpu / 100 if has_busy else None,
            decoder.value / 100 if has_decoder else None,
            None if code else memory.used,
            None if code else memory.free,
            None if code else memory.total,
            float(temperature.value) if has_temperature else None,
            milliwatts.value / 1000 if has_power else None,
        )

    def snapshot(self) -> Snapshot:
        """Raises OSError: the GPU or its driver is gone."""
        return Snapshot(self.identity, self.read(), self.processes())

    def processes(self) -> dict[int, int]:
        """Bytes of the GPU's memory by process id, of those that have a CUDA context; empty where it isn't told.
        Raises OSError: the GPU or its driver is gone."""
        room, code = 64, _TOO_SMALL
        while code == _TOO_SMALL and room <= _MOST_PROCESSES:  # more may have come since it said how many there are
            found, number = (_Process * room)(), ctypes.c_uint(room)
            code = self._code("nvmlDeviceGetComputeRunningProcesses_v3", ctypes.byref(number), found)
            room = max(2 * room, number.value)
        if code:
            return {}
        return {each.pid: each.memory for each in found[: number.value] if each.memory != _NOT_TOLD}

    def pcie_throughput(self) -> PcieThroughput | None:
        """None: not told. Takes some 40 ms, since the driver measures while it is asked. Raises OSError: the GPU or
        its driver is gone."""
        sent, received = ctypes.c_uint(), ctypes.c_uint()
        for counter, value in ((0, sent), (1, received)):  # NVML_PCIE_UTIL_TX_BYTES, NVML_PCIE_UTIL_RX_BYTES
            if self._code("nvmlDeviceGetPcieThroughput", counter, ctypes.byref(value)):
                return None
        return PcieThroughput(received.value, sent.value)

    def _code(self, name: str, *rest: Any) -> int:
        """What NVML answers to a call about the device. Raises OSError: the GPU or its driver is gone."""
        call = getattr(self._nvml, name, None)
        code = _NO_SUCH_CALL if call is None else int(call(self._device, *rest))
        if code in (_UNINITIALISED, _LOST):
            raise OSError(f"the GPU is gone: NVML's error {code}")
        return code

    def _text(self, name: str, *first: Any) -> str:
        text = ctypes.create_string_buffer(_TEXT)
        call = getattr(self._nvml, name, None)
        unknown = call is None or call(*first, text, ctypes.c_uint(_TEXT))
        return "" if unknown else text.value.decode(errors="replace")


def count_gpus(library: str = _LIBRARY) -> int:
    """Those that don't answer, too. Raises FileNotFoundError: no driver; OSError: one that can't be used."""
    nvml, number = _opened(library), ctypes.c_uint()
    code = nvml.nvmlDeviceGetCount_v2(ctypes.byref(number))
    nvml.nvmlShutdown()
    if code:
        raise OSError(f"NVML doesn't count its GPUs: error {code}")
    return number.value


def place_of(index: int, library: str = _LIBRARY) -> tuple[int, BusPlace | None]:
    """How many GPUs there are, and where the one of this index is; None: not told, or there is none. Raises
    FileNotFoundError: no driver; OSError: it can't be used, or the GPU doesn't answer."""
    number = count_gpus(library)
    if not 0 <= index < number:
        return number, None
    gpu = Nvml(index, library)
    try:
        return number, gpu.place()
    finally:
        gpu.close()


def open_gpus(library: str = _LIBRARY) -> tuple[list[Nvml], list[str]]:
    """The GPUs that answer, in the order of the PCI bus, and what is wrong with the others. Raises FileNotFoundError:
    no driver; OSError: one that can't be used."""
    found, problems = [], []
    for index in range(count_gpus(library)):
        try:
            found.append(Nvml(index, library))
        except OSError as error:
            problems.append(f"GPU {index}: {error}")
    return found, problems
