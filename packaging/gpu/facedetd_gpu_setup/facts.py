"""What there is on this machine. Loads the driver's libraries, makes no CUDA context."""

from __future__ import annotations

import ctypes
import shutil
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from facedetd.cuda.driver import CudaError, Driver

_SM_MAJOR, _SM_MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, ..._MINOR
UVM = Path("/dev/nvidia-uvm")


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    sm: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Facts:
    """``driver``: its library is there. ``driver_fault``: why no GPU can be used, empty where one can. ``cuda``: what
    the driver speaks, as (12, 2). ``decoder``: NVDEC's library is there. ``uvm``: the device through which CUDA reaches
    memory is there. ``compiler``, ``headers``: what building PyCUDA takes. ``free``: bytes where it would be
    installed."""

    driver: bool = False
    driver_fault: str = ""
    cuda: tuple[int, int] = (0, 0)
    gpus: tuple[Gpu, ...] = ()
    decoder: bool = False
    uvm: bool = False
    compiler: bool = False
    headers: bool = False
    free: int = 0


def look(place: Path) -> Facts:
    """``place``: a folder on the file system in question."""
    fault, cuda, gpus = _driver()
    return Facts(
        driver=_loads("libcuda.so.1"),
        driver_fault=fault,
        cuda=cuda,
        gpus=gpus,
        decoder=_loads("libnvcuvid.so.1"),
        uvm=UVM.exists(),
        compiler=shutil.which("g++") is not None,
        headers=(Path(sysconfig.get_path("include")) / "Python.h").exists()
        or Path("/usr/include/python3.11/Python.h").exists(),
        free=shutil.disk_usage(place).free,
    )


def _driver() -> tuple[str, tuple[int, int], tuple[Gpu, ...]]:
    try:
        driver = Driver()
        version, count = ctypes.c_int(), ctypes.c_int()
        driver.call("cuDriverGetVersion", ctypes.byref(version))
        driver.call("cuDeviceGetCount", ctypes.byref(count))
        gpus = tuple(_gpu(driver, index) for index in range(count.value))
    except CudaError as error:
        return str(error), (0, 0), ()
    return "", (version.value // 1000, version.value % 1000 // 10), gpus


def _gpu(driver: Driver, index: int) -> Gpu:
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(128)
    driver.call("cuDeviceGet", ctypes.byref(device), index)
    driver.call("cuDeviceGetName", name, len(name), device)
    driver.call("cuDeviceGetAttribute", ctypes.byref(major), _SM_MAJOR, device)
    driver.call("cuDeviceGetAttribute", ctypes.byref(minor), _SM_MINOR, device)
    return Gpu(name.value.decode(errors="replace"), (major.value, minor.value))


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
