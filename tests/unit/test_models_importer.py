"""Import: what runs is stored in the form the daemon runs; what doesn't is refused with its reason."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx
import pytest
from model_kit import build, centerface, flat_picture, frame, save, yolo_raw, yunet
from onnx import TensorProto, helper, numpy_helper

from facedetd.inference.engines import detect_head, make_engine, probe_outputs
from facedetd.models import ModelError, ModelStore, import_model


@pytest.fixture
def store(tmp_path):
    return ModelStore(tmp_path / "store")


@pytest.mark.parametrize(("model", "head"), [(centerface(), "centerface"), (yunet(), "yunet")])
def test_a_model_with_free_sizes_is_stored_as_it_is(model, head, store, tmp_path):
    file = save(model, tmp_path / "my model (1).onnx")
    entry = import_model(file, store)
    assert (entry.name, entry.head, entry.width, entry.height) == ("my-model-1", head, 0, 0)
    assert (entry.licence, entry.source) == ("unknown", "my model (1).onnx")
    assert entry.source_sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert entry == store.get("my-model-1")
    assert detect_head(entry.path, 320, 192).name == head
    assert import_model(file, store, "front").name == "front"


def test_fixed_sizes_are_freed_where_the_graph_allows_it(store, tmp_path):
    # as CenterFace is shipped: fixed shapes, and its weights among the inputs
    fixed = centerface(batch=10, width=32, height=32)
    for tensor in fixed.graph.initializer:
        fixed.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    assert len(fixed.graph.input) > 1
    entry = import_model(save(fixed, tmp_path / "cf.onnx"), store)
    assert (entry.width, entry.height) == (0, 0)
    stored = onnx.load(str(entry.path))
    assert [v.name for v in stored.graph.input] == ["picture"]
    assert {o.shape[0] for o in probe_outputs(entry.path, 640, 384).values()} == {1}
    head = detect_head(entry.path, 640, 384)
    engine = make_engine("onnxruntime", entry.path, 640, 384, head.input, 1, 2)
    engine.load()
    red = flat_picture(640, 384, 0)
    red[40:44, 80:84], red[384 + 20 : 384 + 22, 81:84:2] = 76, 255
    red[384 + 20 : 384 + 22, 80:84:2] = 85
    found = head.decode(engine.infer([frame(flat_picture(640, 384, 0)), frame(red)]), 640, 384, 0.5)
    assert [len(f.scores) for f in found] == [0, 1]
    assert found[1].boxes.mean(axis=0).tolist() == pytest.approx(
        [82 - 2 * np.e, 42 - 2 * np.e, 82 + 2 * np.e, 42 + 2 * np.e]
    )


def test_a_size_that_cannot_be_freed_is_kept_and_said(store, tmp_path):
    file = save(yolo_raw(), tmp_path / "yolo.onnx")
    entry = import_model(file, store)
    assert (entry.head, entry.width, entry.height) == ("yolov5face", 64, 96)
    assert import_model(file, store, size=(64, 96)) == entry
    with pytest.raises(ModelError, match=r"yolo\.onnx: the model takes only 64x96 .*but 640x384 is wanted"):
        import_model(file, store, "other", size=(640, 384))
    assert [e.name for e in store.list()] == ["yolo"]


def nan_model():
    model = centerface()
    weights = next(t for t in model.graph.initializer if t.name == "marks_are")
    weights.CopyFrom(numpy_helper.from_array(np.full(10, np.nan, np.float32), "marks_are"))
    return model.SerializeToString()


def external_model():
    model = centerface()
    tensor = next(t for t in model.graph.initializer if t.name == "zero10")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    return model.SerializeToString()


def other_outputs():
    node = helper.make_node("AveragePool", ["picture"], ["age"], kernel_shape=[8, 8], strides=[8, 8])
    return build([node], {"age": ["B", 3, None, None]}, {}).SerializeToString()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not an ONNX model"),
        (b"GIF89a, by no means a model", "not an ONNX model"),
        (centerface().SerializeToString()[:-60], "(not an ONNX model|onnxruntime can't load it)"),
        (centerface(batch=2**31).SerializeToString(), "takes picture .*2147483648.* allowed are up to"),
        (nan_model(), "output marks holds [0-9]+ values that are not finite"),
        (external_model(), "keeps its weights in 'weights.bin'"),
        (other_outputs(), r"no known head has these outputs at 640x384: age \[1, 3, 48, 80\]. Supported: "),
    ],
)
def test_what_cannot_run_is_refused_with_its_reason(data, reason, store, tmp_path):
    file = tmp_path / "bad.onnx"
    file.write_bytes(data)
    with pytest.raises(ModelError, match=reason) as caught:
        import_model(file, store)
    assert str(caught.value).startswith(f"{file}: ")
    assert not store.root.exists()


def test_a_lack_of_memory_is_said(store, tmp_path, monkeypatch):
    def run(*_):
        raise MemoryError

    monkeypatch.setattr("facedetd.inference.engines.onnxruntime.run", run)
    with pytest.raises(ModelError, match=r"y\.onnx: takes more memory to run than there is"):
        import_model(save(yunet(), tmp_path / "y.onnx"), store)


def test_files_that_are_none(store, tmp_path):
    with pytest.raises(ModelError, match="gone: no such file"):
        import_model(tmp_path / "gone", store)
    with pytest.raises(ModelError, match="not a regular file"):
        import_model(tmp_path, store)


def test_a_bad_name_is_refused(store, tmp_path):
    with pytest.raises(ModelError, match=r"model name '\.\./x'"):
        import_model(save(centerface(), tmp_path / "cf.onnx"), store, "../x")


def test_a_full_temporary_folder_is_said(store, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(ModelError, match="temporary folder: No such file"):
        import_model(save(yunet(), tmp_path / "y.onnx"), store)
    assert not store.root.exists()
