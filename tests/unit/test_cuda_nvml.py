"""What is read of NVML, from a library made here."""

import ctypes

import pytest

from facedetctl.bench import gpu as bench_gpu
from facedetd.cuda import nvml
from facedetd.cuda.nvml import GpuFigures, Nvml
from tests.fake_nvml import build


@pytest.fixture
def library(tmp_path):
    return build(tmp_path)


def test_figures_are_read(library):
    gpu = Nvml(0, str(library))
    ctypes.c_uint.in_dll(ctypes.CDLL(str(library)), "decoder").value = 83
    assert gpu.read() == GpuFigures("a GPU of paper", 0.4, 0.83, 19_000_000_000, 60_000_000_000)


def test_what_a_gpu_does_not_tell_is_absent(library):
    gpu = Nvml(0, str(library))
    ctypes.c_int.in_dll(ctypes.CDLL(str(library)), "silent").value = 1
    assert gpu.read() == GpuFigures("a GPU of paper", None, None, 19_000_000_000, 60_000_000_000)


def test_a_gpu_that_is_gone_or_was_never_there_is_said(library):
    with pytest.raises(OSError, match="no GPU 1"):
        Nvml(1, str(library))
    gpu = Nvml(0, str(library))
    ctypes.c_int.in_dll(ctypes.CDLL(str(library)), "gone").value = 1
    with pytest.raises(OSError, match="GPU is gone"):
        gpu.read()


def test_a_bench_sums_up_what_the_gpus_did(library, monkeypatch):
    monkeypatch.setattr(bench_gpu, "Nvml", lambda index: Nvml(index, str(library)))
    with bench_gpu.GpuWatch(0.01) as watch:
        while watch.utilisation is None:
            assert watch._thread.is_alive()
    assert watch.utilisation == pytest.approx(0.4) and watch.memory_bytes == 19_000_000_000


def test_a_bench_without_a_gpu_has_no_figures(monkeypatch):
    monkeypatch.setattr(nvml, "_LIBRARY", "libnothing-of-that-name.so")
    monkeypatch.setattr(bench_gpu, "Nvml", lambda index: Nvml(index, "libnothing-of-that-name.so"))
    with bench_gpu.GpuWatch(0.01) as watch:
        watch._thread.join(10)
    assert watch.utilisation is None and watch.memory_bytes is None
