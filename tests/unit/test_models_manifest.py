"""A model's manifest goes into the store with it: licence, source, calibration, check, accuracy."""

import hashlib
import json

import pytest
from model_kit import centerface, save

from facedetd.models import ModelError, ModelStore, import_model
from facedetd.models.calibration import LUMA_BINS

CALIBRATION = {
    "at": "2026-11-22T12:00:00Z", "frames": 500, "set_sha256": "ab" * 32, "method": "entropy",
    "luma": [1 / LUMA_BINS] * LUMA_BINS,
}  # fmt: skip


@pytest.fixture
def store(tmp_path):
    return ModelStore(tmp_path / "store")


@pytest.fixture
def file(tmp_path):
    return save(centerface(), tmp_path / "mine.onnx")


def tell(file, **manifest):
    manifest.setdefault("sha256", hashlib.sha256(file.read_bytes()).hexdigest())
    file.with_name("mine.onnx.json").write_text(json.dumps(manifest))
    return manifest


def test_all_of_it_is_stored(store, file):
    told = tell(file, licence="GPL-3.0", source={"kind": "checkpoint", "file": "n.pt", "sha256": "0"},
                calibration=CALIBRATION, check={"max_abs_difference": 1e-5}, accuracy={"ap_hard": 0.6})  # fmt: skip
    entry = import_model(file, store)
    assert (entry.licence, entry.source, entry.artefact) == ("GPL-3.0", "checkpoint n.pt", told)
    assert entry.calibration and (entry.calibration.frames, entry.calibration.method) == (500, "entropy")
    assert store.get("mine") == entry
    assert json.loads((entry.path.parent / "manifest.json").read_text())["calibration"] == CALIBRATION


def test_a_float_model_and_one_without_a_manifest_have_no_calibration(store, file):
    assert import_model(file, store).artefact == {}
    tell(file, kind="export")
    entry = import_model(file, store)
    assert (entry.calibration, entry.artefact["kind"]) == (None, "export")  # told later, taken in


def test_what_is_known_stays_when_the_same_model_comes_without_a_manifest(store, file):
    tell(file, accuracy={"ap_hard": 0.6})
    first = import_model(file, store)
    file.with_name("mine.onnx.json").unlink()
    assert import_model(file, store) == first


def test_another_model_s_manifest_is_refused(store, file):
    tell(file, sha256="00" * 32)
    with pytest.raises(
        ModelError, match=r"mine\.onnx\.json: is of a model with sha256 0000.*allowed: its own, or none"
    ):
        import_model(file, store)
    assert store.list() == ()


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"calibration": {"at": "yesterday"}}', '{"calibration": []}', '{"calibration": 7}']
)
def test_a_manifest_that_is_none_is_refused(store, file, text):
    file.with_name("mine.onnx.json").write_text(text)
    with pytest.raises(ModelError, match=r"mine\.onnx\.json: not a model's manifest"):
        import_model(file, store)
    assert store.list() == ()


def test_a_calibration_that_was_damaged_in_the_store_is_said(store, file):
    tell(file, calibration=CALIBRATION)
    entry = import_model(file, store)
    path = entry.path.parent / "manifest.json"
    data = json.loads(path.read_text())
    data["calibration"]["luma"] = [1.0]
    path.write_text(json.dumps(data))
    assert store.list() == ()
    with pytest.raises(ModelError, match="damaged manifest"):
        store.get("mine")
