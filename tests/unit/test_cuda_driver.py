"""The driver's calls against a library that is made here: it keeps count of contexts and runs the kernels on the CPU.
tests/gpu has the real one."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any, NoReturn

import av
import numpy as np
import pytest
from capture_clips import make_clip

from facedetd.capture.geometry import letterbox
from facedetd.capture.nvdec import GpuScaler, Nvdec, surface_of
from facedetd.capture.scaler import Scaler
from facedetd.capture.types import Slot
from facedetd.cuda import driver
from facedetd.cuda import ordinal as ordinal_module
from facedetd.cuda.driver import CudaError, Gpu
from facedetd.cuda.nvml import BusPlace
from facedetd.ring.header import ColorRange
from tests.letterbox_reference import SOURCE


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler: a driver can't be made up")
    folder = tmp_path_factory.mktemp("cuda")
    made = folder / "libcuda.so.1"
    command = [compiler, "-O1", "-shared", "-fPIC", "-ffp-contract=off", "-Wno-unknown-pragmas"]
    subprocess.run(
        [*command, f"-I{SOURCE.parent}", "-o", str(made), str(Path(__file__).with_name("fake_cuda.cpp"))], check=True
    )
    return made


@pytest.fixture
def cuda(library: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(driver, "_LIBRARY", str(library))
    monkeypatch.setattr(ordinal_module, "place_of", no_nvml)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    loaded = ctypes.CDLL(str(library))
    yield loaded
    for name in ("fail_launch", "fail_pin"):
        ctypes.c_int.in_dll(loaded, name).value = 0


def no_nvml(index: int) -> NoReturn:
    raise FileNotFoundError


@pytest.fixture
def frame(tmp_path: Path) -> av.VideoFrame:
    path = make_clip(tmp_path / "clip.mp4", 1, size=(322, 182))
    with av.open(str(path)) as file:
        return next(file.decode(video=0))


def slot_of(width: int, height: int, number: int = 0) -> Slot:
    """A slot that begins with a page."""
    size = width * height * 3 // 2
    memory = np.zeros(size + 8192, np.uint8)
    start = -memory.ctypes.data % 4096
    return Slot((1, number), memory[start : start + size].reshape(height * 3 // 2, width))


@pytest.mark.parametrize("pix_fmt", ["nv12", "p010le"])
def test_a_frame_goes_the_whole_way_into_its_slot(cuda: Any, frame: av.VideoFrame, pix_fmt: str) -> None:
    nvdec = Nvdec(1)
    there = frame.reformat(format=pix_fmt)
    surface = surface_of(there)
    assert surface is not None
    want = slot_of(160, 96)
    scaled = Scaler().scale(frame, None, want)
    scaler = GpuScaler(nvdec)
    before = cuda.pinned()
    slots = [slot_of(160, 96, n) for n in range(2)]
    for slot in slots * 2:
        slot.picture[:] = 77
        scaler.scale(surface, letterbox(322, 182, None, 160, 96), ColorRange.LIMITED, slot)
        assert scaled.geometry == letterbox(322, 182, None, 160, 96)
        assert np.abs(slot.picture.astype(int) - want.picture).max() <= 1
    assert cuda.pinned() == before + 2
    nvdec.forget_ring(1)
    assert cuda.pinned() == before
    scaler.close()


def test_any_thread_may_come(cuda: Any, frame: av.VideoFrame) -> None:
    """A context belongs to a thread: each must enter it."""
    nvdec, errors = Nvdec(0), []
    there = frame.reformat(format="nv12")
    surface = surface_of(there)
    assert surface is not None

    def scale(number: int) -> None:
        try:
            slot = slot_of(160, 96, number)
            GpuScaler(nvdec).scale(surface, letterbox(322, 182, None, 160, 96), ColorRange.FULL, slot)
            assert slot.picture.any()
        except Exception as error:
            errors.append(error)

    before, pinned = ctypes.c_int.in_dll(cuda, "retained").value, cuda.pinned()
    for number in range(3):  # one after the other: the made-up GPU has one set of indices
        thread = threading.Thread(target=scale, args=(number,))
        thread.start()
        thread.join()
    assert not errors
    assert ctypes.c_int.in_dll(cuda, "retained").value == before + 1, "one context a process"
    assert cuda.stack_size() == 128
    scale(3)
    nvdec.forget_ring(1)
    assert not errors and cuda.pinned() == pinned


def test_an_error_that_costs_the_context_is_told_from_one_that_doesnt(cuda: Any, frame: av.VideoFrame) -> None:
    nvdec = Nvdec(0)
    there = frame.reformat(format="nv12")
    surface = surface_of(there)
    assert surface is not None
    scaler, geometry = GpuScaler(nvdec), letterbox(322, 182, None, 160, 96)
    ctypes.c_int.in_dll(cuda, "fail_pin").value = 2
    with pytest.raises(CudaError, match=r"cuMemHostRegister_v2.*\(2\)") as caught:
        scaler.scale(surface, geometry, ColorRange.LIMITED, slot_of(160, 96))
    assert not caught.value.lost
    ctypes.c_int.in_dll(cuda, "fail_pin").value = 0
    scaler.scale(surface, geometry, ColorRange.LIMITED, slot_of(160, 96))
    ctypes.c_int.in_dll(cuda, "fail_launch").value = 700
    with pytest.raises(CudaError, match=r"cuLaunchKernel: CUDA_ERROR_ILLEGAL_ADDRESS \(700\)"):
        scaler.scale(surface, geometry, ColorRange.LIMITED, slot_of(160, 96))
    with pytest.raises(CudaError, match="lost to this process") as caught:
        nvdec.gpu()
    assert caught.value.lost


def test_a_context_that_ffmpeg_lost_is_found_out(cuda: Any) -> None:
    nvdec = Nvdec(0)
    nvdec.look()
    assert not nvdec.lost
    ctypes.c_int.in_dll(cuda, "fail_launch").value = 700
    nvdec.look()
    assert "ILLEGAL_ADDRESS" in nvdec.lost


def test_a_gpu_that_isnt_there_is_named(cuda: Any) -> None:
    with pytest.raises(CudaError, match="no GPU 2: 2 found, counted from 0"):
        Gpu(2)
    assert Gpu(1).memory() == (3 << 30, 80 << 30)


def test_the_gpu_is_the_one_that_nvidia_smi_numbers_so(cuda: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA shows 0000:a0 and 0000:a1; the driver has one more before them, lost or left out."""
    place: dict[int, tuple[int, BusPlace | None]] = {n: (3, (0, 0x9F + n, 0)) for n in range(3)}
    monkeypatch.setattr(ordinal_module, "place_of", lambda index: place[index])
    for index in (1, 2):
        gpu = Gpu(index)
        assert (gpu.index, gpu.ordinal) == (index, index - 1)
        assert ctypes.c_int.in_dll(cuda, "retained_device").value == index - 1
    with pytest.raises(CudaError, match="GPU 0 can't be used: CUDA shows 2 of 3, and not this one; `nvidia-smi`"):
        Gpu(0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,2")
    with pytest.raises(CudaError, match="CUDA_VISIBLE_DEVICES is '1,2'"):
        Gpu(0)
    nvdec = Nvdec(2)
    asked: list[str] = []

    def accelerator(kind: str, device: str, **_: object) -> NoReturn:
        asked.append(device)
        raise CudaError("far enough")

    monkeypatch.setattr("facedetd.capture.nvdec.HWAccel", accelerator)
    with pytest.raises(CudaError, match="far enough"):
        nvdec.open("h264")
    assert asked == ["1"], "FFmpeg counts as CUDA does"


def test_no_driver_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "_LIBRARY", "libnothing-of-that-name.so")
    with pytest.raises(CudaError, match=r"driver isn't installed \(libnothing"):
        Nvdec(0).open("h264")
