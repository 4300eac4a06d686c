"""Decoding on NVDEC: decoders whose frames stay on the GPU, and those frames scaled straight into a slot.

FFmpeg decodes (parser, reference frames, concealment are its own), NVDEC does the work; all streams of a process share
one CUDA context. A slot's memory is page-locked when the first frame from the GPU goes into it, and the kernel writes
there over PCIe: no buffer between, no other copy. Nothing of CUDA is loaded before a stream is sent here.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Hashable
from contextlib import suppress
from pathlib import Path

import av
import av.error
from av import VideoFrame
from av.codec.hwaccel import HWAccel
from av.video.codeccontext import VideoCodecContext

from facedetd.capture.types import Slot
from facedetd.cuda.driver import CudaError, Gpu
from facedetd.cuda.letterbox import PTX, Letterbox, Surface, Target
from facedetd.cuda.turn import Turn
from facedetd.ring.header import ColorRange, Geometry

_PAGE = 4096


class Nvdec:
    """The GPU as the streams of this process share it. Any thread; CUDA begins with the first ``open``."""

    def __init__(self, index: int = 0, make_gpu: Callable[[int], Gpu] = Gpu, turns_at: str = ""):
        """``index``: as nvidia-smi counts. ``turns_at``: a file or folder for :class:`Turn`; else one that all
        processes of this machine have."""
        self._index, self._make_gpu = index, make_gpu
        self._lock = threading.Lock()
        self._gpu: Gpu | None = None
        self.lost = ""
        """Why CUDA is of no more use to this process; empty while it is."""
        self.turn = Turn(Path(turns_at) if turns_at else PTX)
        """To be taken while a decoder is opened, which begins with its first packet."""
        self._pinned: dict[Hashable, tuple[int, int]] = {}  # of a slot: its address, and where the GPU sees it

    def gpu(self) -> Gpu:
        """Raises CudaError: also at once when the context was lost, which only another process can mend."""
        with self._lock:
            if self.lost:
                raise CudaError(self.lost, lost=True)
            if self._gpu is None:
                self._gpu = self._make_gpu(self._index)
            return self._gpu

    def failed(self, error: CudaError) -> None:
        """A call on the GPU failed: where that costs the context, nobody need try again."""
        if error.lost:
            with self._lock:
                self.lost = self.lost or f"CUDA is lost to this process: {error}"

    def hangs(self, problem: str) -> None:
        """A call doesn't come back, which may hold the lock; what does come back goes on on the CPU."""
        self.lost = self.lost or problem

    def look(self) -> None:
        """FFmpeg fails on the GPU and can't say why: see whether the context still works."""
        try:
            self.gpu().memory()
        except CudaError as error:
            self.failed(error)

    def open(self, codec: str) -> VideoCodecContext:
        """A decoder that isn't opened yet. Raises CudaError."""
        gpu = self.gpu()
        gpu.enter()
        accelerator = HWAccel(
            "cuda",
            device=str(gpu.ordinal),
            options={"primary_ctx": "1"},
            allow_software_fallback=False,
            is_hw_owned=True,
        )
        try:
            context = av.CodecContext.create(codec, "r", hwaccel=accelerator)
        except (av.error.FFmpegError, ValueError, RuntimeError, MemoryError) as error:
            self.look()
            raise CudaError(self.lost or f"FFmpeg can't use the GPU: {type(error).__name__}") from None
        assert isinstance(context, VideoCodecContext)
        if not context.is_hwaccel:
            raise CudaError(f"this FFmpeg can't decode {codec} on NVDEC")
        return context

    def pinned(self, slot: Slot) -> int:
        """Where the GPU sees the slot's picture. Raises CudaError."""
        gpu = self.gpu()
        with self._lock:
            if slot.key not in self._pinned:
                address = slot.picture.ctypes.data
                self._pinned[slot.key] = address, gpu.pin(address, -(-slot.picture.nbytes // _PAGE) * _PAGE)
            return self._pinned[slot.key][1]

    def forget_ring(self, ring_id: int) -> None:
        """Before its memory goes. Slots' keys are (ring's id, number)."""
        with self._lock:
            gone = [key for key in self._pinned if isinstance(key, tuple) and key[0] == ring_id]
            for key in gone:
                address, _ = self._pinned.pop(key)
                with suppress(CudaError):  # a lost context has let go of all
                    assert self._gpu is not None
                    self._gpu.unpin(address)

    def letterbox(self) -> Letterbox:
        """For one stream. Raises CudaError."""
        return Letterbox(self.gpu())


class GpuScaler:
    """Scales one stream's frames that lie on the GPU. Used by one thread."""

    def __init__(self, nvdec: Nvdec):
        self._nvdec = nvdec
        self._letterbox: Letterbox | None = None

    def scale(self, surface: Surface, geometry: Geometry, range_: ColorRange, slot: Slot) -> None:
        """Write the whole slot, padding too. Raises CudaError."""
        try:
            if self._letterbox is None:
                self._letterbox = self._nvdec.letterbox()
            height, width = slot.picture.shape[0] * 2 // 3, slot.picture.shape[1]
            g = geometry
            black = 16 if range_ is ColorRange.LIMITED else 0
            address = self._nvdec.pinned(slot)
            self._letterbox.scale(surface, Target(address, width, height, g.width, g.height, g.pad_x, g.pad_y, black))
        except CudaError as error:
            self._nvdec.failed(error)
            raise

    def close(self) -> None:
        """The stream ends, or leaves the GPU."""
        if self._letterbox is not None:
            with suppress(CudaError):
                self._letterbox.close()
            self._letterbox = None


def surface_of(frame: VideoFrame) -> Surface | None:
    """Where a frame lies; None unless it is NV12, P010 or P016. The frame must live as long as the surface is used."""
    try:
        planes = frame.planes
        (luma, bits), (chroma, _) = _tensor(planes[0]), _tensor(planes[1])
    except (NotImplementedError, ValueError, TypeError, IndexError):
        return None
    if planes[0].line_size != planes[1].line_size:
        return None
    return Surface(luma, chroma, planes[0].line_size, frame.width, frame.height, bits)


class _Tensor(ctypes.Structure):
    """The beginning of dlpack.h's DLTensor; CUDA's device pointers are addresses."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
    )


_pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_of.restype, _pointer_of.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)


def _tensor(plane: object) -> tuple[int, int]:
    """(address, bits a value) of a plane."""
    capsule = plane.__dlpack__()  # type: ignore[attr-defined]
    tensor = _Tensor.from_address(_pointer_of(capsule, b"dltensor"))
    return tensor.data or 0, tensor.bits
