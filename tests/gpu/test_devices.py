"""Which GPU a number means, on all that are here, each in a process of its own. With one GPU what needs two is skipped.
Needs the driver only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from facedetd.cuda.nvml import Nvml, count_gpus, place_of
from tests.unit.capture_clips import make_clip

_CHILD = """
import json, os, sys
import av
from facedetd.capture.levers import Decoder
from facedetd.capture.nvdec import Nvdec
from facedetd.cuda.driver import CudaError
from facedetd.cuda.nvml import Nvml, count_gpus
from facedetd.types import DecodeDevice

index, clip = int(sys.argv[1]), sys.argv[2]
gpus = [Nvml(each) for each in range(count_gpus())]
before = [gpu.read().memory_used or 0 for gpu in gpus]
nvdec = Nvdec(index)
said = {}
try:
    gpu = nvdec.gpu()
    with av.open(clip) as file:
        decoder = Decoder(file.streams.video[0].codec_context, nvdec)
        decoder.renew(loop_filter=True, device=DecodeDevice.NVDEC)
        formats = []  # the frames themselves would use up the decoder's surfaces
        for packet in file.demux(video=0):
            formats += [frame.format.name for frame in (decoder.decode(packet) if packet.size else [])]
    said = {"ordinal": gpu.ordinal, "total": gpu.memory()[1], "place": gpu._place(gpu.ordinal), "frames": len(formats),
            "on_gpu": set(formats) == {"cuda"}, "problem": decoder.problem,
            "grew": [(gpu.read().memory_used or 0) - was for gpu, was in zip(gpus, before)]}
except CudaError as error:
    said = {"error": str(error)}
print(json.dumps(said), flush=True)
os._exit(0)
"""


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    make_clip(path, 24, (320, 192))
    return path


def decode_on(index: int, clip: Path, visible: str | None = None) -> dict[str, Any]:
    """What a process says that decodes on this GPU. ``visible``: CUDA_VISIBLE_DEVICES."""
    surroundings = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    if visible is not None:
        surroundings["CUDA_VISIBLE_DEVICES"] = visible
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(index), str(clip)], env=surroundings, capture_output=True, text=True,
        timeout=120, check=True,
    )  # fmt: skip
    said: dict[str, Any] = json.loads(done.stdout)
    return said


@pytest.mark.parametrize("index", range(8))
def test_a_gpu_s_streams_are_decoded_on_it_and_cost_the_others_nothing(index: int, clip: Path) -> None:
    number, place = place_of(min(index, count_gpus() - 1))
    if index >= number:
        pytest.skip(f"there are {number} GPUs")
    said = decode_on(index, clip)
    assert said.get("frames"), said
    assert said["on_gpu"] and not said["problem"]
    assert place is not None, "NVML tells no place: CUDA's numbers are taken as they are"
    assert tuple(said["place"])[1:] == place[1:], "CUDA and NVML name the same place"
    nvml = Nvml(index)
    total = nvml.read().memory_total
    nvml.close()
    assert total is None or abs(said["total"] - total) < 2 << 30
    assert said["grew"][index] > 100e6, said
    assert all(grew < 50e6 for other, grew in enumerate(said["grew"]) if other != index), said


def test_the_number_stays_nvidia_smi_s_where_cuda_shows_one_only(clip: Path) -> None:
    last = count_gpus() - 1
    nvml = Nvml(last)
    uuid = nvml.identity.uuid
    nvml.close()
    for visible in (str(last), uuid):
        said = decode_on(last, clip, visible)
        assert (said.get("ordinal"), bool(said.get("frames"))) == (0, True), said


def test_one_that_cuda_does_not_show_is_never_its_neighbour(clip: Path) -> None:
    if count_gpus() < 2:
        pytest.skip("one GPU")
    said = decode_on(0, clip, "1")
    assert "GPU 0 can't be used: CUDA shows 1 of" in said["error"] and "CUDA_VISIBLE_DEVICES is '1'" in said["error"]
