"""model evaluate and model test, with a model that finds red squares, on pictures with squares where it is known."""

import json
import os
from pathlib import Path

import cv2
import model_kit
import numpy as np
import pytest
from ctl_harness import Ctl

from facedetd.inference.types import ModelError
from facedetd.models import ModelStore
from facedetd.types import Face
from facedetd.workshop.detector import Detector, load_detector, time_batches
from facedetd.workshop.evaluate import Counts, drops, evaluate, run_models, too_much
from facedetd.workshop.pictures import PictureError, contact_sheet, nv12_frame, read_picture, write_picture
from facedetd.workshop.wider import read_labels

E1 = 4 * np.e  # px, the side of the model's boxes at scale 1
SQUARES = (((3, 3), (10, 3)), ((5, 9),), ())
"""For each picture, cells of 4x4 px at (column, row) that are red."""


def picture_of(squares, size=64):
    picture = np.full((size, size, 3), 40, np.uint8)
    for column, row in squares:
        picture[row * 4 : row * 4 + 4, column * 4 : column * 4 + 4] = (0, 0, 255)
    return picture


def truth(column, row, side=E1):
    return [column * 4 + 2 - side / 2, row * 4 + 2 - side / 2, side, side]


@pytest.fixture
def model(tmp_path):
    return model_kit.save(model_kit.centerface(width=64, height=64, threshold=150.0), tmp_path / "red.onnx")


@pytest.fixture
def labels(tmp_path):
    entries = []
    for i, squares in enumerate(SQUARES):
        cv2.imwrite(str(tmp_path / f"{i}.png"), picture_of(squares))
        boxes = [truth(*square) for square in squares]
        every = list(range(len(boxes)))
        entries.append({
            "file": f"{i}.png", "orig_wh": [64, 64], "boxes_xywh_orig": boxes,
            "easy": every[:1], "medium": every, "hard": every,
        })  # fmt: skip
    file = tmp_path / "labels.json"
    file.write_text(json.dumps(entries))
    return file


@pytest.fixture
def ctl(monkeypatch, tmp_path):
    monkeypatch.setenv("FACEDETD_STATE_DIR", str(tmp_path / "state"))
    return Ctl(monkeypatch)


# --- figures ---


def faces(*heights, score=0.9):
    return tuple(Face((0.0, 100.0 * i, h, 100.0 * i + h), score) for i, h in enumerate(heights))


def labelled(tmp_path, *heights, hard=None):
    """One picture with boxes where ``faces`` puts them."""
    (tmp_path / "a.png").touch()
    entry = {
        "file": "a.png", "orig_wh": [1000, 1000],
        "boxes_xywh_orig": [[0, 100.0 * i, h, h] for i, h in enumerate(heights)],
        "easy": [], "medium": [], "hard": list(range(len(heights))) if hard is None else hard,
    }  # fmt: skip
    (tmp_path / "one.json").write_text(json.dumps([entry]))
    return read_labels(tmp_path / "one.json").pictures


def test_counts_at_the_threshold_and_by_size(tmp_path):
    pictures = labelled(tmp_path, 31.0, 32.0, 95.0, 96.0, 20.0, hard=[0, 1, 2, 3])
    sure = (*faces(31.0, 32.0), Face((500, 500, 540, 540), 0.5), Face((500, 500, 700, 700), 0.1))
    unsure = Face((0.0, 200.0, 95.0, 295.0), 0.49)
    ignored = Face((0.0, 400.0, 20.0, 420.0), 0.99)
    found = evaluate(pictures, [(*sure, unsure, ignored)], 0.5)
    assert found.counts == Counts(faces=4, found=2, false=1)
    assert found.by_size == {"small": Counts(1, 1, 0), "medium": Counts(2, 1, 1), "large": Counts(1, 0, 0)}
    assert (found.counts.precision, found.counts.recall) == (pytest.approx(2 / 3), 0.5)
    assert found.counts.f1 == pytest.approx(2 * (2 / 3) * 0.5 / (2 / 3 + 0.5))
    assert found.ap["easy"] is None and found.curves["hard"].recall[-1] == 0.75


