"""Whether an INT8 model's calibration still fits: its age, and how far the cameras' pictures are from it. Pure."""

from __future__ import annotations

from datetime import timedelta

from facedetd.control import CalibrationView, ModelView
from facedetd.models.calibration import Calibration
from facedetd.models.drift import divergence
from facedetd.supervisor.seen_luma import WINDOW_HOURS, Seen

DRIFT_LIMIT = 0.15
"""Bits. Two bell curves one standard deviation apart are 0.16 from each other (a test computes it): as if all pictures
had become brighter or darker by as much as they usually differ. A set that is spread evenly over light and dark is
somewhat off the everyday by itself, and must not count as drifted."""
_DAY_S = 86_400


def calibration_view(calibration: Calibration | None, seen: Seen, now_utc_s: float) -> CalibrationView | None:
    """None for a float model. The drift is None until enough was seen."""
    if calibration is None:
        return None
    at_s = calibration.at.timestamp()
    return CalibrationView(
        at_utc_ns=round(at_s) * 10**9,
        frames=calibration.frames,
        method=calibration.method,
        age_s=max(0.0, now_utc_s - at_s),
        drift=divergence(calibration.luma, seen.counts) if seen.is_enough else None,
    )


def calibration_problems(model: ModelView | None, max_age_days: int) -> list[tuple[str, str, str]]:
    """For health: (severity, subject, message). Faces are still being detected, maybe fewer."""
    if model is None or model.calibration is None:
        return []
    found, calibration = [], model.calibration
    renew = "collect frames, quantize and activate anew (docs/models.md)"
    if calibration.age_s > max_age_days * _DAY_S:
        days = timedelta(seconds=calibration.age_s).days
        found.append(
            f"the calibration of {model.name}@{model.version} is {days} days old, more than "
            f"inference.calibration_max_age_days ({max_age_days}): {renew}"
        )
    if calibration.drift is not None and calibration.drift > DRIFT_LIMIT:
        found.append(
            f"the pictures of the last {WINDOW_HOURS // 24} days aren't as bright as those that {model.name}@"
            f"{model.version} was calibrated with ({calibration.drift:.2f} apart, over {DRIFT_LIMIT}): {renew}"
        )
    return [("warning", "calibration", "; ".join(found))] if found else []
