"""How two models' boxes are matched."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facedetd.types import Face
from facedetd.workshop.matching import agreement, pairs


def face(x, y, side=10.0, score=0.9, shift=0.0):
    return Face((x, y, x + side, y + side), score, tuple((x + i + shift, y + i) for i in range(5)))


def test_pairs_are_one_for_one_and_the_closest_first():
    mine = [face(0, 0), face(2, 0)]
    assert pairs(mine, [face(2, 0), face(3, 0)], 0.5) == [(1, 0, 1.0), (0, 1, pytest.approx(70 / 130))]
    assert pairs(mine, [face(2, 0)], 0.5) == [(1, 0, 1.0)]
    assert pairs(mine, [face(2, 0), face(3, 0)], 0.6) == [(1, 0, 1.0)]
    assert pairs(mine, [], 0.5) == pairs([], mine, 0.5) == []


def test_agreement_by_hand():
    reference = [(face(0, 0), face(50, 0)), (face(0, 0),), ()]
    other = [(face(1, 0), face(100, 100)), (face(0, 0, shift=2.0),), (face(5, 5),)]
    found = agreement(reference, other, 0.7)
    assert (found.boxes, found.matched, found.extra) == (3, 2, 2)
    assert found.share == pytest.approx(2 / 3)
    assert found.mean_iou == pytest.approx((90 / 110 + 1) / 2)
    assert found.landmark_px == pytest.approx((1 + 2) / 2)  # all five moved by 1, by 2
    assert found.landmark_relative == pytest.approx(0.15)  # of boxes of 10 px
    assert agreement(reference, other, 0.9).matched == 1


def test_nothing_to_compare():
    found = agreement([()], [()], 0.7)
    assert (found.share, found.mean_iou, found.landmark_px, found.landmark_relative_p95) == (None, None, None, None)
    bare = [(Face((0, 0, 10, 10), 0.9),)]
    found = agreement(bare, bare, 0.7)
    assert (found.matched, found.mean_iou, found.landmark_px) == (1, 1.0, None)


faces = st.lists(
    st.builds(face, st.integers(0, 30), st.integers(0, 30), st.integers(4, 20).map(float)), max_size=8
).map(tuple)


@given(faces, faces, st.floats(0.1, 1.0))
def test_no_box_is_used_twice_and_none_that_fits_is_left(mine, theirs, least):
    found = pairs(mine, theirs, least)
    for side in (0, 1):
        assert len({pair[side] for pair in found}) == len(found)
    assert all(iou >= least for *_, iou in found)
    left = [f for i, f in enumerate(mine) if i not in {pair[0] for pair in found}]
    right = [f for j, f in enumerate(theirs) if j not in {pair[1] for pair in found}]
    assert pairs(left, right, least) == []


@given(faces)
def test_a_model_agrees_with_itself(mine):
    distinct = {f.box: f for f in mine}
    same = tuple(distinct.values())
    found = agreement([same], [same], 1.0)
    assert (found.matched, found.extra) == (len(same), 0)
    assert found.landmark_px in (None, 0.0)
