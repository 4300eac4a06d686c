"""What a head wants of raw outputs: picked by numpy, and by rows as a GPU leaves them, it is the same."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facedetd.inference.engines import tensorrt
from facedetd.inference.engines.lane import ROW, sorted_rows
from facedetd.inference.heads.centerface import CenterFaceHead
from facedetd.inference.heads.yolov5face import YoloV5FaceFlatHead, YoloV5FaceRawHead, cells
from facedetd.inference.heads.yunet import YuNetHead
from facedetd.inference.selection import Field, Group, pick

WIDTH, HEIGHT, BATCH = 64, 96, 3


def outputs_of(kind: str, rng: np.random.Generator):
    """A head and random outputs of its shapes."""
    if kind == "yolo":
        shapes = {f"p{s}": (3, HEIGHT // s, WIDTH // s, 16) for s in (8, 16, 32)}
        head, low, high = YoloV5FaceRawHead(("p8", "p16", "p32")), -4, 4
    elif kind == "flat":
        shapes, head, low, high = {"out": (cells(WIDTH, HEIGHT), 16)}, YoloV5FaceFlatHead("out"), 0, 1
    elif kind == "yunet":
        channels = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
        shapes = {f"{k}_{s}": ((HEIGHT // s) * (WIDTH // s), n) for k, n in channels.items() for s in (8, 16, 32)}
        head, low, high = YuNetHead(), 0, 1
    else:
        planes = {"heat": 1, "scale": 2, "offset": 2, "marks": 10}
        shapes = {k: (n, HEIGHT // 4, WIDTH // 4) for k, n in planes.items()}
        head, low, high = CenterFaceHead("heat", "scale", "offset", "marks"), 0, 1
    return head, {k: rng.uniform(low, high, (BATCH, *shape)).astype(np.float32) for k, shape in shapes.items()}


def as_the_gpu_does(outputs, groups: tuple[Group, ...], rng: np.random.Generator) -> np.ndarray:
    """kernels.cu's select_rows in plain loops, its rows in any order."""
    rows = []
    for number, group in enumerate(groups):
        for picture in range(BATCH):

            def value(field: Field, element: int, channel: int = 0, picture: int = picture) -> np.float32:
                flat = outputs[field.tensor][picture].reshape(-1)
                return flat[field.offset + element * field.step + channel * field.channel_step]

            for element in range(group.elements):
                key = value(group.keys[0], element)
                for other in group.keys[1:]:
                    key = key * value(other, element)
                if key >= np.float32(group.floor):
                    values = [value(f, element, c) for f in group.values for c in range(f.channels)]
                    bits = np.array(values, np.float32).view(np.int32).tolist()
                    rows.append([number << 16 | picture, element, *bits, *[0] * (ROW - 2 - len(bits))])
    made = np.array(rows, np.int32).reshape(-1, ROW)
    rng.shuffle(made)
    return made


@pytest.mark.parametrize("kind", ["yolo", "flat", "yunet", "centerface"])
@pytest.mark.parametrize("min_score", [0.2, 0.9, 1.0])
def test_rows_of_the_gpu_are_what_numpy_picks(kind: str, min_score: float) -> None:
    rng = np.random.default_rng(3)
    head, outputs = outputs_of(kind, rng)
    groups = head.selection(WIDTH, HEIGHT, min_score)
    wanted = pick(outputs, groups)
    got = sorted_rows(as_the_gpu_does(outputs, groups, rng), groups, BATCH)
    assert got.pictures == wanted.pictures == BATCH
    assert min_score == 1.0 or sum(len(rows.picture) for rows in wanted.groups) > 0
    for mine, theirs in zip(got.groups, wanted.groups, strict=True):
        assert np.array_equal(mine.picture, theirs.picture)
        assert np.array_equal(mine.element, theirs.element)
        assert np.array_equal(mine.values, theirs.values)
        assert mine.values.shape == theirs.values.shape
    for a, b in zip(
        head.decode(got, WIDTH, HEIGHT, min_score), head.decode(outputs, WIDTH, HEIGHT, min_score), strict=True
    ):
        assert np.array_equal(a.boxes, b.boxes)
        assert np.array_equal(a.scores, b.scores)
        assert np.array_equal(a.landmarks, b.landmarks)


@given(st.integers(0, 3), st.integers(1, 5), st.integers(0, 9), st.integers(1, 3))
def test_a_field_is_where_it_says(offset: int, step: int, elements: int, channels: int) -> None:
    size = offset + elements * step + channels * 7 + 1
    values = np.arange(2 * size, dtype=np.float32).reshape(2, size)
    group = Group(elements, 0.0, (Field("x", offset, step),), (Field("x", offset, step, channels, 7),))
    rows = pick({"x": values}, (group,)).groups[0]
    assert rows.picture.tolist() == [0] * elements + [1] * elements
    wanted = [[p * size + offset + e * step + 7 * c for c in range(channels)] for p in (0, 1) for e in range(elements)]
    assert rows.values.tolist() == wanted


def test_nan_is_never_picked() -> None:
    group = Group(2, -np.inf, (Field("x"),), (Field("x"),))
    assert pick({"x": np.array([[np.nan, -5]], np.float32)}, (group,)).groups[0].element.tolist() == [1]


def test_a_group_has_bounds() -> None:
    with pytest.raises(ValueError, match="17 channels"):
        Group(1, 0.0, (Field("x"),), (Field("x", channels=17),))
    with pytest.raises(ValueError, match="0 keys"):
        Group(1, 0.0, (), ())


def test_the_kernels_that_are_shipped_are_those_of_the_source() -> None:
    folder = Path(tensorrt.__file__).parent
    source, ptx = (folder / "kernels.cu").read_bytes(), (folder / "kernels.ptx").read_text()
    assert hashlib.sha256(source).hexdigest() in ptx.splitlines()[0], "run packaging/make_ptx.py"
    assert ".target sm_70" in ptx
    assert ptx.count(".visible .entry") == 2
    assert f"#define ROW {ROW}" in source.decode()
