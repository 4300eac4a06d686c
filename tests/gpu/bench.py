"""make gpu-bench: what an NVIDIA GPU carries. python -m tests.gpu.bench --plans DIR [--rungs 1,10,rtsp:70,…]

A rung is N or KIND:N cameras, each rung with a daemon of its own; or one of

    correctness  AP and boxes of the plans of the real model, against the CPU engine's (wants --labels and --pictures)
    inference    through ring and batcher against the bare engine
    old:N        N cameras the usual way: an ffmpeg process each, raw BGR pipes, the same engine (wants an ffmpeg)

--plans holds NAME.onnx and NAME-PRECISION.plan, as `facedetctl model build` writes them: s (YOLOv5s-face 960x544 INT8,
random weights) for load, and n05 (YOLOv5n-0.5-face 640x640) for the kinds real and correctness. Results are kept in
--results, by rung, so that several short runs make one table. Needs the GPU for itself.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from facedetd.cuda.nvml import Nvml, open_gpus
from facedetd.models import ModelStore, import_model
from tests.gpu import rungs, table
from tests.gpu.bench_decode import phases

LADDER = "correctness,inference,1,10,30,50,70,real:70,rtsp:70,130,160,auto:200,slow:700,h265:160,overload:300,old:70"
SPECIAL = ("correctness", "inference")
_CHILD_S = 300.0
LOAD, REAL = ("s", (960, 544), "int8"), ("n05", (640, 640), "fp16")


@dataclass(frozen=True, slots=True)
class Bench:
    """Everything that all rungs share."""

    job: rungs.Job
    real: rungs.Job
    clips: dict[str, list[Path]]
    options: argparse.Namespace
    gpus: Sequence[Nvml]

    def run(self, name: str) -> dict[str, Any]:
        kind, _, count = name.partition(":")
        if name in SPECIAL:
            return {"rung": name, **getattr(self, name)()}
        if kind == "old":
            return {"rung": name, "cameras": int(count), **self.old(int(count))}
        rung = rungs.parse(name)
        job = self.real if rung.kind == "real" else self.job
        if rung.kind in ("auto", "overload"):
            job = replace(job, decode="auto")
        devices = self.options.devices[: 2 if rung.kind == "two" else 1]
        job = replace(job, devices=devices)
        if rung.kind == "two" and len(devices) < 2:
            raise ValueError(f"rung {name} wants two GPUs; --devices names {len(devices)}")
        if job.engine == "tensorrt" and rung.kind == "two" and len(self.gpus) < 2:
            raise ValueError(f"rung {name} wants two GPUs; {len(self.gpus)} found")
        if rung.kind == "slow":  # a decoder takes 0.1 s to open, however few frames follow
            job = replace(job, start_s=3 * job.start_s)
        with rungs.cameras(rung, self.clips, self.options.camera_processes) as urls:
            return rungs.run(rung, job, urls, self.gpus)

    def correctness(self) -> dict[str, Any]:
        """Each plan of the real model: AP, and the CPU engine's boxes found again."""
        o = self.options
        model = o.plans / "n05.onnx"
        found: dict[str, Any] = {}
        for precision, iou in (("fp16", 0.9), ("int8", 0.7)):
            plan = o.plans / f"n05-{precision}.plan"
            if not plan.is_file():
                continue
            said = _json(
                [sys.executable, "-m", "facedetctl", "model", "evaluate", plan, "--against", model, "--json",
                 "--labels", o.labels, "--pictures", o.pictures, "--width", "640", "--height", "640",
                 "--match-iou", str(iou)]
            )  # fmt: skip
            found[precision] = {key: said[key] for key in ("drop", "matched")}
        return {"about": "YOLOv5n-0.5-face 640x640, against onnxruntime on the CPU", "plans": found}

    def inference(self) -> dict[str, Any]:
        o = self.options
        plans = [p for p in (o.plans / "s-int8.plan", o.plans / "n05-fp16.plan") if p.is_file()]
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "rows.json"
            subprocess.run([sys.executable, "-m", "tests.gpu.measure", *plans, "--json", out], check=True, stdout=2)
            rows = json.loads(out.read_text())
        return {"about": "frames/s through ring and batcher, and of TensorRT alone", "rows": rows}

    def old(self, cameras: int) -> dict[str, Any]:
        """In a process of its own: the GPU's context goes with it."""
        o = self.options
        if not o.ffmpeg:
            raise ValueError("no ffmpeg: name one with --ffmpeg")
        command = [sys.executable, "-m", "tests.gpu.bench", "--plans", o.plans, "--ffmpeg", o.ffmpeg, "--child-old"]
        command += [str(cameras), str(self.clips["h264"][0]), "--seconds", str(o.seconds)]
        command += ["--engine", o.engine]
        return {"about": "one ffmpeg a camera, BGR through pipes, the same engine", **_json(command)}


