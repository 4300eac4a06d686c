"""OpenVINO beside onnxruntime: the same faces, a clear word where it isn't there, and nothing told to anyone.

What both engines must do alike is in test_inference_engine.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from model_kit import build, centerface, save
from onnx import helper
from test_inference_real_pictures import centerface_path, lent, letterboxed

from facedetd.inference.engines import CPU_ENGINES, detect_head, make_engine, openvino
from facedetd.inference.types import DeviceError, InputSpec, ModelError, faces_in_source
from facedetd.types import Face
from facedetd.workshop import qdq
from facedetd.workshop.calibrate import Counted, Feeder, calibrate
from facedetd.workshop.matching import agreement
from facedetd.workshop.ranges import limit

installed = pytest.mark.skipif(
    not openvino.is_installed(), reason="OpenVINO isn't installed (pip install 'facedetd[openvino]')"
)


def faces_of(engine_name: str, path: Path, frames, width: int, height: int) -> list[tuple[Face, ...]]:
    head = detect_head(path, width, height)
    engine = make_engine(engine_name, path, width, height, head.input, 1, len(frames))
    engine.load()
    engine.warm_up()
    found = head.decode(engine.infer(frames), width, height, 0.5)
    engine.close()
    return [faces_in_source(one, frame.header.geometry) for one, frame in zip(found, frames, strict=True)]


def quantised(path: Path, frames, width: int, height: int, output: Path) -> Path:
    """All layers INT8, calibrated on these very frames: rounding is all that is to be looked at."""
    network = qdq.read_network(path.read_bytes(), str(path))
    feeder = Feeder(width, height, detect_head(path, width, height).input)

    class Given:
        """A feeder of frames that are there already."""

        def frame(self, index):
            return frames[index]

        planes = staticmethod(feeder.planes)

    counted = calibrate(
        network, range(len(frames)), Given(), 1, Counted("test"), lambda counted: None, lambda done, total: None
    )
    ranges = {name: limit(one, "mse") for name, one in counted.spreads.items()}
    output.write_bytes(qdq.quantized(network, ranges, frozenset(), {}))
    return output


REAL = [
    ("centerface", 640, 384),
    ("yunet_n_dynamic.onnx", 640, 384),
    ("yunet_n_640_640.onnx", 640, 640),
    ("yolov5n-0.5-face_dynbatch_640x640.onnx", 640, 640),
]


@pytest.fixture(scope="module")
def pictures():
    """A face of four sizes, in two lights, once mirrored."""
    data = pytest.importorskip("skimage.data")
    bgr = cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2BGR)
    found = [bgr, np.ascontiguousarray(bgr[:, ::-1]), (bgr // 2).astype(np.uint8)]
    for crop in (bgr[:256, 96:352], bgr[:400, :400]):
        found.append(np.ascontiguousarray(crop))
    return found


@installed
@pytest.mark.parametrize(("name", "width", "height"), REAL)
def test_it_finds_the_faces_that_onnxruntime_finds(name, width, height, pictures, tmp_path):
    path = centerface_path() if name == "centerface" else lent(name)
    frames = [letterboxed(picture, width, height) for picture in pictures]
    reference, found = (faces_of(engine, path, frames, width, height) for engine in ("onnxruntime", "openvino"))
    assert all(len(faces) == 1 for faces in reference)
    one = agreement(reference, found, 0.9)
    assert one.matched == one.boxes == len(frames) and one.extra == 0
    assert one.mean_iou is not None and one.mean_iou > 0.9999
    assert one.landmark_px is not None and one.landmark_px < 0.01
    for (mine,), (theirs,) in zip(reference, found, strict=True):
        assert theirs.score == pytest.approx(mine.score, abs=1e-4)

    int8 = quantised(path, frames, width, height, tmp_path / "int8.onnx")
    reference, found = (faces_of(engine, int8, frames, width, height) for engine in ("onnxruntime", "openvino"))
    one = agreement(reference, found, 0.7)
    assert one.matched == one.boxes > 0 and one.extra == 0
    # Both round to the same steps, but a sum on an edge falls to either side, and layers pass that on
    assert one.mean_iou is not None and one.mean_iou > 0.9


def rounded_concat(activation: str, zero: int = 0, kind: type = np.int8) -> bytes:
    """Two convolutions, joined by a Concat, rounded, and a convolution of that."""
    random = np.random.default_rng(0)
    node, nodes = helper.make_node, []
    weights = {
        "left_w": random.normal(0, 0.4, (4, 3, 1, 1)).astype(np.float32),
        "right_w": random.normal(0, 0.4, (4, 3, 1, 1)).astype(np.float32),
        "last_w": random.integers(-100, 100, (4, 8, 1, 1)).astype(np.int8),
        "last_scale": random.uniform(0.005, 0.01, 4).astype(np.float32),
        "last_zero": np.zeros(4, np.int8),
        "scale": np.array(0.02, np.float32),
        "zero": np.array(zero, kind),
    }
    for side in ("left", "right"):
        nodes.append(node("Conv", ["picture", f"{side}_w"], [f"{side}_conv"]))
        nodes.append(node(activation, [f"{side}_conv"], [side]))
    nodes += [
        node("Concat", ["left", "right"], ["both"], axis=1),
        node("QuantizeLinear", ["both", "scale", "zero"], ["both_q"]),
        node("DequantizeLinear", ["both_q", "scale", "zero"], ["both_dq"]),
        node("DequantizeLinear", ["last_w", "last_scale", "last_zero"], ["last_dq"], axis=0),
        node("Conv", ["both_dq", "last_dq"], ["out"]),
    ]
    return build(nodes, {"out": ["B", 4, "H", "W"]}, weights).SerializeToString()


@installed
@pytest.mark.parametrize("activation", ["Identity", "Relu", "Tanh"])
@pytest.mark.parametrize(("zero", "kind"), [(0, np.int8), (3, np.int8), (128, np.uint8)])
def test_what_is_rounded_after_a_concat_comes_out_right(activation, zero, kind):
    """OpenVINO by itself rounds the Concat's inputs to whole numbers, and no step of 0.02 is left."""
    model = rounded_concat(activation, zero, kind)
    picture = np.random.default_rng(1).normal(0, 1.5, (1, 3, 32, 32)).astype(np.float32)
    (reference,), (found,) = (CPU_ENGINES[e](model, 1, 32, 32).run(picture) for e in ("onnxruntime", "openvino"))
    apart = np.abs(found - reference)
    # a value on the edge between two steps may fall to either side: a few, by a step of the widest weight
    assert np.percentile(apart, 99) < 1e-5 and apart.max() < 0.03
    assert np.abs(reference).mean() > 0.1


