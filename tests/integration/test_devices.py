"""Several devices that infer: real processes, on the CPU engine, a process for each number of inference.devices."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc
import pytest

from facedetctl.local import LocalDaemon
from facedetd.models import ModelStore
from facedetd.v1 import daemon_pb2
from tests.cameras import CameraServer
from tests.integration.daemon_kit import (
    SMALL_MODEL,
    check_accounts,
    model_store,
    pids,
    put_another,
    quiesce,
    reload,
    start_streams,
    stats,
    tallying,
    until,
    until_inferred,
    watching,
)

IDS = ["a", "b", "c"]
INFERENCE = daemon_pb2.WORKER_KIND_INFERENCE
ONE = (
    SMALL_MODEL.replace("streams_per_group = 4", "streams_per_group = 1") + "[inference]\nthreads = 1\ndevices = [0]\n"
)
TWO = ONE.replace("[0]", "[0, 3]")


@pytest.fixture
def busy(cameras: CameraServer) -> Iterator[LocalDaemon]:
    """Three streams in as many groups, on two devices."""
    with LocalDaemon(TWO, models=model_store()) as daemon:
        start_streams(daemon, cameras, IDS)
        try:
            both_run(daemon)
            until_inferred(daemon, IDS)
            yield daemon
        finally:
            print(stats(daemon) if daemon.is_up() else "", daemon.log_text())


def both_run(daemon: LocalDaemon) -> None:
    """The daemon answers as soon as one does, and all streams go there till the other does."""
    until(lambda: list(pids(daemon, INFERENCE)) == ["inference-0.0", "inference-0.3"], "both devices' processes")


def cpu_s(daemon: LocalDaemon, name: str) -> float:
    """CPU seconds that an inference process has used: what shows which one works."""
    return next(p.cpu_time.ToNanoseconds() / 1e9 for p in stats(daemon).processes if p.name == name)


def until_all_work(daemon: LocalDaemon, names: Sequence[str]) -> None:
    """How many frames 0.05 s are depends on the machine; without any, a process takes less than that in so long."""
    before = {name: cpu_s(daemon, name) for name in names}
    until(lambda: all(cpu_s(daemon, n) > s + 0.05 for n, s in before.items()), f"{names} at work", 15)


def problems(daemon: LocalDaemon) -> list[str]:
    health = daemon.daemon.GetHealth(daemon_pb2.GetHealthRequest(), timeout=10)
    return [f"{p.subject}: {p.message}" for p in health.problems]


def test_each_device_has_a_process_and_all_of_them_work(busy: LocalDaemon) -> None:
    assert list(pids(busy, INFERENCE)) == ["inference-0.0", "inference-0.3"]
    until_all_work(busy, list(pids(busy, INFERENCE)))
    until_inferred(busy, IDS, 15)
    found = stats(busy)
    assert found.inference.frames >= 3 * 15 and not problems(busy)


def test_one_that_dies_is_stood_in_for_and_gets_its_streams_back(busy: LocalDaemon) -> None:
    with tallying(busy, IDS) as tally:
        for name in ("inference-0.3", "inference-0.0"):
            pid = pids(busy, INFERENCE)[name]
            os.kill(pid, signal.SIGKILL)
            until(lambda name=name, pid=pid: pids(busy, INFERENCE).get(name, pid) != pid, "it runs again")  # type: ignore[misc]
            until_inferred(busy, IDS)
            used = cpu_s(busy, name)
            until(lambda name=name, used=used: cpu_s(busy, name) > used + 0.05, "it works again")  # type: ignore[misc]
        assert stats(busy).state == daemon_pb2.DAEMON_STATE_RUNNING
        for stream_id, status in quiesce(busy, IDS).items():
            check_accounts(status)
            assert status.reconnects == 0
            results = [r.sequence for r in tally.results(stream_id, status.frames_inferred, uncounted=2)]
            assert len(results) == len(set(results))
    assert {p.name: p.restarts for p in stats(busy).processes if p.kind == INFERENCE} == {
        "inference-0.0": 1, "inference-0.3": 1
    }  # fmt: skip


def test_one_that_comes_back_runs_what_the_others_run(cameras: CameraServer, tmp_path: Path) -> None:
    """And not a version that was stored since: half of the streams would have another model, and nobody asked."""
    shutil.copytree(model_store(), tmp_path / "models")
    store = ModelStore(tmp_path / "models")
    first = store.get("centerface")
    with LocalDaemon(TWO, models=store.root) as daemon:
        start_streams(daemon, cameras, IDS)
        both_run(daemon)
        until_inferred(daemon, IDS)
        assert put_another(store, "centerface").version != first.version
        pid = pids(daemon, INFERENCE)["inference-0.3"]
        os.kill(pid, signal.SIGKILL)
        until(lambda: pids(daemon, INFERENCE).get("inference-0.3", pid) != pid, "it runs again")
        used = cpu_s(daemon, "inference-0.3")
        with watching(daemon) as watch:
            until(lambda: cpu_s(daemon, "inference-0.3") > used + 0.1, "it works again")
            until_inferred(daemon, IDS)
            assert {m.detection.model_version for m in watch.messages} == {first.version}


def test_a_stopped_one_is_found_out_and_the_other_goes_on_meanwhile(busy: LocalDaemon) -> None:
    stuck = pids(busy, INFERENCE)["inference-0.3"]
    os.kill(stuck, signal.SIGSTOP)
    until(lambda: pids(busy, INFERENCE).get("inference-0.3") != stuck, "the heartbeat to find it")
    until_inferred(busy, IDS)


def test_devices_come_and_go_with_a_reload(busy: LocalDaemon) -> None:
    for settings, expected in ((ONE, ["inference-1"]), (TWO, ["inference-2.0", "inference-2.3"])):
        reload(busy, settings)
        until(lambda expected=expected: list(pids(busy, INFERENCE)) == expected, f"{expected} alone")  # type: ignore[misc]
        until_all_work(busy, expected)
        until_inferred(busy, IDS)
    for status in quiesce(busy, IDS).values():
        check_accounts(status)
        assert status.reconnects == 0
        assert not any(n for reason, n in status.frames_dropped.items() if reason not in ("replaced", "no_slot"))


def test_a_model_that_no_device_runs_is_refused_and_the_old_one_goes_on(busy: LocalDaemon) -> None:
    busy.write_config(TWO.replace('"centerface"', '"nosuch"'))
    with pytest.raises(grpc.RpcError) as error:
        busy.daemon.Reload(daemon_pb2.ReloadRequest(), timeout=60)
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "the old one goes on" in str(error.value.details()) and "device 3" in str(error.value.details())
    until_inferred(busy, IDS)
    assert list(pids(busy, INFERENCE)) == ["inference-0.0", "inference-0.3"]
