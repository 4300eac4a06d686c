"""What a decoder group is told at its start. Apart from ``group``, so that the supervisor imports no decoder."""

from __future__ import annotations

from dataclasses import dataclass

from facedetd.config.model import CaptureConfig

TARGET = "facedetd.capture.group:run"


@dataclass(frozen=True, slots=True)
class GroupBoot:
    name: str
    capture: CaptureConfig
    log_level: str
    log_format: str
    gpu: int = 0
    """Whose NVDEC it uses."""
    turns_at: str = ""
    """What all groups lock in turn to open a decoder there: see cuda/turn.py."""
