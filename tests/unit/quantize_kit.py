"""A small detector to quantise: it finds red cells of 4x4 px, through five convolutions."""

from __future__ import annotations

import cv2
import model_kit
import numpy as np
from onnx import helper

LAYERS = ("stem", "deep", "grouped", "heat_conv", "scale_conv")
HEADS = frozenset(["heat_conv", "scale_conv", "offset_conv", "marks_conv"])


def detector(threshold: float = 100.0):
    """CenterFace's outputs, from a chain stem (1x1, ReLU), deep (3x3), grouped (depthwise), then four heads. A cell's
    redness comes through to ``heat``; weights differ from channel to channel, so that rounding shows."""
    random = np.random.default_rng(5)
    stem = np.zeros((4, 3, 1, 1), np.float32)
    stem[0, :, 0, 0] = (1.0, -1.0, 0.0)  # rgb: red and not green
    stem[1:, :, 0, 0] = random.uniform(0.1, 1, (3, 3))
    deep = random.normal(0, 0.02, (4, 4, 3, 3)).astype(np.float32)
    deep[:, :, 1, 1] += np.eye(4, dtype=np.float32) * (1.0, 0.5, 2.0, 0.1)
    deep[0] = 0
    deep[0, 0, 1, 1] = 0.97
    grouped = random.uniform(0.5, 1.5, (4, 1, 1, 1)).astype(np.float32)
    pick = np.zeros((1, 4, 1, 1), np.float32)
    pick[0, 0] = 0.1 / (0.97 * grouped[0, 0, 0, 0])
    node = helper.make_node
    nodes = [
        node("AveragePool", ["picture"], ["cells"], name="pool", kernel_shape=[4, 4], strides=[4, 4]),
        node("Conv", ["cells", "stem_w"], ["stem_out"], name="stem"),
        node("Relu", ["stem_out"], ["stem_relu"], name="relu"),
        node("Conv", ["stem_relu", "deep_w", "deep_b"], ["deep_out"], name="deep", pads=[1, 1, 1, 1]),
        node("Conv", ["deep_out", "grouped_w"], ["features"], name="grouped", group=4),
        node("Conv", ["features", "pick", "minus"], ["logit"], name="heat_conv"),
        node("Sigmoid", ["logit"], ["heat"], name="sigmoid"),
        node("Conv", ["features", "zero2", "scale_is"], ["scale"], name="scale_conv"),
        node("Conv", ["features", "zero2", "offset_is"], ["offset"], name="offset_conv"),
        node("Conv", ["features", "zero10", "marks_are"], ["marks"], name="marks_conv"),
    ]
    weights = {
        "stem_w": stem, "deep_w": deep, "deep_b": np.zeros(4, np.float32), "grouped_w": grouped, "pick": pick,
        "minus": np.array([-0.1 * threshold], np.float32), "zero2": np.zeros((2, 4, 1, 1), np.float32),
        "zero10": np.zeros((10, 4, 1, 1), np.float32), "scale_is": np.ones(2, np.float32),
        "offset_is": np.zeros(2, np.float32), "marks_are": np.full(10, 0.5, np.float32),
    }  # fmt: skip
    outputs = {n: ["B", c, None, None] for n, c in (("heat", 1), ("scale", 2), ("offset", 2), ("marks", 10))}
    return model_kit.build(nodes, outputs, weights)


def picture_of(seed: int, size: int = 64):
    """Grey noise with three red cells somewhere, and dim red ones that are no faces; (picture, places of the cells)."""
    random = np.random.default_rng(seed)
    picture = random.integers(20, 120, (size, size, 1), np.uint8).repeat(3, axis=2)
    places = [(int(c), int(r)) for c, r in random.integers(1, size // 4 - 1, (3, 2))]
    for i, (column, row) in enumerate(places):
        picture[row * 4 : row * 4 + 4, column * 4 : column * 4 + 4] = (0, 0, 255 - 20 * i)
    return picture, places


def pictures(folder, count: int, first: int = 0):
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(first, first + count):
        cv2.imwrite(str(folder / f"{seed:03d}.png"), picture_of(seed)[0])
    return folder
