"""gpu-bench's own arithmetic, and what it takes for a rung on several GPUs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import pytest
from capture_clips import make_clip

from facedetctl.bench.gpu import GpuUse
from facedetctl.bench.measure import MeasureError
from facedetd.cuda.nvml import PcieThroughput
from facedetd.v1 import daemon_pb2
from tests.gpu import bench, bench_decode, rungs, table

INFERENCE, DECODER = daemon_pb2.WORKER_KIND_INFERENCE, daemon_pb2.WORKER_KIND_DECODER


def stats(*states: str) -> daemon_pb2.GetStatsResponse:
    processes = [
        daemon_pb2.Process(kind=INFERENCE, name=f"inference-0.{i}", state=state, streams=100 + i, cpu=0.5)
        for i, state in enumerate(states)
    ]
    gpus = [daemon_pb2.Gpu(index=0, decoder_utilisation=0.5), daemon_pb2.Gpu(index=1, memory_used_bytes=7)]
    return daemon_pb2.GetStatsResponse(
        processes=[*processes, daemon_pb2.Process(kind=DECODER, name="decoder-0", state="running")], gpus=gpus
    )


def test_each_device_stands_with_its_own_figures_and_what_is_not_told_is_absent() -> None:
    assert rungs.devices(stats("running", "running"), 2) == {
        "inference-0.0": {"streams": 100, "cores": 0.5, "decoder_utilisation": 0.5},
        "inference-0.1": {"streams": 101, "cores": 0.5, "memory_used_bytes": 7},
    }


def test_a_rung_whose_devices_do_not_all_run_is_no_row() -> None:
    with pytest.raises(MeasureError, match=r"1 of 2 inference processes run: inference-0.0 running, .* waiting"):
        rungs.devices(stats("running", "waiting"), 2)


def test_bytes_of_all_gpus_are_shared_by_all_frames() -> None:
    found: Any = SimpleNamespace(gpu=GpuUse(memory_bytes=900), frames=1000, window_s=10.0)
    one = PcieThroughput(received_kb_s=50, sent_kb_s=5)
    row = rungs.gpu_figures(found, [[one, one], [one, None], [one, one]], 100)
    assert row == {"gpu_memory": 800, "pcie_from_host": 1000.0, "pcie_to_host": 100.0}
    assert rungs.gpu_figures(found, [[], []], 0) == {"gpu_memory": 900}, "no GPU is used"


@pytest.mark.parametrize(("engine", "gpus"), [("tensorrt", 1), ("tensorrt", 2), ("onnxruntime", 0)])
def test_a_rung_on_two_gpus_wants_two(monkeypatch: pytest.MonkeyPatch, engine: str, gpus: int) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(rungs, "run", lambda rung, job, urls, all_gpus: asked.append(job) or {})
    job: Any = rungs.Job(*(None,) * 2, "s", (960, 544), "int8", engine)  # type: ignore[arg-type]
    options: Any = SimpleNamespace(camera_processes=1, devices=(0, 1))
    clip: Any = SimpleNamespace(as_uri=lambda: "file:///clip.mkv")
    made = bench.Bench(job, job, {"h264": [clip]}, options, [SimpleNamespace()] * gpus)  # type: ignore[list-item]
    if gpus == 1:
        with pytest.raises(ValueError, match="rung two:4 wants two GPUs; 1 found"):
            made.run("two:4")
    else:
        made.run("two:4")
        assert asked[0].devices == (0, 1) and "devices = [0, 1]" in rungs.settings(asked[0])
    options.devices = (3,)
    made.run("4")
    assert asked[-1].devices == (3,)
    with pytest.raises(ValueError, match="--devices names 1"):
        made.run("two:4")


def test_the_table_names_each_device() -> None:
    row = {"rung": "two:4", "about": "x", "devices": {"inference-0.1": {"streams": 2}}}
    assert "two:4: inference-0.1: {'streams': 2}" in table.text({"machine": {}, "rungs": {"two:4": row}})


def test_cameras_keyframes_do_not_come_together(tmp_path: Path) -> None:
    clip = make_clip(
        tmp_path / "clip.mp4", 30, options={"preset": "ultrafast", "g": "12", "bf": "0", "sc_threshold": "0"}
    )
    files = bench_decode.phases(clip, 2, most=5)
    assert len(files) == 4
    seen = set()
    for file in files:
        with av.open(str(file)) as source:
            video = source.streams.video[0]
            packets = [p for p in source.demux(video) if p.pts is not None]
            assert video.time_base
            times = [round(float(p.pts * video.time_base) * 25) for p in packets]
        assert times == list(range(len(times))), "no gap where frames were left out"
        second, third = [t for t, p in zip(times, packets, strict=True) if p.is_keyframe][1:3]
        assert third - second == 12
        seen.add(second)
    assert seen == {12, 9, 6, 3}
    with rungs.cameras(rungs.parse("6"), {"h264": files}, 1) as urls:
        assert urls == [files[i].as_uri() for i in (0, 1, 2, 3, 0, 1)]
