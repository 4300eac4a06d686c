"""Decoded frame -> NV12 in the slot, letterboxed.

What lies on the GPU is scaled there (``nvdec.py``), but for rare formats, which are downloaded. Everything else goes
through swscale with area interpolation. Measured for 1080p yuv420p -> 640x360 (PSNR of Y against an area average in
float): swscale area 0.67 ms at 59 dB, OpenCV area 1.7 ms at 59 dB (5.9 ms where the factor is no whole number), OpenCV
linear 0.73 ms at 43 dB and swscale fast-bilinear 0.52 ms at 37 dB, both with aliasing. It takes every pixel format as
well, so there is no second path.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from av import VideoFrame
from av.video.reformatter import ColorRange as AvColorRange
from av.video.reformatter import Interpolation, VideoReformatter

from facedetd.capture.geometry import letterbox
from facedetd.capture.nvdec import GpuScaler, Nvdec, surface_of
from facedetd.capture.types import Slot
from facedetd.ring.header import ColorMatrix, ColorRange, Geometry
from facedetd.types import ByteArray

_KEPT_SLOTS = 16  # remembered paddings; a ring has at most four slots a stream

# ITU-T H.273, table 4 (matrix coefficients); 2 is unspecified in tables 2 and 3 as well
_RGB, _BT709, _UNSPECIFIED, _SMPTE240M = 0, 1, 2, 7
_BT2020 = (9, 10)
_TAG = {ColorMatrix.BT601: 6, ColorMatrix.BT709: 1, ColorMatrix.BT2020: 9}
_SWS_RANGE = {ColorRange.LIMITED: AvColorRange.MPEG, ColorRange.FULL: AvColorRange.JPEG}


@dataclass(frozen=True, slots=True)
class Scaled:
    """How the picture in a slot came to be."""

    geometry: Geometry
    matrix: ColorMatrix
    range: ColorRange


def colours_of(frame: VideoFrame) -> tuple[ColorMatrix, ColorRange]:
    """What the frame says of its colours. Unspecified: BT.709 from 720 lines on, else BT.601; limited, but for the
    yuvj formats. RGB has no matrix: it becomes BT.601 limited."""
    space, name = frame.colorspace, frame.format.name
    if name.startswith(("rgb", "bgr", "gbr", "argb", "abgr", "0rgb", "0bgr", "pal8")):
        return ColorMatrix.BT601, ColorRange.LIMITED
    if space in _BT2020:
        matrix = ColorMatrix.BT2020
    elif space in (_BT709, _SMPTE240M) or (space in (_UNSPECIFIED, _RGB) and frame.height >= 720):
        matrix = ColorMatrix.BT709
    else:
        matrix = ColorMatrix.BT601
    full = frame.color_range == AvColorRange.JPEG or name.startswith("yuvj")
    return matrix, ColorRange.FULL if full else ColorRange.LIMITED


@contextmanager
def _tagged(frame: VideoFrame, matrix: ColorMatrix) -> Iterator[None]:
    """The frame says this matrix and nothing more of its colours, for as long as swscale reads it. The result inherits
    the matrix: nothing is converted, which is the inferring device's work. And swscale refuses transfer functions,
    primaries and matrices that it doesn't know (cameras send reserved ones), though it need not touch them; PyAV keeps
    them from it only since 18."""
    was = frame.colorspace, frame.color_trc, frame.color_primaries
    frame.colorspace, frame.color_trc, frame.color_primaries = _TAG[matrix], _UNSPECIFIED, _UNSPECIFIED
    try:
        yield
    finally:
        frame.colorspace, frame.color_trc, frame.color_primaries = was


class Scaler:
    """Scales the frames of one stream. Used by one thread; keeps swscale's tables between frames."""

    def __init__(self, nvdec: Nvdec | None = None) -> None:
        self._reformatter = VideoReformatter()
        self._painted: dict[Hashable, Scaled] = {}
        self._on_gpu = GpuScaler(nvdec) if nvdec else None

    def close(self) -> None:
        """Let go of what it has on the GPU."""
        if self._on_gpu:
            self._on_gpu.close()

    def scale(self, frame: VideoFrame, sample_aspect: Fraction | None, slot: Slot) -> Scaled:
        """Write the frame into the slot's picture. Raises av.error.FFmpegError for a format swscale doesn't know, and
        CudaError for a frame on the GPU."""
        picture = slot.picture
        model_height, model_width = picture.shape[0] * 2 // 3, picture.shape[1]
        geometry = letterbox(frame.width, frame.height, sample_aspect, model_width, model_height)
        matrix, range_ = colours_of(frame)
        if self._on_gpu and frame.format.name == "cuda" and (surface := surface_of(frame)):
            self._on_gpu.scale(surface, geometry, range_, slot)
            return self._remember(slot, Scaled(geometry, matrix, range_))
        with _tagged(frame, matrix):
            small = self._reformatter.reformat(
                frame,
                width=geometry.width,
                height=geometry.height,
                format="nv12",
                src_color_range=_SWS_RANGE[range_],
                dst_color_range=_SWS_RANGE[range_],
                interpolation=Interpolation.AREA,
                threads=1,
            )
        scaled = Scaled(geometry, matrix, range_)
        if self._painted.get(slot.key) != scaled:
            self._paint(slot, scaled, model_height)
        top, left = geometry.pad_y, geometry.pad_x
        bottom, right = top + geometry.height, left + geometry.width
        chroma = picture[model_height:]
        picture[top:bottom, left:right] = _rows(small, 0, geometry.width)
        # U and V stand side by side: as many bytes a row as Y has
        chroma[top // 2 : bottom // 2, left:right] = _rows(small, 1, geometry.width)
        return scaled

    def _paint(self, slot: Slot, scaled: Scaled, model_height: int) -> None:
        slot.picture[:model_height] = 16 if scaled.range is ColorRange.LIMITED else 0
        slot.picture[model_height:] = 128
        self._remember(slot, scaled)

    def _remember(self, slot: Slot, scaled: Scaled) -> Scaled:
        if len(self._painted) >= _KEPT_SLOTS:  # rings of earlier generations
            self._painted.clear()
        self._painted[slot.key] = scaled
        return scaled

    def bgr(self, frame: VideoFrame) -> ByteArray:
        """A full-size copy, (height, width, 3) uint8 BGR."""
        matrix, range_ = colours_of(frame)
        with _tagged(frame, matrix):
            full = self._reformatter.reformat(frame, format="bgr24", src_color_range=_SWS_RANGE[range_], threads=1)
        return _rows(full, 0, full.width * 3).reshape(full.height, full.width, 3).copy()


def _rows(frame: VideoFrame, plane: int, row_bytes: int) -> ByteArray:
    """A view of a plane's pixels, (rows, row_bytes), without the bytes that pad each line."""
    source = frame.planes[plane]
    data: ByteArray = np.frombuffer(source, np.uint8)  # type: ignore[call-overload]
    return data[: source.height * source.line_size].reshape(source.height, source.line_size)[:, :row_bytes]
