"""Measures a model on labelled pictures: runs it, and makes figures of what it found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facedetd.inference.heads.nms import candidates_up_to
from facedetd.inference.types import ModelError
from facedetd.types import Face
from facedetd.workshop.ap import FALSE, Curve, Floats, curve, normalised, outcomes, overlaps
from facedetd.workshop.detector import Detector
from facedetd.workshop.pictures import read_picture
from facedetd.workshop.wider import LEVELS, LabelledPicture, check_boxes

MIN_SCORE = 0.02
"""Detections down to here make the curve: lower ones hardly change its area and take long to suppress."""
CANDIDATES = 30_000
"""For suppression, as detectors are commonly measured. The daemon's 1000 are plenty at its scores, but at MIN_SCORE a
crowd has more: of YOLOv5n-0.5-face they cost 0.03 of AP hard."""
SIZES = (("small", 0.0, 32.0), ("medium", 32.0, 96.0), ("large", 96.0, np.inf))
"""By the height of a face in px of its picture: from, to (not included)."""

HARD = LEVELS.index("hard")

Found = Sequence[tuple[Face, ...]]
"""A model's faces for each picture, at scores from MIN_SCORE."""


@dataclass(frozen=True, slots=True)
class Counts:
    """At a score threshold: ``faces`` that count, those ``found``, and ``false`` detections (two of one face are one
    false)."""

    faces: int
    found: int
    false: int

    @property
    def precision(self) -> float | None:
        return self.found / (self.found + self.false) if self.found + self.false else None

    @property
    def recall(self) -> float | None:
        return self.found / self.faces if self.faces else None

    @property
    def f1(self) -> float | None:
        whole = self.faces + self.found + self.false
        return 2 * self.found / whole if whole else None


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """``curves`` by level; ``counts`` at ``threshold`` over the faces of level hard, and the same ``by_size``, where a
    found face goes by its labelled height and a false detection by its own."""

    curves: Mapping[str, Curve]
    threshold: float
    counts: Counts
    by_size: Mapping[str, Counts]

    @property
    def ap(self) -> dict[str, float | None]:
        return {level: one.ap for level, one in self.curves.items()}


def run_models(
    detectors: Sequence[Detector], pictures: Sequence[LabelledPicture], progress: Callable[[int, int], None]
) -> list[list[tuple[Face, ...]]]:
    """The faces that each detector finds in each picture. ``progress`` is told how many of how many are done.

    Raises PictureError, LabelError for boxes outside of a picture, ModelError.
    """
    found: list[list[tuple[Face, ...]]] = [[] for _ in detectors]
    for done, picture in enumerate(pictures):
        progress(done, len(pictures))
        bgr = read_picture(picture.path, picture.size)
        check_boxes(picture, bgr.shape[1], bgr.shape[0])
        for detector, own in zip(detectors, found, strict=True):
            try:
                with candidates_up_to(CANDIDATES):
                    own.append(detector.detect(bgr, MIN_SCORE))
            except ModelError as error:
                raise ModelError(f"{error} (picture {picture.path})") from error
    progress(len(pictures), len(pictures))
    return found


def evaluate(pictures: Sequence[LabelledPicture], found: Found, threshold: float) -> Evaluation:
    """Figures of one model. Raises ValueError unless there is one entry of ``found`` a picture."""
    sets = [_arrays(faces) for faces in found]
    stretched = normalised([scores for _, scores in sets])
    judged = [
        (picture, boxes, own, overlaps(boxes, scores, picture.boxes))
        for picture, (boxes, scores), own in zip(pictures, sets, stretched, strict=True)
        if len(picture.boxes)
    ]
    curves = {}
    for row, level in enumerate(LEVELS):
        results = [outcomes(near, picture.counted[row]) for picture, _, _, near in judged]
        scores = [own[near.order] for _, _, own, near in judged]
        curves[level] = curve(scores, results, sum(int(picture.counted[row].sum()) for picture in pictures))
    truth, hits, false = [], [], []  # heights in px
    for picture in pictures:
        truth += list(picture.boxes[picture.counted[HARD], 3])
    for picture, boxes, _, near in judged:
        result = outcomes(near, picture.counted[HARD])
        sure = near.scores >= threshold
        hits += list(picture.boxes[result[sure & (result >= 0)], 3])
        wrong = boxes[near.order][sure & (result == FALSE)]
        false += list(wrong[:, 3] - wrong[:, 1])
    by_size = {
        name: Counts(*(sum(bool(low <= height < high) for height in heights) for heights in (truth, hits, false)))
        for name, low, high in SIZES
    }
    return Evaluation(curves, threshold, Counts(len(truth), len(hits), len(false)), by_size)


def drops(model: Evaluation, other: Evaluation) -> dict[str, float | None]:
    """How much lower the model's AP is than the other's, by level; None where no face counts."""
    pairs = {level: (other.ap[level], model.ap[level]) for level in LEVELS}
    return {level: a - b if a is not None and b is not None else None for level, (a, b) in pairs.items()}


def too_much(drop: Mapping[str, float | None], allowed: Sequence[float]) -> list[str]:
    """A phrase for each level whose drop is above what is ``allowed`` (for each of LEVELS)."""
    found = []
    for level, most in zip(LEVELS, allowed, strict=True):
        fallen = drop[level]
        if fallen is not None and fallen > most + 1e-9:  # 0.9 - 0.895 is a little more than 0.005
            found.append(f"{level} {fallen:.4f} (allowed {most:g})")
    return found


def draw_curves(path: Path, models: Sequence[tuple[str, Evaluation]]) -> None:
    """Precision over recall, a panel a level, as SVG (or what the suffix says). Needs matplotlib: raises ImportError
    without it, OSError when the file can't be written, ValueError for an unknown suffix."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), layout="constrained")
    for axes, level in zip(figure.subplots(1, len(LEVELS), sharey=True), LEVELS, strict=True):
        for name, one in models:
            shown, ap = one.curves[level], one.ap[level]
            some = shown.precision > 0
            label = f"{name}: {'no faces' if ap is None else f'{ap:.3f}'}"
            axes.plot(shown.recall[some], shown.precision[some], label=label)
        axes.set(title=f"{level} ({models[0][1].curves[level].faces} faces)", xlabel="recall", xlim=(0, 1), ylim=(0, 1))
        axes.grid(visible=True, alpha=0.3)
        axes.legend(loc="lower left")
    figure.supylabel("precision")
    figure.savefig(path)


def _arrays(faces: Sequence[Face]) -> tuple[Floats, Floats]:
    return np.array([f.box for f in faces], np.float64).reshape(-1, 4), np.array([f.score for f in faces], np.float64)
