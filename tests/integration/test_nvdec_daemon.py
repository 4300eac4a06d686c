"""A daemon that is told of a GPU, on a machine without one: NVML is a library made here, and CUDA isn't there. Each
stream is sent to NVDEC, refused, and decoded on the CPU; nobody loses a frame by it."""

from __future__ import annotations

from pathlib import Path

import pytest

from facedetctl.local import LocalDaemon
from facedetd.v1 import stream_pb2
from tests.cameras import CameraServer
from tests.fake_nvml import build
from tests.integration.daemon_kit import (
    SMALL_MODEL,
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
    with LocalDaemon(SMALL_MODEL + f'decode = "{mode}"\n', models=model_store()) as daemon:
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
