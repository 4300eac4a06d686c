"""What decoders cost and how many there can be: python -m tests.gpu.limits --clip FILE [--most 400] [--processes 4]

Opens NVDEC decoders in one process until one is refused, or ``--most`` are open, then the same number spread over
several processes; prints what NVML counts at each step and what the refusal said. Needs a GPU, and nothing else on it.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import av

from facedetd.capture.levers import Decoder
from facedetd.capture.nvdec import Nvdec
from facedetd.cuda.driver import CudaError
from facedetd.cuda.nvml import Nvml
from facedetd.types import DecodeDevice

_LIMITS = {"stack": 0, "printf": 1, "heap": 2, "pending": 4}  # cuda.h, CUlimit
FRAMES = 8
"""Packets each decoder is given: by then it holds all the memory it will."""


def open_one(clip: Path, nvdec: Nvdec) -> tuple[Any, Any, list[Any]]:
    """(file, decoder, its last frames). Raises CudaError with what FFmpeg or CUDA said."""
    file = av.open(str(clip))
    video = file.streams.video[0]
    decoder = Decoder(video.codec_context, nvdec)
    decoder.renew(loop_filter=True, device=DecodeDevice.NVDEC)
    frames: list[Any] = []
    for packet, _ in zip(file.demux(video), range(FRAMES), strict=False):
        frames = decoder.decode(packet) or frames
    if decoder.device is not DecodeDevice.NVDEC:
        raise CudaError(decoder.problem or "NVDEC refused it")
    return file, decoder, frames[-1:]


def _count(folder: str) -> int:
    return sum(1 for _ in Path(folder).iterdir())


def child(options: argparse.Namespace) -> None:
    """Opens its decoders, says what it has, and keeps them until stdin closes."""
    nvml, nvdec = Nvml(0), Nvdec(0)
    empty = nvml.read().memory_used or 0
    gpu = nvdec.gpu()
    gpu.enter()
    for name in options.set.split(",") if options.set else []:
        limit, _, value = name.partition("=")
        gpu.call("cuCtxSetLimit", _LIMITS[limit], ctypes.c_size_t(int(value)))
    steps = [("context", 0.0, (nvml.read().memory_used or 0) - empty)]
    held, problem, began = [], "", time.monotonic()
    marks = {1, 2, 10, 50, 100, 150, 170, 200, 250, 300, 350, options.child}
    while len(held) < options.child:
        try:
            held.append(open_one(options.clip, nvdec))
        except Exception as error:  # whatever it is, it is the answer
            problem = f"{type(error).__name__}: {error}"
            break
        if len(held) in marks:
            steps.append((str(len(held)), time.monotonic() - began, (nvml.read().memory_used or 0) - empty))
    said = {"open": len(held), "problem": problem, "steps": steps, "files": _count("/proc/self/fd"),
            "threads": _count("/proc/self/task")}  # fmt: skip
    print(json.dumps(said), flush=True)
    sys.stdin.read()
    os._exit(0)


def together(counts: list[int], options: argparse.Namespace, settings: str = "") -> list[dict[str, Any]]:
    """Children with these numbers of decoders, all at once."""
    command = [sys.executable, "-m", "tests.gpu.limits", "--clip", str(options.clip), "--set", settings, "--child"]
    children = [
        subprocess.Popen([*command, str(n)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for n in counts
    ]
    said = []
    for one in children:
        assert one.stdout
        line = one.stdout.readline()
        said.append(json.loads(line) if line else {"open": 0, "problem": f"ended: {one.wait()}", "steps": []})
    for one in children:
        assert one.stdin
        one.stdin.close()
        one.wait()
    return said


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.limits", description=__doc__.split("\n")[0])
    parser.add_argument("--clip", type=Path, required=True)
    parser.add_argument("--most", type=int, default=400)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--set", default="", help="limits of the context, as stack=256,heap=0")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        child(options)
    share = options.most // options.processes
    for counts in ([options.most], [share] * options.processes):
        for said in together(counts, options, options.set):
            steps = ", ".join(
                f"{name}: {used / 1e6:.0f} MB" + (f" {s:.1f} s" if s else "") for name, s, used in said["steps"]
            )
            print(f"{said['open']} of {counts[0]} open; {steps}; {said.get('files')} descriptors, "
                  f"{said.get('threads')} threads; {said['problem'] or 'no refusal'}", flush=True)  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
