"""What facedetd/cuda/letterbox.cu computes, in numpy; and the kernel itself, compiled for the CPU."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt

from facedetd.ring.header import Geometry
from facedetd.types import ByteArray

FloatMatrix = npt.NDArray[np.float64]
SOURCE = Path(__file__).parents[1] / "facedetd" / "cuda" / "letterbox.cu"

HOST = r"""
#include <algorithm>
#include <cmath>
#define __global__
#define __device__
#define __forceinline__ inline
#define __noinline__
#define __restrict__
using std::max; using std::min;
struct uchar4 { unsigned char x, y, z, w; };
static uchar4 make_uchar4(unsigned char x, unsigned char y, unsigned char z, unsigned char w) { return {x, y, z, w}; }
struct Index { unsigned x, y; };
static Index blockIdx, threadIdx, blockDim = {1, 1};
#include "letterbox.cu"
#define RUN(name, type)                                                                                   \
  extern "C" void run_##name(const type* luma, const type* chroma, PARAMETERS) {                          \
    for (blockIdx.y = 0; blockIdx.y * 2 < (unsigned)height; ++blockIdx.y)                                 \
      for (blockIdx.x = 0; blockIdx.x * 4 < (unsigned)width; ++blockIdx.x) name(luma, chroma, GIVEN);     \
  }
RUN(letterbox_nv12, unsigned char)
RUN(letterbox_p016, unsigned short)
"""


def matrix(source: int, target: int, *, left: bool = False) -> FloatMatrix:
    """(target, source): how much each source sample counts in each target sample. ``left``: see letterbox.cu."""
    scale = source / target
    shift = (1 - scale) / 4 if left else 0.0
    weights = np.zeros((target, source))
    for i in range(target):
        if scale > 1:
            start = i * scale + shift
            at = np.arange(np.floor(start), np.ceil(start + scale))
            of = np.clip(np.minimum(start + scale, at + 1) - np.maximum(start, at), 0, None)
        else:
            middle = (i + 0.5) * scale - 0.5 + shift
            at = np.floor(middle) + np.arange(2.0)
            of = np.clip(1 - np.abs(middle - at), 0, None)
        np.add.at(weights[i], np.clip(at, 0, source - 1).astype(int), of / of.sum())
    return weights


def letterboxed(
    luma: FloatMatrix, chroma: FloatMatrix, geometry: Geometry, model: tuple[int, int], black: int
) -> ByteArray:
    """``luma`` (height, width) and ``chroma`` (height / 2, width / 2, 2) of 8-bit range to the NV12 of a slot of
    ``model``'s (width, height): (height * 3 / 2, width) uint8."""
    width, height = model
    g = geometry
    slot = np.full((height * 3 // 2, width), 128, np.uint8)
    slot[:height] = black
    small = matrix(luma.shape[0], g.height) @ luma @ matrix(luma.shape[1], g.width).T
    slot[g.pad_y : g.pad_y + g.height, g.pad_x : g.pad_x + g.width] = _rounded(small)
    down, across = matrix(chroma.shape[0], g.height // 2), matrix(chroma.shape[1], g.width // 2, left=True)
    rows = slot[height:][g.pad_y // 2 : (g.pad_y + g.height) // 2, g.pad_x : g.pad_x + g.width]
    for c in range(2):
        rows[:, c::2] = _rounded(down @ chroma[..., c] @ across.T)
    return slot


def _rounded(values: FloatMatrix) -> ByteArray:
    return np.floor(np.clip(values + 0.5, 0, 255)).astype(np.uint8)


def compiled(folder: Path) -> ctypes.CDLL | None:
    """The kernels as functions ``run_…`` of the CPU; None without a C++ compiler."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        return None
    (folder / "host.cpp").write_text(HOST)
    library = folder / "letterbox.so"
    command = [compiler, "-O1", "-shared", "-fPIC", "-ffp-contract=off", "-Wno-unknown-pragmas"]
    subprocess.run([*command, f"-I{SOURCE.parent}", "-o", str(library), str(folder / "host.cpp")], check=True)
    return ctypes.CDLL(str(library))


def run_on_cpu(
    library: ctypes.CDLL, luma: npt.NDArray[np.generic], chroma: npt.NDArray[np.generic], geometry: Geometry,
    model: tuple[int, int], black: int,
) -> ByteArray:  # fmt: skip
    """``luma`` (height, width) and ``chroma`` (height / 2, width), both uint8 or uint16, of the same pitch."""
    width, height = model
    slot = np.full((height * 3 // 2, width), 77, np.uint8)
    run = library.run_letterbox_nv12 if luma.dtype == np.uint8 else library.run_letterbox_p016
    numbers = (luma.shape[1], luma.shape[0])
    g = geometry
    run(
        ctypes.c_void_p(luma.ctypes.data), ctypes.c_void_p(chroma.ctypes.data), ctypes.c_longlong(luma.strides[0]),
        *(ctypes.c_int(n) for n in numbers), ctypes.c_void_p(slot.ctypes.data),
        *(ctypes.c_int(n) for n in (width, height, g.width, g.height, g.pad_x, g.pad_y, black)),
    )  # fmt: skip
    return slot
