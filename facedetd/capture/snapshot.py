"""A picture with its faces drawn, as a JPEG."""

from __future__ import annotations

from collections.abc import Sequence

import cv2

from facedetd.types import ByteArray, Face

_BOX = (60, 220, 60)  # BGR
_MARK = (40, 170, 255)


class SnapshotError(Exception):
    """The picture can't be encoded."""


def draw_and_encode(bgr: ByteArray, faces: Sequence[Face], quality: int = 90) -> bytes:
    """JPEG of ``bgr``, (height, width, 3) uint8, with boxes, scores and landmarks; ``quality`` is 1-100.

    The picture itself stays as it is. Raises SnapshotError.
    """
    picture = draw(bgr, faces) if faces else bgr
    try:
        done, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
    except cv2.error:
        done = False
    if not done:
        raise SnapshotError(f"a picture of {bgr.shape[1]}x{bgr.shape[0]} can't be encoded as JPEG")
    return bytes(jpeg)


def draw(bgr: ByteArray, faces: Sequence[Face]) -> ByteArray:
    """A copy of ``bgr``, (height, width, 3) uint8, with boxes, scores and landmarks."""
    picture = bgr.copy()
    width = max(1, round(max(bgr.shape[:2]) / 640))
    for face in faces:
        x1, y1, x2, y2 = (round(v) for v in face.box)
        cv2.rectangle(picture, (x1, y1), (x2, y2), _BOX, width)
        cv2.putText(
            picture, f"{face.score:.2f}", (x1, max(12 * width, y1 - 3 * width)),
            cv2.FONT_HERSHEY_SIMPLEX, 0.4 * width, _BOX, width, cv2.LINE_AA,
        )  # fmt: skip
        for x, y in face.landmarks:
            if not (0 <= x <= bgr.shape[1] and 0 <= y <= bgr.shape[0]):
                continue  # a model may put them anywhere, OpenCV takes no coordinates over 2^31
            cv2.circle(picture, (round(x), round(y)), 1 + width, _MARK, -1, cv2.LINE_AA)
    return picture
