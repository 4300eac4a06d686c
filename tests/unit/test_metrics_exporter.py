"""The metrics as Prometheus reads them: names, values, promtool's opinion, series that come and go."""

import gzip
import shutil
import subprocess
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from facedetd.control import (
    CalibrationView,
    DaemonState,
    Degradation,
    DegradationView,
    GpuView,
    InferenceView,
    LoadView,
    ModelView,
    ProcessView,
    Stage,
    StatsView,
    StreamCounts,
    StreamView,
    WorkerKind,
)
from facedetd.metrics.exporter import Metrics, MonotonicTotals
from facedetd.types import DecodeLevel, Origin, StreamSpec, StreamState

LOAD = LoadView(2.0, 0.25, 0.875, 0.75, 0.125, 0.5, 0.2, 0.0, 0.0625, 0.03, 0.12, 4e6)
SHORT = DegradationView(Degradation.REDUCED, "decode was short", 0, Stage.DECODE, LOAD, 28.0, 1.5, None)
COUNTS = StreamCounts(250, 900_000, 240, 48, 192, 44, 7, 2, 1, 1, {"stale": 2})


def stream(name="cam1", counts=COUNTS, state=StreamState.STREAMING):
    spec = StreamSpec(name, "rtsp://secret.example/ch1", username="admin", target_fps=5.0)
    return StreamView(
        spec,
        Origin.API,
        True,
        state,
        "H.264 from rtsp://secret.example",
        0,
        "h264",
        1280,
        720,
        25.0,
        4.0,
        3.9,
        None,
        counts,
    )


def process(name="decoder-0", kind=WorkerKind.DECODER, pid=100, cpu=1.5, restarts=0):
    return ProcessView(kind, name, pid, "running", 60.0, cpu, 0.2, 50_000_000, restarts, 4, "")


def stats(streams=(), processes=(), lost=0, inference=True, degradation=None):
    return StatsView(
        0,
        DaemonState.RUNNING,
        123.0,
        ModelView("centerface", "1", "centerface", "onnxruntime", 640, 384, "ab" * 32),
        tuple(streams),
        tuple(processes),
        InferenceView(10.0, 1.5, 0.02, 30, 44, lost, 0.012) if inference else None,
        3,
        None,
        watcher_results_lost=9,
        degradation=degradation,
    )


class Source:
    """Answers with the view that the test put there."""

    def __init__(self, view):
        self.view = view
        self.metrics = Metrics(lambda: self.view)

    def samples(self):
        text = self.metrics.render().body.decode()
        return {
            (s.name, tuple(sorted(s.labels.items()))): s.value
            for family in text_string_to_metric_families(text)
            for s in family.samples
        }

    def value(self, name, /, **labels):
        return self.samples()[name, tuple(sorted(labels.items()))]

    def has(self, name, /, **labels):
        return (name, tuple(sorted(labels.items()))) in self.samples()


@pytest.fixture
def full():
    source = Source(
        stats(
            [
                replace(stream(), decode_level=DecodeLevel.KEYFRAMES),
                stream("cam2", StreamCounts(), StreamState.BACKING_OFF),
            ],
            [
                process(),
                process("inference-0", WorkerKind.INFERENCE, 101),
                process("facedetd", WorkerKind.SUPERVISOR, 99),
            ],
            degradation=SHORT,
        )
    )
    source.metrics.observe_result("cam1", 0.08)
    source.metrics.observe_result("cam1", 0.3)
    source.metrics.observe_batch(3, 0.03)
    return source


def test_every_count_of_a_stream_is_there(full):
    for name, value in {
        "frames_received_total": 250,
        "received_bytes_total": 900_000,
        "frames_decoded_total": 240,
        "frames_sampled_total": 48,
        "frames_not_sampled_total": 192,
        "frames_inferred_total": 44,
        "faces_total": 7,
        "reconnects_total": 2,
        "target_frames_per_second": 5,
        "granted_frames_per_second": 4,
        "actual_frames_per_second": 3.9,
        "priority": 50,
    }.items():
        assert full.value(f"facedetd_stream_{name}", stream="cam1") == value, name
    assert full.value("facedetd_stream_frames_dropped_total", stream="cam1", reason="stale") == 2
    assert full.value("facedetd_stream_frames_dropped_total", stream="cam2", reason="stale") == 0
    assert full.value("facedetd_stream_ring_frames", stream="cam1", state="waiting") == 1
    assert full.value("facedetd_stream_ring_frames", stream="cam1", state="in_flight") == 1


