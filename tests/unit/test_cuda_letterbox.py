"""The kernel that scales frames on the GPU, against swscale: here run on the CPU, by tests/gpu where it belongs."""

import hashlib
from pathlib import Path

import av
import numpy as np
import pytest
from capture_clips import picture

import facedetd.cuda
from facedetd.capture.geometry import letterbox
from facedetd.capture.scaler import Scaler
from facedetd.capture.types import Slot
from tests.letterbox_reference import compiled, letterboxed, run_on_cpu

SIZES = [
    ((1920, 1080), (960, 544)), ((1920, 1080), (640, 384)), ((1280, 720), (640, 384)), ((704, 576), (640, 384)),
    ((270, 480), (640, 384)), ((352, 288), (640, 384)), ((640, 384), (640, 384)), ((322, 182), (98, 66)),
]  # fmt: skip


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    library = compiled(tmp_path_factory.mktemp("letterbox"))
    if library is None:
        pytest.skip("no C++ compiler: the kernel can't be tried on the CPU")
    return library


def decoded(folder, width, height):
    """A frame from a decoder, which says where its chroma lies: smooth, with edges and a camera's noise."""
    rng = np.random.default_rng(5)
    bgr = picture(5, width, height).astype(int) + rng.integers(-6, 7, (height, width, 3))
    bgr[height // 3 : height // 2, width // 4 : width // 2] = (20, 60, 200)
    path = folder / "one.mkv"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"preset": "ultrafast", "crf": "10"}
        frame = av.VideoFrame.from_ndarray(np.clip(bgr, 0, 255).astype(np.uint8), "bgr24")
        out.mux([*stream.encode(frame), *stream.encode()])
    with av.open(str(path)) as file:
        return next(file.decode(video=0))


def nv12_of(frame):
    flat = frame.reformat(format="nv12").to_ndarray()
    return flat[: frame.height].copy(), flat[frame.height :].copy()


@pytest.mark.parametrize(("source", "model"), SIZES)
def test_the_kernel_gives_what_swscale_gives(kernels, source, model, tmp_path):
    frame = decoded(tmp_path, *source)
    slot = Slot(0, np.zeros((model[1] * 3 // 2, model[0]), np.uint8))
    scaled = Scaler().scale(frame, None, slot)
    assert scaled.geometry == letterbox(*source, None, *model)
    luma, chroma = nv12_of(frame)
    mine = run_on_cpu(kernels, luma, chroma, scaled.geometry, model, 16)
    off = np.abs(mine.astype(int) - slot.picture)
    assert off.max() <= 1 and off.mean() < 0.05


@pytest.mark.parametrize(("source", "model"), SIZES)
@pytest.mark.parametrize("bits", [8, 10])
def test_the_kernel_is_what_numpy_says(kernels, source, model, bits):
    rng = np.random.default_rng(1)
    width, height = source
    if bits == 8:
        luma, chroma = (rng.integers(0, 256, (n, width), np.uint8) for n in (height, height // 2))
    else:
        luma, chroma = (rng.integers(0, 1024, (n, width), np.uint16) << 6 for n in (height, height // 2))
    geometry = letterbox(width, height, None, *model)
    mine = run_on_cpu(kernels, luma, chroma, geometry, model, 0)
    unit = 1.0 if bits == 8 else 256.0
    want = letterboxed(luma / unit, chroma.reshape(height // 2, width // 2, 2) / unit, geometry, model, 0)
    assert np.abs(mine.astype(int) - want).max() <= 1


def test_the_ptx_was_made_of_this_source():
    folder = Path(facedetd.cuda.__file__).parent
    first = (folder / "letterbox.ptx").read_text().splitlines()[0]
    assert hashlib.sha256((folder / "letterbox.cu").read_bytes()).hexdigest() in first, "run packaging/make_ptx.py"
