"""One rung of the GPU ladder: a daemon of its own, cameras for it, and what it did with them."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.json_format import MessageToJson

from facedetctl.bench.figures import Measured
from facedetctl.bench.gpu import Sampler
from facedetctl.bench.measure import MeasureError, measure, wait_until_streaming
from facedetctl.local import LocalDaemon
from facedetd.cuda.nvml import Nvml, PcieThroughput
from facedetd.v1 import daemon_pb2, stream_pb2

KINDS = {
    "": "1080p25 H.264 files, paced; NVDEC alone",
    "h265": "the same in H.265",
    "auto": "H.264, on NVDEC and beside it on the CPU, as the daemon chooses",
    "rtsp": "H.264 over RTSP (TCP, loopback), NVDEC alone",
    "slow": "cameras that send 5 fps, NVDEC alone",
    "real": "H.264, the real YOLOv5n-0.5-face FP16 640x640",
    "two": "the same on two GPUs, an inference process each",
    "overload": "a third each of priority high, normal and low; more than fit",
}
PRIORITIES = {"high": 90, "normal": 50, "low": 10}

PCIE_S = 0.1  # NVML counts 20 ms at each sample
_PLACED_S = 40.0
"""By then `decode = auto` has given to NVDEC what it will: it fills it step by step, by what is measured."""
_TELL_S = 10.0


@dataclass(frozen=True, slots=True)
class Rung:
    """``kind``: a key of KINDS."""

    kind: str
    cameras: int

    @property
    def name(self) -> str:
        return f"{self.kind}:{self.cameras}" if self.kind else str(self.cameras)


def parse(text: str) -> Rung:
    """``70`` or ``rtsp:70``. Raises ValueError."""
    kind, _, count = text.rpartition(":")
    if kind not in KINDS or not count.isdigit() or not 1 <= int(count) <= 1000:
        raise ValueError(
            f"rung {text!r}: allowed are N and KIND:N with a kind of {', '.join(k for k in KINDS if k)} and 1 to 1000"
        )
    return Rung(kind, int(count))


@dataclass(frozen=True, slots=True)
class Job:
    """``models``: a model store; ``plans`` a folder of plans beside it. ``size`` in px."""

    models: Path
    plans: Path
    model: str
    size: tuple[int, int]
    precision: str
    engine: str = "tensorrt"
    decode: str = "nvdec"
    target_fps: float = 5.0
    warmup_s: float = 5.0
    seconds: float = 15.0
    start_s: float = 90.0
    streams_per_group: int = 0
    devices: tuple[int, ...] = (0,)
    keep: Path = Path()
    """Where each daemon's log and last stats go."""


def settings(job: Job, batch: int = 16) -> str:
    group = f"streams_per_group = {job.streams_per_group}\n" if job.streams_per_group else ""
    return (
        '[daemon]\nallow_file_sources = true\nlog_level = "debug"\n'  # a line each second: what the controller saw
        "[api]\nwatcher_queue = 65536\n"  # where the host stops the bench for a second, it still gets every result
        f'[model]\nname = "{job.model}"\nwidth = {job.size[0]}\nheight = {job.size[1]}\n'
        f'[inference]\nengine = "{job.engine}"\nprecision = "{job.precision}"\ndevices = {list(job.devices)}\n'
        + (f"batch_preferred = 8\nbatch_max = {batch}\nbatch_deadline_ms = 5\n" if job.engine == "tensorrt" else "")
        + f'[capture]\ndecode = "{job.decode}"\n{group}'
    )


