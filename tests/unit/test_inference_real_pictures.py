"""Heads on a real picture: scikit-image's astronaut, with whole models that are fetched or lent, never committed.

CenterFace is pulled once into FACEDETD_TEST_CACHE (default ~/.cache/facedetd-tests). Others are looked for in the
folder FACEDETD_TEST_MODELS; without it those tests are skipped.
"""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from model_kit import frame

from facedetd.inference.engines import detect_head, make_engine
from facedetd.inference.types import BatchFrame, faces_in_source
from facedetd.models import ModelError, ModelStore, pull
from facedetd.ring.header import Geometry, SlotHeader

# Read off the enlarged 512x512 picture by eye: hairline to chin, and the five points in the project's order.
FACE = (180, 72, 268, 178)
POINTS = ((202, 101), (246, 103), (224, 124), (204, 140), (248, 140))


@pytest.fixture(scope="module")
def astronaut():
    data = pytest.importorskip("skimage.data")
    return cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2BGR)


def centerface_path() -> Path:
    cache = os.environ.get("FACEDETD_TEST_CACHE") or Path.home() / ".cache" / "facedetd-tests"
    store = ModelStore(Path(cache) / "models")
    try:
        return store.get("centerface").path
    except ModelError:
        pass
    try:
        return pull("centerface", store).path
    except ModelError as error:
        if "can't fetch" not in str(error):
            raise
        pytest.skip(f"CenterFace can't be fetched here: {error}")


def lent(name: str) -> Path:
    folder = os.environ.get("FACEDETD_TEST_MODELS")
    if not folder or not (Path(folder) / name).is_file():
        pytest.skip(f"FACEDETD_TEST_MODELS names no folder with {name}")
    return Path(folder) / name


def nv12_of(picture: np.ndarray) -> np.ndarray:
    """BT.601, limited range."""
    height, width = picture.shape[:2]
    planes = cv2.cvtColor(picture, cv2.COLOR_BGR2YUV_I420)
    chroma = planes[height:].reshape(2, -1)
    return np.concatenate([planes[:height], chroma.T.reshape(height // 2, width)])


def letterboxed(picture: np.ndarray, width: int, height: int) -> BatchFrame:
    source_height, source_width = picture.shape[:2]
    scale = min(width / source_width, height / source_height)
    w, h = int(source_width * scale) // 2 * 2, int(source_height * scale) // 2 * 2
    x, y = (width - w) // 4 * 2, (height - h) // 4 * 2
    canvas = np.zeros((height, width, 3), np.uint8)
    canvas[y : y + h, x : x + w] = cv2.resize(picture, (w, h), interpolation=cv2.INTER_AREA)
    geometry = Geometry(source_width, source_height, w, h, x, y)
    return BatchFrame(SlotHeader("cam", 0, 0, 0, 0, 0, 0, 0, 0, 0, geometry), nv12_of(canvas))


def iou(a, b) -> float:
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inter = max(0, w) * max(0, h)
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


CASES = [
    ("centerface", None, 640, 384),
    ("yunet", "yunet_n_dynamic.onnx", 640, 384),
    ("yunet", "yunet_n_640_640.onnx", 640, 640),
    ("yolov5face", "yolov5n-0.5-face_deepcam_640x640.onnx", 640, 640),
    ("yolov5face", "yolov5n-0.5-face_dynbatch_640x640.onnx", 640, 640),
]


@pytest.mark.parametrize(("head_name", "file", "width", "height"), CASES)
def test_the_astronaut_is_found_once_with_landmarks_in_order(head_name, file, width, height, astronaut):
    path = lent(file) if file else centerface_path()
    head = detect_head(path, width, height)
    assert head.name == head_name
    engine = make_engine("onnxruntime", path, width, height, head.input, 2, 2)
    engine.load()
    mirrored = np.ascontiguousarray(astronaut[:, ::-1])
    pictures = [letterboxed(p, width, height) for p in (astronaut, mirrored)]
    found = head.decode(engine.infer(pictures), width, height, 0.5)
    engine.close()
    for faces, picture, mirror in zip(found, pictures, (False, True), strict=True):
        (face,) = faces_in_source(faces, picture.header.geometry)
        x1, y1, x2, y2 = face.box
        box = (512 - x2, y1, 512 - x1, y2) if mirror else face.box
        assert iou(box, FACE) > 0.6
        # in a mirror her right eye is a left one
        want = [(512 - POINTS[i][0], POINTS[i][1]) for i in (1, 0, 2, 4, 3)] if mirror else POINTS
        assert (
            np.abs(np.subtract(face.landmarks, want)).max() < 12
        )  # px; YuNet is off by 9 on a face this big, a swap would be 40


def test_grey_is_no_face():
    path = centerface_path()
    head = detect_head(path, 640, 384)
    engine = make_engine("onnxruntime", path, 640, 384, head.input, 2, 1)
    engine.load()
    grey = frame(np.full((576, 640), 128, np.uint8))
    assert len(head.decode(engine.infer([grey]), 640, 384, 0.5)[0].scores) == 0