def test_figures_of_nothing(tmp_path):
    found = evaluate(labelled(tmp_path, 50.0), [()], 0.5)
    assert (found.counts.precision, found.counts.recall, found.counts.f1, found.ap["hard"]) == (None, 0.0, 0.0, 0.0)
    assert Counts(0, 0, 0).recall is None and Counts(0, 0, 0).f1 is None


def test_drops_and_what_is_too_much(tmp_path):
    pictures = labelled(tmp_path, 50.0, 60.0)
    whole, half = (evaluate(pictures, [faces(*heights)], 0.5) for heights in ((50.0, 60.0), (50.0,)))
    fallen = drops(half, whole)
    assert fallen == {"easy": None, "medium": None, "hard": 0.5}
    assert too_much(fallen, (0.0, 0.0, 0.5)) == []
    assert too_much(fallen, (0.0, 0.0, 0.49)) == ["hard 0.5000 (allowed 0.49)"]
    assert too_much(drops(whole, half), (0.0, 0.0, 0.0)) == []


# --- pictures and the model at work ---


def test_a_model_finds_what_is_there_in_pixels_of_the_picture(model):
    detector = load_detector(model, None, None, 1)
    assert (detector.width, detector.height, detector.head.name) == (64, 64, "centerface")
    for size, wide in ((64, 64), (128, 128), (128, 96)):
        picture = cv2.resize(picture_of([(5, 9)]), (size, size), interpolation=cv2.INTER_NEAREST)[:, :wide]
        (face,) = detector.detect(np.ascontiguousarray(picture), 0.5)
        x, y, w, h = (v * size / 64 for v in truth(5, 9))
        assert face.box == pytest.approx((x, y, x + w, y + h), abs=size / 64 * 0.5)
        assert len(face.landmarks) == 5


def test_without_nv12_it_finds_the_same(tmp_path):
    model = model_kit.save(model_kit.centerface(width=64, height=64, threshold=250.0), tmp_path / "fine.onnx")
    found = [load_detector(model, 64, 64, 1, plain=plain).detect(picture_of([(5, 9)]), 0.5) for plain in (False, True)]
    assert found[0][0].box == pytest.approx(found[1][0].box, abs=0.01)
    assert found[1][0].score == pytest.approx(1 / (1 + np.exp(-5)))  # red 255, green 0, less 250
    assert found[0][0].score != found[1][0].score  # NV12 has no such red


def test_frames_are_letterboxed_nv12():
    frame = nv12_frame(np.full((100, 200, 3), 255, np.uint8), 64, 64)
    geometry = frame.header.geometry
    assert (geometry.width, geometry.height, geometry.pad_x, geometry.pad_y) == (64, 32, 0, 16)
    assert frame.nv12.shape == (96, 64)
    assert (frame.nv12[:16] == 16).all() and (frame.nv12[16:48] == 235).all() and (frame.nv12[64:] == 128).all()


@pytest.mark.parametrize(
    ("name", "size", "says"),
    [
        ("none.onnx", (None, None), "no such model file"),
        ("red.onnx", (96, None), "takes only 64x64 .* but 96x64 is asked for: leave --width and --height out"),
        ("text.onnx", (None, None), "can't load it"),
        ("model.plan", (None, None), "has no manifest model.plan.json"),
    ],
)
def test_models_that_can_not_be_run(model, name, size, says):
    for file in ("text.onnx", "model.plan"):
        (model.parent / file).write_text("no model")
    with pytest.raises(ModelError, match=says):
        load_detector(model.parent / name, *size, 1)


def test_a_free_model_gets_the_default_size(tmp_path):
    detector = load_detector(model_kit.save(model_kit.centerface(), tmp_path / "free.onnx"), None, 96, 1)
    assert (detector.width, detector.height) == (640, 96)


