"""What people write today, done decently; the daemon is compared with it. A process of its own:

    python -m facedetctl.bench.baseline <job.json >result.json

A thread a camera with cv2.VideoCapture: grab() on every frame, retrieve() and letterbox on the sampled ones only. The
newest picture of each camera waits for one inference thread, which runs the same ONNX model with the same number of
threads at batch 1. What isn't said here is left as the libraries have it; ``Job.tuned`` changes that. The job comes on
stdin, since URLs may hold passwords; when stdin closes the process ends.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from facedetctl.bench.usage import memory_bytes
from facedetd.capture.geometry import letterbox
from facedetd.inference.engines.onnxruntime import open_session, probe_outputs
from facedetd.inference.heads import match_head
from facedetd.inference.types import Head, InputSpec, faces_in_source
from facedetd.ring.header import Geometry
from facedetd.types import ByteArray, FloatArray

CAPTURE_OPTIONS = {"OPENCV_FFMPEG_CAPTURE_OPTIONS": "rtsp_transport;tcp", "OPENCV_LOG_LEVEL": "SILENT"}
"""Must stand in the environment of the process."""

_REOPEN_S = 1.0


@dataclass(frozen=True, slots=True)
class Job:
    """``sources`` are URLs or paths; ``camera_fps`` 0 asks OpenCV; sizes in px, times in seconds. ``tuned``: one
    decoding thread a camera, and the daemon's own session settings (threads that don't spin while they wait)."""

    sources: tuple[str, ...]
    camera_fps: float
    target_fps: float
    model: str
    width: int
    height: int
    min_score: float
    threads: int
    warmup_s: float
    duration_s: float
    start_timeout_s: float
    tuned: bool


@dataclass(frozen=True, slots=True)
class Sampled:
    """A picture that waits, already at the model's size, and when grab() had it."""

    picture: ByteArray
    geometry: Geometry
    grabbed_mono_ns: int
    grabbed_utc_ns: int


class Mailbox:
    """The newest picture of each camera. A newer one replaces what waits; the replaced are counted."""

    def __init__(self, cameras: int) -> None:
        self.sampled = [0] * cameras
        self.dropped = [0] * cameras
        self._waiting: dict[int, Sampled] = {}
        self._changed = threading.Condition()

    def put(self, camera: int, sampled: Sampled) -> None:
        with self._changed:
            self.sampled[camera] += 1
            # Popped, so that it goes behind those who wait longer.
            self.dropped[camera] += self._waiting.pop(camera, None) is not None
            self._waiting[camera] = sampled
            self._changed.notify()

    def take(self) -> tuple[int, Sampled]:
        """The one that waits longest; waits for one."""
        with self._changed:
            while not self._waiting:
                self._changed.wait()
            camera = next(iter(self._waiting))
            return camera, self._waiting.pop(camera)


def is_sampled(number: int, camera_fps: float, target_fps: float) -> bool:
    """Whether frame ``number`` (from 0) is one of the evenly spaced ``target_fps`` a second."""
    share = min(1.0, target_fps / camera_fps)
    return number == 0 or int(number * share + 1e-9) > int((number - 1) * share + 1e-9)


def read_camera(camera: int, job: Job, box: Mailbox) -> None:
    """A camera's thread. Opens its source again whenever it ends."""
    source = job.sources[camera]
    live = "://" in source
    number = 0
    while True:
        capture = cv2.VideoCapture(source, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1] if job.tuned else [])
        fps = job.camera_fps or capture.get(cv2.CAP_PROP_FPS)
        fps = fps if 1 <= fps <= 240 else 25.0
        begun = time.monotonic()
        count = 0
        while capture.grab():
            if not live:  # a file comes as fast as it is read
                time.sleep(max(0.0, begun + count / fps - time.monotonic()))
            count += 1
            number += 1
            if not is_sampled(number - 1, fps, job.target_fps):
                continue
            mono_ns, utc_ns = time.monotonic_ns(), time.time_ns()
            found, picture = capture.retrieve()
            if found:
                box.put(camera, Sampled(*fit(picture, job.width, job.height), mono_ns, utc_ns))
        capture.release()
        if live or not count:
            time.sleep(_REOPEN_S)


