"""A daemon that is told of a GPU, on a machine without one: NVML is a library made here, and CUDA isn't there. Each
stream is sent to NVDEC, refused, and decoded on the CPU; nobody loses a frame by it. What NVML tells is shown."""

from __future__ import annotations

import socket
import urllib.request
from pathlib import Path

import pytest

from facedetctl.local import LocalDaemon
from facedetd.v1 import daemon_pb2, stream_pb2
from tests.cameras import CameraServer
from tests.fake_nvml import build
from tests.integration.daemon_kit import (
    EVERY_FRAME,
    TINY_MODEL,
    add,
    check_accounts,
    model_store,
    quiesce,
    stream,
    until,
    until_inferred,
)


@pytest.fixture
def gpu_of_paper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(tmp_path)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))


@pytest.mark.parametrize("mode", ["auto", "cpu"])
def test_what_nvdec_refuses_is_decoded_on_the_cpu(gpu_of_paper: None, cameras: CameraServer, mode: str) -> None:
    ids = ["a", "b", "c"]
    settings = EVERY_FRAME.replace("[capture]\n", f'[capture]\ndecode = "{mode}"\n')
    with LocalDaemon(settings, models=model_store()) as daemon:
        for i, stream_id in enumerate(ids):
            add(daemon, stream_id, cameras.url(i))
        until_inferred(daemon, ids, 10)
        if mode == "auto":
            refused = "decoded on the CPU: NVIDIA's driver isn't installed"
            until(lambda: all(f"stream {i}: {refused}" in daemon.log_text() for i in ids), "all were refused")
        for stream_id, status in quiesce(daemon, ids).items():
            check_accounts(status)
            assert status.decode_device == stream_pb2.DECODE_DEVICE_CPU, stream_id
            assert not status.decode_errors and not status.reconnects
            assert status.frames_decoded >= status.frames_received - 10
        until(lambda: not any(stream(daemon, i).status.nvdec_problem for i in ids), "nobody is asked again at once")
        assert ("refused" in daemon.log_text() or "decoded on the CPU" in daemon.log_text()) is (mode == "auto")


def gpus_of(daemon: LocalDaemon) -> list[daemon_pb2.Gpu]:
    return list(daemon.daemon.GetStats(daemon_pb2.GetStatsRequest(), timeout=10).gpus)


def test_what_nvml_tells_stands_in_stats_and_metrics(gpu_of_paper: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with LocalDaemon(f'{TINY_MODEL}\n[metrics]\nlisten = "127.0.0.1:{port}"\n') as daemon:
        [gpu] = until(lambda: gpus_of(daemon), "its figures")
        assert (gpu.name, gpu.uuid, gpu.driver_version) == ("a GPU of paper", "GPU-0", "580.0")
        assert (gpu.temperature_celsius, gpu.power_watts, gpu.memory_total_bytes) == (61.0, 312.5, 80_000_000_000)
        assert not gpu.HasField("own_memory_bytes"), "it names no process"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    assert 'facedetd_gpu_power_watts{gpu="0"} 312.5\n' in text
    assert "facedetd_gpu_own_memory_bytes{" not in text


def test_of_two_gpus_one_that_is_lost_is_named_and_the_other_goes_on(
    gpu_of_paper: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_NVML_GPUS", "2")
    monkeypatch.setenv("FAKE_NVML_GONE", str(tmp_path / "gone"))
    with LocalDaemon(f"{TINY_MODEL}\n[inference]\ndevices = [0, 1]\n") as daemon:
        both = until(lambda: gpus_of(daemon), "their figures")
        assert [(gpu.index, gpu.uuid) for gpu in both] == [(0, "GPU-0"), (1, "GPU-1")]
        for lost, left in ((2, 0), (1, 1)):
            (tmp_path / "gone").write_text(str(lost))
            until(lambda left=left: [gpu.index for gpu in gpus_of(daemon)] == [left], "one is left")  # type: ignore[misc]
            answer = daemon.daemon.GetHealth(daemon_pb2.GetHealthRequest(), timeout=10)
            [message] = [p.message for p in answer.problems if p.subject == "gpu"]
            assert message == f"GPU {lost - 1}: the GPU is gone: NVML's error 15"


def test_a_driver_that_never_answers_holds_nobody_up(gpu_of_paper: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_NVML_HANGS", "1")
    with LocalDaemon(TINY_MODEL) as daemon:
        assert not gpus_of(daemon)

        def said() -> list[str]:
            answer = daemon.daemon.GetHealth(daemon_pb2.GetHealthRequest(), timeout=10)
            return [p.message for p in answer.problems if p.subject == "gpu"]

        [message] = until(said, "that the driver doesn't answer")
        assert "hasn't answered for over 10 s" in message
        assert not gpus_of(daemon)
        assert daemon.stop() == 0