def test_pictures_that_can_not_be_read_or_written(tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "empty.jpg").touch()
    for name, says in (("text.jpg", "not a picture"), ("empty.jpg", "not a picture"), ("none.jpg", "No such file")):
        with pytest.raises(PictureError, match=f"{name}: {says}"):
            read_picture(tmp_path / name)
    with pytest.raises(PictureError, match="at most"):
        read_picture(tmp_path / "text.jpg", (65535, 65535))
    for name, says in (("x", "file without suffix"), ("x.txt", r"can't be written as \.txt"), ("no/x.png", "No such")):
        with pytest.raises(PictureError, match=says):
            write_picture(tmp_path / name, picture_of([]))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty.jpg", "text.jpg"]


def test_pictures_are_resized_back(tmp_path):
    write_picture(tmp_path / "a.png", picture_of([(5, 9)]))
    assert read_picture(tmp_path / "a.png", (100, 30)).shape == (30, 100, 3)
    assert (read_picture(tmp_path / "a.png") == picture_of([(5, 9)])).all()


def test_a_contact_sheet_shows_all_with_their_faces():
    blank = np.zeros((64, 64, 3), np.uint8)
    one = contact_sheet([blank], [(Face((10, 10, 30, 30), 0.9),)])
    assert one.shape == blank.shape and one.any() and not blank.any()
    pictures = [np.full((h, w, 3), 200, np.uint8) for w, h in ((64, 64), (2000, 100), (30, 900))]
    sheet = contact_sheet(pictures, [()] * 3)
    assert sheet.shape == (960, 1280, 3)
    for top, left in ((0, 0), (0, 640), (480, 0)):
        assert (sheet[top : top + 480, left : left + 640] == 200).any()
    assert (sheet[480:, 640:] == 64).all()


def test_batches_are_timed_by_the_median_without_the_first(model):
    detector = load_detector(model, None, None, 1, max_batch=3)
    sizes = []

    class Noted:
        def infer(self, batch):
            sizes.append(len(batch))
            return detector.engine.infer(batch)

    ticks = iter([0, 100, 0, 1, 0, 2, 0, 30] * 2)  # start and end of each run, the uncounted one first
    cpu = iter([0, 100, 0, 4, 0, 4, 0, 5] * 2)
    noted = Detector(Noted(), detector.head, 64, 64)
    times = time_batches(
        noted, [picture_of([])], (1, 3), 3, wall=lambda: next(ticks) / 1e3, cpu=lambda: next(cpu) / 1e3
    )
    assert [(t.batch, t.wall_ms, t.cpu_ms) for t in times] == [(1, 2.0, 4.0), (3, 2.0, 4.0)]
    assert sizes == [1] * 4 + [3] * 4


# --- the commands ---


def test_evaluate_as_json(ctl, model, labels):
    found = ctl("model", "evaluate", str(model), "--labels", str(labels), "--json").json
    assert {key: found[key] for key in ("ap_easy", "ap_medium", "ap_hard", "precision", "recall", "f1")} == {
        "ap_easy": 1.0, "ap_medium": 1.0, "ap_hard": 1.0, "precision": 1.0, "recall": 1.0, "f1": 1.0,
    }  # fmt: skip
    assert (found["pictures"], found["width"], found["height"], found["input"]) == (3, 64, 64, "nv12")
    assert found["counted"] == {"easy": 2, "medium": 3, "hard": 3} and found["by_size"]["small"]["found"] == 3
    assert (found["against"], found["drop"], found["matched"], found["passed"]) == (None, None, [], None)
    assert ctl("model", "evaluate", str(model), "--labels", str(labels), "--json", "--rgb").json["input"] == "rgb"


def test_evaluate_sees_wrong_labels(ctl, model, labels):
    entries = json.loads(labels.read_text())
    entries[1]["boxes_xywh_orig"] = [truth(12, 12)]
    labels.write_text(json.dumps(entries))
    found = ctl("model", "evaluate", str(model), "--labels", str(labels), "--json").json
    assert (found["precision"], found["recall"]) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert 0 < found["ap_hard"] < 0.7


