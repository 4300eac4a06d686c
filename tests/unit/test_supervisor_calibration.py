"""A calibration's age and drift: what is seen, for how long, how far that is from the calibration, and what is said."""

import itertools
import json
import math
import os
from datetime import datetime, timezone

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_kit import flat_picture

from facedetd.control import ModelView
from facedetd.inference.luma import LUMA_BINS, LumaMeter, luma_counts
from facedetd.models.calibration import Calibration
from facedetd.models.drift import divergence
from facedetd.ring.header import ColorMatrix, ColorRange, Geometry, SlotHeader
from facedetd.supervisor.calibration_watch import DRIFT_LIMIT, calibration_problems, calibration_view
from facedetd.supervisor.seen_luma import (
    FILE,
    MIN_FRAMES,
    MIN_HOURS,
    WINDOW_HOURS,
    LumaWindow,
    Seen,
    SeenLuma,
    window_of,
)

LIMIT = settings(max_examples=200, deadline=None)
HOUR_S = 3600
NOW_S = 1_795_000_000.0
shares = st.lists(st.integers(0, 10**9), min_size=LUMA_BINS, max_size=LUMA_BINS).filter(any)


# --- divergence ---


@LIMIT
@given(shares, shares)
def test_divergence_is_symmetric_and_bounded(a, b):
    found = divergence(a, b)
    assert 0 <= found <= 1
    assert found == pytest.approx(divergence(b, a))


@LIMIT
@given(shares, st.integers(1, 1000))
def test_divergence_is_nothing_between_the_same_shapes_only(a, factor):
    assert divergence(a, [factor * x for x in a]) == pytest.approx(0, abs=1e-12)


@LIMIT
@given(shares, shares)
def test_divergence_is_what_its_definition_by_entropies_gives(a, b):
    def entropy(p):
        return -sum(x * math.log2(x) for x in p if x > 0)

    p, q = ([x / sum(v) for x in v] for v in (a, b))
    middle = [(x + y) / 2 for x, y in zip(p, q, strict=True)]
    assert divergence(a, b) == pytest.approx(entropy(middle) - (entropy(p) + entropy(q)) / 2, abs=1e-9)


def test_divergence_of_what_has_nothing_in_common_is_one():
    assert divergence([1, 0, 3, 0], [0, 2, 0, 5]) == pytest.approx(1)


@pytest.mark.parametrize(("a", "b"), [([1], [1, 2]), ([0, 0], [1, 2]), ([1, 2], [0, 0]), ([], [])])
def test_divergence_refuses_what_is_no_pair_of_distributions(a, b):
    with pytest.raises(ValueError):
        divergence(a, b)


def bell(mean, deviation):
    """Counts of the bins of a normal distribution of Y."""
    edges = [16 * i for i in range(LUMA_BINS + 1)]
    below = [0.5 * (1 + math.erf((e - mean) / deviation / math.sqrt(2))) for e in edges]
    return [b - a for a, b in itertools.pairwise(below)]


def test_the_limit_is_about_one_standard_deviation():
    assert divergence(bell(110, 30), bell(140, 30)) == pytest.approx(0.16, abs=0.005)
    assert divergence(bell(110, 30), bell(130, 30)) < DRIFT_LIMIT < divergence(bell(110, 30), bell(145, 30))
    # half of a set in the dark, for a camera that is there a tenth of the time: spread, not drifted
    day, night = bell(130, 40), bell(60, 30)
    even, everyday = ([n * a + (1 - n) * b for a, b in zip(night, day, strict=True)] for n in (0.5, 0.1))
    assert divergence(even, everyday) < DRIFT_LIMIT
    assert divergence(day, night) > DRIFT_LIMIT


# --- what is counted ---


def header(geometry=None, range_=ColorRange.LIMITED):
    whole = geometry or Geometry(64, 64, 64, 64, 0, 0)
    return SlotHeader("cam", 0, 0, 0, 0, 0, 0, 0, 0, 0, whole, ColorMatrix.BT601, range_)


def meter():
    now = [0.0]
    return LumaMeter(lambda: now[0], lambda low, high: low), now


def test_one_frame_a_second_at_most_is_looked_at():
    found, now = meter()
    asked = []

    def picture():
        asked.append(now[0])
        return flat_picture(64, 64, 100)

    for i in range(100):
        now[0] = i / 25
        found.see(header(), picture)
    assert asked == [0.0, 1.0, 2.0, 3.0]
    frames, counts = found.take()
    assert frames == 4 and counts[100 // 16] == sum(counts) == 4 * 8 * 8
    assert found.take() == (0, [0] * LUMA_BINS)


def test_padding_is_left_out_and_full_range_is_made_limited():
    found, now = meter()
    nv12 = flat_picture(64, 64, 16)
    nv12[16:48] = 200
    found.see(header(Geometry(64, 32, 64, 32, 0, 16)), lambda: nv12)
    assert found.take()[1][200 // 16] == 8 * 4
    now[0] = 1.0
    found.see(header(range_=ColorRange.FULL), lambda: flat_picture(64, 64, 0))
    assert found.take()[1] == [0, 64, *[0] * 14]  # black is 16


@given(st.integers(0, 2**32))
def test_every_pixel_is_counted_once(seed):
    luma = np.random.default_rng(seed).integers(0, 256, (13, 7), np.uint8)
    counts = luma_counts(luma)
    assert counts.sum() == luma.size
    assert counts[3] == ((luma >= 48) & (luma < 64)).sum()


# --- the window ---

hours = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 5000)), max_size=60)