def run(rung: Rung, job: Job, urls: list[str], gpus: Sequence[Nvml]) -> dict[str, Any]:
    """The rung's row. ``gpus``: all of the machine; none where the CPU stands in. Raises MeasureError,
    LocalDaemonError."""
    ids = [f"cam{i}" for i in range(len(urls))]
    names = list(PRIORITIES) if rung.kind == "overload" else ["normal"]
    priority = {one: names[i % len(names)] for i, one in enumerate(ids)}
    empty = sum(gpu.read().memory_used or 0 for gpu in gpus)
    used = [gpu for gpu in gpus if gpu.identity.index in job.devices]
    with (
        LocalDaemon(settings(job), models=job.models, plans=job.plans) as daemon,
        _kept(daemon, job.keep / rung.name.replace(":", "-")),
    ):
        specs = [
            stream_pb2.StreamSpec(
                id=one, url=url, target_fps=job.target_fps, min_fps=1.0, priority=PRIORITIES[priority[one]]
            )
            for one, url in zip(ids, urls, strict=True)
        ]
        began = begin(daemon, specs)
        if rung.kind != "overload":
            wait_until_up(daemon, job, ids, began)
            if job.decode == "auto":
                time.sleep(_PLACED_S)
        else:
            time.sleep(job.start_s)
        started = time.monotonic() - began
        time.sleep(job.warmup_s)
        with Sampler(lambda: lambda: [gpu.pcie_throughput() for gpu in used], PCIE_S) as pcie:
            found = measure(daemon, job.seconds, dict.fromkeys(ids, job.target_fps), None)
        stats = stats_of(daemon)
        shares = devices(stats, len(job.devices))
    return {
        "rung": rung.name,
        "cameras": rung.cameras,
        "about": KINDS[rung.kind],
        "model": f"{job.model} {job.precision} {job.size[0]}x{job.size[1]}",
        "started_s": round(started, 1),
        "groups": sum(p.kind == daemon_pb2.WORKER_KIND_DECODER for p in stats.processes),
        "on_nvdec": sum(s.status.decode_device == stream_pb2.DECODE_DEVICE_NVDEC for s in stats.streams),
        "whole": sum(s.status.decode_level == stream_pb2.DECODE_LEVEL_FULL for s in stats.streams),
        **figures(found, priority),
        **gpu_figures(found, pcie.samples, empty),
        **({"devices": shares} if len(shares) > 1 else {}),
    }


@contextmanager
def _kept(daemon: LocalDaemon, place: Path) -> Iterator[None]:
    """Whatever happens, its log and last stats stay, as ``place``.log and .json."""
    try:
        yield
    finally:
        place.with_name(place.name + ".log").write_text(daemon.log_text())
        with suppress(grpc.RpcError):
            place.with_name(place.name + ".json").write_text(MessageToJson(stats_of(daemon)))


def figures(found: Measured, priority: Mapping[str, str]) -> dict[str, Any]:
    """Pure. By priority: each class's fps over its target, where there are several."""
    latency = found.latency
    row: dict[str, Any] = {
        "fps": sum(s.fps for s in found.streams) / len(found.streams),
        "fps_min": min(s.fps for s in found.streams),
        "fps_max": max(s.fps for s in found.streams),
        "drop_max": max(s.drop_fraction for s in found.streams),
        "latency_ms": None if latency is None else [latency.mean, latency.p50, latency.p95, latency.p99],
        "cores": found.cpu_seconds / found.window_s,
        "host_memory": found.memory_bytes,
        "cpu_ms_per_frame": found.cpu_ms_per_frame,
        "seconds": found.window_s,
    }
    classes = sorted(set(priority.values()), key=list(PRIORITIES).index)
    if len(classes) > 1:
        row["by_priority"] = {
            one: {
                "share": sum(s.fps for s in found.streams if priority[s.id] == one)
                / sum(s.target_fps for s in found.streams if priority[s.id] == one),
                "p95_ms": max(
                    (s.latency.p95 for s in found.streams if s.latency and priority[s.id] == one), default=None
                ),
            }
            for one in classes
        }
    return row


def devices(stats: Any, number: int) -> dict[str, dict[str, Any]]:
    """Of a GetStatsResponse: each inference process's streams, and what its GPU told last. Raises MeasureError where
    fewer than ``number`` run: the others' GPUs would do their work, and the row would be of another rung."""
    running = [p for p in stats.processes if p.kind == daemon_pb2.WORKER_KIND_INFERENCE and p.state == "running"]
    if len(running) != number:
        there = ", ".join(f"{p.name} {p.state}" for p in stats.processes if p.kind == daemon_pb2.WORKER_KIND_INFERENCE)
        raise MeasureError(f"{len(running)} of {number} inference processes run: {there or 'there is none'}")
    by_index = {str(gpu.index): gpu for gpu in stats.gpus}
    found: dict[str, dict[str, Any]] = {}
    for process in running:
        row = found[process.name] = {"streams": process.streams, "cores": round(process.cpu, 2)}
        gpu = by_index.get(process.name.rpartition(".")[2])
        for name in ("utilisation", "decoder_utilisation", "memory_used_bytes"):
            if gpu is not None and gpu.HasField(name):
                row[name] = getattr(gpu, name)
    return found