def test_evaluate_against_another(ctl, model, labels, tmp_path):
    blind = model_kit.save(model_kit.centerface(width=64, height=64, threshold=400.0), tmp_path / "blind.onnx")
    larger = model_kit.save(
        model_kit.centerface(width=64, height=64, threshold=150.0, scale=1.1), tmp_path / "larger.onnx"
    )
    where = ("--labels", str(labels))
    done = ctl("model", "evaluate", str(blind), "--against", str(model), *where, "--json", "--max-drop", "0.005")
    assert done.code == 1 and "AP is lower than that of" in done.err and "hard 1.0000 (allowed 0.005)" in done.err
    assert done.json["drop"]["hard"] == 1.0 and done.json["passed"] is False
    assert [(m["iou"], m["boxes"], m["matched"]) for m in done.json["matched"]] == [(0.7, 3, 0), (0.9, 3, 0)]
    done = ctl("model", "evaluate", str(model), "--against", str(blind), *where, "--max-drop", "0,0,0", "--json")
    assert (done.code, done.json["passed"], done.json["against"]["recall"]) == (0, True, 0.0)
    done = ctl("model", "evaluate", str(larger), "--against", str(model), *where, "--match-iou", "0.85", "--json")
    matched = {m["iou"]: m for m in done.json["matched"]}
    iou = float(np.exp(-0.2))  # sides e^1.1 and e^1
    assert [matched[k]["share"] for k in (0.7, 0.85, 0.9)] == [1.0, 0.0, 0.0]
    assert matched[0.7]["mean_iou"] == pytest.approx(iou, abs=0.01) and matched[0.7]["landmark_px"] < 0.01
    done = ctl("model", "evaluate", str(larger), "--against", str(model), *where)
    assert done.code == 0 and "drop" in done.out and "boxes of red that larger has as well:" in done.out
    assert "3 of 3" in done.out and "100.00 %" in done.out


def test_evaluate_a_model_of_the_store(ctl, model, labels, tmp_path):
    store = ModelStore(tmp_path / "state" / "models")
    store.put("red", model.read_bytes(), head="centerface", licence="MIT", source="s", source_sha256="0")
    found = ctl("model", "evaluate", "red", "--labels", str(labels), "--json").json
    assert (found["model"], found["ap_hard"]) == ("red", 1.0)
    done = ctl("model", "evaluate", "blue", "--labels", str(labels))
    assert done.code == 4 and "no model 'blue' in " in done.err and "there: red" in done.err


def test_models_of_the_store_by_version(ctl, model, labels, tmp_path):
    larger = model_kit.save(
        model_kit.centerface(width=64, height=64, threshold=150.0, scale=1.1), tmp_path / "larger.onnx"
    )
    store = ModelStore(tmp_path / "state" / "models")
    about = {"head": "centerface", "licence": "MIT", "source": "s", "source_sha256": "0"}
    first, second = (store.put("red", path.read_bytes(), **about).version for path in (model, larger))
    words = ("model", "evaluate", f"red@{first}", "--against", f"red@{second}", "--labels", str(labels), "--json")
    found = ctl(*words).json
    by_file = ctl("model", "evaluate", str(model), "--against", str(larger), "--labels", str(labels), "--json").json
    for key in ("model", "against", "path"):
        del found[key], by_file[key]
    assert found == by_file and found["matched"][0]["mean_iou"] < 1
    done = ctl("model", "evaluate", "red@0123456789ab", "--labels", str(labels))
    assert done.code == 4 and "no version '0123456789ab' of model 'red'" in done.err
    assert first in done.err and second in done.err


@pytest.mark.parametrize(
    "words",
    [
        ("show", "{}"),
        ("activate", "{}"),
        ("evaluate", "{}", "--labels", "labels.json"),
        ("evaluate", "x.onnx", "--against", "{}", "--labels", "labels.json"),
        ("quantize", "{}", "--calibration", ".", "--output", "int8.onnx"),
        ("build", "{}"),
        ("test", "{}", "picture.jpg"),
        ("collect", "--stream", "rtsp://127.0.0.1/x", "--output", "set", "--model", "{}"),
    ],
    ids=lambda words: " ".join(words[:1] + words[2:3]),
)
@pytest.mark.parametrize("bad", ["red@", "@0123456789ab", "@"])
def test_every_command_says_how_a_stored_model_is_named(ctl, tmp_path, monkeypatch, words, bad):
    monkeypatch.chdir(tmp_path)
    for name in ("x.onnx", "labels.json", "picture.jpg"):
        (tmp_path / name).write_bytes(b"[]")
    done = ctl("model", *(word.format(bad) for word in words))
    assert done.code == 2 and f"found {bad!r}; write NAME or NAME@VERSION" in done.err


