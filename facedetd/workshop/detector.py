"""A model at work, as in the inference process: engine and head, from pictures to faces."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facedetd.inference.engines import CPU_ENGINES, TensorRtEngine, detect_head, make_engine, plan_in
from facedetd.inference.engines.cpu import Opener, thread_count
from facedetd.inference.engines.onnxruntime import model_input, open_session
from facedetd.inference.heads import match_head
from facedetd.inference.types import BatchFrame, Engine, Head, InputSpec, ModelError, RawOutputs, faces_in_source
from facedetd.trt.errors import PlanError
from facedetd.trt.plan import read_manifest
from facedetd.types import ByteArray, Face, FloatArray
from facedetd.workshop.pictures import bgr_frame, nv12_frame

DEFAULT_SIZE = (640, 640)
PLANS = (".plan", ".engine", ".trt")


class PlainEngine:
    """An Engine whose frames are BGR pictures (``bgr_frame``): the daemon's way less NV12, to see what that costs."""

    def __init__(
        self, name: str, opener: Opener, path: Path, width: int, height: int, spec: InputSpec, threads: int
    ) -> None:
        self.name = name
        self._open, self._path, self._size, self._spec = opener, path, (height, width), spec
        self._threads = thread_count(threads)

    def load(self) -> None:
        """See Engine.load."""
        self._model = self._open(self._path, self._threads, self._size[1], self._size[0])

    def warm_up(self) -> None:
        """Nothing: this engine isn't timed."""

    def infer(self, batch: Sequence[BatchFrame]) -> RawOutputs:
        """See Engine.infer."""
        parts = []
        for frame in batch:
            picture = frame.nv12[..., ::-1] if self._spec.channels == "rgb" else frame.nv12
            values = (picture - np.array(self._spec.mean, np.float32)) * np.array(self._spec.scale, np.float32)
            whole: FloatArray = np.zeros((self._model.batch or 1, 3, *self._size), np.float32)
            whole[0] = values.transpose(2, 0, 1)
            parts.append([output[:1] for output in self._model.run(whole)])
        return {n: np.concatenate(p) for n, p in zip(self._model.outputs, zip(*parts, strict=True), strict=True)}

    def close(self) -> None:
        del self._model


@dataclass(frozen=True, slots=True)
class Detector:
    """A loaded model. ``width`` and ``height`` are its picture's px; ``frame`` makes that from a BGR picture."""

    engine: Engine
    head: Head
    width: int
    height: int
    frame: Callable[[ByteArray, int, int], BatchFrame] = nv12_frame

    def detect(self, bgr: ByteArray, min_score: float) -> tuple[Face, ...]:
        """Faces in px of ``bgr``, (height, width, 3) uint8, as the daemon would find them. Raises ModelError."""
        frame = self.frame(bgr, self.width, self.height)
        found = self.head.decode(self.engine.infer([frame]), self.width, self.height, min_score)
        return faces_in_source(found[0], frame.header.geometry)


@dataclass(frozen=True, slots=True)
class BatchTime:
    """Medians over runs of a batch, in ms: by the wall clock, and CPU time of all threads of this process."""

    batch: int
    wall_ms: float
    cpu_ms: float


def load_detector(
    path: Path,
    width: int | None,
    height: int | None,
    threads: int,
    *,
    engine: str = "",
    max_batch: int = 1,
    plain: bool = False,
) -> Detector:
    """Load a model or a TensorRT plan, ready to detect. A size not given is the model's own where it is fixed, else
    DEFAULT_SIZE. ``engine``: one of CPU_ENGINES, for models; "": onnxruntime.

    Raises ModelError: no such file, not a model a head knows, fixed to another size, a plan that doesn't fit here, or a
    plan and an engine; and DeviceError: a plan, and no GPU or TensorRT; or an engine that isn't installed.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such model file")
    if path.suffix in PLANS:
        if engine:
            raise ModelError(f"{path}: a TensorRT plan, which only TensorRT runs; {engine} runs .onnx models")
        return _load_plan(path, width, height, max_batch, plain=plain)
    fixed = model_input(open_session(path, 1), path)
    width = fixed.width or DEFAULT_SIZE[0] if width is None else width
    height = fixed.height or DEFAULT_SIZE[1] if height is None else height
    if (fixed.width or width, fixed.height or height) != (width, height):
        raise ModelError(
            f"{path}: the model takes only {fixed.width or 'any'}x{fixed.height or 'any'} (width x height), "
            f"but {width}x{height} is asked for: leave --width and --height out"
        )
    head = detect_head(path, width, height)
    name = engine or "onnxruntime"
    runs: Engine = (
        PlainEngine(name, CPU_ENGINES[name], path, width, height, head.input, threads)
        if plain
        else make_engine(name, path, width, height, head.input, threads, max_batch)
    )
    runs.load()
    return Detector(runs, head, width, height, bgr_frame if plain else nv12_frame)


def _load_plan(path: Path, width: int | None, height: int | None, max_batch: int, *, plain: bool) -> Detector:
    """Outputs stay raw, so that any least score may be asked for."""
    try:
        manifest = read_manifest(path)
    except PlanError as error:
        raise ModelError(str(error)) from None
    s = manifest.recipe.shapes
    if (width or s.width, height or s.height) != (s.width, s.height):
        raise ModelError(f"{path}: the plan takes {s.width}x{s.height}, but {width}x{height} is asked for")
    if plain:
        raise ModelError(f"{path}: a TensorRT plan; only .onnx models can be fed RGB")
    if max_batch > s.max_batch:
        raise ModelError(f"{path}: the plan takes batches of up to {s.max_batch}, but {max_batch} is asked for")
    outputs = {output.name: np.zeros((1, *output.shape), np.float32) for output in manifest.outputs}
    head = match_head(outputs, s.width, s.height)
    engine = TensorRtEngine(plan_in(path), s.width, s.height, head.input, max_batch)
    engine.load()
    engine.warm_up()
    return Detector(engine, head, s.width, s.height)


def time_batches(
    detector: Detector,
    pictures: Sequence[ByteArray],
    sizes: Sequence[int],
    repeat: int,
    *,
    min_score: float = 0.5,
    wall: Callable[[], float] = time.perf_counter,
    cpu: Callable[[], float] = time.process_time,
) -> tuple[BatchTime, ...]:
    """Time conversion, model and head together for each size of batch, ``repeat`` runs after one that isn't counted.
    ``pictures`` take turns to fill a batch; scaling isn't in it, since decoder groups do that."""
    frames = [detector.frame(picture, detector.width, detector.height) for picture in pictures]
    times = []
    for size in sizes:
        batch = [frames[i % len(frames)] for i in range(size)]
        spent = []
        for _ in range(repeat + 1):
            start = wall(), cpu()
            detector.head.decode(detector.engine.infer(batch), detector.width, detector.height, min_score)
            spent.append((wall() - start[0], cpu() - start[1]))
        walls, cpus = zip(*spent[1:], strict=True)
        times.append(BatchTime(size, statistics.median(walls) * 1e3, statistics.median(cpus) * 1e3))
    return tuple(times)
