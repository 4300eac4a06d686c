"""What an inference process is told at its start. Apart from ``process``, so that the supervisor imports no engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from facedetd.inference.batching import BatchPolicy

TARGET = "facedetd.inference.process:run"


@dataclass(frozen=True, slots=True)
class InferenceBoot:
    """``width`` and ``height`` are the model's input in px; ``threads`` 0: as many as cores, at most 4. For TensorRT:
    the folder of plans, which precision to look for there, and the GPU's index."""

    name: str
    model_path: Path
    model_name: str
    model_version: str
    width: int
    height: int
    min_score: float
    engine: str
    threads: int
    policy: BatchPolicy
    log_level: str
    log_format: str
    plans: Path = Path()
    precision: str = "fp16"
    device: int = 0
