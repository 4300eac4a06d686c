"""Regions of interest: which faces of a picture count."""

from __future__ import annotations

from collections.abc import Sequence

from facedetd.types import Face, Point, Polygon

BORDER_PX = 1e-3
"""A centre this near to an edge lies on it. Boxes come as float32, whose steps are finer up to 8192 px."""


def filter_rois(faces: Sequence[Face], rois: Sequence[Polygon], width: int, height: int) -> tuple[Face, ...]:
    """The faces whose box centre lies in any polygon, in their order; all faces when there is no polygon.

    ``rois`` are in fractions (0-1) of the source picture, ``width`` x ``height`` its size in px, as are the boxes.
    Inside is by the even-odd rule; borders are inside.
    """
    if not rois:
        return tuple(faces)
    polygons = [tuple((x * width, y * height) for x, y in roi) for roi in rois]
    return tuple(face for face in faces if any(contains(polygon, _centre(face)) for polygon in polygons))


def contains(polygon: Polygon, point: Point) -> bool:
    """Whether a point (px) lies in or on a polygon (px), by the even-odd rule."""
    px, py = point
    inside = False
    start = polygon[-1]
    for end in polygon:
        if _distance2(start, end, point) <= BORDER_PX * BORDER_PX:
            return True
        (x1, y1), (x2, y2) = start, end
        # Half-open in y, so that a ray through a corner counts the corner once.
        if (y1 > py) != (y2 > py) and px < x1 + (py - y1) * (x2 - x1) / (y2 - y1):
            inside = not inside
        start = end
    return inside


def _distance2(start: Point, end: Point, point: Point) -> float:
    """Square of the distance from a point to a line segment."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    px, py = point[0] - start[0], point[1] - start[1]
    length2 = dx * dx + dy * dy
    along = min(1.0, max(0.0, (px * dx + py * dy) / length2)) if length2 > 0 else 0.0
    off_x, off_y = px - along * dx, py - along * dy
    return off_x * off_x + off_y * off_y


def _centre(face: Face) -> Point:
    x1, y1, x2, y2 = face.box
    return (x1 + x2) / 2, (y1 + y2) / 2
