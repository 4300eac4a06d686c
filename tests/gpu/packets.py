"""What decoder processes spend on a packet: python -m tests.gpu.packets --plans DIR --clip FILE [--files]

Cameras over RTSP, or files, on NVDEC; prints the CPU time a packet of all decoder processes, how long their threads
waited for a core, and how often they stood still to wait for something: a packet, the GPU, or Python's lock.
``--stay 30`` keeps the daemon that long and prints its decoders' pids, for perf or py-spy. Needs the GPU for itself.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from facedetctl.bench.measure import measure
from facedetctl.local import LocalDaemon
from facedetd.v1 import daemon_pb2, stream_pb2
from tests.cameras.plain import PlainCameras
from tests.gpu import bench, bench_decode, rungs


class Use(NamedTuple):
    """Of all threads of some processes, since they began: CPU time of user, system and both in s, time in line for a
    core in s (/proc/PID/task/TID/schedstat), and how often they gave their core away or lost it (status)."""

    user: float = 0.0
    system: float = 0.0
    ran: float = 0.0
    in_line: float = 0.0
    waits: float = 0.0
    taken_away: float = 0.0

    def since(self, before: Use) -> Use:
        return Use(*(now - then for now, then in zip(self, before, strict=True)))


def use_of(pids: Sequence[int]) -> Use:
    ticks = os.sysconf("SC_CLK_TCK")
    found = []
    for task in (task for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()):
        with contextlib.suppress(OSError):  # a thread that ended
            stat = (task / "stat").read_text().rpartition(")")[2].split()
            ran, in_line, _ = map(int, (task / "schedstat").read_text().split())
            waits, lost = map(int, re.findall(r"ctxt_switches:\s*(\d+)", (task / "status").read_text()))
            found.append(Use(int(stat[11]) / ticks, int(stat[12]) / ticks, ran / 1e9, in_line / 1e9, waits, lost))
    return Use(*map(sum, zip(*found, strict=True)))


def packets_of(daemon: LocalDaemon) -> int:
    return sum(stream.status.frames_received for stream in rungs.stats_of(daemon).streams)


def run(job: rungs.Job, urls: Sequence[str], stay_s: float) -> dict[str, Any]:
    ids = [f"cam{i}" for i in range(len(urls))]
    specs = [stream_pb2.StreamSpec(id=i, url=u, target_fps=5, min_fps=1) for i, u in zip(ids, urls, strict=True)]
    with LocalDaemon(rungs.settings(job), models=job.models, plans=job.plans) as daemon:
        rungs.wait_until_up(daemon, job, ids, rungs.begin(daemon, specs))
        time.sleep(job.warmup_s)
        processes = rungs.stats_of(daemon).processes
        pids = [p.pid for p in processes if p.kind == daemon_pb2.WORKER_KIND_DECODER]
        print(json.dumps({"decoders": pids}), flush=True)
        use, packets = use_of(pids), packets_of(daemon)
        found = measure(daemon, job.seconds, dict.fromkeys(ids, job.target_fps), None)
        use, packets = use_of(pids).since(use), packets_of(daemon) - packets
        time.sleep(stay_s)
    latency = found.latency
    times = {name: round(1e6 * getattr(use, name) / packets) for name in ("user", "system", "ran", "in_line")}
    return {
        "cameras": len(urls),
        "processes": len(pids),
        "fps_min": round(min(s.fps for s in found.streams), 2),
        "latency_ms": latency and {"p50": round(latency.p50, 1), "p99": round(latency.p99, 1)},
        "cores": round(found.cpu_seconds / found.window_s, 2),
        "packets": packets,
        "us_a_packet": times,
        "switches_a_packet": {name: round(getattr(use, name) / packets, 1) for name in ("waits", "taken_away")},
    }


@contextlib.contextmanager
def cameras(options: argparse.Namespace) -> Iterator[list[str]]:
    if options.files:
        yield [bench_decode.lengthened(options.clip, 12).as_uri()] * options.cameras
        return
    with PlainCameras(options.clip, options.cameras, processes=2) as urls:
        yield list(urls)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.packets", description=__doc__.split("\n")[0])
    parser.add_argument("--plans", type=Path, required=True, help="as for gpu-bench")
    parser.add_argument("--clip", type=Path, required=True, help="1080p25 H.264")
    parser.add_argument("--cameras", type=int, default=70)
    parser.add_argument("--files", action="store_true", help="in place of RTSP")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--stay", type=float, default=0.0, metavar="S")
    parser.add_argument("--streams-per-group", type=int, default=0)
    parser.add_argument("--engine", default="tensorrt", help="onnxruntime and --decode cpu try this where no GPU is")
    parser.add_argument("--decode", default="nvdec")
    o = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="facedetd-packets-") as folder:
        bench.store(o.plans, Path(folder))
        name, size, precision = bench.LOAD
        job = rungs.Job(
            Path(folder), o.plans, name, size, precision, engine=o.engine, decode=o.decode,
            seconds=o.seconds, streams_per_group=o.streams_per_group,
        )  # fmt: skip
        with cameras(o) as urls:
            print(json.dumps(run(job, urls, o.stay)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