def test_exactly_one_state_is_1(full):
    states = {s.value: full.value("facedetd_stream_state", stream="cam2", state=s.value) for s in StreamState}
    assert states == {s.value: float(s is StreamState.BACKING_OFF) for s in StreamState}
    daemon = {s.value: full.value("facedetd_state", state=s.value) for s in DaemonState}
    assert daemon == {s.value: float(s is DaemonState.RUNNING) for s in DaemonState}


def test_daemon_processes_and_inference(full):
    assert full.value("facedetd_process_cpu_seconds_total", kind="decoder", name="decoder-0") == 1.5
    assert full.value("facedetd_process_resident_memory_bytes", kind="inference", name="inference-0") == 50_000_000
    assert full.value("facedetd_inference_queue_age_seconds") == 0.012
    assert full.value("facedetd_inference_batch_frames_bucket", le="3.0") == 1
    assert full.value("facedetd_inference_batch_frames_bucket", le="2.0") == 0
    assert full.value("facedetd_inference_batch_seconds_sum") == 0.03
    assert full.value("facedetd_watchers") == 3
    assert full.value("facedetd_watcher_results_lost_total") == 9
    assert any(name == "facedetd_build_info" for name, _ in full.samples())
    model = next(dict(labels) for name, labels in full.samples() if name == "facedetd_model_info")
    assert (model["name"], model["input"]) == ("centerface", "640x384")


def test_an_int8_model_s_calibration_has_an_age_and_then_a_drift_and_a_float_model_s_neither():
    names = [f"facedetd_model_calibration_{what}" for what in ("age_seconds", "drift")]
    for view, wanted in (
        (None, [None, None]),
        (CalibrationView(0, 500, "entropy", 86_400.0), [86_400.0, None]),
        (CalibrationView(0, 500, "entropy", 9.0, 0.25), [9.0, 0.25]),
    ):
        bare = stats()
        source = Source(replace(bare, model=replace(bare.model, calibration=view)))
        assert [source.value(name) if source.has(name) else None for name in names] == wanted


def test_gpus_give_what_they_tell_and_are_not_there_where_none_answers(full):
    assert not [name for name, _ in full.samples() if name.startswith("facedetd_gpu")]
    whole = GpuView(0, "GPU-0", "an H100", "580.0", 0.4, 0.83, 19, 60, 80, 7, 61.0, 312.5)
    full.view = replace(full.view, gpus=(whole, GpuView(1, "MIG-1", "a part of one", "580.0", memory_used_bytes=0)))
    found = {k: v for k, v in full.samples().items() if k[0].startswith("facedetd_gpu") and k[0] != "facedetd_gpu_info"}
    assert found == {
        (f"facedetd_gpu_{name}", (("gpu", gpu),)): value
        for name, gpu, value in (
            ("utilisation_ratio", "0", 0.4),
            ("decoder_utilisation_ratio", "0", 0.83),
            ("memory_used_bytes", "0", 19),
            ("memory_used_bytes", "1", 0),
            ("memory_free_bytes", "0", 60),
            ("memory_total_bytes", "0", 80),
            ("own_memory_bytes", "0", 7),
            ("temperature_celsius", "0", 61),
            ("power_watts", "0", 312.5),
        )
    }
    assert full.value("facedetd_gpu_info", gpu="1", uuid="MIG-1", name="a part of one", driver="580.0") == 1


def test_degradation(full):
    states = {s: full.value("facedetd_degradation", state=s.value) for s in Degradation}
    assert states == {s: float(s is Degradation.REDUCED) for s in Degradation}
    short = {s: full.value("facedetd_shortage", stage=s.value) for s in Stage}
    assert short == {s: float(s is Stage.DECODE) for s in Stage}
    for name, value in {
        "host_cores": 2.0,
        "host_idle_cores": 0.25,
        "decode_lag_seconds": 0.0625,
        "inference_busy_ratio": 0.5,
        "inference_capacity_frames_per_second": 28.0,
        "decode_capacity_cores": 1.5,
    }.items():
        assert full.value(f"facedetd_{name}") == value, name
    assert not full.has("facedetd_network_capacity_bits_per_second")  # it isn't short
    levels = [full.value("facedetd_stream_decode_level", stream=name) for name in ("cam1", "cam2")]
    assert levels == [list(DecodeLevel).index(DecodeLevel.KEYFRAMES), 0]


def test_the_latency_histogram_spans_5_ms_to_5_s(full):
    assert full.value("facedetd_stream_latency_seconds_count", stream="cam1") == 2
    assert full.value("facedetd_stream_latency_seconds_bucket", stream="cam1", le="0.1") == 1
    bounds = [float(dict(k)["le"]) for n, k in full.samples() if n == "facedetd_stream_latency_seconds_bucket"]
    assert (min(bounds), sorted(bounds)[-2]) == (0.005, 5.0)


