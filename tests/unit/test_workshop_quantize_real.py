"""Real models to INT8. Needs FACEDETD_TEST_MODELS and FACEDETD_TEST_EVAL, which are not part of this repository."""

import json
import os
from pathlib import Path

import pytest
from ctl_harness import Ctl

MODELS, PICTURES = (os.environ.get(name, "") for name in ("FACEDETD_TEST_MODELS", "FACEDETD_TEST_EVAL"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not MODELS, reason="set FACEDETD_TEST_MODELS to the folder of real models"),
    pytest.mark.skipif(not PICTURES, reason="set FACEDETD_TEST_EVAL to the folder of labelled pictures"),
]

STAYS = {
    "yunet_n_dynamic.onnx": (),
    "yolov5n-0.5-face_dynbatch_640x640.onnx": (
        "--keep-float",
        "Conv_3,Conv_6,Conv_11,Conv_21,Conv_76,Conv_251,Conv_444,Conv_453,Conv_447,Conv_450,Conv_457,Conv_470,Conv_477,Conv_516",
    ),
}
"""What is kept in float: for YOLOv5-face what --auto --min-match 0.99 found with other pictures (docs/models.md)."""


@pytest.mark.parametrize("name", STAYS)
def test_accuracy_holds_and_tensorrt_takes_the_model(monkeypatch, tmp_path, name):
    """Calibrated on photos of dlib, measured on others, of WIDER FACE."""
    output = tmp_path / "int8.onnx"
    done = Ctl(monkeypatch)(
        "model", "quantize", str(Path(MODELS) / name), "--calibration", str(Path(PICTURES) / "dlib"),
        "--output", str(output), "--labels", str(Path(PICTURES) / "wider" / "ground_truth.json"),
        "--max-drop", "0.005,0.008,0.008", "--threads", "1", *STAYS[name], "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    accuracy = json.loads(done.out)["accuracy"]
    assert accuracy["pictures"] == 120 and accuracy["share"] > 0.94 and accuracy["mean_iou"] > 0.92
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx isn't installed (pip install tensorrt-rtx-cu13)")
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    assert parser.parse(output.read_bytes()), [parser.get_error(i).desc() for i in range(parser.num_errors)]
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    given = network.get_input(0)
    sizes = [tuple(f if d < 0 else d for f, d in zip((b, 3, 640, 640), given.shape, strict=True)) for b in (1, 4, 8)]
    profile.set_shape(given.name, *sizes)
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None and plan.nbytes > 0
