"""Measuring a daemon: a real API server over a fake control plane whose counters and results the test moves."""

import dataclasses
import os
import time
from types import SimpleNamespace

import grpc
import pytest
from api_harness import serving
from fakes_control import UTC_NS, FakeControl, result_of, view_of

from facedetctl.bench import measure as measure_module
from facedetctl.bench.figures import Thresholds
from facedetctl.bench.measure import MeasureError, Watcher, measure, wait_until_streaming
from facedetd.types import StreamSpec, StreamState
from facedetd.v1 import daemon_pb2_grpc, detection_pb2_grpc

BOX = (10.0, 20.0, 50.0, 80.0)


class Daemon:
    """What measure() uses of a LocalDaemon."""

    def __init__(self, channel):
        self.daemon = daemon_pb2_grpc.DaemonServiceStub(channel)
        self.detections = detection_pb2_grpc.DetectionServiceStub(channel)

    def pids(self):
        return [os.getpid()]


@pytest.fixture
def served():
    control = FakeControl()
    for name in ("cam0", "cam1"):
        control.streams[name] = view_of(StreamSpec(name, f"rtsp://{name}/"))
    with serving(control) as running:
        yield running


@pytest.fixture
def daemon(served):
    with served.channel() as channel:
        yield Daemon(channel)


def grow(control, name, sampled, dropped, received_bytes):
    view = control.streams[name]
    counts = view.counts
    more = dataclasses.replace(
        counts,
        sampled=counts.sampled + sampled,
        received_bytes=counts.received_bytes + received_bytes,
        dropped={**counts.dropped, "no_slot": counts.dropped.get("no_slot", 0) + dropped},
    )
    control.streams[name] = dataclasses.replace(view, counts=more)


def until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_watched(served):
    return bool(served.call(lambda: len(served.control.watchers)))


def test_counts_only_what_happens_within_the_window(served, daemon, monkeypatch):
    watchers = []

    class Kept(Watcher):
        def __init__(self, daemon):
            super().__init__(daemon)
            watchers.append(self)

    def window(seconds):
        assert seconds == 1.5
        until(lambda: is_watched(served))
        served.call(work, served.control)
        until(lambda: len(watchers[0]._delivered) == 6)

    monkeypatch.setattr(measure_module, "Watcher", Kept)
    monkeypatch.setattr(measure_module, "time", SimpleNamespace(monotonic=time.monotonic, sleep=window))

    def work(control):
        for number in range(4):
            control.push(dataclasses.replace(result_of("cam0", number), faces=()))
        control.push(result_of("cam1", 0))
        control.push(result_of("other", 0))
        grow(control, "cam0", sampled=8, dropped=4, received_bytes=1000)
        grow(control, "cam1", sampled=1, dropped=0, received_bytes=500)

    asked = []

    def truth(stream_id, utc_ns):
        asked.append((stream_id, utc_ns))
        return [result_of("cam1", 0).faces[0].box]

    found = measure(daemon, 1.5, {"cam0": 5.0, "cam1": 5.0}, truth, Thresholds())
    cam0, cam1 = found.streams
    assert (cam0.id, cam0.frames, cam1.id, cam1.frames) == ("cam0", 4, "cam1", 1)
    assert (cam0.drop_fraction, cam1.drop_fraction) == (0.5, 0.0)  # what was counted before doesn't matter
    assert cam0.fps == pytest.approx(4 / found.window_s)
    assert found.network_bps == pytest.approx(8 * 1500 / found.window_s)
    assert asked == [("cam0", UTC_NS + n * 200_000_000) for n in range(4)] + [("cam1", UTC_NS)]
    assert (cam0.accuracy.recall, cam1.accuracy.recall) == (0.0, 1.0)
    assert cam1.accuracy.mean_iou == pytest.approx(1.0)
    assert cam1.latency is not None and cam1.latency.p50 > 0
    assert not found.passed and found.cpu_seconds >= 0 and found.memory_bytes > 0


def test_without_truth_accuracy_is_neither_given_nor_asked(served, daemon):
    found = measure(daemon, 0.1, {"cam0": 5.0}, None)
    assert found.streams[0].accuracy is None
    assert not {"recall", "mean IoU"} & {check.name for check in found.checks}


def test_a_daemon_that_ends_is_an_error(served, daemon):
    watcher = Watcher(daemon)
    until(lambda: is_watched(served))
    served.stop(0.0)
    watcher._thread.join(10)
    with pytest.raises(MeasureError, match="broke off"):
        watcher.close()


def test_results_that_bench_lost_are_an_error(served, daemon):
    watcher = Watcher(daemon)
    until(lambda: is_watched(served))
    served.call(served.control.push, result_of("cam0", 1))
    until(lambda: watcher._delivered)
    watcher.lost = 3
    with pytest.raises(MeasureError, match="lost 3 results"):
        watcher.close()


def test_waiting_names_the_streams_that_do_not_come_up_and_why(served, daemon):
    told: list[int] = []
    wait_until_streaming(daemon, ["cam0", "cam1"], 5.0, told=told.append)
    assert told[-1] == 0
    served.control.streams["cam1"] = dataclasses.replace(
        served.control.streams["cam1"], state=StreamState.BACKING_OFF, detail="connection refused"
    )
    why = r"cam1: backing off, \d+ frames sampled \(connection refused\); cam9: no such stream"
    with pytest.raises(MeasureError, match=r"2 of 3 streams .*" + why):
        wait_until_streaming(daemon, ["cam0", "cam1", "cam9"], 0.0, told=told.append)
    assert told[-1] == 2


def test_a_dead_daemon_is_a_call_error():
    with grpc.insecure_channel("unix:/nonexistent") as channel, pytest.raises(grpc.RpcError):
        wait_until_streaming(Daemon(channel), ["cam0"], 0.0)
