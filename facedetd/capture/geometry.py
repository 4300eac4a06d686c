"""Where a source picture lies inside the model's: letterboxed, as displayed, on even pixels."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

from facedetd.ring.header import Geometry

SQUARE = Fraction(1)
_SAR_LIMIT = 16  # beyond this a sample aspect ratio is taken for garbage


@lru_cache(maxsize=256)  # a stream asks the same for each sampled frame, and Fractions take longer than all else of it
def letterbox(
    source_width: int, source_height: int, sample_aspect: Fraction | None, model_width: int, model_height: int
) -> Geometry:
    """Fit the source (px, pixels ``sample_aspect`` times as wide as high; None or absurd: square) into the model's
    picture (px, even sides), centred, keeping its displayed shape.

    All sides and pads are even, since NV12 has one chroma sample for two by two pixels.
    """
    sar = sample_aspect or SQUARE
    if not Fraction(1, _SAR_LIMIT) <= sar <= _SAR_LIMIT:
        sar = SQUARE
    shown_width = source_width * sar
    scale = min(model_width / shown_width, Fraction(model_height, source_height))
    width = _even(shown_width * scale, model_width)
    height = _even(source_height * scale, model_height)
    return Geometry(
        source_width, source_height, width, height, (model_width - width) // 4 * 2, (model_height - height) // 4 * 2
    )


def _even(length: Fraction, limit: int) -> int:
    return max(2, min(limit, 2 * round(length / 2)))
