"""The engines of the CPU on small models that are built here: each test with each of them."""

from __future__ import annotations

import numpy as np
import pytest
from model_kit import build, centerface, flat_picture, frame, save, yolo_raw
from onnx import TensorProto, helper

from facedetd.config.model import InferenceConfig
from facedetd.config.schema import KEYS
from facedetd.inference.engines import (
    CPU_ENGINES,
    ENGINES,
    CpuEngine,
    TensorRtChoice,
    TensorRtEngine,
    detect_head,
    make_engine,
    openvino,
    probe_outputs,
)
from facedetd.inference.engines.cpu import MAX_AUTO_THREADS, thread_count
from facedetd.inference.types import InputSpec, ModelError
from facedetd.ring.header import ColorMatrix, ColorRange

RED = (76, 85, 255)  # BT.601, full range
BLUE = (29, 255, 107)


@pytest.fixture(params=CPU_ENGINES)
def cpu(request):
    """An engine's name."""
    if request.param == "openvino" and not openvino.is_installed():
        pytest.skip("OpenVINO isn't installed (pip install 'facedetd[openvino]')")
    return request.param


def engine_for(cpu, model, tmp_path, width=64, height=32, max_batch=4):
    path = save(model, tmp_path / "model.onnx")
    head = detect_head(path, width, height)
    engine = make_engine(cpu, path, width, height, head.input, 1, max_batch)
    engine.load()
    engine.warm_up()
    return engine, head


