"""Launches letterbox.cu: a decoded frame on the GPU -> a slot's NV12 in this process's memory."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path

from facedetd.cuda.driver import Argument, Gpu, Queue

PTX = Path(__file__).with_name("letterbox.ptx")
_BLOCK = (32, 8)


@dataclass(frozen=True, slots=True)
class Surface:
    """A frame on the GPU: where its luma and its interleaved chroma begin, bytes from row to row of both, its size in
    px, and the bits a value takes (8, or 16 of which the highest count)."""

    luma: int
    chroma: int
    pitch: int
    width: int
    height: int
    bits: int


@dataclass(frozen=True, slots=True)
class Target:
    """A slot: where the GPU sees it, its size in px, and where the picture lies in it; ``black`` is the padding's
    luma."""

    address: int
    width: int
    height: int
    out_width: int
    out_height: int
    pad_x: int
    pad_y: int
    black: int


class Letterbox:
    """Of one thread. Its methods raise CudaError."""

    def __init__(self, gpu: Gpu):
        self._gpu = gpu
        self._queue = Queue(gpu)

    def scale(self, frame: Surface, to: Target) -> None:
        """Returns when the slot is complete."""
        function = self._gpu.function(PTX, "letterbox_nv12" if frame.bits == 8 else "letterbox_p016")
        across, down = -(-to.width // 4), to.height // 2
        integers = (to.width, to.height, to.out_width, to.out_height, to.pad_x, to.pad_y, to.black)
        arguments: tuple[Argument, ...] = (
            ctypes.c_void_p(frame.luma),
            ctypes.c_void_p(frame.chroma),
            ctypes.c_longlong(frame.pitch),
            ctypes.c_int(frame.width),
            ctypes.c_int(frame.height),
            ctypes.c_void_p(to.address),
            *(ctypes.c_int(n) for n in integers),
        )
        self._queue.run(function, (-(-across // _BLOCK[0]), -(-down // _BLOCK[1])), _BLOCK, arguments)

    def close(self) -> None:
        self._queue.close()