def fit(picture: Any, width: int, height: int) -> tuple[ByteArray, Geometry]:
    """Letterbox a BGR picture to width x height px."""
    geometry = letterbox(picture.shape[1], picture.shape[0], None, width, height)
    small = cv2.resize(picture, (geometry.width, geometry.height), interpolation=cv2.INTER_LINEAR)
    top, left = geometry.pad_y, geometry.pad_x
    framed = cv2.copyMakeBorder(
        small, top, height - geometry.height - top, left, width - geometry.width - left, cv2.BORDER_CONSTANT
    )
    return np.asarray(framed, np.uint8), geometry


def to_input(picture: ByteArray, spec: InputSpec) -> FloatArray:
    """A BGR picture as the model's input, (1, 3, height, width) float32."""
    blob = cv2.dnn.blobFromImage(picture, 1.0, mean=spec.mean, swapRB=spec.channels == "rgb")
    tensor: FloatArray = np.asarray(blob, np.float32)
    if spec.scale != (1.0, 1.0, 1.0):
        tensor *= np.array(spec.scale, np.float32).reshape(1, 3, 1, 1)
    return tensor


def plain_session(model: Path, threads: int) -> Any:
    """A session as its documentation makes one, but for the number of threads."""
    import onnxruntime as ort  # after our engine's module, which turns its telemetry off

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


class Detector:
    """The inference thread: one session for all cameras."""

    def __init__(self, job: Job, box: Mailbox) -> None:
        self.results: list[list[tuple[float, int, float, list[Any]]]] = [[] for _ in job.sources]
        self._job, self._box = job, box
        path = Path(job.model)
        self._head: Head = match_head(probe_outputs(path, job.width, job.height), job.width, job.height)
        self._session = open_session(path, job.threads) if job.tuned else plain_session(path, job.threads)
        self._input = self._session.get_inputs()[0].name
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self) -> None:
        job = self._job
        while True:
            camera, sampled = self._box.take()
            raw = self._session.run(None, {self._input: to_input(sampled.picture, self._head.input)})
            named = dict(zip(self._outputs, raw, strict=True))
            found = self._head.decode(named, job.width, job.height, job.min_score)[0]
            faces = faces_in_source(found, sampled.geometry)
            now = time.monotonic_ns()
            latency_ms = (now - sampled.grabbed_mono_ns) / 1e6
            self.results[camera].append((now / 1e9, sampled.grabbed_utc_ns, latency_ms, [face.box for face in faces]))


def main() -> int:
    """0, or 1 when not every camera gave a result in time; then stdout names them."""
    job = Job(**json.loads(sys.stdin.readline()))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    box = Mailbox(len(job.sources))
    detector = Detector(job, box)
    threading.Thread(target=detector.run, daemon=True).start()
    for camera in range(len(job.sources)):
        threading.Thread(target=read_camera, args=(camera, job, box), daemon=True).start()
    deadline = time.monotonic() + job.start_timeout_s
    while not all(detector.results):
        if time.monotonic() > deadline:
            missing = [f"cam{i}" for i, results in enumerate(detector.results) if not results]
            print(json.dumps({"error": f"no result from {', '.join(missing)} within {job.start_timeout_s:g} s"}))
            return 1
        time.sleep(0.1)
    time.sleep(job.warmup_s)
    before = time.monotonic(), time.process_time(), list(box.sampled), list(box.dropped)
    time.sleep(job.duration_s)
    after = time.monotonic(), time.process_time(), list(box.sampled), list(box.dropped)
    print(json.dumps({
        "window_s": after[0] - before[0],
        "cpu_seconds": after[1] - before[1],
        "memory_bytes": memory_bytes([os.getpid()]),
        "streams": [
            {
                "sampled": after[2][i] - before[2][i],
                "dropped": after[3][i] - before[3][i],
                "frames": [result[1:] for result in results if before[0] <= result[0] < after[0]],
            }
            for i, results in enumerate(detector.results)
        ],
    }))  # fmt: skip
    return 0


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


def job_text(job: Job) -> str:
    """The line that :func:`main` reads."""
    return json.dumps(asdict(job)) + "\n"


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # the threads sit in OpenCV and can't be asked to end
