"""Compile facedetd's CUDA kernels to the PTX that is shipped: python packaging/make_ptx.py [libnvrtc.so]

Needs NVRTC, not a GPU: pip install nvidia-cuda-nvrtc-cu11==11.8.89, whose PTX every driver since 520 takes. Run it
after each change of a .cu file; a test compares the hash that it writes into the PTX's first line.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "facedetd"
SOURCES = (PACKAGE / "inference" / "engines" / "kernels.cu", PACKAGE / "cuda" / "letterbox.cu")
OPTIONS = (b"--gpu-architecture=compute_70", b"--fmad=true", b"--std=c++14")


def library() -> str:
    if len(sys.argv) > 1:
        return sys.argv[1]
    spec = importlib.util.find_spec("nvidia.cuda_nvrtc")
    for place in spec.submodule_search_locations or () if spec else ():
        for found in sorted(Path(place).glob("lib/libnvrtc.so.*")):
            return str(found)
    raise SystemExit("no NVRTC: pip install nvidia-cuda-nvrtc-cu11==11.8.89, or name libnvrtc.so")


def compile_ptx(name: str, source: bytes, nvrtc: ctypes.CDLL) -> bytes:
    """Raises SystemExit with the compiler's words."""
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, name.encode(), 0, None, None)
    failed = nvrtc.nvrtcCompileProgram(program, len(OPTIONS), (ctypes.c_char_p * len(OPTIONS))(*OPTIONS))
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    if failed:
        raise SystemExit(log.value.decode())
    nvrtc.nvrtcGetPTXSize(program, ctypes.byref(size))
    ptx = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetPTX(program, ptx)
    return ptx.value


def main() -> None:
    nvrtc = ctypes.CDLL(library())
    for path in SOURCES:
        source = path.read_bytes()
        ptx = compile_ptx(path.name, source, nvrtc)
        head = f"// of {path.name} with SHA-256 {hashlib.sha256(source).hexdigest()}, by packaging/make_ptx.py\n"
        path.with_suffix(".ptx").write_bytes(head.encode() + ptx.strip() + b"\n")


if __name__ == "__main__":
    main()
