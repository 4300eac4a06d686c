"""Pictures from files: read, made into the daemon's frames, drawn on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from av import VideoFrame

from facedetd.capture.geometry import letterbox
from facedetd.capture.scaler import Scaler
from facedetd.capture.snapshot import draw
from facedetd.capture.types import Slot
from facedetd.inference.types import BatchFrame
from facedetd.ring.header import Geometry, SlotHeader
from facedetd.types import MAX_SIDE, ByteArray, Face

MAX_FILE_BYTES = 1 << 28
MAX_PIXELS = 1 << 27
_CELL = (640, 480)
_SHEET = 4096  # px, the contact sheet's longest side, about


class PictureError(Exception):
    """A picture can't be read or written; the message names the file and says why."""


def read_picture(path: Path, size: tuple[int, int] | None = None, *, upright: bool = False) -> ByteArray:
    """A picture as (height, width, 3) uint8 BGR, resized to ``size`` (width, height; linear) where that is another.

    ``upright`` heeds the orientation a camera noted in it; labels are of pictures as they are stored. Raises
    PictureError.
    """
    if size is not None and size[0] * size[1] > MAX_PIXELS:
        raise PictureError(f"{path}: wanted at {size[0]}x{size[1]}; at most {MAX_PIXELS} pixels are allowed")
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise PictureError(f"{path}: {path.stat().st_size} bytes; at most {MAX_FILE_BYTES} are allowed")
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise PictureError(f"{path}: {error.strerror or error}") from None
    flags = cv2.IMREAD_COLOR if upright else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        found = cv2.imdecode(data, flags) if len(data) else None
    except cv2.error:  # sizes beyond OpenCV's own limits
        found = None
    if found is None:
        raise PictureError(f"{path}: not a picture that can be read ({len(data)} bytes); PNG and JPEG can")
    height, width = found.shape[:2]
    if max(height, width) > MAX_SIDE or height * width > MAX_PIXELS:
        raise PictureError(f"{path}: is {width}x{height}; at most {MAX_PIXELS} pixels are allowed")
    picture: ByteArray = np.asarray(found, np.uint8)
    if size is not None and size != (width, height):
        picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR), np.uint8)
    return picture


def nv12_frame(bgr: ByteArray, width: int, height: int) -> BatchFrame:
    """A frame of width x height px (even), as a decoder group makes it: letterboxed, NV12, by the same code."""
    slot = Slot(0, np.empty((height * 3 // 2, width), np.uint8))
    scaled = Scaler().scale(VideoFrame.from_ndarray(np.ascontiguousarray(bgr), "bgr24"), None, slot)
    return BatchFrame(_header(scaled.geometry, scaled.matrix, scaled.range), slot.picture)


def bgr_frame(bgr: ByteArray, width: int, height: int) -> BatchFrame:
    """The same place in the model's picture, but as BGR, (height, width, 3): for a PlainEngine, to see what NV12
    costs."""
    geometry = letterbox(bgr.shape[1], bgr.shape[0], None, width, height)
    shrinks = geometry.width < bgr.shape[1]
    small = cv2.resize(
        bgr, (geometry.width, geometry.height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    picture = np.zeros((height, width, 3), np.uint8)
    picture[geometry.pad_y :, geometry.pad_x :][: geometry.height, : geometry.width] = small
    return BatchFrame(_header(geometry), picture)


def _header(geometry: Geometry, *colours: object) -> SlotHeader:
    return SlotHeader("workshop", 0, 0, 0, 0, 0, 0, 0, 0, 0, geometry, *colours)  # type: ignore[arg-type]


def contact_sheet(pictures: Sequence[ByteArray], faces: Sequence[Sequence[Face]]) -> ByteArray:
    """Pictures with their faces drawn, BGR: one at its own size, several side by side in cells on grey."""
    drawn = [draw(picture, found) for picture, found in zip(pictures, faces, strict=True)]
    if len(drawn) == 1:
        return drawn[0]
    columns = math.ceil(math.sqrt(len(drawn)))
    rows = math.ceil(len(drawn) / columns)
    shrink = min(1.0, _SHEET / (columns * _CELL[0]))
    width, height = (max(16, int(side * shrink)) for side in _CELL)
    sheet = np.full((rows * height, columns * width, 3), 64, np.uint8)
    for i, picture in enumerate(drawn):
        factor = min(width / picture.shape[1], height / picture.shape[0], 1.0)
        size = [max(1, int(side * factor)) for side in (picture.shape[1], picture.shape[0])]
        top = i // columns * height + (height - size[1]) // 2
        left = i % columns * width + (width - size[0]) // 2
        sheet[top : top + size[1], left : left + size[0]] = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return sheet


def write_picture(path: Path, bgr: ByteArray) -> None:
    """As the suffix says (.jpg, .png, …). Raises PictureError; a file that can't be written whole isn't left."""
    try:
        done, data = cv2.imencode(path.suffix or ".none", bgr)
    except cv2.error:
        done = False
    if not done:
        raise PictureError(f"{path}: can't be written as {path.suffix or 'a file without suffix'}; .jpg and .png can")
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(data.tobytes())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise PictureError(f"{path}: {error.strerror or error}") from None
