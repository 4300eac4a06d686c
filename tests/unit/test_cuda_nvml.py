"""What is read of NVML, from a library made here."""

import pytest

from facedetctl.bench import gpu as bench_gpu
from facedetd.cuda.nvml import GpuFigures, Identity, Nvml, PcieThroughput, Snapshot, open_gpus
from tests import fake_nvml
from tests.fake_nvml import build, get, put

GB = 10**9
ALL = GpuFigures("a GPU of paper", 0.4, 0.83, 19 * GB, 60 * GB, 80 * GB, 61.0, 312.5)
FIGURES = {
    fake_nvml.MEMORY: ("memory_used", "memory_free", "memory_total"),
    fake_nvml.BUSY: ("busy",),
    fake_nvml.DECODER: ("decoder_busy",),
    fake_nvml.TEMPERATURE: ("temperature_c",),
    fake_nvml.POWER: ("power_w",),
}


@pytest.fixture
def library(tmp_path):
    found = build(tmp_path)
    put(found, "decoder", 83)
    return found


def told(figures):
    return {name: value for name in GpuFigures.__slots__ if (value := getattr(figures, name)) is not None}


def test_figures_are_read(library):
    gpu = Nvml(0, str(library))
    assert gpu.read() == ALL
    assert gpu.identity == Identity(0, "a GPU of paper", "GPU-0", "580.0")
    assert gpu.snapshot() == Snapshot(gpu.identity, ALL, {})


@pytest.mark.parametrize("bit", FIGURES)
def test_what_a_gpu_does_not_tell_is_absent_and_nothing_else_is(library, bit):
    gpu = Nvml(0, str(library))
    put(library, "silent", bit)
    assert told(gpu.read()) == {name: value for name, value in told(ALL).items() if name not in FIGURES[bit]}


def test_a_gpu_that_tells_nothing_has_its_name(library):
    gpu = Nvml(0, str(library))
    put(library, "silent", -1)
    assert gpu.snapshot() == Snapshot(gpu.identity, GpuFigures("a GPU of paper"), {})
    assert gpu.pcie_throughput() is None


def test_a_call_that_an_older_driver_lacks_is_a_figure_that_is_not_told(tmp_path):
    assert Nvml(0, str(build(tmp_path, "nvmlDeviceGetPowerUsage"))).read().power_w is None


def test_memory_by_process_however_many_there_are_and_without_those_that_are_not_told(library):
    gpu = Nvml(0, str(library))
    for number in (1, 3, 64, 65, 1000):
        put(library, "processes", number)
        assert gpu.processes() == {100 + i: GB + i for i in range(0, number, 2)}
    put(library, "silent", fake_nvml.PROCESSES)
    assert gpu.processes() == {}


def test_pcie_is_read_the_right_way_round(library):
    assert Nvml(0, str(library)).pcie_throughput() == PcieThroughput(received_kb_s=272_000, sent_kb_s=9_000)


def test_a_gpu_that_is_gone_or_was_never_there_is_said(library):
    with pytest.raises(OSError, match="no GPU 1"):
        Nvml(1, str(library))
    gpu = Nvml(0, str(library))
    put(library, "gone", 1)
    for ask in (gpu.read, gpu.processes, gpu.pcie_throughput):
        with pytest.raises(OSError, match="GPU is gone"):
            ask()


def test_all_gpus_are_opened_and_those_that_are_lost_are_named(library):
    put(library, "gpus", 3)
    put(library, "gone", 2)
    found, problems = open_gpus(str(library))
    assert [(gpu.identity.index, gpu.identity.uuid) for gpu in found] == [(0, "GPU-0"), (2, "GPU-2")]
    assert problems == ["GPU 1: NVML knows no GPU 1: error 15"]
    assert get(library, "users") == 2, "whoever could not be opened has let go"
    for gpu in found:
        gpu.close()
    assert get(library, "users") == 0
    with pytest.raises(OSError, match="GPU is gone"):
        found[0].read()


def test_no_driver_and_a_driver_that_fails_are_told_apart(library):
    with pytest.raises(FileNotFoundError, match="isn't installed"):
        open_gpus("libnothing-of-that-name.so")
    put(library, "fails", 18)
    with pytest.raises(OSError, match="error 18") as caught:
        open_gpus(str(library))
    assert not isinstance(caught.value, FileNotFoundError)


def test_a_bench_sums_up_what_the_gpus_did(library):
    with bench_gpu.GpuWatch(0.01, lambda: open_gpus(str(library))) as watch:
        while watch.use.utilisation is None:
            assert watch._thread.is_alive()
    assert watch.use == bench_gpu.GpuUse(0.4, 0.83, 19 * GB, 61.0, 312.5)


def test_a_bench_without_a_gpu_has_no_figures():
    with bench_gpu.GpuWatch(0.01, lambda: open_gpus("libnothing-of-that-name.so")) as watch:
        watch._thread.join(10)
        assert not watch._thread.is_alive()
    assert watch.use == bench_gpu.GpuUse()