def test_evaluate_with_plain_wider_text_says_what_it_counts(ctl, model, labels):
    text = labels.with_name("gt.txt")
    boxes = [" ".join(str(v) for v in truth(5, 9))]
    text.write_text("\n".join(["1.png", "1", *boxes, "2.png", "0", "0 0 0 0 0 0 0 0 0 0"]))
    done = ctl("model", "evaluate", str(model), "--labels", str(text), "--json")
    assert (done.code, done.json["ap_easy"], done.json["levels"]) == (0, 1.0, False)
    assert "every box that isn't marked invalid counts as easy, medium and hard" in done.err


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_the_curves_are_drawn(ctl, model, labels, tmp_path, suffix):
    pytest.importorskip("matplotlib")
    plot = tmp_path / f"curves.{suffix}"
    assert ctl("model", "evaluate", str(model), "--labels", str(labels), "--plot", str(plot)).code == 0
    data = plot.read_bytes()
    assert b"<svg" in data if suffix == "svg" else data.startswith(b"\x89PNG")


def test_curves_without_matplotlib(ctl, model, labels, tmp_path, monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    done = ctl("model", "evaluate", str(model), "--labels", str(labels), "--plot", str(tmp_path / "a.svg"))
    assert done.code == 1 and "pip install matplotlib" in done.err


@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [
        (("MODEL", "--labels", "none.json"), 2, "none.json: No such file"),
        (("none.onnx", "--labels", "LABELS"), 2, "none.onnx: no such model file"),
        (("./none", "--labels", "LABELS"), 2, "no such model file"),
        (("MODEL", "--labels", "MODEL"), 2, "is not text"),
        (("MODEL", "--labels", "LABELS", "--max-drop", "0.1"), 2, "--max-drop needs --against"),
        (("MODEL", "--labels", "LABELS", "--max-drop", "0.1,0.2"), 2, "found '0.1,0.2'"),
        (("MODEL", "--labels", "LABELS", "--max-drop", "x"), 2, "found 'x'"),
        (("MODEL", "--labels", "LABELS", "--width", "96"), 1, "takes only 64x64"),
        (("MODEL", "--labels", "LABELS", "--width", "5"), 2, "from 32"),
        (("MODEL", "--labels", "LABELS", "--threshold", "0.01"), 2, "--threshold 0.01: allowed are 0.02 to 1"),
        (("MODEL", "--labels", "LABELS", "--match-iou", "0"), 2, "--match-iou 0: allowed is"),
        (("MODEL", "--labels", "LABELS", "--plot", "a.txt"), 2, "end in .svg, .png or .pdf"),
        (("MODEL", "--labels", "LABELS", "--plot", "no/a.svg"), 2, "no folder no"),
        (("MODEL", "--labels", "LABELS", "--pictures", "no"), 0, ""),
        (("MODEL",), 2, "--labels"),
    ],
)
def test_bad_input_of_evaluate(ctl, model, labels, tmp_path, monkeypatch, argv, code, says):
    monkeypatch.chdir(tmp_path)
    if "no" in argv:
        code, says = 2, "picture 0 (0.png): no picture no/0.png"
    named = {"MODEL": str(model), "LABELS": str(labels)}
    done = ctl("model", "evaluate", *(named.get(word, word) for word in argv))
    assert done.code == code and says in done.err and done.out == ""


def test_a_damaged_picture_is_named(ctl, model, labels):
    labels.with_name("1.png").write_bytes(b"damaged")
    done = ctl("model", "evaluate", str(model), "--labels", str(labels))
    assert done.code == 2 and "1.png: not a picture that can be read (7 bytes)" in done.err


