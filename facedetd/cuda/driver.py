"""A GPU's primary context by the driver's own library (libcuda.so.1), which every host with NVIDIA's driver has.

FFmpeg, this and whatever else of a process asks for the primary context share one: a context costs half a gigabyte.
Names and numbers are those of NVIDIA's cuda.h (CUDA driver API, 12).
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from facedetd.cuda.ordinal import ordinal

_LIBRARY = "libcuda.so.1"
_BLOCKING_SYNC = 4  # CU_CTX_SCHED_BLOCKING_SYNC; the flags that FFmpeg insists on for a primary context
_PCI = 50, 33, 34  # CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID, ..._PCI_BUS_ID, ..._PCI_DEVICE_ID
_STACK = 0, 128  # CU_LIMIT_STACK_SIZE, and bytes a thread; our kernels and FFmpeg's need none
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING
_EVENT = 1 | 2  # CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING
_REGISTER = 1 | 2  # CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP
_REFUSALS = (1, 2, 712, 801)  # invalid value, out of memory, already registered, not supported: the context lives on

Handle = ctypes.c_void_p
Argument: TypeAlias = "ctypes.c_void_p | ctypes.c_int | ctypes.c_longlong"


class CudaError(Exception):
    """What CUDA refuses or can't do, in one line. ``lost``: the context is of no more use, to this whole process."""

    def __init__(self, message: str, *, lost: bool = False):
        self.lost = lost
        super().__init__(message)


class Driver:
    """The library, initialised. Raises CudaError."""

    def __init__(self) -> None:
        os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # GPUs are counted as NVML and nvidia-smi count them
        try:
            self._cuda = ctypes.CDLL(_LIBRARY)
        except OSError:
            raise CudaError(f"NVIDIA's driver isn't installed ({_LIBRARY} isn't there)") from None
        self._cuda.cuGetErrorName.argtypes = (ctypes.c_int, ctypes.POINTER(ctypes.c_char_p))
        self.call("cuInit", 0)

    def call(self, name: str, *arguments: object) -> None:
        """Raises CudaError."""
        code = getattr(self._cuda, name)(*arguments)
        if code:
            text = ctypes.c_char_p()
            self._cuda.cuGetErrorName(code, ctypes.byref(text))
            said = text.value.decode() if text.value else "unknown error"
            raise CudaError(f"{name}: {said} ({code})", lost=name != "cuInit" and code not in _REFUSALS)


class Gpu:
    """A GPU's primary context, held till the process ends. For any thread. Raises CudaError, as all its methods do."""

    def __init__(self, index: int, driver: Driver | None = None):
        """``index``: as nvidia-smi counts."""
        self.index = index
        self.call = (driver or Driver()).call
        device, count = ctypes.c_int(), ctypes.c_int()
        self.call("cuDeviceGetCount", ctypes.byref(count))
        try:
            self.ordinal = ordinal(index, [self._place(each) for each in range(count.value)])
            """As CUDA counts in this process, and FFmpeg."""
        except LookupError as error:
            raise CudaError(str(error)) from None
        self.call("cuDeviceGet", ctypes.byref(device), self.ordinal)
        flags, active = ctypes.c_uint(), ctypes.c_int()
        self.call("cuDevicePrimaryCtxGetState", device, ctypes.byref(flags), ctypes.byref(active))
        if not active.value:
            self.call("cuDevicePrimaryCtxSetFlags_v2", device, _BLOCKING_SYNC)
        self._context = Handle()
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)
        self.enter()
        with suppress(CudaError):  # the usual 1 KiB for each thread there could be is 240 MB on an H100
            self.call("cuCtxSetLimit", _STACK[0], ctypes.c_size_t(_STACK[1]))
        self._lock = threading.Lock()
        self._functions: dict[tuple[Path, str], Handle] = {}
        self._modules: dict[Path, Handle] = {}

    def _place(self, ordinal: int) -> tuple[int, int, int]:
        """On the PCI bus."""
        device, value, found = ctypes.c_int(), ctypes.c_int(), []
        self.call("cuDeviceGet", ctypes.byref(device), ordinal)
        for attribute in _PCI:
            self.call("cuDeviceGetAttribute", ctypes.byref(value), attribute, device)
            found.append(value.value)
        return found[0], found[1], found[2]

    def enter(self) -> None:
        """Make the context this thread's."""
        self.call("cuCtxSetCurrent", self._context)

    def function(self, ptx: Path, name: str) -> Handle:
        """A kernel of a file of PTX, which the driver compiles at the first call (and remembers on disk)."""
        with self._lock:
            if (ptx, name) not in self._functions:
                self.enter()
                if ptx not in self._modules:
                    module = Handle()
                    self.call("cuModuleLoadData", ctypes.byref(module), ptx.read_bytes() + b"\0")
                    self._modules[ptx] = module
                found = Handle()
                self.call("cuModuleGetFunction", ctypes.byref(found), self._modules[ptx], name.encode())
                self._functions[ptx, name] = found
            return self._functions[ptx, name]

    def pin(self, address: int, size: int) -> int:
        """Page-lock memory of this process; returns where the GPU sees it. Both multiples of the page size."""
        self.enter()
        self.call("cuMemHostRegister_v2", Handle(address), ctypes.c_size_t(size), _REGISTER)
        seen = ctypes.c_uint64()
        self.call("cuMemHostGetDevicePointer_v2", ctypes.byref(seen), Handle(address), 0)
        return seen.value

    def unpin(self, address: int) -> None:
        """After this nothing on the GPU may use the memory."""
        self.enter()
        self.call("cuMemHostUnregister", Handle(address))

    def memory(self) -> tuple[int, int]:
        """(free, total) in bytes."""
        self.enter()
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value


class Queue:
    """A CUDA stream, for one thread at a time. What it is given begins after all that the context's default stream had
    been given before: FFmpeg's work on a frame. The methods raise CudaError."""

    def __init__(self, gpu: Gpu):
        self._gpu, self._call = gpu, gpu.call
        self._stream, self._before, self._after = Handle(), Handle(), Handle()
        gpu.enter()
        self._call("cuStreamCreate", ctypes.byref(self._stream), _NON_BLOCKING)
        self._call("cuEventCreate", ctypes.byref(self._before), _EVENT)
        self._call("cuEventCreate", ctypes.byref(self._after), _EVENT)

    def run(
        self,
        function: Handle,
        grid: tuple[int, int],
        block: tuple[int, int],
        arguments: Sequence[Argument],
    ) -> None:
        """Run a kernel and wait for it."""
        self._gpu.enter()
        pointers = (Handle * len(arguments))(*(ctypes.addressof(a) for a in arguments))
        self._call("cuEventRecord", self._before, None)
        self._call("cuStreamWaitEvent", self._stream, self._before, 0)
        self._call("cuLaunchKernel", function, *grid, 1, *block, 1, 0, self._stream, pointers, None)
        self._call("cuEventRecord", self._after, self._stream)
        self._call("cuEventSynchronize", self._after)

    def close(self) -> None:
        self._gpu.enter()
        self._call("cuEventDestroy_v2", self._before)
        self._call("cuEventDestroy_v2", self._after)
        self._call("cuStreamDestroy_v2", self._stream)
