"""Each head gives back the faces that were encoded into its raw outputs, by formulas inverted here by hand."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facedetd.inference.heads import match_head
from facedetd.inference.heads.centerface import CenterFaceHead
from facedetd.inference.heads.yolov5face import ANCHORS, YoloV5FaceFlatHead, YoloV5FaceRawHead
from facedetd.inference.heads.yunet import YuNetHead
from facedetd.inference.types import ModelError, ModelFacesBatch, faces_in_source
from facedetd.ring.header import Geometry

WIDTH, HEIGHT, BATCH = 320, 192, 3


@dataclass(frozen=True)
class Truth:
    picture: int
    box: tuple[float, float, float, float]
    score: float
    points: tuple[tuple[float, float], ...]


@st.composite
def truths(draw):
    """Faces of 20-60 px, one a tile of 64 px, so that none overlaps another."""
    tiles = [(b, x, y) for b in range(BATCH) for y in range(HEIGHT // 64) for x in range(WIDTH // 64)]
    found = []
    for picture, column, row in draw(st.lists(st.sampled_from(tiles), unique=True, max_size=8)):
        w, h = draw(st.floats(20, 60)), draw(st.floats(20, 60))
        x = column * 64 + draw(st.floats(0, 64 - w))
        y = row * 64 + draw(st.floats(0, 64 - h))
        points = tuple((x + draw(st.floats(0, 1)) * w, y + draw(st.floats(0, 1)) * h) for _ in range(5))
        found.append(Truth(picture, (x, y, x + w, y + h), draw(st.floats(0.55, 0.99)), points))
    return found


def middle(t):
    return (t.box[0] + t.box[2]) / 2, (t.box[1] + t.box[3]) / 2, t.box[2] - t.box[0], t.box[3] - t.box[1]


def logit(p):
    return math.log(p / (1 - p))


def blank_centerface():
    shape = (HEIGHT // 4, WIDTH // 4)
    return {n: np.zeros((BATCH, c, *shape), np.float32) for n, c in (("hm", 1), ("wh", 2), ("off", 2), ("lm", 10))}


def encode_centerface(found):
    out = blank_centerface()
    for t in found:
        x, y, w, h = middle(t)
        cx, cy = int(x // 4), int(y // 4)
        at = (t.picture, slice(None), cy, cx)
        out["hm"][at] = t.score
        out["wh"][at] = [math.log(h / 4), math.log(w / 4)]
        out["off"][at] = [y / 4 - cy - 0.5, x / 4 - cx - 0.5]
        out["lm"][at] = [v for px, py in t.points for v in ((py - t.box[1]) / h, (px - t.box[0]) / w)]
    return out


def blank_yunet():
    kinds = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
    return {
        f"{k}_{s}": np.zeros((BATCH, (HEIGHT // s) * (WIDTH // s), c), np.float32)
        for k, c in kinds.items()
        for s in (8, 16, 32)
    }


def encode_yunet(found):
    out = blank_yunet()
    for n, t in enumerate(found):
        s = (8, 16, 32)[n % 3]
        x, y, w, h = middle(t)
        cx, cy = int(x // s), int(y // s)
        at = (t.picture, cy * (WIDTH // s) + cx)
        out[f"cls_{s}"][at], out[f"obj_{s}"][at] = t.score**0.5, t.score**1.5  # their geometric mean is the score
        out[f"bbox_{s}"][at] = [x / s - cx, y / s - cy, math.log(w / s), math.log(h / s)]
        out[f"kps_{s}"][at] = [v for px, py in t.points for v in (px / s - cx, py / s - cy)]
    return out


def blank_raw():
    shapes = {f"p{s}": (BATCH, 3, HEIGHT // s, WIDTH // s, 16) for s in (8, 16, 32)}
    return {n: np.full(shape, -20, np.float32) for n, shape in shapes.items()}


def encode_raw(found):
    out = blank_raw()
    for t in found:
        x, y, w, h = middle(t)
        # the one anchor among those that can reach this size (factor below 4) that fits best
        level, anchor = min(
            ((i, j) for i in range(3) for j in range(3)),
            key=lambda ij: max(abs(math.log(w / ANCHORS[ij][0])), abs(math.log(h / ANCHORS[ij][1]))),
        )
        aw, ah = (float(v) for v in ANCHORS[level, anchor])
        s = (8, 16, 32)[level]
        cx, cy = min(int(x // s), WIDTH // s - 1), min(int(y // s), HEIGHT // s - 1)
        here = out[f"p{s}"][t.picture, anchor, cy, cx]
        here[:4] = [
            logit((x / s - cx + 0.5) / 2),
            logit((y / s - cy + 0.5) / 2),
            logit(math.sqrt(w / aw) / 2),
            logit(math.sqrt(h / ah) / 2),
        ]
        here[4], here[15] = logit(t.score**0.25), logit(t.score**0.75)
        here[5:15] = [v for px, py in t.points for v in ((px - cx * s) / aw, (py - cy * s) / ah)]
    return out


def blank_flat():
    cells = sum(3 * (HEIGHT // s) * (WIDTH // s) for s in (8, 16, 32))
    return {"output": np.zeros((BATCH, cells, 16), np.float32)}


def encode_flat(found):
    out = blank_flat()
    for n, t in enumerate(found):
        values = [*middle(t), t.score**0.5, *(v for p in t.points for v in p), t.score**0.5]
        out["output"][t.picture, n * 97] = values
    return out


HEADS = {
    "centerface": (CenterFaceHead("hm", "wh", "off", "lm"), encode_centerface, "rgb"),
    "yunet": (YuNetHead(), encode_yunet, "bgr"),
    "yolov5face": (YoloV5FaceRawHead(("p8", "p16", "p32")), encode_raw, "rgb"),
    "yolov5face-flat": (YoloV5FaceFlatHead("output"), encode_flat, "rgb"),
}


@pytest.mark.parametrize("name", HEADS)
@settings(max_examples=60, deadline=None)
@given(found=truths())
def test_decode_gives_back_what_was_encoded(name, found):
    head, encode, _ = HEADS[name]
    outputs = encode(found)
    got = head.decode(outputs, WIDTH, HEIGHT, 0.5)
    assert len(got) == BATCH
    for picture, faces in enumerate(got):
        want = [t for t in found if t.picture == picture]
        nearest = [int(np.abs(faces.boxes - t.box).sum(axis=1).argmin()) for t in want] if len(faces.boxes) else []
        assert sorted(nearest) == list(range(len(want))) == list(range(len(faces.boxes)))
        for i, t in zip(nearest, want, strict=True):
            np.testing.assert_allclose(faces.boxes[i], t.box, atol=0.05)
            np.testing.assert_allclose(faces.landmarks[i], t.points, atol=0.05)
            assert faces.scores[i] == pytest.approx(t.score, abs=1e-3)
        assert np.all(np.diff(faces.scores) <= 0)


@pytest.mark.parametrize("name", HEADS)
def test_the_threshold_is_on_the_final_score(name):
    head, encode, _ = HEADS[name]
    box = (100.0, 70.0, 140.0, 120.0)
    outputs = encode([Truth(1, box, 0.7, ((110.0, 80.0),) * 5)])
    assert [len(f.scores) for f in head.decode(outputs, WIDTH, HEIGHT, 0.69)] == [0, 1, 0]
    assert [len(f.scores) for f in head.decode(outputs, WIDTH, HEIGHT, 0.71)] == [0, 0, 0]


@pytest.mark.parametrize("name", HEADS)
def test_overlapping_candidates_leave_the_best(name):
    head, encode, _ = HEADS[name]
    near = [Truth(0, (100.0 + d, 70.0, 150.0 + d, 120.0), s, ((110.0, 80.0),) * 5) for d, s in ((0.0, 0.6), (9.0, 0.9))]
    first, *_ = head.decode(encode(near), WIDTH, HEIGHT, 0.5)
    assert first.scores == pytest.approx([0.9], abs=1e-3)
    assert first.boxes[0] == pytest.approx([109, 70, 159, 120], abs=0.05)


@pytest.mark.parametrize("name", HEADS)
def test_a_run_is_matched_to_its_head(name):
    head, encode, channels = HEADS[name]
    got = match_head(encode([]), WIDTH, HEIGHT)
    assert got == head
    assert (got.name, got.input.channels) == (name, channels)


def test_raw_levels_may_come_in_any_order():
    outputs = dict(reversed(encode_raw([]).items()))
    assert match_head(outputs, WIDTH, HEIGHT) == YoloV5FaceRawHead(("p8", "p16", "p32"))


def test_a_model_that_overflows_gives_no_face():
    outputs = encode_centerface([])
    outputs["hm"][:, 0, 3, 3] = 0.9
    outputs["wh"][:, :, 3, 3] = 1e4
    with np.errstate(all="raise"):
        found = CenterFaceHead("hm", "wh", "off", "lm").decode(outputs, WIDTH, HEIGHT, 0.5)
    assert [len(f.scores) for f in found] == [0] * BATCH


@pytest.mark.parametrize("min_score", [0.0, 1.0])
@pytest.mark.parametrize("name", HEADS)
def test_extreme_thresholds_are_fine(name, min_score):
    head, encode, _ = HEADS[name]
    assert len(head.decode(encode([]), WIDTH, HEIGHT, min_score)) == BATCH


@pytest.mark.parametrize(
    "outputs",
    [
        {"scores": np.zeros((1, 4420, 2), np.float32), "boxes": np.zeros((1, 4420, 4), np.float32)},
        {**encode_raw([]), "p64": np.zeros((BATCH, 3, 3, 5, 16), np.float32)},  # a P6 model
        {"output": encode_flat([])["output"] - 0.5},  # not decoded: scores outside 0-1
        {n: v for n, v in encode_yunet([]).items() if n != "kps_32"},
        {n: v[:, :, ::2] for n, v in encode_centerface([]).items()},
    ],
)
def test_what_no_head_knows_is_refused_with_what_was_found(outputs):
    with pytest.raises(ModelError) as caught:
        match_head(outputs, WIDTH, HEIGHT)
    for name, output in outputs.items():
        assert f"{name} {list(output.shape)}" in str(caught.value)
    assert "Supported: centerface: four outputs" in str(caught.value)


def test_what_lies_in_the_padding_only_is_no_face():
    letterboxed = Geometry(640, 360, 64, 36, 0, 14)
    boxes = np.array([[5, 2, 15, 12], [5, 10, 15, 30], [-9, 20, 0, 30]], np.float32)
    found = ModelFacesBatch(boxes, np.full(3, 0.9, np.float32), np.full((3, 5, 2), 20, np.float32))
    (face,) = faces_in_source(found, letterboxed)
    assert face.box == (50, 0, 150, 160)


def test_landmarks_that_overflow_in_source_pixels_cost_their_face_only():
    boxes = np.array([[5, 20, 15, 30], [25, 20, 35, 30]], np.float32)
    marks = np.full((2, 5, 2), 20, np.float32)
    marks[0, 0, 0] = 3e38
    found = ModelFacesBatch(boxes, np.full(2, 0.9, np.float32), marks)
    (face,) = faces_in_source(found, Geometry(640, 360, 64, 36, 0, 14))
    assert face.box[0] == 250


def test_faces_without_landmarks_are_mapped_too():
    found = ModelFacesBatch(
        np.array([[5, 20, 15, 30]], np.float32), np.ones(1, np.float32), np.empty((1, 0, 2), np.float32)
    )
    (face,) = faces_in_source(found, Geometry(640, 360, 64, 36, 0, 14))
    assert face.landmarks == ()
