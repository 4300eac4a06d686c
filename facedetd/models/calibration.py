"""What an INT8 artefact was calibrated with, as its manifest tells it: key ``calibration`` of FILE.onnx.json and of the
store's manifest.json. Written by the workshop's ``quantize``, read by the daemon to tell its age and its drift."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import numpy as np

from facedetd.inference.luma import LUMA_BINS, luma_counts

__all__ = ["LUMA_BINS", "Calibration", "luma_counts", "luma_shares", "read_calibration"]

_AT = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True)
class Calibration:
    """``at``: UTC. ``frames``: how many there were. ``set_sha256``: of the calibration set's list of files. ``luma``:
    shares of the LUMA_BINS equal ranges of Y in all frames, adding up to 1."""

    at: datetime
    frames: int
    set_sha256: str
    method: str
    luma: tuple[float, ...]

    def to_manifest(self) -> dict[str, Any]:
        return {
            "at": self.at.astimezone(timezone.utc).strftime(_AT),
            "frames": self.frames,
            "set_sha256": self.set_sha256,
            "method": self.method,
            "luma": [round(share, 6) for share in self.luma],
        }


def read_calibration(manifest: Mapping[str, Any]) -> Calibration | None:
    """What stands under ``calibration``; None where there is nothing, which means a float model. Raises ValueError that
    says what is wrong with what stands there."""
    found = manifest.get("calibration")
    if found is None:
        return None
    try:
        luma = tuple(float(share) for share in found["luma"])
        read = Calibration(
            at=datetime.strptime(found["at"], _AT).replace(tzinfo=timezone.utc),
            frames=int(found["frames"]),
            set_sha256=str(found["set_sha256"]),
            method=str(found["method"]),
            luma=luma,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the manifest's calibration is not whole: {type(error).__name__}: {error}") from None
    if len(luma) != LUMA_BINS or min(luma) < 0 or abs(sum(luma) - 1) > 0.01:
        raise ValueError(f"the manifest's calibration.luma must be {LUMA_BINS} shares that add up to 1, not {luma}")
    return read


def luma_shares(counts: np.ndarray[Any, np.dtype[np.int64]]) -> tuple[float, ...]:
    """Counts as shares. Raises ValueError where there is nothing."""
    total = int(counts.sum())
    if total == 0:
        raise ValueError("no pixel was counted")
    return tuple(float(c) / total for c in counts)
