"""NV12 to a model's planar float input, by colour matrix and range. Pure: same picture in, same numbers out.

The inverse of Y'CbCr follows from two constants a standard names, Kr and Kb (Kg = 1 - Kr - Kb):

    R' = Y' + 2 (1 - Kr) Cr
    G' = Y' - 2 Kb (1 - Kb) / Kg Cb - 2 Kr (1 - Kr) / Kg Cr
    B' = Y' + 2 (1 - Kb) Cb

Kr and Kb: ITU-R BT.601-7 section 2.5.1, BT.709-6 item 3.2, BT.2020-2 table 4 (non-constant luminance).
Ranges: ITU-T H.273 section 8.3; limited has 219 steps of luma from 16 and 224 of chroma around 128,
full has 255 of each.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from facedetd.inference.types import InputSpec
from facedetd.ring.header import ColorMatrix, ColorRange
from facedetd.types import ByteArray, FloatArray

_KR_KB = {
    ColorMatrix.BT601: (0.299, 0.114),
    ColorMatrix.BT709: (0.2126, 0.0722),
    ColorMatrix.BT2020: (0.2627, 0.0593),
}


def coefficients(matrix: ColorMatrix, color_range: ColorRange, channels: str) -> npt.NDArray[np.float64]:
    """The 3x4 affine map from (Y, Cb, Cr, 1), each 0-255, to the three channels in 0-255, rows as in ``channels``
    ("rgb" or "bgr"). Raises ValueError for another ``channels``."""
    kr, kb = _KR_KB[matrix]
    kg = 1.0 - kr - kb
    rows = {
        "r": (1.0, 0.0, 2 * (1 - kr)),
        "g": (1.0, -2 * kb * (1 - kb) / kg, -2 * kr * (1 - kr) / kg),
        "b": (1.0, 2 * (1 - kb), 0.0),
    }
    if sorted(channels) != ["b", "g", "r"]:
        raise ValueError(f"channels is {channels!r}; allowed: rgb, bgr")
    if color_range is ColorRange.LIMITED:
        gain, zero = np.array([255 / 219, 255 / 224, 255 / 224]), np.array([16.0, 128.0, 128.0])
    else:
        gain, zero = np.ones(3), np.array([0.0, 128.0, 128.0])
    linear = np.array([rows[c] for c in channels]) * gain
    return np.concatenate([linear, -(linear @ zero)[:, None]], axis=1)


def fixed_point(matrix: ColorMatrix, color_range: ColorRange, channels: str) -> npt.NDArray[np.int32]:
    """:func:`coefficients` as OpenCV's transform of 8-bit pictures uses them: a channel is
    (map @ (Y, Cb, Cr, 1)) >> 10, clipped to 0-255. For who wants an Nv12Converter's very numbers elsewhere (a test
    compares)."""
    exact = coefficients(matrix, color_range, channels).astype(np.float32)
    exact[:, 3] += np.float32(0.5)
    whole: npt.NDArray[np.int32] = np.rint(exact * np.float32(1024)).astype(np.int32)
    return whole


class Nv12Converter:
    """Converts pictures of one size into planar float32, (3, height, width), as an :class:`InputSpec` says.

    Chroma is repeated to the four pixels it belongs to; channels are rounded to 8 bits and clipped to 0-255, as the
    pictures were that models were trained on. Holds its scratch buffers, so one thread at a time may use it.
    """

    def __init__(self, width: int, height: int, spec: InputSpec) -> None:
        """Raises ValueError unless width and height are even and above 0."""
        if width <= 0 or height <= 0 or width % 2 or height % 2:
            raise ValueError(f"NV12 of {width}x{height}; width and height must be even and above 0")
        self._width, self._height = width, height
        self._maps = {
            (m, r): coefficients(m, r, spec.channels).astype(np.float32) for m in ColorMatrix for r in ColorRange
        }
        self._scale = np.array(spec.scale, np.float32).reshape(3, 1, 1)
        self._shift = (-np.array(spec.mean) * np.array(spec.scale)).astype(np.float32).reshape(3, 1, 1)
        self._plain = bool(np.all(self._scale == 1.0))
        self._shifted = bool(np.any(self._shift != 0.0))
        half = (height // 2, width // 2)
        self._chroma = [np.empty(half, np.uint8) for _ in range(2)]
        self._wide = [np.empty((*half, 2), np.uint8) for _ in range(2)]
        self._yuv = np.empty((half[0], 2, width, 3), np.uint8)
        self._mixed = np.empty((height, width, 3), np.uint8)
        self._planes = np.empty((3, height, width), np.uint8)

    def convert(self, nv12: ByteArray, matrix: ColorMatrix, color_range: ColorRange, out: FloatArray) -> None:
        """Write the picture into ``out``, (3, height, width) float32, contiguous.

        ``nv12`` is (height * 3 / 2, width) uint8, rows contiguous. Raises ValueError for another shape or type.
        """
        width, height = self._width, self._height
        if nv12.shape != (height * 3 // 2, width) or nv12.dtype != np.uint8:
            raise ValueError(f"an NV12 picture of {nv12.shape} {nv12.dtype}; expected {(height * 3 // 2, width)} uint8")
        # Whole-plane SIMD calls only: merging a plane with itself doubles it sideways, and the two rows that share a
        # chroma row are merged in two calls, so nothing is ever upsampled by itself.
        luma = nv12[:height]
        cv2.split(nv12[height:].reshape(height // 2, width // 2, 2), self._chroma)
        wide = []
        for plane, doubled in zip(self._chroma, self._wide, strict=True):
            cv2.merge([plane, plane], doubled)
            wide.append(doubled.reshape(height // 2, width))
        for row in (0, 1):
            cv2.merge([luma[row::2], *wide], self._yuv[:, row])
        cv2.transform(self._yuv.reshape(height, width, 3), self._maps[matrix, color_range], self._mixed)
        cv2.split(self._mixed, list(self._planes))
        if self._plain:
            np.copyto(out, self._planes)
        else:
            np.multiply(self._planes, self._scale, out=out)
        if self._shifted:
            np.add(out, self._shift, out=out)
