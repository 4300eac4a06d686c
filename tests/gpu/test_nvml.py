"""What NVML tells of the GPU that is here, beside what nvidia-smi and a CUDA context of ours say."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from facedetd.cuda.nvml import Nvml
from facedetd.supervisor.gpus import Gpus, view_of
from tests.gpu.conftest import why_no_nvdec


@pytest.fixture
def gpu() -> Iterator[Nvml]:
    found = Nvml(0)
    yield found
    found.close()


@pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="nvidia-smi isn't here")
def test_it_is_what_nvidia_smi_says(gpu: Nvml) -> None:
    asked = "name,uuid,driver_version,memory.total,memory.used,temperature.gpu,power.draw.instant"
    done = subprocess.run(
        ["nvidia-smi", "-i", "0", f"--query-gpu={asked}", "--format=csv,noheader,nounits"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    name, uuid, driver, total, used, temperature, power = (cell.strip() for cell in done.stdout.split(","))
    identity, figures = gpu.identity, gpu.read()
    assert (identity.name, identity.uuid, identity.driver) == (name, uuid, driver)
    told = {
        "total": (figures.memory_total, total, 2**20, 2**20),
        "used": (figures.memory_used, used, 2**20, 2**30),
        "temperature": (figures.temperature_c, temperature, 1, 10),
        "power": (figures.power_w, power, 1, 300),
    }
    for what, (ours, theirs, unit, tolerance) in told.items():
        try:
            wanted = float(theirs) * unit
        except ValueError:  # [N/A], [Not Supported]
            assert ours is None, what
            continue
        assert ours is not None and abs(ours - wanted) <= tolerance, (what, ours, wanted)


def test_shares_are_shares_and_memory_adds_up(gpu: Nvml) -> None:
    figures = gpu.read()
    assert all(share is None or 0 <= share <= 1 for share in (figures.busy, figures.decoder_busy))
    if figures.memory_total is not None:
        assert figures.memory_used is not None and figures.memory_free is not None
        assert 0 < figures.memory_used + figures.memory_free <= figures.memory_total


@pytest.mark.skipif(bool(why_no_nvdec()), reason=why_no_nvdec())
def test_a_context_of_ours_is_seen_by_its_process_id_or_not_named_at_all(gpu: Nvml) -> None:
    code = "from facedetd.capture.nvdec import Nvdec; gpu = Nvdec(0).gpu(); print('up', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin and other.stdout and other.stdout.readline() == "up\n"
        snapshot = gpu.snapshot()
        other.stdin.close()
    own = view_of(snapshot, {other.pid}).own_memory_bytes
    print(f"pid {other.pid}: {own} bytes; NVML names {dict(snapshot.processes)}")
    if other.pid in snapshot.processes:
        assert own is not None and own > 50_000_000, "a context alone takes hundreds of megabytes"
    else:
        assert own is None


def test_pcie_throughput_is_read_or_not_told(gpu: Nvml) -> None:
    rates = gpu.pcie_throughput()
    print(f"PCIe: {rates}")
    assert rates is None or 0 <= rates.received_kb_s + rates.sent_kb_s < 300_000_000


def test_the_supervisor_s_thread_has_them_soon() -> None:
    from facedetd.config.model import Config

    gpus = Gpus()
    gpus.look(Config())
    for _ in range(600):
        if found := gpus.views({os.getpid()}):
            break
        time.sleep(0.1)
    print(found)
    assert found and found[0].index == 0 and not list(gpus.problems())