def old_child(options: argparse.Namespace) -> None:
    from facedetd.workshop.detector import load_detector
    from tests.gpu.oldway import OldWay, ffmpeg_version, source_size

    cameras, clip = int(options.child_old[0]), Path(options.child_old[1])
    name, (width, height), precision = LOAD
    model = options.plans / (f"{name}-{precision}.plan" if options.engine == "tensorrt" else f"{name}.onnx")
    most = 32 if options.engine == "tensorrt" else 1
    detector = load_detector(model, width, height, 0, max_batch=most)
    way = OldWay(options.ffmpeg, clip, cameras, 5.0, source_size(clip), detector)
    row = way.run(10.0, options.seconds, most)
    print(json.dumps({**row, "ffmpeg": ffmpeg_version(options.ffmpeg)}), flush=True)
    os._exit(0)  # threads hang in their pipes


def _json(command: Sequence[Any]) -> Any:
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, text=True, check=False, timeout=_CHILD_S)
    if done.returncode:
        raise RuntimeError(f"{' '.join(str(c) for c in command[1:5])} ended with status {done.returncode}")
    return json.loads(done.stdout)


def store(plans: Path, folder: Path) -> None:
    """A model store with what ``plans`` has models of."""
    for name, size, _ in (LOAD, REAL):
        model = plans / f"{name}.onnx"
        if model.is_file():
            import_model(model, ModelStore(folder), name=name, size=size)


def clips(options: argparse.Namespace) -> dict[str, list[Path]]:
    """Made where they aren't given, long enough not to begin anew while they are watched, and of each some whose
    keyframes don't come together."""
    made = {"h264": options.clip, "h265": options.clip_h265, "slow": options.clip_slow}
    asked = {name.partition(":")[0] for name in options.rungs}
    for name, given in list(made.items()):
        if given is None and (name == "h264" or name in asked):
            from tests.cameras import Coding, encode, make_scene

            slow = Coding(gop=10, bitrate=1_000_000)
            coding = {"h264": Coding(), "h265": Coding("h265", "mkv"), "slow": slow}[name]
            made[name] = encode(make_scene(1920, 1080, faces=3, fps=5 if name == "slow" else 25), coding=coding).path
    return {name: phases(path, options.repeats) for name, path in made.items() if path}


