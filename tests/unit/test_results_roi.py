"""Regions of interest: even-odd, borders in, against an oracle that counts the other way."""

import math

from hypothesis import assume, given
from hypothesis import strategies as st

from facedetd.results.roi import BORDER_PX, contains, filter_rois
from facedetd.types import Face

W, H = 1280, 720
SQUARE = ((0.25, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75))
PENTAGRAM = tuple(
    (0.5 + 0.4 * math.sin(4 * math.pi * k / 5), 0.5 - 0.4 * math.cos(4 * math.pi * k / 5)) for k in range(5)
)
fractions = st.integers(0, 64).map(lambda n: n / 64)
polygons = st.lists(st.tuples(fractions, fractions), min_size=3, max_size=8, unique=True).map(tuple)


def face_at(x, y, size=20.0):
    return Face((x - size / 2, y - size / 2, x + size / 2, y + size / 2), 0.9)


def kept(polygon, x, y):
    return bool(filter_rois([face_at(x, y)], [polygon], W, H))


def edge_distance(polygon, x, y):
    best = math.inf
    for (ax, ay), (bx, by) in zip(polygon, (*polygon[1:], polygon[0]), strict=True):
        steps = max(abs(bx - ax), abs(by - ay), 1e-9)
        t = max(0.0, min(1.0, ((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / ((bx - ax) ** 2 + (by - ay) ** 2)))
        best = min(best, math.hypot(x - ax - t * (bx - ax), y - ay - t * (by - ay)), best)
        assert steps > 0
    return best


def odd_crossings_upward(polygon, x, y):
    """Even-odd with a ray along y instead of x: must say the same away from the border."""
    crossings = 0
    for (ax, ay), (bx, by) in zip(polygon, (*polygon[1:], polygon[0]), strict=True):
        if (ax <= x) != (bx <= x) and ay + (x - ax) / (bx - ax) * (by - ay) < y:
            crossings += 1
    return crossings % 2 == 1


def test_no_polygon_keeps_all_and_order_is_kept():
    faces = [face_at(10, 10), face_at(640, 360), face_at(700, 300)]
    assert filter_rois(faces, [], W, H) == tuple(faces)
    assert filter_rois(faces, [SQUARE], W, H) == tuple(faces[1:])


def test_the_centre_decides_not_the_box():
    assert filter_rois([face_at(319, 360, 200)], [SQUARE], W, H) == ()
    assert len(filter_rois([face_at(321, 360, 2000)], [SQUARE], W, H)) == 1


def test_borders_and_corners_are_inside_on_every_side():
    for x, y in ((320, 180), (960, 180), (960, 540), (320, 540), (320, 360), (960, 360), (640, 180), (640, 540)):
        assert kept(SQUARE, x, y), (x, y)
    for x, y in ((319.9, 360), (960.1, 360), (640, 179.9), (640, 540.1)):
        assert not kept(SQUARE, x, y), (x, y)


def test_the_middle_of_a_pentagram_is_outside_and_its_points_inside():
    assert not kept(PENTAGRAM, 640, 360)
    assert kept(PENTAGRAM, 640, 0.17 * H)


def test_any_polygon_is_enough():
    left, right = ((0, 0), (0.3, 0), (0.3, 1), (0, 1)), ((0.7, 0), (1, 0), (1, 1), (0.7, 1))
    faces = [face_at(100, 100), face_at(640, 100), face_at(1200, 100)]
    assert filter_rois(faces, [left, right], W, H) == (faces[0], faces[2])


@given(polygons, st.floats(0, W), st.floats(0, H))
def test_agrees_with_an_oracle_away_from_the_border(polygon, x, y):
    pixels = tuple((px * W, py * H) for px, py in polygon)
    assume(edge_distance(pixels, x, y) > 2 * BORDER_PX)
    assert contains(pixels, (x, y)) == odd_crossings_upward(pixels, x, y)


@given(polygons, st.data(), st.floats(0, 1))
def test_every_point_of_an_edge_is_inside(polygon, data, along):
    corner = data.draw(st.integers(0, len(polygon) - 1))
    (ax, ay), (bx, by) = polygon[corner - 1], polygon[corner]
    assert kept(polygon, (ax + along * (bx - ax)) * W, (ay + along * (by - ay)) * H)


@given(polygons, st.floats(0, W), st.floats(0, H), st.integers(0, 7))
def test_where_a_polygon_begins_and_its_direction_do_not_matter(polygon, x, y, shift):
    pixels = tuple((px * W, py * H) for px, py in polygon)
    assume(abs(edge_distance(pixels, x, y) - BORDER_PX) > 1e-6)
    turned = pixels[shift % len(pixels) :] + pixels[: shift % len(pixels)]
    assert contains(pixels, (x, y)) == contains(turned, (x, y)) == contains(turned[::-1], (x, y))
