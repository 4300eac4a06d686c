"""What the TensorRT engine needs of CUDA beside PyCUDA: graphs, which PyCUDA hasn't; page-locking memory that is there
already, at which PyCUDA 2026.1 crashes; and its errors as ours. By ctypes, from the driver's library.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import numpy as np

from facedetd.inference.types import DeviceError
from facedetd.trt.device import first_line
from facedetd.types import ByteArray

_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL


@cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")


def _call(name: str, *arguments: object) -> None:
    """Raises DeviceError with CUDA's own words."""
    status = getattr(_library(), name)(*arguments)
    if status:
        text = ctypes.c_char_p()
        _library().cuGetErrorString(status, ctypes.byref(text))
        said = text.value.decode(errors="replace") if text.value else "unknown error"
        raise DeviceError(f"{name}: {said} ({status})")


@contextmanager
def device_errors(cuda: Any, doing: str) -> Iterator[None]:
    """PyCUDA's errors as DeviceError; ``doing`` says at what. Want of memory stays what it is, if ``cuda.MemoryError``
    is caught further in."""
    try:
        yield
    except cuda.Error as error:
        raise DeviceError(f"the GPU fails at {doing}: {first_line(error)}") from None


class LentMemory:
    """Memory that the GPU may read by itself while this lives."""

    def __init__(self, memory: ByteArray) -> None:
        """``memory``: whole pages, (n,) uint8. Raises DeviceError: the driver won't have it."""
        self._memory = memory  # keeps it mapped
        self.start = memory.__array_interface__["data"][0]
        self.end = self.start + memory.nbytes
        _call("cuMemHostRegister_v2", ctypes.c_void_p(self.start), ctypes.c_size_t(memory.nbytes), ctypes.c_uint(0))

    def close(self) -> None:
        """Raises DeviceError."""
        _call("cuMemHostUnregister", ctypes.c_void_p(self.start))


class Graph:
    """Work that was recorded once and is started with one call."""

    def __init__(self, stream: Any, work: Callable[[], None]) -> None:
        """``work`` puts its calls on ``stream`` (PyCUDA's), which takes them down and runs none. Raises DeviceError, or
        what ``work`` raises."""
        self._stream = ctypes.c_void_p(stream.handle)
        self._graph, self._runnable = ctypes.c_void_p(), ctypes.c_void_p()
        _call("cuStreamBeginCapture_v2", self._stream, ctypes.c_int(_THREAD_LOCAL))
        try:
            work()
        finally:
            _call("cuStreamEndCapture", self._stream, ctypes.byref(self._graph))
        _call("cuGraphInstantiateWithFlags", ctypes.byref(self._runnable), self._graph, ctypes.c_ulonglong(0))

    def launch(self) -> None:
        """Raises DeviceError."""
        _call("cuGraphLaunch", self._runnable, self._stream)

    def close(self) -> None:
        for name, handle in (("cuGraphExecDestroy", self._runnable), ("cuGraphDestroy", self._graph)):
            if handle:
                _call(name, handle)
        self._runnable = self._graph = ctypes.c_void_p()


def keep_stack_small() -> None:
    """Of the current context: the usual 1 KiB for each thread there could be is 240 MB on an H100. A kernel that wants
    more gets it from the driver when it is launched."""
    with suppress(DeviceError):
        _call("cuCtxSetLimit", ctypes.c_int(0), ctypes.c_size_t(128))


def free_and_total(cuda: Any) -> tuple[int, int]:
    """Bytes of the GPU's memory."""
    free, total = cuda.mem_get_info()
    return int(free), int(total)


def as_floats(words: np.ndarray[Any, np.dtype[np.int32]]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The same bits."""
    return np.ascontiguousarray(words).view(np.float32)