def gpu_figures(found: Measured, pcie: Sequence[Sequence[PcieThroughput | None]], empty: int) -> dict[str, Any]:
    """What isn't told is left out. ``empty``: bytes of all GPUs' memory in use before. PCIe's bytes are those of the
    counters of all GPUs that are used (``pcie``: each sample has one of each), divided by the frames delivered."""
    told_samples = [now for now in pcie if now and None not in now]
    told_pcie = [one for now in told_samples for one in now if one]
    frames_per_sample = len(told_samples) * found.frames / found.window_s
    told = {
        "gpu_memory": None if found.gpu.memory_bytes is None else found.gpu.memory_bytes - empty,
        "gpu": found.gpu.utilisation,
        "nvdec": found.gpu.decoder_utilisation,
        "pcie_from_host": _each(1000 * sum(one.received_kb_s for one in told_pcie), frames_per_sample),
        "pcie_to_host": _each(1000 * sum(one.sent_kb_s for one in told_pcie), frames_per_sample),
        "power_w": found.gpu.power_w,
        "temperature_c": found.gpu.temperature_c,
    }
    return {name: value for name, value in told.items() if value is not None}


def _each(total: float, count: float) -> float | None:
    return total / count if count else None


def _wait_until_ready(daemon: LocalDaemon, timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while daemon.daemon.GetHealth(daemon_pb2.GetHealthRequest(), timeout=10).state != daemon_pb2.DAEMON_STATE_RUNNING:
        if time.monotonic() > deadline:
            raise TimeoutError(f"the daemon isn't ready: {daemon.log_text()[-1500:]}")
        time.sleep(0.2)


def begin(daemon: LocalDaemon, specs: Sequence[stream_pb2.StreamSpec]) -> float:
    """Gives it these streams as one list, once it is ready; when that was (time.monotonic)."""
    _wait_until_ready(daemon)
    began = time.monotonic()
    entries = [stream_pb2.StreamImport(spec=spec) for spec in specs]
    daemon.streams.ImportStreams(stream_pb2.ImportStreamsRequest(streams=entries), timeout=60)
    return began


def wait_until_up(daemon: LocalDaemon, job: Job, ids: Sequence[str], began: float) -> None:
    """Until all of these give results, and are on NVDEC where all are meant to be; for that not past ``job.start_s``
    after ``began``. Raises MeasureError."""
    next_tell = began + _TELL_S

    def progress(missing: int) -> None:
        nonlocal next_tell
        if (now := time.monotonic()) >= next_tell:
            next_tell = now + _TELL_S
            print(f"{now - began:5.0f} s: {len(ids) - missing} of {len(ids)} up", file=sys.stderr, flush=True)

    wait_until_streaming(daemon, ids, job.start_s, told=progress)
    while time.monotonic() < began + job.start_s:
        streams = stats_of(daemon).streams
        there = [s for s in streams if s.status.decode_device == stream_pb2.DECODE_DEVICE_NVDEC]
        if job.decode != "nvdec" or len(there) == len(streams):
            return
        time.sleep(0.5)


def stats_of(daemon: LocalDaemon) -> Any:
    return daemon.daemon.GetStats(daemon_pb2.GetStatsRequest(), timeout=10)


@contextmanager
def cameras(rung: Rung, clips: Mapping[str, Sequence[Path]], processes: int) -> Iterator[list[str]]:
    """The rung's URLs. ``clips``: h264, h265 and slow, each as files that are taken in turn."""
    if rung.kind == "rtsp":
        from tests.cameras.plain import PlainCameras

        with PlainCameras(clips["h264"][0], rung.cameras, processes=processes) as urls:
            yield list(urls)
        return
    files = clips.get(rung.kind, clips["h264"])
    yield [files[i % len(files)].as_uri() for i in range(rung.cameras)]
