"""Suppression against a naive reference."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from facedetd.inference.heads.nms import MAX_CANDIDATES, faces_of_batch, nms


def naive_iou(a, b):
    w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return w * h / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h)


def naive_nms(boxes, scores, threshold):
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
        if all(naive_iou(boxes[i], boxes[k]) <= threshold for k in kept):
            kept.append(i)
    return kept


# Small whole numbers, so that equal scores, equal boxes and boxes that only touch are common.
boxes_scores = st.lists(
    st.tuples(st.integers(-5, 30), st.integers(-5, 30), st.integers(1, 15), st.integers(1, 15), st.integers(1, 10)),
    max_size=40,
)


@settings(max_examples=400, deadline=None)
# thresholds no ratio of such small whole numbers can equal, so that rounding can't decide
@given(found=boxes_scores, threshold=st.sampled_from([0.30001, 0.50001, 0.70001, 1e-6]))
def test_same_as_the_naive_one(found, threshold):
    boxes = np.array([(x, y, x + w, y + h) for x, y, w, h, _ in found], np.float32).reshape(-1, 4)
    scores = np.array([s / 10 for *_, s in found], np.float32)
    assert nms(boxes, scores, threshold).tolist() == naive_nms(boxes.tolist(), scores.tolist(), threshold)


def test_only_the_best_candidates_are_looked_at():
    n = MAX_CANDIDATES + 50
    x = np.arange(n, dtype=np.float32) * 10
    boxes = np.stack([x, x * 0, x + 5, x * 0 + 5], axis=1)
    scores = np.linspace(0.1, 1, n).astype(np.float32)
    assert nms(boxes, scores, 0.5).tolist() == list(range(n - 1, 49, -1))


def test_candidates_go_to_their_pictures_and_bad_ones_go():
    box = [0, 0, 4, 4]
    boxes = np.array([box, box, box, [0, 0, np.inf, 4], [0, 0, 0, 4], [10, 0, 14, 4]], np.float32)
    scores = np.array([0.5, 0.9, 0.7, 0.8, 0.8, 0.6], np.float32)
    marks = np.zeros((6, 5, 2), np.float32)
    found = faces_of_batch(np.array([0, 0, 2, 0, 0, 0]), boxes, scores, marks, 3, 0.5)
    assert [f.scores.tolist() for f in found] == [[np.float32(0.9), np.float32(0.6)], [], [np.float32(0.7)]]
    assert found[0].boxes.tolist() == [box, [10, 0, 14, 4]]
    assert [(f.boxes.shape, f.landmarks.shape) for f in found] == [
        ((2, 4), (2, 5, 2)),
        ((0, 4), (0, 5, 2)),
        ((1, 4), (1, 5, 2)),
    ]
    assert all(f.boxes.dtype == f.scores.dtype == f.landmarks.dtype == np.float32 for f in found)
