"""The usual design, for comparison: one ffmpeg process a camera, raw BGR through a pipe, the same engine behind it.

Each ffmpeg decodes on the CPU and gives so many frames/s of the camera's own size; a thread a camera reads its pipe,
scales the picture and keeps the newest; one thread takes what waits, as many as the engine takes, and infers. Latency
begins when the whole picture has come out of the pipe, which flatters it: decoding and the pipe come before.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from facedetctl.bench.baseline import fit
from facedetctl.bench.figures import latency_of
from facedetctl.bench.usage import cpu_seconds, descendants, memory_bytes
from facedetd.inference.types import BatchFrame
from facedetd.workshop.detector import Detector
from facedetd.workshop.pictures import nv12_frame


class OldWay:
    """``size``: the camera's, px."""

    def __init__(self, ffmpeg: str, clip: Path, cameras: int, fps: float, size: tuple[int, int], detector: Detector):
        self._command = [
            ffmpeg, "-nostdin", "-v", "error", "-threads", "1", "-re", "-stream_loop", "-1", "-i", str(clip),
            "-r", f"{fps:g}", "-f", "rawvideo", "-pix_fmt", "bgr24", "pipe:1",
        ]  # fmt: skip
        self._cameras, self._fps, self._size, self._detector = cameras, fps, size, detector
        self._waiting: dict[int, tuple[float, BatchFrame]] = {}
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._processes: list[subprocess.Popen[bytes]] = []
        self.read = [0] * cameras
        self.results: list[tuple[int, float, float]] = []
        """(camera, when, latency in ms)"""

    def _camera(self, number: int) -> None:
        (width, height), model = self._size, (self._detector.width, self._detector.height)
        pipe = self._processes[number].stdout
        assert pipe
        while not self._stop.is_set():
            data = pipe.read(width * height * 3)
            if len(data) < width * height * 3:
                return
            at = time.monotonic()
            picture = np.frombuffer(data, np.uint8).reshape(height, width, 3)
            small, _ = fit(picture, *model)  # as scripts do it; the rest is ours, on few pixels
            frame = nv12_frame(small, *model)
            with self._changed:
                self.read[number] += 1
                self._waiting.pop(number, None)
                self._waiting[number] = at, frame
                self._changed.notify()

    def _infer(self, until: float, most: int) -> None:
        detector = self._detector
        while time.monotonic() < until:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting, 0.2)
                taken = [(n, *self._waiting.pop(n)) for n in list(self._waiting)[:most]]
            if not taken:
                continue
            raw = detector.engine.infer([frame for _, _, frame in taken])
            detector.head.decode(raw, detector.width, detector.height, 0.5)
            now = time.monotonic()
            self.results += [(n, now, 1e3 * (now - at)) for n, at, _ in taken]

    def run(self, warmup_s: float, seconds: float, most: int) -> dict[str, Any]:
        """The row. Inference runs in the caller's thread, which has the GPU's context."""
        width, height = self._size
        for _ in range(self._cameras):
            self._processes.append(
                subprocess.Popen(self._command, stdout=subprocess.PIPE, bufsize=width * height * 3, pipesize=1 << 20)
            )
        try:
            for number in range(self._cameras):
                threading.Thread(target=self._camera, args=(number,), daemon=True).start()
            self._infer(time.monotonic() + warmup_s, most)
            pids = [os.getpid(), *descendants(os.getpid())]
            self.results.clear()
            read, cpu, began = list(self.read), cpu_seconds(pids), time.monotonic()
            self._infer(began + seconds, most)
            took = time.monotonic() - began
            cores = (cpu_seconds(pids) - cpu) / took
            memory = memory_bytes(pids)
        finally:
            self._stop.set()
            for process in self._processes:
                process.kill()
            for process in self._processes:
                process.wait()
        latency = latency_of(ms for _, _, ms in self.results)
        by_camera = [sum(1 for n, _, _ in self.results if n == number) / took for number in range(self._cameras)]
        came = [(after - before) / took for before, after in zip(read, self.read, strict=True)]
        return {
            "fps": sum(by_camera) / self._cameras,
            "fps_min": min(by_camera),
            "fps_max": max(by_camera),
            "drop_max": max(1 - done / self._fps for done in by_camera),
            "read_fps": sum(came) / self._cameras,
            "latency_ms": None if latency is None else [latency.mean, latency.p50, latency.p95, latency.p99],
            "cores": cores,
            "host_memory": memory,
            "pipe_bytes_per_frame": width * height * 3,
            "seconds": took,
        }


def ffmpeg_version(ffmpeg: str) -> str:
    return subprocess.run([ffmpeg, "-version"], capture_output=True, text=True, check=True).stdout.split("\n", 1)[0]


def source_size(clip: Path) -> tuple[int, int]:
    capture = cv2.VideoCapture(str(clip))
    try:
        return int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
    finally:
        capture.release()
