"""Which GPU there is, by PyCUDA."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from facedetd.cuda.nvml import BusPlace
from facedetd.cuda.ordinal import ordinal
from facedetd.trt.errors import GpuError

INSTALL = (
    "pip install 'facedetd[gpu]', or with the Debian package facedetd-gpu: facedetd-gpu-setup install; and NVIDIA's "
    "driver for the kernel"
)


@dataclass(frozen=True, slots=True)
class Gpu:
    """``index``: as nvidia-smi counts. ``sm``: its compute capability, as "9.0". ``memory``: bytes in all."""

    index: int
    name: str
    sm: str
    memory: int


def driver() -> Any:
    """PyCUDA's driver module, initialised. Raises GpuError: not installed, no driver, no GPU."""
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # GPUs are counted as nvidia-smi does, and NVDEC's groups
    try:
        cuda = importlib.import_module("pycuda.driver")
    except (ImportError, OSError) as error:
        missing = isinstance(error, ModuleNotFoundError)
        what = f"{error.name} isn't installed" if missing else f"PyCUDA can't be loaded ({error})"  # type: ignore[union-attr]
        raise GpuError(f"{what}: {INSTALL}") from None
    try:
        cuda.init()
    except Exception as error:  # PyCUDA's errors are made at run time
        raise GpuError(f"no NVIDIA GPU can be used: {first_line(error)}; `nvidia-smi` says more") from None
    return cuda


def find(index: int) -> Gpu:
    """The GPU of this index. Raises GpuError."""
    device = _device(driver(), index)
    return Gpu(index, device.name(), "{}.{}".format(*device.compute_capability()), device.total_memory())


def _device(cuda: Any, index: int) -> Any:
    """PyCUDA's. Raises GpuError."""
    shown = [cuda.Device(each) for each in range(cuda.Device.count())]
    try:
        return shown[ordinal(index, [_place(device.pci_bus_id()) for device in shown])]
    except LookupError as error:
        raise GpuError(str(error)) from None


def _place(text: str) -> BusPlace:
    """Of ``0000:3B:00.0``, as CUDA writes it."""
    domain, bus, rest = text.split(":")
    return int(domain, 16), int(bus, 16), int(rest.partition(".")[0], 16)


def first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0][:300] or type(error).__name__


@contextmanager
def context(index: int) -> Iterator[Any]:
    """A CUDA context of this GPU, current in this thread: the primary one, which TensorRT shares. Raises GpuError."""
    cuda = driver()
    try:
        found = _device(cuda, index).retain_primary_context()
        found.push()
    except GpuError:
        raise
    except Exception as error:
        raise GpuError(f"GPU {index} can't be used: {first_line(error)}") from None
    try:
        yield found
    finally:
        with suppress(cuda.LogicError):  # another one was made current since, and not taken away
            found.pop()
        found.detach()