@LIMIT
@given(hours)
def test_the_window_holds_the_last_week_exactly(given_):
    window = LumaWindow({})
    for hour, frames in sorted(given_):
        window = window.add(hour * HOUR_S + 1.0, frames, [frames] * LUMA_BINS)
    last = max((hour for hour, _ in given_), default=0)
    inside = [(hour, n) for hour, n in given_ if last - WINDOW_HOURS < hour]
    seen = window.seen(last * HOUR_S + 2.0)
    assert seen.frames == sum(n for _, n in inside)
    assert seen.hours == len({hour for hour, n in inside if n})
    assert seen.counts == (seen.frames,) * LUMA_BINS
    assert len(window.hours) <= WINDOW_HOURS
    assert window_of(json.loads(json.dumps(window.to_json()))) == window


@LIMIT
@given(hours)
def test_a_week_later_nothing_is_left(given_):
    window = LumaWindow({})
    for hour, frames in sorted(given_):
        window = window.add(hour * HOUR_S, frames, [1] * LUMA_BINS)
    assert window.seen((401 + WINDOW_HOURS) * HOUR_S) == Seen()


def test_hours_of_a_clock_that_was_wrong_go():
    window = LumaWindow({}).add(NOW_S + 10**6, 5, [1] * LUMA_BINS).add(NOW_S, 7, [1] * LUMA_BINS)
    assert window.seen(NOW_S).frames == 7 and len(window.hours) == 1


def test_one_night_is_not_enough_however_many_frames():
    window = LumaWindow({})
    for hour in range(MIN_HOURS):
        assert not window.seen(hour * HOUR_S).is_enough
        window = window.add(hour * HOUR_S, MIN_FRAMES, [10**6] * LUMA_BINS)
    assert window.seen(MIN_HOURS * HOUR_S).is_enough
    few = LumaWindow(dict.fromkeys(range(MIN_HOURS), (1, (1,) * LUMA_BINS)))
    assert not few.seen(MIN_HOURS * HOUR_S).is_enough


def test_it_is_kept_over_a_restart(tmp_path):
    now = [NOW_S]
    seen = SeenLuma(tmp_path, lambda: now[0])
    seen.add(3, [1] * LUMA_BINS)
    assert not seen.take_turn()
    now[0] += HOUR_S
    assert seen.take_turn() and not seen.take_turn()
    seen.save()
    assert SeenLuma(tmp_path, lambda: now[0]).seen == seen.seen == Seen(1, 3, (1,) * LUMA_BINS)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"format": 2, "hours": {}}', '{"format": 1, "hours": {"x": []}}', '{"format": 1, "hours": []}',
     '{"format": 1, "hours": {"1": [1, 2]}}', '{"format": 1, "hours": {"1": [' + ",".join(["-1"] * 17) + "]}}",
     "[" * 100_000],
)  # fmt: skip
def test_a_file_that_is_damaged_begins_anew(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    seen = SeenLuma(tmp_path, lambda: NOW_S)
    assert seen.seen == Seen()
    seen.add(1, [1] * LUMA_BINS)
    seen.save()
    assert SeenLuma(tmp_path, lambda: NOW_S).seen.frames == 1


def test_a_full_disk_ends_nothing(tmp_path, monkeypatch):
    seen = SeenLuma(tmp_path, lambda: NOW_S)

    def fsync(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    seen.save()
    assert list(tmp_path.iterdir()) == []


# --- what is said of it ---


def calibration(days=10, luma=None):
    at = datetime.fromtimestamp(NOW_S - days * 86_400, timezone.utc)
    return Calibration(at, 500, "0" * 64, "entropy", tuple(luma or [1 / LUMA_BINS] * LUMA_BINS))


def model(found, seen):
    view = calibration_view(found, seen, NOW_S)
    return ModelView("yunet", "abc", "yunet", "onnxruntime", 640, 384, "0", calibration=view)


ENOUGH = Seen(MIN_HOURS, MIN_FRAMES, (5,) * LUMA_BINS)


def test_a_float_model_has_no_age_and_no_problem():
    assert calibration_view(None, ENOUGH, NOW_S) is None
    assert calibration_problems(model(None, ENOUGH), 1) == calibration_problems(None, 1) == []


def test_age():
    found = model(calibration(days=121), Seen())
    assert found.calibration.age_s == pytest.approx(121 * 86_400, abs=1)
    assert found.calibration.drift is None
    ((severity, subject, text),) = calibration_problems(found, 120)
    assert (severity, subject) == ("warning", "calibration")
    assert "yunet@abc is 121 days old, more than inference.calibration_max_age_days (120)" in text
    assert calibration_problems(found, 122) == []
    assert model(calibration(days=-5), Seen()).calibration.age_s == 0  # a clock that was wrong


def test_drift():
    assert model(calibration(), ENOUGH).calibration.drift == pytest.approx(0)
    assert calibration_problems(model(calibration(), ENOUGH), 120) == []
    dark = Seen(MIN_HOURS, MIN_FRAMES, (5, *[0] * (LUMA_BINS - 1)))
    ((severity, _, text),) = calibration_problems(model(calibration(), dark), 120)
    assert severity == "warning" and "last 7 days" in text and f"over {DRIFT_LIMIT}" in text
    short = Seen(MIN_HOURS - 1, MIN_FRAMES, dark.counts)
    assert calibration_problems(model(calibration(), short), 120) == []
    both = calibration_problems(model(calibration(days=500), dark), 120)
    assert len(both) == 1 and "500 days" in both[0][2] and "last 7 days" in both[0][2]
