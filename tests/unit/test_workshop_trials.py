"""What candidates are asked beyond counting boxes: how far scores move, on which pictures, and can these tell?"""

import math

import model_kit
import numpy as np
import pytest
from ctl_harness import Ctl
from hypothesis import given, settings
from hypothesis import strategies as st
from quantize_kit import detector, pictures

from facedetd.inference.types import InputSpec
from facedetd.types import Face
from facedetd.workshop import quantize
from facedetd.workshop.calibrate import Feeder, read_set
from facedetd.workshop.enough import missing
from facedetd.workshop.harder import harder
from facedetd.workshop.trials import DENSITY, Asked, moves, verdict


def face(x, score, side=10.0):
    return Face((x, 0.0, x + side, side), score)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


@settings(deadline=None)
@given(st.lists(st.floats(-2, 3), min_size=1, max_size=20), st.floats(-0.02, 0.02))
def test_how_far_logits_move_shows_at_every_score(logits, shift):
    reference = [tuple(face(50.0 * i, sigmoid(x)) for i, x in enumerate(logits))]
    found = [tuple(face(50.0 * i, sigmoid(x + shift)) for i, x in enumerate(logits))]
    told = moves(reference, found)
    assert told.logit == pytest.approx(abs(shift), rel=0.02, abs=1e-6)
    assert told.boxes == sum(f.score >= 0.5 for f in reference[0]) and told.displaced == 0
    if told.boxes:
        assert told.expected == pytest.approx(1 - abs(shift) / 4, abs=1e-3)


def test_what_is_expected_is_what_a_hard_scene_loses():
    """The formula against counting: scores as DENSITY says, logits moved at random."""
    random = np.random.default_rng(3)
    logits = random.uniform(-2, 2, 40_000)  # half of them from 0 on: a quarter of those from 0 on, to a unit of logit
    after = logits + random.normal(0, 0.1, len(logits))
    per_unit = np.mean(np.abs(logits) < 0.5) / np.mean(logits >= 0)
    faces = [[(face(0.0, float(sigmoid(x))),) for x in each] for each in (logits, after)]
    told = moves(*faces)
    lost = np.mean(after[logits >= 0] < 0)
    assert per_unit == pytest.approx(DENSITY, rel=0.05)
    assert told.expected == pytest.approx(1 - lost, abs=0.002) and lost > 0.015


def test_boxes_out_of_place_are_lost_at_any_score():
    reference = [(face(0, 0.9), face(50, 0.6), face(90, 0.2))]
    far = [(face(0, 0.9), face(52.5, 0.6), face(94, 0.2))]  # IoU 0.6; the third isn't one of SURE
    assert moves(reference, far).displaced == 1 and moves(reference, far).expected == pytest.approx(0.5)
    assert moves([()], [()]).expected is None
    assert moves(reference, [()]).expected == 0


def test_a_set_of_plain_faces_only_does_not_hide_what_int8_costs():
    """Every box is found again at every IoU; yet near the threshold such scores would cost one box in forty."""
    plain = [tuple(face(50.0 * i, sigmoid(3.0)) for i in range(200))]
    moved = [tuple(face(50.0 * i, sigmoid(3.0 + (0.1 if i % 2 else -0.1))) for i in range(200))]
    found = verdict(plain, moved, (), Asked(None, 0.998))
    assert found.matched.share == 1
    assert found.wrong == ("97.50 % of boxes to be expected in hard scenes (asked 99.8 %)",)
    assert verdict(plain, moved, (), Asked(None, 0.97)).holds


def test_what_a_set_lacks_is_said(tmp_path):
    frame = Feeder(64, 64, InputSpec()).frame(pictures(tmp_path, 1) / "000.png")
    rich = [tuple(face(0.0, 0.5, side) for side in (20.0, 50.0, 200.0) for _ in range(40))]
    assert missing([frame], rich) == ()
    few = missing([frame], [(face(0.0, 0.5, 20.0), *[face(0.0, 0.99, 50.0)] * 30)])
    assert len(few) == 3
    assert few[0] == "2 boxes with scores near 0.5 (100 are wanted)"
    assert few[1] == "1 faces under 32 px high in the model's picture (20 are wanted)"
    assert few[2] == "0 faces 96 or more px high in the model's picture (20 are wanted)"


# --- harder versions ---


def test_harder_versions_are_the_same_each_time_and_not_larger_than_the_model(tmp_path):
    bgr = np.random.default_rng(1).integers(0, 255, (90, 200, 3), np.uint8)
    made = [harder(bgr, 64, 64, seed) for seed in range(12)]
    assert {one.shape for one in made} == {(28, 64, 3)}
    assert all((one == harder(bgr, 64, 64, seed)).all() for seed, one in enumerate(made))
    assert len({one.tobytes() for one in made}) == 12
    assert harder(bgr, 640, 640, 0).shape == bgr.shape  # never enlarged
    assert np.mean([one.std() for one in made]) < bgr.std()
    assert harder(bgr[:1, :1], 64, 64, 0).shape == (4, 4, 3)


def test_half_of_what_is_tried_on_is_harder(tmp_path):
    feeder = Feeder(64, 64, InputSpec())
    few = quantize.frames_to_try(read_set(pictures(tmp_path / "few", 8)), feeder, 64, 64)
    files = read_set(tmp_path / "few").files
    assert len(few) == 16
    assert all((few[2 * i].nv12 == feeder.frame(path).nv12).all() for i, path in enumerate(files))
    assert all((few[2 * i].nv12 != few[2 * i + 1].nv12).any() for i in range(8))
    many = quantize.frames_to_try(read_set(pictures(tmp_path / "many", 120)), feeder, 64, 64)
    assert len(many) == quantize.CHECKED


def test_the_command_says_what_the_set_lacks_and_what_is_foretold(monkeypatch, tmp_path):
    model, folder = model_kit.save(detector(), tmp_path / "red.onnx"), pictures(tmp_path / "set", 12)
    words = ("model", "quantize", str(model), "--calibration", str(folder), "--output", str(tmp_path / "int8.onnx"))
    words += ("--width", "64", "--height", "64", "--threads", "1", "--keep-float", "none")
    done = Ctl(monkeypatch)(*words)
    assert done.code == 0 and "of the boxes in a hard scene" in done.out
    assert "the calibration set shows little" in done.err and "0 faces 96 or more px high" in done.err
    check = Ctl(monkeypatch)(*words, "--json").json["check"]
    assert check["pictures"] == 24 and len(check["missing"]) >= 2
    assert 0 < check["expected_share"] <= 1 and check["score_moves_logit"] > 0
