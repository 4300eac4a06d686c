"""The test cameras' own truth: geometry, frame numbers, scores."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cameras import encode, iou, make_scene, match, render, score, shift_times, strip, truth
from tests.cameras.encode import Clip, Coding
from tests.cameras.scene import MIN_MODEL_HEIGHT, model_scale

SIZES = st.sampled_from([(1280, 720), (1920, 1080), (720, 1280), (640, 480), (1366, 768), (643, 361), (352, 288)])
SARS = st.sampled_from([(1, 1), (16, 11), (12, 11), (8, 9)])


@settings(max_examples=60, deadline=None)
@given(size=SIZES, sar=SARS, seed=st.integers(0, 999), faces=st.integers(0, 4), frames=st.integers(25, 500))
def test_faces_stay_inside_apart_and_large_enough(
    size: tuple[int, int], sar: tuple[int, int], seed: int, faces: int, frames: int
) -> None:
    scene = make_scene(*size, frames=frames, faces=faces, seed=seed, sar=sar)
    strip_top = scene.height - strip.square(scene.width, scene.height)
    assert len(scene.faces) == faces
    for n in range(0, frames, 7):
        boxes = truth(scene, n)
        for i, box in enumerate(boxes):
            assert 0 <= box[0] < box[2] <= scene.width
            assert 0 <= box[1] < box[3] <= strip_top
            assert (box[3] - box[1]) * model_scale(scene.width, scene.height, sar) >= MIN_MODEL_HEIGHT - 1e-6
            assert all(iou(box, other) == 0 for other in boxes[:i])


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), frames=st.integers(25, 500))
def test_motion_is_smooth_and_loops(seed: int, frames: int) -> None:
    scene = make_scene(frames=frames, seed=seed)
    assert truth(scene, 0) == truth(scene, frames) == truth(scene, -frames)
    for n in range(frames):
        for now, following in zip(truth(scene, n), truth(scene, n + 1), strict=True):
            assert iou(now, following) > 0.97
    first, half = truth(scene, 0), truth(scene, frames // 4)
    assert any(iou(a, b) < 0.97 for a, b in zip(first, half, strict=True)), "nothing moves"


def test_same_arguments_same_scene_and_pictures() -> None:
    a, b = make_scene(640, 360, seed=3), make_scene(640, 360, seed=3)
    assert a == b
    assert np.array_equal(render(a, 17), render(b, 17))
    assert np.array_equal(render(a, 0), render(a, a.frames))
    assert make_scene(640, 360, seed=4) != a
    assert not np.array_equal(render(a, 0), render(a, 10))


@pytest.mark.parametrize(("size", "sar"), [((640, 360), (1, 1)), ((361, 643), (1, 1)), ((720, 576), (16, 11))])
def test_a_face_is_drawn_where_truth_says(size: tuple[int, int], sar: tuple[int, int]) -> None:
    scene = make_scene(*size, faces=2, seed=5, sar=sar)
    bare = make_scene(*size, faces=0, seed=5, sar=sar)
    for n in (0, 60, 180):
        picture = render(scene, n)
        assert picture.shape == (size[1], size[0], 3)
        changed = np.abs(picture.astype(int) - render(bare, n)).max(axis=2) > 0
        near = np.zeros_like(changed)
        for box in truth(scene, n):
            x1, y1, x2, y2 = (round(v) for v in box)
            assert changed[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].mean() > 0.95
            w, h = x2 - x1, y2 - y1
            near[max(0, y1 - h) : y2 + h, max(0, x1 - w) : x2 + w] = True
        assert not (changed & ~near).any(), "something is drawn far from every face"


def test_non_square_pixels_squeeze_faces() -> None:
    (square,), (wide,) = make_scene(720, 576, faces=1).faces, make_scene(720, 576, faces=1, sar=(16, 11)).faces
    assert wide.width / wide.height == pytest.approx(square.width / square.height * 11 / 16)


@given(st.integers(0, strip.MAX_INDEX), st.sampled_from([(160, 120), (640, 480), (361, 643)]), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_strip_survives_noise(index: int, size: tuple[int, int], seed: int) -> None:
    picture = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    strip.draw(picture, index)
    noise = np.random.default_rng(seed + 1).normal(0, 25, picture.shape)
    assert strip.read(np.clip(picture + noise, 0, 255).astype(np.uint8)) == index


def test_a_picture_without_a_strip_has_no_number() -> None:
    assert strip.read(np.zeros((360, 640, 3), np.uint8)) is None
    assert strip.read(np.full((360, 640, 3), 255, np.uint8)) is None
    with pytest.raises(ValueError, match="4096"):
        strip.draw(np.zeros((360, 640, 3), np.uint8), 4096)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"width": 100}, "100x720"), ({"frames": 5000}, "5000"), ({"faces": 60}, "60 faces"), ({"sar": (0, 1)}, "0:1")],
)
def test_impossible_scenes_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_scene(**arguments)  # type: ignore[arg-type]


def test_score() -> None:
    a, b = (0.0, 0.0, 10.0, 10.0), (100.0, 0.0, 110.0, 10.0)
    true = {1: [a, b], 2: [a, b]}
    assert score([(1, [a, b]), (2, [b, a])], true.__getitem__) == (1.0, 1.0)
    assert score([(1, [a]), (2, [])], true.__getitem__) == (0.25, 1.0)
    assert score([(1, [(0.0, 0.0, 10.0, 5.0), b]), (2, [])], true.__getitem__) == (0.5, 0.75)
    assert score([(1, [(0.0, 0.0, 10.0, 4.9)]), (2, [])], true.__getitem__) == (0.0, 0.0)
    assert score([], true.__getitem__) == (0.0, 0.0)
    # A second box on the same face finds nothing more, and the better one counts.
    assert match([(0.0, 0.0, 10.0, 8.0), a], [a]) == [1.0]


box = st.builds(lambda x, y, w, h: (x, y, x + w, y + h), *(st.floats(0, 100),) * 2, *(st.floats(1, 50),) * 2)


@given(st.lists(box, max_size=6), st.lists(box, max_size=6))
def test_matches_are_bounded_and_fair(found: list[tuple[float, ...]], true: list[tuple[float, ...]]) -> None:
    values = match(found, true)  # type: ignore[arg-type]
    assert len(values) <= min(len(found), len(true))
    assert all(0.5 <= v <= 1 + 1e-9 for v in values)
    assert values == sorted(values, reverse=True)
    assert len(match(true, found)) == len(values)  # type: ignore[arg-type]
    assert all(math.isclose(v, 1) for v in match(true, true))  # type: ignore[arg-type]


def test_a_clip_of_several_scenes_knows_its_frames(tmp_path: object) -> None:
    one, two = make_scene(320, 240, frames=10, faces=1), make_scene(240, 320, frames=5, faces=1)
    clip = Clip(tmp_path, (one, two))  # type: ignore[arg-type]
    assert clip.frames == 15
    assert clip.frame(9) == (one, 9)
    assert clip.frame(10) == (two, 0)
    assert clip.frame(15 + 14) == (two, 4)
    assert clip.truth(12) == truth(two, 2)


def test_encode_refuses_what_it_cannot_do(tmp_path: object) -> None:
    with pytest.raises(ValueError, match="vp9"):
        Coding(codec="vp9")
    with pytest.raises(ValueError, match="raw or ts"):
        encode(make_scene(320, 240), make_scene(240, 320), cache=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="same fps"):
        encode(make_scene(320, 240), make_scene(320, 240, fps=10), cache=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="from 0"):
        shift_times(Clip(tmp_path, (make_scene(320, 240),)), tmp_path, ((5, 1.0),))  # type: ignore[arg-type]