@installed
def test_rounding_without_an_end_is_refused():
    """QuantizeLinear alone, whose whole numbers are the output: OpenVINO isn't trusted with it."""
    nodes = [helper.make_node("QuantizeLinear", ["picture", "scale", "zero"], ["out"])]
    model = build(
        nodes, {"out": ["B", 3, "H", "W"]}, {"scale": np.array(0.1, np.float32), "zero": np.array(0, np.int8)}
    )
    with pytest.raises(ModelError, match="QuantizeLinear without its DequantizeLinear"):
        CPU_ENGINES["openvino"](model.SerializeToString(), 1, 32, 32)


def test_where_it_is_not_there_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "openvino", None)  # an import of it fails now
    engine = make_engine("openvino", save(centerface(), tmp_path / "m.onnx"), 64, 32, InputSpec(), 1, 1)
    with pytest.raises(DeviceError, match=r"needs OpenVINO.*pip install 'facedetd\[openvino\]'.*onnxruntime"):
        engine.load()


def test_a_model_that_is_not_there_is_named_first(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "openvino", None)
    engine = make_engine("openvino", tmp_path / "m.onnx", 64, 32, InputSpec(), 1, 1)
    with pytest.raises(ModelError, match=r"m\.onnx: no such model file"):
        engine.load()


@installed
def test_it_tells_nobody_and_leaves_nothing_at_home(tmp_path):
    """Loaded as its maker means it, it looks up an address and writes an identifier: this is what would be seen."""
    home = tmp_path / "home"
    home.mkdir()
    model = save(centerface(), tmp_path / "m.onnx")
    code = (
        "import json, sys\n"
        "asked = []\n"
        "sys.addaudithook(lambda event, args: asked.append(event) if event.startswith('socket.') else None)\n"
        "import pathlib\n"
        "from facedetd.inference.engines import openvino\n"
        f"openvino.open_model(pathlib.Path({str(model)!r}), 1, 64, 32)\n"
        "assert not asked, asked\n"
        "loaded = [n for n, m in sys.modules.items() if m and n.startswith(openvino.NOT_LOADED)]\n"
        "assert not loaded, loaded\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("XDG_")} | {"HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, env=environment, timeout=60, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not list(home.rglob("*")) and done.stderr == ""
