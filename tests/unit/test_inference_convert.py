"""NV12 to planar float, against a float64 reference written from the standards' own (forward) equations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from facedetd.inference.convert import Nv12Converter, coefficients
from facedetd.inference.types import InputSpec
from facedetd.ring.header import ColorMatrix, ColorRange

LUMA = {
    ColorMatrix.BT601: (0.299, 0.587, 0.114),
    ColorMatrix.BT709: (0.2126, 0.7152, 0.0722),
    ColorMatrix.BT2020: (0.2627, 0.6780, 0.0593),
}


def forward(matrix: ColorMatrix) -> np.ndarray:
    """R'G'B' (0-1) to Y' (0-1), Cb, Cr (-0.5-0.5): BT.601-7 2.5, BT.709-6 3.2-3.3, BT.2020-2 table 4."""
    kr, kg, kb = LUMA[matrix]
    y = np.array([kr, kg, kb])
    return np.array([y, (np.array([0, 0, 1]) - y) / (2 * (1 - kb)), (np.array([1, 0, 0]) - y) / (2 * (1 - kr))])


def reference(nv12: np.ndarray, matrix: ColorMatrix, range_: ColorRange) -> np.ndarray:
    height, width = nv12.shape[0] * 2 // 3, nv12.shape[1]
    y = nv12[:height].astype(np.float64)
    chroma = nv12[height:].reshape(height // 2, width // 2, 2).astype(np.float64)
    chroma = chroma.repeat(2, axis=0).repeat(2, axis=1) - 128
    if range_ is ColorRange.LIMITED:
        y, chroma = (y - 16) / 219, chroma / 224
    else:
        y, chroma = y / 255, chroma / 255
    yuv = np.stack([y, chroma[..., 0], chroma[..., 1]])
    rgb = np.einsum("ij,jhw->ihw", np.linalg.inv(forward(matrix)), yuv)
    return np.clip(rgb * 255, 0, 255)


pictures = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda half: hnp.arrays(np.uint8, (half[0] * 3, half[1] * 2), elements=st.integers(0, 255))
)


@settings(max_examples=150, deadline=None)
@given(
    nv12=pictures,
    matrix=st.sampled_from(ColorMatrix),
    range_=st.sampled_from(ColorRange),
    channels=st.sampled_from(["rgb", "bgr"]),
)
def test_every_picture_is_within_one_level_of_float64(nv12, matrix, range_, channels):
    height, width = nv12.shape[0] * 2 // 3, nv12.shape[1]
    out = np.full((3, height, width), np.nan, np.float32)
    Nv12Converter(width, height, InputSpec(channels=channels)).convert(nv12, matrix, range_, out)
    want = reference(nv12, matrix, range_)
    # rounding to 8 bits is half a level, the rest is the library's fixed-point arithmetic
    assert np.abs(out - (want if channels == "rgb" else want[::-1])).max() <= 1.0


@pytest.mark.parametrize("matrix", ColorMatrix)
@pytest.mark.parametrize("range_", ColorRange)
def test_coefficients_invert_the_standards_equations(matrix, range_):
    rgb = np.random.default_rng(1).uniform(0, 1, (50, 3))
    yuv = rgb @ forward(matrix).T
    steps, zero = ([219, 224, 224], 16) if range_ is ColorRange.LIMITED else ([255] * 3, 0)
    code = yuv * steps + [zero, 128, 128]
    got = np.c_[code, np.ones(50)] @ coefficients(matrix, range_, "rgb").T
    assert np.abs(got - rgb * 255).max() < 0.02  # the standards round Kg to four digits


def test_known_colours():
    # 75 % bars would need tables; full red of BT.709 in limited range is (63, 102, 240), of BT.601 (81, 90, 240)
    for matrix, code in ((ColorMatrix.BT709, (63, 102, 240)), (ColorMatrix.BT601, (81, 90, 240))):
        red = coefficients(matrix, ColorRange.LIMITED, "rgb") @ [*code, 1]
        assert red == pytest.approx([255, 0, 0], abs=2)
    for range_, white, black in ((ColorRange.LIMITED, 235, 16), (ColorRange.FULL, 255, 0)):
        to_bgr = coefficients(ColorMatrix.BT2020, range_, "bgr")
        assert to_bgr @ [white, 128, 128, 1] == pytest.approx([255] * 3)
        assert to_bgr @ [black, 128, 128, 1] == pytest.approx([0] * 3, abs=1e-9)


def test_mean_and_scale_are_per_channel_in_channel_order():
    nv12 = np.random.default_rng(2).integers(0, 256, (96, 64), np.uint8)
    plain, scaled = np.empty((2, 3, 64, 64), np.float32)
    Nv12Converter(64, 64, InputSpec("bgr")).convert(nv12, ColorMatrix.BT709, ColorRange.FULL, plain)
    spec = InputSpec("bgr", mean=(104.0, 117.0, 123.0), scale=(1 / 57, 0.5, 2.0))
    Nv12Converter(64, 64, spec).convert(nv12, ColorMatrix.BT709, ColorRange.FULL, scaled)
    want = (plain - np.reshape(spec.mean, (3, 1, 1))) * np.reshape(spec.scale, (3, 1, 1))
    np.testing.assert_allclose(scaled, want, rtol=1e-5, atol=1e-4)


def test_a_slot_may_be_read_only_memory():
    nv12 = np.frombuffer(bytes(range(96)), np.uint8).reshape(12, 8)
    out = np.empty((3, 8, 8), np.float32)
    Nv12Converter(8, 8, InputSpec("rgb")).convert(nv12, ColorMatrix.BT601, ColorRange.LIMITED, out)
    assert np.abs(out - reference(nv12, ColorMatrix.BT601, ColorRange.LIMITED)).max() <= 1.0


def test_what_is_no_nv12_of_this_size_is_refused():
    converter, out = Nv12Converter(8, 8, InputSpec()), np.empty((3, 8, 8), np.float32)
    for bad in (np.zeros((8, 8), np.uint8), np.zeros((12, 8), np.float32)):
        with pytest.raises(ValueError, match=r"expected \(12, 8\) uint8"):
            converter.convert(bad, ColorMatrix.BT601, ColorRange.FULL, out)
    with pytest.raises(ValueError, match=r"7x8.*even"):
        Nv12Converter(7, 8, InputSpec())
    with pytest.raises(ValueError, match="allowed: rgb, bgr"):
        coefficients(ColorMatrix.BT601, ColorRange.FULL, "rgba")
