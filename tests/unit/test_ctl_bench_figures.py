"""Bench's arithmetic: accuracy, percentiles, and which figures pass."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facedetctl.bench.accuracy import Accuracy, iou, score, score_frame
from facedetctl.bench.figures import LatencyMs, Measured, StreamFigures, Thresholds, check_streams, latency_of
from facedetctl.bench.gpu import GpuUse, use_of
from facedetd.cuda.nvml import GpuFigures

BOX = (10.0, 10.0, 30.0, 50.0)
GOOD = StreamFigures("cam0", 5.0, 100, 5.0, 0.0, LatencyMs(50, 45, 90, 120), Accuracy(100, 100, 90.0))

boxes = st.tuples(
    st.floats(0, 100), st.floats(0, 100), st.floats(1, 50), st.floats(1, 50)
).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))  # fmt: skip


def moved(box, dx):
    return box[0] + dx, box[1], box[2] + dx, box[3]


def test_iou_of_known_boxes():
    assert iou(BOX, BOX) == 1.0
    assert iou(BOX, moved(BOX, 10)) == pytest.approx(1 / 3)  # half of each is shared
    assert iou(BOX, moved(BOX, 20)) == 0.0  # they only touch
    assert iou((0, 0, 10, 10), (0, 0, 5, 10)) == pytest.approx(0.5)


@given(boxes, boxes)
def test_iou_is_symmetric_and_at_most_one(a, b):
    assert 0.0 <= iou(a, b) <= 1.0 + 1e-9
    assert iou(a, b) == pytest.approx(iou(b, a))


def test_a_match_needs_half_and_each_box_counts_once():
    assert score_frame([BOX], [BOX]) == Accuracy(1, 1, 1.0)
    assert score_frame([moved(BOX, 7)], [BOX]).found == 0  # IoU 13/27
    assert score_frame([moved(BOX, 6)], [BOX]).found == 1  # IoU 14/26
    assert score_frame([BOX, BOX], [BOX]) == Accuracy(1, 1, 1.0)
    assert score_frame([BOX], [BOX, moved(BOX, 2)]) == Accuracy(2, 1, 1.0)


def test_the_best_pair_goes_first():
    found = [moved(BOX, 3), BOX]
    assert score_frame(found, [BOX]).iou_sum == 1.0
    assert score_frame(list(reversed(found)), [BOX]).iou_sum == 1.0


@given(st.lists(boxes, max_size=5), st.lists(boxes, max_size=5))
def test_accuracy_stays_in_its_bounds(found, true):
    got = score_frame(found, true)
    assert got.faces == len(true) and got.found <= min(len(found), len(true))
    assert 0.0 <= got.recall <= 1.0 and (got.found == 0 or 0.5 <= got.mean_iou <= 1.0 + 1e-9)


def test_a_frame_without_a_box_counts_as_missed_and_truth_is_asked_by_stream_and_time():
    asked = []

    def truth(stream_id, utc_ns):
        asked.append((stream_id, utc_ns))
        return [BOX]

    got = score("cam3", [(1, [BOX]), (2, [])], truth)
    assert (got.recall, got.mean_iou) == (0.5, 1.0)
    assert asked == [("cam3", 1), ("cam3", 2)]


def test_nothing_to_find_is_no_success():
    assert (Accuracy().recall, Accuracy().mean_iou) == (0.0, 0.0)


def test_percentiles_are_nearest_rank():
    assert latency_of([]) is None
    assert latency_of([7.0]) == LatencyMs(7.0, 7.0, 7.0, 7.0)
    assert latency_of(range(100, 0, -1)) == LatencyMs(50.5, 50, 95, 99)


@given(st.lists(st.floats(0, 1e5), min_size=1))
def test_each_percentile_has_its_share_below_it(values):
    got = latency_of(values)
    for share, value in ((0.50, got.p50), (0.95, got.p95), (0.99, got.p99)):
        assert value in values
        assert sum(v <= value for v in values) >= share * len(values) - 1e-9
        assert sum(v < value for v in values) < share * len(values) + 1e-9


def failed(*streams, limits=None, with_accuracy=True):
    checks = check_streams(streams, limits or Thresholds(), with_accuracy=with_accuracy)
    return [check.name for check in checks if not check.passed]


def test_good_figures_pass():
    assert failed(GOOD) == []


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"fps": 4.74}, "fps"),
        ({"fps": 5.26}, "fps"),
        ({"drop_fraction": 0.03}, "drop"),
        ({"latency": LatencyMs(50, 45, 250, 260)}, "p95 latency"),
        ({"accuracy": Accuracy(1000, 949, 900.0)}, "recall"),
        ({"accuracy": Accuracy(100, 100, 59.9)}, "mean IoU"),
    ],
)
def test_one_bad_stream_among_good_ones_fails_its_check(change, name):
    bad = dataclasses.replace(GOOD, id="bad", **change)
    assert failed(GOOD, bad, GOOD) == [name]
    (check,) = [c for c in check_streams([GOOD, bad], Thresholds(), with_accuracy=True) if not c.passed]
    assert "(bad)" in check.found


@pytest.mark.parametrize(
    "change", [{"fps": 4.76}, {"fps": 5.24}, {"drop_fraction": 0.0299}, {"accuracy": Accuracy(1000, 950, 570.0)}]
)
def test_just_inside_the_limits_passes(change):
    assert failed(dataclasses.replace(GOOD, **change)) == []


def test_a_stream_that_delivered_nothing_fails_all_that_is_asked():
    silent = StreamFigures("cam0", 5.0, 0, 0.0, 0.0, None, Accuracy())
    assert failed(GOOD, silent) == ["fps", "drop", "p95 latency", "recall", "mean IoU"]


def test_no_stream_at_all_is_no_pass():
    assert failed() == ["streams"]


def test_what_is_off_or_unknown_is_not_asked():
    silent = StreamFigures("cam0", 5.0, 0, 0.0, 0.0, None, None)
    assert failed(silent, with_accuracy=False) == ["fps", "drop", "p95 latency"]
    assert failed(silent, limits=Thresholds(None, None, None, None, None)) == []


def test_measured_sums_and_says_so_in_json():
    slow = dataclasses.replace(GOOD, id="cam1", frames=50, fps=2.5, drop_fraction=0.5, latency=None, accuracy=None)
    found = Measured((GOOD, slow), 20.0, GOOD.latency, 6.0, 1 << 20, 8e6, GpuUse(),
                     check_streams([GOOD, slow], Thresholds(), with_accuracy=True))  # fmt: skip
    assert (found.frames, found.drop_fraction, found.passed) == (150, 0.25, False)
    assert found.cpu_ms_per_frame == pytest.approx(40.0)
    json = found.as_json()
    assert json["streams"][0] == {
        "id": "cam0", "target_fps": 5.0, "fps": 5.0, "drop_fraction": 0.0, "recall": 1.0, "mean_iou": 0.9,
        "latency_ms": {"mean": 50, "p50": 45, "p95": 90, "p99": 120},
    }  # fmt: skip
    assert json["streams"][1]["recall"] is None
    assert json["streams"][1]["latency_ms"] == {"mean": None, "p50": None, "p95": None, "p99": None}
    assert (json["pass"], json["cpu_seconds"], json["memory_bytes"], json["network_bps"]) == (False, 6.0, 1 << 20, 8e6)
    assert not [name for name in json if name.startswith("gpu")]


def test_gpus_are_summed_up_by_what_they_tell():
    """A GPU that tells nothing counts as nothing, and not as an idle and empty one."""
    busy = [GpuFigures("a", 0.5, 0.1, 100, 900, 1000, 60.0, 300.0), GpuFigures("b", 0.75, 0.2, 50, 0, 0, 40.0, 100.0)]
    calm = [GpuFigures("a", 0.25, 0.9, 70, 900, 1000, 65.0, 200.0), GpuFigures("b", None, 0.2, None, 0, 0, None, None)]
    assert use_of([busy, calm]) == GpuUse(0.75, 0.5, 150, 65.0, 350.0)
    assert use_of([[GpuFigures("mig")]]) == use_of([]) == GpuUse()
    json = Measured((GOOD,), 20.0, None, 6.0, 0, None, GpuUse(0.12345, None, 150, 65.0), ()).as_json()
    told = {name: value for name, value in json.items() if name.startswith("gpu")}
    assert told == {"gpu_utilisation": 0.123, "gpu_memory_bytes": 150, "gpu_temperature_c": 65.0}


def test_no_frame_has_no_cost():
    silent = StreamFigures("cam0", 5.0, 0, 0.0, 0.0, None, None)
    found = Measured((silent,), 20.0, None, 6.0, 0, None, GpuUse(), ())
    assert found.cpu_ms_per_frame is None
    assert not math.isnan(found.drop_fraction)