def machine(gpus: Sequence[Nvml]) -> dict[str, Any]:
    return {
        "gpu": gpus[0].identity.name if gpus else "none",
        "gpus": len(gpus),
        "driver": gpus[0].identity.driver if gpus else "",
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    }


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m tests.gpu.bench", description=__doc__.split("\n")[0])
    made.add_argument("--plans", type=Path, required=True)
    made.add_argument(
        "--rungs", type=lambda text: [r.strip() for r in text.split(",") if r.strip()], default=LADDER.split(","),
        help="none: only show what --results holds",
    )  # fmt: skip
    made.add_argument("--results", type=Path, default=Path("gpu-bench.json"))
    made.add_argument("--plot", type=Path, help="write latency and fps over the number of cameras to this .svg")
    made.add_argument("--seconds", type=float, default=15.0, help="measured a rung (15)")
    made.add_argument("--warmup", type=float, default=5.0)
    made.add_argument("--start", type=float, default=90.0, help="seconds a rung's cameras may take to come up (90)")
    made.add_argument("--streams-per-group", type=int, default=0, help="capture.streams_per_group (its default)")
    made.add_argument("--clip", type=Path, help="1080p25 H.264; made when not given")
    made.add_argument("--clip-h265", type=Path)
    made.add_argument("--clip-slow", type=Path, help="1080p of 5 fps")
    made.add_argument("--repeats", type=int, default=12, help="how often a clip stands in the file that is watched")
    made.add_argument("--labels", type=Path, help="as for model evaluate")
    made.add_argument("--pictures", type=Path)
    made.add_argument("--ffmpeg", default=shutil.which("ffmpeg") or "")
    made.add_argument("--camera-processes", type=int, default=2, help="that serve rtsp: (2)")
    made.add_argument("--engine", default="tensorrt", help="onnxruntime tries the bench itself where no GPU is")
    made.add_argument("--decode", default="nvdec")
    made.add_argument(
        "--devices", type=lambda text: tuple(int(n) for n in text.split(",")), default=(0, 1),
        help="numbers of the GPUs, as nvidia-smi counts: two:N takes both, all others the first (0,1)",
    )  # fmt: skip
    made.add_argument("--child-old", nargs=2, help=argparse.SUPPRESS)
    return made


def measure_all(options: argparse.Namespace, kept: dict[str, Any]) -> bool:
    """Into ``kept`` and its file. Whether every rung could be run."""
    gpus = open_gpus()[0] if options.engine == "tensorrt" else []
    kept["machine"] = machine(gpus)
    failed = False
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # a clock that ends it leaves no daemon, and keeps its log
    with tempfile.TemporaryDirectory(prefix="facedetd-gpu-bench-") as scratch:
        models = Path(scratch) / "models"
        store(options.plans, models)
        common = {
            "models": models, "plans": options.plans, "engine": options.engine, "decode": options.decode,
            "warmup_s": options.warmup, "seconds": options.seconds, "start_s": options.start,
            "streams_per_group": options.streams_per_group, "keep": options.results.resolve().parent,
        }  # fmt: skip
        load, real = (rungs.Job(model=n, size=size, precision=p, **common) for n, size, p in (LOAD, REAL))
        bench = Bench(load, real, clips(options), options, gpus)
        for name in options.rungs:
            print(f"{datetime.now(timezone.utc):%H:%M:%S} {name}", file=sys.stderr, flush=True)
            try:
                row = bench.run(name)
            except Exception as error:  # one rung's fault isn't the others'
                traceback.print_exc()
                row, failed = {"rung": name, "error": f"{type(error).__name__}: {str(error)[:1500]}"}, True
            kept["rungs"][name] = row
            options.results.write_text(json.dumps(kept, indent=1) + "\n")
            print(table.line(row), file=sys.stderr, flush=True)
    return not failed


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    if options.child_old:
        old_child(options)
    for name in options.rungs:
        kind, _, count = name.partition(":")
        if name not in SPECIAL and not (kind == "old" and count.isdigit()):
            rungs.parse(name)
    kept = json.loads(options.results.read_text()) if options.results.exists() else {"machine": {}, "rungs": {}}
    every = measure_all(options, kept) if options.rungs else True
    print(table.text(kept))
    if options.plot:
        try:
            table.plot(kept, options.plot)
        except ImportError as error:  # as on a bare machine
            print(f"no plot: {error}; run it with --rungs= where matplotlib is, on these --results", file=sys.stderr)
    return 0 if every else 1


if __name__ == "__main__":
    sys.exit(main())