def test_test_draws_and_times(ctl, model, labels, tmp_path):
    pictures = [str(tmp_path / f"{i}.png") for i in range(3)]
    sheet = tmp_path / "sheet.jpg"
    argv = ("model", "test", str(model), *pictures, "--output", str(sheet), "--batch", "1,4", "--repeat", "2")
    found = ctl(*argv, "--json").json
    assert [len(picture["faces"]) for picture in found["pictures"]] == [2, 1, 0]
    (face,) = found["pictures"][1]["faces"]
    x, y, w, h = truth(5, 9)
    assert face["box"] == pytest.approx([x, y, x + w, y + h], abs=0.5) and len(face["landmarks"]) == 5
    assert [(one["batch"], one["runs"]) for one in found["timing"]] == [(1, 2), (4, 2)]
    assert all(one["wall_ms"] > 0 for one in found["timing"])
    assert read_picture(sheet).shape == (960, 1280, 3)
    done = ctl(*argv)
    assert done.code == 0 and "PICTURES/S" in done.out and "drawn into" in done.err
    lone = ctl("model", "test", str(model), pictures[1], "--output", str(tmp_path / "one.png"), "--repeat", "1")
    assert lone.code == 0
    green = (read_picture(tmp_path / "one.png") == (60, 220, 60)).all(axis=2)
    assert green.any()


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("MODEL",), "PICTURE"),
        (("MODEL", "none.png"), "none.png: No such file"),
        (("MODEL", "0.png", "--batch", "0"), "from 1 to 256"),
        (("MODEL", "0.png", "--batch", "1,,2"), "found ''"),
        (("MODEL", "0.png", "--output", "a.txt"), "can't be written as .txt"),
        (("MODEL", "labels.json"), "labels.json: not a picture"),
    ],
)
def test_bad_input_of_test(ctl, model, labels, tmp_path, monkeypatch, argv, says):
    monkeypatch.chdir(tmp_path)
    done = ctl("model", "test", *(str(model) if word == "MODEL" else word for word in argv))
    assert done.code == 2 and says in done.err and done.out == ""


# --- labelled photos, lent by the environment ---


def test_real_models_on_real_pictures(ctl):
    folder, models = (os.environ.get(name) for name in ("FACEDETD_TEST_EVAL", "FACEDETD_TEST_MODELS"))
    if not folder or not models:
        pytest.skip("FACEDETD_TEST_EVAL and FACEDETD_TEST_MODELS name no folders")
    labels, model = Path(folder) / "wider" / "ground_truth.json", Path(models) / "yunet_n_dynamic.onnx"
    found = ctl("model", "evaluate", str(model), "--labels", str(labels), "--json", "--threads", "1").json
    assert 0.8 < found["ap_easy"] < 0.92 and found["ap_easy"] > found["ap_medium"] > found["ap_hard"] > 0.5
    assert found["by_size"]["large"]["recall"] > 0.9 > found["by_size"]["small"]["recall"]


def test_real_pictures_agree_with_the_exact_curve():
    """The whole way again with plain loops, on what a real model found."""
    from test_workshop_ap import naive_ap

    folder, models = (os.environ.get(name) for name in ("FACEDETD_TEST_EVAL", "FACEDETD_TEST_MODELS"))
    if not folder or not models:
        pytest.skip("FACEDETD_TEST_EVAL and FACEDETD_TEST_MODELS name no folders")
    pictures = read_labels(Path(folder) / "wider" / "ground_truth.json").pictures[:30]
    detector = load_detector(Path(models) / "yunet_n_dynamic.onnx", None, None, 1)
    (found,) = run_models([detector], pictures, lambda done, total: None)
    ap = evaluate(pictures, found, 0.5).ap
    for row, level in enumerate(("easy", "medium", "hard")):
        plain = [
            ([f.box for f in faces], [f.score for f in faces],
             [tuple(box) for box in picture.boxes.tolist()], picture.counted[row].tolist())
            for picture, faces in zip(pictures, found, strict=True)
        ]  # fmt: skip
        assert ap[level] == pytest.approx(naive_ap(plain), abs=2e-3)