def with_patch(column, row, colour, width=64, height=32):
    """Black, with one cell of 4x4 px of a colour."""
    nv12 = flat_picture(width, height, 0)
    x, y = column * 4, row * 4
    nv12[y : y + 4, x : x + 4] = colour[0]
    nv12[height + y // 2 : height + y // 2 + 2, x : x + 4 : 2] = colour[1]
    nv12[height + y // 2 : height + y // 2 + 2, x + 1 : x + 4 : 2] = colour[2]
    return nv12


@pytest.mark.parametrize("batch", ["B", None, 1, 3])
def test_from_slot_to_faces_whatever_the_models_batch(cpu, batch, tmp_path):
    engine, head = engine_for(cpu, centerface(batch=batch), tmp_path)
    cells = [(0, 0), (15, 7), (3, 5), (9, 1)]
    for count in (1, 2, 3, 4):
        outputs = engine.infer([frame(with_patch(c, r, RED)) for c, r in cells[:count]])
        found = head.decode(outputs, 64, 32, 0.5)
        assert len(found) == count
        for faces, (c, r) in zip(found, cells[:count], strict=True):
            half = 2 * np.e
            x, y = c * 4 + 2, r * 4 + 2
            np.testing.assert_allclose(faces.boxes, [[x - half, y - half, x + half, y + half]], rtol=1e-5)
            np.testing.assert_allclose(faces.landmarks, np.full((1, 5, 2), [x, y]), rtol=1e-5)


def test_red_is_red_and_the_frames_own_matrix_and_range_count(cpu, tmp_path):
    engine, head = engine_for(cpu, centerface(), tmp_path)
    faces = head.decode(engine.infer([frame(with_patch(4, 4, BLUE))]), 64, 32, 0.5)
    assert len(faces[0].scores) == 0
    # BT.709's full red in limited range is (63, 102, 240); read as full range it is about (220, 0, 14)
    patch = with_patch(4, 4, (63, 102, 240))
    strict, head = engine_for(cpu, centerface(threshold=240.0), tmp_path)
    limited, full = ColorRange.LIMITED, ColorRange.FULL
    for range_, count in ((limited, 1), (full, 0)):
        outputs = strict.infer([frame(patch, ColorMatrix.BT709, range_)])
        assert len(head.decode(outputs, 64, 32, 0.5)[0].scores) == count


def test_a_batch_gives_the_same_numbers_as_its_pictures(cpu, tmp_path):
    engine, _ = engine_for(cpu, centerface(), tmp_path)
    rng = np.random.default_rng(3)
    frames = [frame(rng.integers(0, 256, (48, 64), np.uint8)) for _ in range(3)]
    together = engine.infer(frames)
    for i, one in enumerate(frames):
        for name, output in engine.infer([one]).items():
            np.testing.assert_array_equal(output[0], together[name][i])


def test_a_batch_has_its_limits(cpu, tmp_path):
    engine, _ = engine_for(cpu, centerface(), tmp_path, max_batch=2)
    one = frame(flat_picture(64, 32, 0))
    for bad in ([], [one] * 3):
        with pytest.raises(ValueError, match=f"a batch of {len(bad)}; this engine takes 1 to 2"):
            engine.infer(bad)


def test_after_close_there_is_nothing_to_run(cpu, tmp_path):
    engine, _ = engine_for(cpu, centerface(), tmp_path)
    engine.close()
    engine.close()
    with pytest.raises(ModelError, match="not loaded"):
        engine.infer([frame(flat_picture(64, 32, 0))])


def test_a_fixed_size_is_named(tmp_path):
    path = save(yolo_raw(), tmp_path / "fixed.onnx")
    with pytest.raises(ModelError, match=r"fixed\.onnx: the model takes only 64x96 .*but 640x384 is wanted"):
        probe_outputs(path, 640, 384)
    assert detect_head(path, 64, 96).name == "yolov5face"


def test_a_fixed_size_is_named_by_the_engine_too(cpu, tmp_path):
    engine = make_engine(cpu, save(yolo_raw(), tmp_path / "fixed.onnx"), 640, 384, InputSpec(), 1, 1)
    with pytest.raises(ModelError, match=r"fixed\.onnx: the model takes only 64x96 .*but 640x384 is wanted"):
        engine.load()


def test_bad_files_are_named(tmp_path):
    with pytest.raises(ModelError, match=r"gone\.onnx: no such model file"):
        probe_outputs(tmp_path / "gone.onnx", 64, 32)
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"bad\.onnx: onnxruntime can't load it"):
        probe_outputs(tmp_path / "bad.onnx", 64, 32)


def test_bad_files_are_named_by_the_engine_too(cpu, tmp_path, capfd):
    name = {"onnxruntime": "onnxruntime", "openvino": "OpenVINO"}[cpu]
    whole = centerface().SerializeToString()
    cases = {
        "gone.onnx": "no such model file",
        "bad.onnx": f"{name} can't load it: .*\\w",
        "cut.onnx": f"{name} can't load it",
    }
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    for file, reason in cases.items():
        with pytest.raises(ModelError, match=f"{file}: {reason}") as caught:
            make_engine(cpu, tmp_path / file, 64, 32, InputSpec(), 1, 1).load()
        assert "\n" not in str(caught.value)
    for data in (b"no model", whole[: len(whole) // 2]):
        with pytest.raises(ModelError, match=f"^model: {name} can't load it"):
            CPU_ENGINES[cpu](data, 1, 64, 32)
    assert capfd.readouterr().err == ""


def test_what_openvino_says_loses_where_it_said_it(cpu, tmp_path):
    """An operator nobody knows: the error names it."""
    node = helper.make_node("NoSuch", ["picture"], ["out"], domain="x.y")
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3, 32, 64]) for n in ("picture", "out")]
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid("x.y", 1)]
    graph = helper.make_graph([node], "test", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    with pytest.raises(ModelError, match=r"model: \w+ can't load it: .*NoSuch") as caught:
        CPU_ENGINES[cpu](model.SerializeToString(), 1, 64, 32)
    assert "Exception from" not in str(caught.value) and "Check '" not in str(caught.value)


def test_outputs_keep_the_models_names_and_order(cpu, tmp_path):
    """Also where two are one tensor, which then has both names."""
    nodes = [helper.make_node("Relu", ["picture"], ["b"]), helper.make_node("Identity", ["b"], ["a"])]
    model = build(nodes, {name: ["B", 3, "H", "W"] for name in ("b", "a")}, {})
    opened = CPU_ENGINES[cpu](model.SerializeToString(), 1, 64, 32)
    assert opened.outputs == ("b", "a")
    picture = np.random.default_rng(1).normal(size=(1, 3, 32, 64)).astype(np.float32)
    first = opened.run(picture)
    kept = [output.copy() for output in first]
    opened.run(-picture)
    for output, as_it_was in zip(first, kept, strict=True):
        np.testing.assert_array_equal(output, as_it_was)  # the caller's: the next run doesn't write into it
        np.testing.assert_array_equal(output, np.maximum(picture, 0))


@pytest.mark.parametrize(
    ("inputs", "found"),
    [
        ([("a", TensorProto.FLOAT, [1, 3, 8, 8]), ("b", TensorProto.FLOAT, [1])], "a tensor.float.*b tensor.float"),
        ([("a", TensorProto.UINT8, [1, 3, 8, 8])], "a tensor.uint8"),
        ([("a", TensorProto.FLOAT, [1, 8, 8, 3])], r"\[1, 8, 8, 3\]"),
        ([("a", TensorProto.FLOAT, [1, 8])], r"\[1, 8\]"),
    ],
)
def test_other_inputs_are_refused(cpu, inputs, found, tmp_path):
    nodes = [helper.make_node("Identity", [n], [f"{n}_out"]) for n, _, _ in inputs]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(*i) for i in inputs],
        [helper.make_tensor_value_info(f"{n}_out", t, s) for n, t, s in inputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    with pytest.raises(ModelError, match=f"{found}.*supported is one, tensor.float. .B, 3, H, W."):
        CPU_ENGINES[cpu](save(model, tmp_path / "model.onnx"), 1, 8, 8)


def test_a_run_that_fails_is_a_model_error(tmp_path):
    # declares free sizes, but its Reshape only fits 64x32
    node = helper.make_node("Reshape", ["picture", "shape"], ["out"])
    model = build([node], {"out": [None, None]}, {"shape": np.array([1, 3 * 64 * 32], np.int64)})
    path = save(model, tmp_path / "model.onnx")
    assert probe_outputs(path, 64, 32)["out"].shape == (1, 6144)
    with pytest.raises(ModelError, match=r"can't run on \[1, 3, 64, 64\]"):
        probe_outputs(path, 64, 64)


def test_a_model_that_runs_at_another_size_only_is_a_model_error(cpu, tmp_path):
    node = helper.make_node("Reshape", ["picture", "shape"], ["out"])
    model = build([node], {"out": [None, None]}, {"shape": np.array([1, 3 * 64 * 32], np.int64)})
    engine = make_engine(cpu, save(model, tmp_path / "model.onnx"), 64, 64, InputSpec(), 1, 1)
    with pytest.raises(ModelError, match=r"can't run .*on \[1, 3, 64, 64\]: .*\w"):
        engine.load()
        engine.warm_up()


def test_engines_by_name(tmp_path):
    path = tmp_path / "model.onnx"
    for name in ("onnxruntime", "openvino"):  # which need not be there until it loads
        engine = make_engine(name, path, 64, 32, InputSpec(), 1, 1)
        assert isinstance(engine, CpuEngine) and engine.name == name
    choice = TensorRtChoice("m", tmp_path)
    assert isinstance(make_engine("tensorrt", path, 64, 32, InputSpec(), 1, 1, tensorrt=choice), TensorRtEngine)
    with pytest.raises(ModelError, match="'caffe'; this build has: onnxruntime, openvino, tensorrt"):
        make_engine("caffe", path, 64, 32, InputSpec(), 1, 1)
    assert InferenceConfig().engine == ENGINES[0] and KEYS["inference"]["engine"].choices == ENGINES
    with pytest.raises(ModelError, match="60x32: width and height must be multiples of 32"):
        make_engine("onnxruntime", path, 60, 32, InputSpec(), 1, 1)
    with pytest.raises(ModelError, match="largest batch 0"):
        make_engine("onnxruntime", path, 64, 32, InputSpec(), 1, 0)


def test_threads_follow_the_cores_up_to_a_cap(monkeypatch):
    assert thread_count(7) == 7
    for cores, threads in ((1, 1), (2, 2), (64, MAX_AUTO_THREADS)):
        monkeypatch.setattr("os.sched_getaffinity", lambda _pid, n=cores: set(range(n)))
        assert thread_count(0) == threads
