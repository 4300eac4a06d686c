from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from capture_clips import KeepingSink, picture

from facedetd.capture.scaler import Scaler
from facedetd.capture.snapshot import draw_and_encode
from facedetd.ring.header import ColorMatrix, ColorRange
from facedetd.types import Face

MODEL = (320, 192)


def scene(width, height):
    rng = np.random.default_rng(5)
    bgr = picture(5, width, height)
    noise = cv2.resize(rng.integers(0, 60, (height // 8 + 1, width // 8 + 1, 3), np.uint8), (width, height))
    return cv2.add(bgr, noise)


def frame_of(bgr, fmt, colorspace=None, color_range=None):
    frame = av.VideoFrame.from_ndarray(bgr, "bgr24").reformat(
        format=fmt, dst_colorspace=colorspace, dst_color_range=color_range
    )
    return frame


def expected(frame, geometry):
    """Y, U, V of the frame at the slot's size by area average in float, in 8-bit values."""
    planes, name = [], frame.format.name
    if name == "nv12":
        y, uv = (np.frombuffer(p, np.uint8).reshape(-1, p.line_size) for p in frame.planes)
        h, w = frame.height, frame.width
        uv = uv[: (h + 1) // 2, : (w + 1) // 2 * 2].reshape((h + 1) // 2, -1, 2)
        planes = [y[:h, :w], uv[..., 0], uv[..., 1]]
    else:
        deep = name.endswith("10le")
        for p in frame.planes:
            data = np.frombuffer(p, np.uint16 if deep else np.uint8)
            rows = data.reshape(-1, p.line_size // (2 if deep else 1))[: p.height, : p.width]
            planes.append(rows / 4 if deep else rows)
    sizes = [(geometry.width, geometry.height)] + [(geometry.width // 2, geometry.height // 2)] * 2
    return [
        cv2.resize(p.astype(np.float32), s, interpolation=cv2.INTER_AREA) for p, s in zip(planes, sizes, strict=True)
    ]


def parts(slot_picture, g):
    height = slot_picture.shape[0] * 2 // 3
    y = slot_picture[g.pad_y : g.pad_y + g.height, g.pad_x : g.pad_x + g.width]
    uv = slot_picture[height + g.pad_y // 2 : height + (g.pad_y + g.height) // 2, g.pad_x : g.pad_x + g.width]
    uv = uv.reshape(g.height // 2, g.width // 2, 2)
    return y, uv[..., 0], uv[..., 1]


def scale(frame, sar=None, model=MODEL):
    sink = KeepingSink(model)
    slot = sink.acquire()
    return Scaler().scale(frame, sar, slot), slot.picture


@pytest.mark.parametrize("fmt", ["yuv420p", "yuvj420p", "nv12", "yuv420p10le", "yuv422p", "yuv422p10le", "yuv444p"])
@pytest.mark.parametrize("size", [(640, 360), (641, 361), (480, 640), (638, 480), (200, 100)])
def test_close_to_the_area_average(fmt, size):
    frame = frame_of(scene(*size), fmt)
    scaled, slot = scale(frame)
    for got, want in zip(parts(slot, scaled.geometry), expected(frame, scaled.geometry), strict=True):
        error = np.abs(got.astype(np.float32) - want)
        if size[0] > MODEL[0] or size[1] > MODEL[1]:
            assert error.mean() < 1.5, error.mean()
        else:  # enlarged: the area average is a staircase, ours is smooth
            assert error.mean() < 4


@pytest.mark.parametrize("fmt", ["bgr24", "gbrp", "gray", "yuv444p"])
def test_colours_survive_any_format(fmt):
    bgr = scene(640, 384)
    if fmt == "gray":
        bgr = cv2.cvtColor(cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    frame = av.VideoFrame.from_ndarray(bgr, "bgr24") if fmt == "bgr24" else frame_of(bgr, fmt)
    scaled, slot = scale(frame)
    assert scaled.matrix is ColorMatrix.BT601 and scaled.range is ColorRange.LIMITED
    back = cv2.cvtColor(slot, cv2.COLOR_YUV2BGR_NV12)
    want = cv2.resize(bgr, MODEL, interpolation=cv2.INTER_AREA)
    assert np.abs(back.astype(float) - want).mean() < 5


def test_full_range_stays_full():
    black_and_white = np.zeros((384, 640, 3), np.uint8)
    black_and_white[:, 320:] = 255
    scaled, slot = scale(frame_of(black_and_white, "yuvj420p"))
    assert scaled.range is ColorRange.FULL
    assert slot[10, 10] <= 1 and slot[10, 300] >= 254
    scaled, slot = scale(frame_of(black_and_white, "yuv420p"))
    assert scaled.range is ColorRange.LIMITED
    assert abs(int(slot[10, 10]) - 16) <= 1 and abs(int(slot[10, 300]) - 235) <= 1


def test_matrix_by_tag_then_by_height():
    for size, colorspace, want in [
        ((640, 480), 2, ColorMatrix.BT601), ((1280, 720), 2, ColorMatrix.BT709), ((1280, 720), 6, ColorMatrix.BT601),
        ((640, 480), 1, ColorMatrix.BT709), ((640, 480), 9, ColorMatrix.BT2020), ((1280, 720), 5, ColorMatrix.BT601),
    ]:  # fmt: skip
        frame = av.VideoFrame(*size, "yuv420p")
        frame.colorspace = colorspace
        assert scale(frame)[0].matrix is want, (size, colorspace)
        assert frame.colorspace == colorspace


# H.273: 0 and 3 are reserved; 10 is BT.2020 with constant luminance, 14 ICtCp; 16 and 18 are HDR's PQ and HLG
@pytest.mark.parametrize(
    ("colorspace", "trc", "primaries"),
    [(1, 0, 1), (1, 1, 0), (2, 3, 3), (9, 16, 9), (9, 18, 9), (10, 2, 2), (14, 16, 9), (0, 2, 2)],
)
def test_a_frame_is_used_whatever_its_tags_say(colorspace, trc, primaries):
    plain = frame_of(scene(640, 384), "yuv420p")
    plain.colorspace = 9 if colorspace in (9, 10) else 1 if colorspace == 1 else 6
    _, want = scale(plain)
    in_colour = Scaler().bgr(plain)

    frame = frame_of(scene(640, 384), "yuv420p")
    tags = frame.colorspace, frame.color_trc, frame.color_primaries = colorspace, trc, primaries
    _, slot = scale(frame)
    assert (slot == want).all()
    assert (Scaler().bgr(frame) == in_colour).all()
    assert (frame.colorspace, frame.color_trc, frame.color_primaries) == tags


@pytest.mark.parametrize(("colorspace", "red", "blue"), [(6, 0.299, 0.114), (1, 0.2126, 0.0722), (9, 0.2627, 0.0593)])
def test_bgr_copy_is_made_with_the_frames_matrix(colorspace, red, blue):
    """Kr and Kb of H.273, table 4, for its BT.601, BT.709 and BT.2020."""
    y, u, v = 120, 110, 150
    frame = av.VideoFrame(64, 64, "yuv444p")
    for plane, value in zip(frame.planes, (y, u, v), strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    frame.colorspace = colorspace
    luma, b, r = (y - 16) / 219, (u - 128) / 224 * 2 * (1 - blue), (v - 128) / 224 * 2 * (1 - red)
    green = luma - (red * r + blue * b) / (1 - red - blue)
    want = np.array([luma + b, green, luma + r]) * 255
    assert np.abs(Scaler().bgr(frame)[32, 32] - want).max() <= 2


def test_non_square_pixels_are_shown_as_meant():
    scaled, _ = scale(frame_of(scene(360, 288), "yuv420p"), Fraction(64, 45))
    assert (scaled.geometry.width, scaled.geometry.height) == (320, 180)


def test_padding_is_black_and_painted_again_only_when_it_moves():
    sink, scaler = KeepingSink(MODEL, slots=1), Scaler()
    tall, wide = frame_of(scene(96, 192), "yuv420p"), frame_of(scene(640, 200), "yuv420p")

    def put(frame):
        slot = sink.acquire()
        scaler.scale(frame, None, slot)
        sink.release(slot)
        return slot.picture

    p = put(tall)
    assert (p[:192, :112] == 16).all() and (p[192:, :112] == 128).all() and (p[192:, 208:] == 128).all()
    p[0, 0] = 99  # proof that the next frame leaves the padding alone
    assert put(tall)[0, 0] == 99
    p = put(wide)
    assert (p[:46] == 16).all() and (p[146:192] == 16).all() and (p[192 : 192 + 23] == 128).all()
    p = put(tall)
    assert (p[:192, :112] == 16).all()
    sink.resize(MODEL, generation=2)  # the same number, other memory
    p = put(tall)
    assert (p[:192, :112] == 16).all()


def test_bgr_copy_is_the_picture():
    bgr = scene(642, 362)
    copy = Scaler().bgr(frame_of(bgr, "yuv444p"))
    assert copy.shape == bgr.shape and copy.flags.c_contiguous
    assert np.abs(copy.astype(float) - bgr).mean() < 3


def test_snapshot_draws_on_a_copy():
    bgr = scene(640, 360)
    before = bgr.copy()
    face = Face((100.0, 50.0, 200.0, 180.0), 0.93, ((120.0, 90.0), (170.0, 90.0)))
    jpeg = draw_and_encode(bgr, [face], 95)
    assert (bgr == before).all()
    seen = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert seen.shape == bgr.shape
    b, g, r = (int(v) for v in seen[110, 100])
    assert g > 150 and g > b + 30 and g > r + 30  # a thin line, and JPEG halves the chroma
    plain = cv2.imdecode(np.frombuffer(draw_and_encode(bgr, [], 95), np.uint8), cv2.IMREAD_COLOR)
    assert np.abs(plain.astype(float) - bgr).mean() < 3
