from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from facedetd.capture.geometry import letterbox

MODEL = st.tuples(st.integers(2, 60).map(lambda i: 32 * i), st.integers(2, 60).map(lambda i: 32 * i))


@pytest.mark.parametrize(
    "source, sar, model, expected",
    [
        ((1920, 1080), None, (640, 384), (640, 360, 0, 12)),
        ((1280, 720), Fraction(1), (640, 384), (640, 360, 0, 12)),
        ((640, 480), None, (640, 384), (512, 384, 64, 0)),
        ((1080, 1920), None, (640, 384), (216, 384, 212, 0)),
        ((720, 576), Fraction(64, 45), (640, 384), (640, 360, 0, 12)),  # PAL widescreen
        ((720, 576), Fraction(0), (640, 384), (480, 384, 80, 0)),
        ((320, 180), None, (640, 384), (640, 360, 0, 12)),
        ((641, 361), None, (640, 384), (640, 360, 0, 12)),
    ],
)
def test_known_cases(source, sar, model, expected):
    g = letterbox(*source, sar, *model)
    assert (g.width, g.height, g.pad_x, g.pad_y) == expected
    assert (g.source_width, g.source_height) == source


@given(st.integers(1, 8192), st.integers(1, 8192), st.fractions(Fraction(1, 4), 4, max_denominator=200), MODEL)
def test_even_inside_and_in_shape(width, height, sar, model):
    g = letterbox(width, height, sar, *model)
    assert all(v % 2 == 0 for v in (g.width, g.height, g.pad_x, g.pad_y))
    assert g.width >= 2 and g.height >= 2
    assert 0 <= g.pad_x and g.pad_x + g.width <= model[0]
    assert 0 <= g.pad_y and g.pad_y + g.height <= model[1]
    assert abs((model[0] - g.width) - 2 * g.pad_x) <= 2 and abs((model[1] - g.height) - 2 * g.pad_y) <= 2
    exact = min(model[0] / (width * sar), model[1] / height)
    assert abs(g.width - width * sar * exact) <= 2 and abs(g.height - height * exact) <= 2
    assert g.width == model[0] or g.height == model[1]


@given(st.integers(16, 4096), st.integers(16, 4096), MODEL, st.floats(0, 1), st.floats(0, 1))
def test_there_and_back_within_a_pixel(width, height, model, fx, fy):
    assume(1 / 16 <= width / height <= 16)
    g = letterbox(width, height, None, *model)
    x, y = fx * width, fy * height
    mx, my = x * g.scale_x + g.pad_x, y * g.scale_y + g.pad_y
    assert 0 <= mx <= model[0] + 1e-9 and 0 <= my <= model[1] + 1e-9  # 35 * (928 / 35) is 928.0000000000001
    assert abs((mx - g.pad_x) / g.scale_x - x) < 1 and abs((my - g.pad_y) / g.scale_y - y) < 1
