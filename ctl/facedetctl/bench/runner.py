"""One rung of the ladder: cameras up, the baseline and the daemon one after the other, cameras anew for each."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facedetctl.bench.accuracy import Truth, score
from facedetctl.bench.baseline import CAPTURE_OPTIONS, Job, job_text
from facedetctl.bench.cameras import (
    CameraSet,
    SceneOptions,
    encode_clips,
    own_cameras,
    scene_cameras,
    stream_id,
)
from facedetctl.bench.figures import Check, Measured, StreamFigures, Thresholds, latency_of
from facedetctl.bench.gpu import GpuUse
from facedetctl.bench.measure import MeasureError, measure, wait_until_streaming
from facedetctl.credentials import Login
from facedetctl.local import LocalDaemon
from facedetctl.output import several
from facedetd.models import ModelEntry
from facedetd.v1 import stream_pb2

MIN_SCORE = 0.5  # the daemon's default; the baseline takes the same

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """``sources`` empty: generated scenes. ``max_cpu_ratio`` is daemon over baseline, None: only shown."""

    duration_s: float
    warmup_s: float
    target_fps: float
    model: ModelEntry
    store: Path
    model_size: tuple[int, int]
    threads: int
    scenes: SceneOptions
    sources: tuple[str, ...]
    login: Login | None
    with_baseline: bool
    tuned_baseline: bool
    thresholds: Thresholds
    max_cpu_ratio: float | None

    @property
    def start_timeout_s(self) -> float:
        return 60.0


@dataclass(frozen=True, slots=True)
class Rung:
    """``ratio`` is the daemon's CPU time a delivered frame over the baseline's."""

    cameras: int
    daemon: Measured
    baseline: Measured | None
    ratio: float | None
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)


def run_rung(cameras: int, options: BenchOptions, say: Say) -> Rung:
    """Raises MeasureError, CamerasError or LocalDaemonError."""
    clips = () if options.sources else encode_clips(cameras, options.scenes)

    def cameras_up() -> AbstractContextManager[CameraSet]:
        if options.sources:
            return nullcontext(own_cameras(options.sources, cameras, options.login))
        return scene_cameras(clips, options.scenes)

    seconds = options.warmup_s + options.duration_s
    baseline = None
    if options.with_baseline:
        say(f"{several(cameras, 'camera')}: baseline, {seconds:g} s")
        with cameras_up() as up:
            baseline = run_baseline(up, options)
    say(f"{several(cameras, 'camera')}: facedetd, {seconds:g} s")
    with cameras_up() as up:
        daemon = run_daemon(up, options)
    ratio = cpu_ratio(daemon, baseline)
    return Rung(cameras, daemon, baseline, ratio, (*daemon.checks, *_ratio_check(ratio, options)))


def cpu_ratio(daemon: Measured, baseline: Measured | None) -> float | None:
    if baseline is None or not daemon.cpu_ms_per_frame or not baseline.cpu_ms_per_frame:
        return None
    return daemon.cpu_ms_per_frame / baseline.cpu_ms_per_frame


def _ratio_check(ratio: float | None, options: BenchOptions) -> tuple[Check, ...]:
    limit = options.max_cpu_ratio
    if limit is None or not options.with_baseline:
        return ()
    found = "none" if ratio is None else f"{ratio:.2f}"
    return (Check("CPU a frame / baseline", f"<= {limit:g}", found, ratio is not None and ratio <= limit),)


def run_daemon(cameras: CameraSet, options: BenchOptions) -> Measured:
    """A fresh daemon on these cameras."""
    width, height = options.model_size
    settings = (
        "[daemon]\nallow_file_sources = true\n"
        f'[model]\nname = "{options.model.name}"\nwidth = {width}\nheight = {height}\nmin_score = {MIN_SCORE}\n'
        f"[inference]\nthreads = {options.threads}\n"
    )
    targets = {stream_id(i): options.target_fps for i in range(len(cameras.urls))}
    with LocalDaemon(settings, models=options.store) as daemon:
        for i, url in enumerate(cameras.urls):
            spec = stream_pb2.StreamSpec(
                id=stream_id(i), url=url, target_fps=options.target_fps, min_fps=min(1.0, options.target_fps)
            )
            request = stream_pb2.CreateStreamRequest(spec=spec)
            if cameras.login:
                request.spec.username = cameras.login.username
                request.credentials.username = cameras.login.username
                request.credentials.password = cameras.login.password
            daemon.streams.CreateStream(request, timeout=10)
        wait_until_streaming(daemon, targets, options.start_timeout_s)
        time.sleep(options.warmup_s)
        return measure(daemon, options.duration_s, targets, cameras.truth, options.thresholds)


def run_baseline(cameras: CameraSet, options: BenchOptions) -> Measured:
    """See ``baseline``. Raises MeasureError when it fails."""
    job = Job(
        sources=cameras.for_opencv(),
        camera_fps=cameras.fps,
        target_fps=options.target_fps,
        model=str(options.model.path),
        width=options.model_size[0],
        height=options.model_size[1],
        min_score=MIN_SCORE,
        threads=options.threads,
        warmup_s=options.warmup_s,
        duration_s=options.duration_s,
        start_timeout_s=options.start_timeout_s,
        tuned=options.tuned_baseline,
    )
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "facedetctl.bench.baseline"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, **CAPTURE_OPTIONS},
        )
        try:
            assert process.stdin and process.stdout
            process.stdin.write(job_text(job))
            process.stdin.flush()  # and left open: when it closes, the baseline ends
            answer = process.stdout.read()
            process.wait()
        finally:
            process.kill()
            process.wait()
        errors.seek(0)
        said = re.sub(r"://\S*@", "://***@", errors.read())
    try:
        found = json.loads(answer)
    except ValueError:
        raise MeasureError(f"the baseline ended with status {process.returncode}: {said[-1000:].strip()}") from None
    if "error" in found:
        raise MeasureError(f"the baseline: {found['error']}")
    return baseline_figures(found, options.target_fps, cameras.truth)


def baseline_figures(found: dict[str, Any], target_fps: float, truth: Truth | None) -> Measured:
    """The baseline's answer as figures; latency runs from grab() to the result, so it is flattered by what waited in
    the socket and in the decoder."""
    streams = []
    for i, stream in enumerate(found["streams"]):
        frames = [(utc_ns, [tuple(box) for box in boxes]) for utc_ns, _, boxes in stream["frames"]]
        streams.append(
            StreamFigures(
                id=stream_id(i),
                target_fps=target_fps,
                frames=len(frames),
                fps=len(frames) / found["window_s"],
                drop_fraction=stream["dropped"] / stream["sampled"] if stream["sampled"] else 0.0,
                latency=latency_of(latency for _, latency, _ in stream["frames"]),
                accuracy=score(stream_id(i), frames, truth) if truth else None,
            )
        )
    return Measured(
        streams=tuple(streams),
        window_s=found["window_s"],
        latency=latency_of(latency for stream in found["streams"] for _, latency, _ in stream["frames"]),
        cpu_seconds=found["cpu_seconds"],
        memory_bytes=found["memory_bytes"],
        network_bps=None,
        gpu=GpuUse(),  # not told apart from what else uses it
        checks=(),
    )