def test_no_url_and_no_camera_text_gets_out(full):
    text = full.metrics.render().body.decode()
    assert "secret" not in text
    assert "admin" not in text
    assert "://" not in text


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) isn't installed")
@pytest.mark.parametrize("gpus", [(), (GpuView(0, "GPU-0", "an H100", "580.0", 0.4),)])
@pytest.mark.parametrize("empty", [False, True])
def test_promtool_has_nothing_to_say(full, empty, gpus):
    full.view = replace(stats(inference=False) if empty else full.view, gpus=gpus)
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=full.metrics.render().body, check=False, capture_output=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_openmetrics_and_gzip_are_negotiated(full):
    plain = full.metrics.render()
    assert plain.content_type.startswith("text/plain")
    answer = full.metrics.render("application/openmetrics-text; version=1.0.0", "gzip")
    assert answer.content_type.startswith("application/openmetrics-text")
    assert answer.encoding == "gzip"
    text = gzip.decompress(answer.body).decode()
    assert text.endswith("# EOF\n")
    names = {f.name for f in parse_openmetrics(text)}
    assert {"facedetd_stream_frames_decoded", "facedetd_stream_latency_seconds", "facedetd_build"} <= names


def test_a_deleted_streams_series_go_at_once_or_with_the_next_scrape(full):
    full.metrics.forget_stream("cam1")
    full.metrics.forget_stream("cam1")
    full.metrics.forget_stream("never seen")
    assert not full.has("facedetd_stream_latency_seconds_count", stream="cam1")
    full.metrics.observe_result("late", 0.1)  # of a stream that StatsView no longer has
    assert not full.has("facedetd_stream_latency_seconds_count", stream="late")


def test_series_do_not_grow_with_streams_that_come_and_go():
    source = Source(stats([stream("cam")]))
    source.metrics.observe_result("cam", 0.1)
    before = len(source.samples())
    for n in range(50):
        source.view = stats([stream(f"cam{n}")])
        source.metrics.observe_result(f"cam{n}", 0.1)
        assert len(source.samples()) == before


def test_cpu_seconds_and_lost_results_never_fall_when_workers_restart():
    source = Source(stats())
    seen = []
    for pid, cpu, lost in ((100, 2.0, 5), (100, 3.0, 6), (0, 0.0, 0), (101, 0.5, 1), (102, 4.0, 2), (102, 4.5, 2)):
        source.view = stats(processes=[process(pid=pid, cpu=cpu)], lost=lost)
        seen.append(
            (
                source.value("facedetd_process_cpu_seconds_total", kind="decoder", name="decoder-0"),
                source.value("facedetd_inference_results_lost_total"),
            )
        )
    assert seen == [(2.0, 5), (3.0, 6), (3.0, 6), (3.5, 7), (7.5, 8), (8.0, 8)]


def test_lost_results_survive_an_inference_process_that_is_away():
    source = Source(stats(lost=5))
    assert source.value("facedetd_inference_results_lost_total") == 5
    source.view = stats(inference=False)
    assert source.value("facedetd_inference_results_lost_total") == 5
    source.view = stats(lost=5)  # of all processes: nothing came to it
    assert source.value("facedetd_inference_results_lost_total") == 5
    source.view = stats(inference=False)
    assert source.value("facedetd_inference_results_lost_total") == 5
    assert not source.has("facedetd_inference_queue_age_seconds")


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 100)), max_size=40))
def test_totals_never_fall_and_rise_by_at_most_what_was_counted(steps):
    totals = MonotonicTotals()
    last, last_value, last_life = 0.0, 0, None
    for life, value in steps:
        total = totals.total("x", life, value)
        same = life == last_life and value >= last_value
        assert total == last + (value - last_value if same else value)
        last, last_value, last_life = total, value, life


def test_totals_forget_what_is_gone():
    totals = MonotonicTotals()
    totals.total("a", 1, 5)
    totals.total("b", 1, 5)
    totals.keep(["b"])
    assert totals.total("a", 2, 1) == 1
    assert totals.total("b", 2, 1) == 6


def test_a_view_is_taken_whole_before_it_is_made_into_text():
    """What a thread renders is the view of the moment of the scrape, whatever the loop does meanwhile."""
    source = Source(stats([stream()]))
    make = source.metrics._take()
    source.view = stats([stream(counts=replace(COUNTS, faces=99))])
    assert b'facedetd_stream_faces_total{stream="cam1"} 7.0' in make("", "").body
