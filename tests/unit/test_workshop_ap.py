"""WIDER FACE's protocol by hand, and against a calculation that shares nothing with it but the rules."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facedetd.workshop.ap import FALSE, IGNORED, curve, normalised, outcomes, overlaps


def ap_of(pictures):
    """Of pictures as (boxes x1 y1 x2 y2, scores, truth x y w h, counted)."""
    pictures = [
        (np.array(b, float).reshape(-1, 4), np.array(s, float), np.array(t, float).reshape(-1, 4), np.array(c, bool))
        for b, s, t, c in pictures
    ]
    stretched = normalised([scores for _, scores, _, _ in pictures])
    scores, results = [], []
    for (boxes, raw, truth, counted), own in zip(pictures, stretched, strict=True):
        if len(truth):
            near = overlaps(boxes, raw, truth)
            scores.append(own[near.order])
            results.append(outcomes(near, counted))
    return curve(scores, results, sum(int(counted.sum()) for *_, counted in pictures))


def naive_ap(pictures):
    """The exact curve: walk down the list of all detections, in fractions; one point wherever the score changes."""
    detections = []
    for p, (boxes, scores, truth, _) in enumerate(pictures):
        if truth:
            detections += [(-s, p, i, box) for i, (box, s) in enumerate(zip(boxes, scores, strict=True))]
    detections.sort(key=lambda d: d[:3])
    faces = sum(sum(counted) for *_, counted in pictures)
    taken, proposals, points = set(), 0, []
    for at, (score, p, _, box) in enumerate(detections):
        truth, counted = pictures[p][2], pictures[p][3]
        best, best_iou = None, Fraction(0)
        for j, (x, y, w, h) in enumerate(truth):
            across = min(box[2], x + w) - max(box[0], x) + 1
            down = min(box[3], y + h) - max(box[1], y) + 1
            shared = max(0, across) * max(0, down)
            areas = (box[2] - box[0] + 1) * (box[3] - box[1] + 1) + (w + 1) * (h + 1)
            iou = Fraction(shared) / Fraction(areas - shared)
            if iou > best_iou:
                best, best_iou = j, iou
        matches = best_iou >= Fraction(1, 2)
        if not matches or counted[best]:
            proposals += 1
            if matches:
                taken.add((p, best))
        if at + 1 == len(detections) or detections[at + 1][0] != score:
            points.append((Fraction(len(taken), faces), Fraction(len(taken), proposals) if proposals else Fraction(0)))
    area, best_yet = Fraction(0), Fraction(0)
    for k in range(len(points) - 1, -1, -1):
        best_yet = max(best_yet, points[k][1])
        area += (points[k][0] - (points[k - 1][0] if k else 0)) * best_yet
    return float(area)


BOX = (10, 10, 20, 20)
A, B = (10, 10, 10, 10), (100, 10, 10, 10)  # x y w h
FAR = (200, 200, 210, 210)


def hit(box, by=0):
    x, y, w, h = box
    return (x + by, y, x + by + w, y + h)


@pytest.mark.parametrize(
    ("pictures", "ap"),
    [
        # all found, and what is wrong comes last
        ([([hit(A), FAR], [0.9, 0.3], [A], [1])], 1.0),
        # hit, false, hit: precision 1 up to recall 0.5, 2/3 up to 1
        ([([hit(A), FAR, hit(B)], [0.9, 0.8, 0.7], [A, B], [1, 1])], 0.5 + 0.5 * 2 / 3),
        # the same over two pictures: scores are compared over the whole set
        ([([hit(A), FAR], [0.9, 0.8], [A], [1]), ([hit(B)], [0.7], [B], [1])], 0.5 + 0.5 * 2 / 3),
        # false first: the envelope carries 2/3 back to recall 0.5
        ([([FAR, hit(A), hit(B)], [0.9, 0.8, 0.7], [A, B], [1, 1])], 2 / 3),
        # a box that isn't counted: no hit, and nothing false
        ([([hit(A), hit(B)], [0.9, 0.8], [A, B], [0, 1])], 1.0),
        # a second detection of a found face is false, before the other face is found
        ([([hit(A), hit(A, 1), hit(B)], [0.9, 0.8, 0.7], [A, B], [1, 1])], 0.5 + 0.5 * 2 / 3),
        # one of two found; what isn't reached adds nothing
        ([([hit(A), FAR], [0.9, 0.1], [A, B], [1, 1])], 0.5),
        # a picture without any box is left out; its faces that count are counted even without a detection
        ([([hit(A)], [0.8], [A], [1]), ([FAR], [0.9], [], []), ([], [], [B], [1])], 0.5),
        # a picture whose boxes don't count isn't: what is found beside them is false
        ([([hit(A)], [0.8], [A], [1]), ([FAR], [0.9], [B], [0])], 0.5),
        # all scores equal: they are 1, not not-a-number
        ([([hit(A)], [0.5], [A], [1])], 1.0),
        ([([], [], [A], [1])], 0.0),
    ],
)
def test_by_hand(pictures, ap):
    assert ap_of(pictures).ap == pytest.approx(ap, abs=1e-12)
    assert naive_ap(pictures) == pytest.approx(ap, abs=1e-12)


def test_nothing_that_counts_has_no_ap():
    assert ap_of([([hit(A)], [0.5], [A], [0])]).ap is None


def test_boxes_are_a_pixel_wider_than_they_say():
    truth = np.array([[0.0, 0, 9, 9]])  # 10 wide here: moved by 3.2 it shares 6.8 of 13.2, else 5.8 of 12.2
    near = overlaps(np.array([[3.2, 0, 12.2, 9]]), np.array([1.0]), truth)
    assert near.iou[0] == pytest.approx(6.8 / 13.2)
    assert list(outcomes(near, np.array([True]))) == [0]


def test_a_detection_belongs_to_its_nearest_box_only():
    truth = np.array([[0.0, 0, 20, 20], [4, 0, 20, 20]])
    boxes = np.array([[0.0, 0, 20, 20], [1, 0, 21, 20], [30, 30, 40, 40]])  # the second overlaps both by over a half
    near = overlaps(boxes, np.array([0.9, 0.8, 0.7]), truth)
    assert list(near.nearest[:2]) == [0, 0] and near.iou[1] > 0.5
    assert list(outcomes(near, np.array([True, True]))) == [0, FALSE, FALSE]
    assert list(outcomes(near, np.array([False, True]))) == [IGNORED, IGNORED, FALSE]


def test_equal_scores_go_in_the_order_given():
    boxes = np.array([hit(A, 1), hit(A), hit(A, 2)], float)
    near = overlaps(boxes, np.array([0.5, 0.5, 0.6]), np.array([A], float))
    assert list(near.order) == [2, 0, 1]
    assert list(outcomes(near, np.array([True]))) == [0, FALSE, FALSE]


def test_scores_are_stretched_over_the_whole_set():
    found = normalised([np.array([0.2, 0.4]), np.array([]), np.array([0.6])])
    assert [list(f) for f in found] == [pytest.approx([0, 0.5]), [], pytest.approx([1])]
    assert normalised([]) == []


sides = st.integers(2, 12)
truths = st.lists(st.tuples(st.integers(0, 16), st.integers(0, 16), sides, sides), max_size=5)


@st.composite
def sets(draw, score):
    """Pictures on a small grid, so that boxes overlap and scores repeat; one picture has the lowest and the highest
    score, so that stretching changes nothing."""
    pictures = [([hit(A), FAR], [1.0, 0.0], [A], [True])]
    for truth in draw(st.lists(truths, min_size=1, max_size=4)):
        counted = draw(st.lists(st.booleans(), min_size=len(truth), max_size=len(truth)))
        boxes = []
        for _ in range(draw(st.integers(0, 8))):
            if truth and draw(st.integers(0, 4)):
                x, y, w, h = draw(st.sampled_from(truth))
                x, y = x + draw(st.integers(-3, 3)), y + draw(st.integers(-3, 3))
            else:
                x, y, w, h = draw(st.tuples(st.integers(0, 20), st.integers(0, 20), sides, sides))
            boxes.append((x, y, x + w, y + h))
        pictures.append((boxes, [draw(score) for _ in boxes], truth, counted))
    return pictures


@given(sets(st.integers(1, 998).map(lambda k: (k + 0.4) / 1000)))
@settings(max_examples=200, deadline=None)
def test_agrees_with_the_exact_curve_where_no_two_scores_share_a_threshold(pictures):
    assert ap_of(pictures).ap == pytest.approx(naive_ap(pictures), abs=1e-9)


@given(sets(st.floats(0.001, 0.999)))
@settings(max_examples=100, deadline=None)
def test_a_thousand_thresholds_never_flatter(pictures):
    found = ap_of(pictures)
    assert found.ap <= naive_ap(pictures) + 1e-9
    assert (np.diff(found.recall) >= 0).all() and 0 <= found.ap <= 1


def test_a_thousand_thresholds_lose_little_on_many_detections():
    rng = np.random.default_rng(7)
    pictures = []
    for _ in range(40):
        truth = [tuple(int(v) for v in (*rng.integers(0, 400, 2), *rng.integers(8, 60, 2))) for _ in range(12)]
        boxes, scores = [], []
        for x, y, w, h in truth:
            for _ in range(rng.integers(0, 3)):
                dx, dy = (int(v) for v in rng.integers(-6, 7, 2))
                boxes.append((x + dx, y + dy, x + dx + w, y + dy + h))
                scores.append(float(rng.beta(4, 2)))
        for _ in range(10):
            x, y = (int(v) for v in rng.integers(0, 400, 2))
            boxes.append((x, y, x + 30, y + 30))
            scores.append(float(rng.beta(2, 4)))
        pictures.append((boxes, scores, truth, [bool(v) for v in rng.random(12) < 0.8]))
    exact = naive_ap(pictures)
    assert 0.3 < exact < 0.9
    assert exact - 2e-3 < ap_of(pictures).ap <= exact
