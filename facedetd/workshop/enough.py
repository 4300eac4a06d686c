"""Whether pictures can tell what INT8 costs: do they show faces of all sizes, and some that are hard to see? Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from facedetd.inference.types import BatchFrame
from facedetd.types import Face
from facedetd.workshop.evaluate import SIZES
from facedetd.workshop.trials import SURE, moves

TELLING = 100.0
"""Boxes near the threshold (Moves.telling): the mean that is taken over them is good to a tenth then, about."""
OF_A_SIZE = 20
"""Faces of each of SIZES, in px of the model: a network looks for each size with layers of its own."""


def missing(frames: Iterable[BatchFrame], reference: Sequence[tuple[Face, ...]]) -> tuple[str, ...]:
    """A phrase for each thing that is too rare in pictures where the float model found ``reference``."""
    counts = dict.fromkeys((name for name, _, _ in SIZES), 0)
    for frame, faces in zip(frames, reference, strict=True):
        for face in faces:
            height = (face.box[3] - face.box[1]) * frame.header.geometry.scale_y
            if face.score >= SURE:
                counts[next(name for name, low, high in SIZES if low <= height < high)] += 1
    telling = moves(reference, reference).telling
    found = []
    if telling < TELLING:
        found.append(f"{telling:.0f} boxes with scores near {SURE:g} ({TELLING:.0f} are wanted)")
    for name, low, high in SIZES:
        if counts[name] < OF_A_SIZE:
            size = f"under {high:g}" if low == 0 else f"{low:g} to {high:g}" if high < math.inf else f"{low:g} or more"
            found.append(f"{counts[name]} faces {size} px high in the model's picture ({OF_A_SIZE} are wanted)")
    return tuple(found)
