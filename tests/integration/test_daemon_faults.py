"""Faults that come together or at a bad moment: both ends at once, during a reload, a removal, a start, a stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from facedetctl.local import STOP_TIMEOUT_S, LocalDaemon
from facedetd.v1 import daemon_pb2, detection_pb2, stream_pb2
from tests.cameras import CameraServer
from tests.integration.daemon_kit import (
    SMALL_MODEL,
    add,
    check_accounts,
    model_store,
    pids,
    quiesce,
    reload,
    start_streams,
    stats,
    stream,
    until,
    until_inferred,
    watching,
)

IDS = ["a", "b"]
DECODER, INFERENCE = daemon_pb2.WORKER_KIND_DECODER, daemon_pb2.WORKER_KIND_INFERENCE
OTHER_MODEL = SMALL_MODEL.replace("320", "384").replace("192", "256")


@pytest.fixture
def busy(cameras: CameraServer) -> Iterator[LocalDaemon]:
    """A daemon with two streams that run."""
    with LocalDaemon(SMALL_MODEL, models=model_store()) as daemon:
        start_streams(daemon, cameras, IDS)
        try:
            until_inferred(daemon, IDS)
            yield daemon
        finally:
            print(stats(daemon) if daemon.is_up() else "", daemon.log_text())


def workers(daemon: LocalDaemon) -> list[int]:
    return [*pids(daemon, DECODER).values(), *pids(daemon, INFERENCE).values()]


def new_process(daemon: LocalDaemon) -> int:
    """The inference process that loads; 0: none does."""
    return next((p.pid for p in stats(daemon).processes if p.kind == INFERENCE and p.state == "starting"), 0)


def kill(daemon: LocalDaemon, found: list[int]) -> None:
    for pid in found:
        os.kill(pid, signal.SIGKILL)
    until(lambda: not set(workers(daemon)) & set(found), "the loss to be noticed")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def descriptors(daemon: LocalDaemon) -> int:
    assert daemon.process
    try:
        return len(list(Path(f"/proc/{daemon.process.pid}/fd").iterdir()))
    except PermissionError:
        pytest.skip("only root may look at a process that dumps no core")


def rings_mapped(pid: int) -> int:
    return len({line.split()[4] for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if "-ring-" in line})


def remove(daemon: LocalDaemon, stream_id: str) -> None:
    daemon.streams.DeleteStream(stream_pb2.DeleteStreamRequest(id=stream_id), timeout=10)


@pytest.mark.timeout(300)
def test_nothing_is_leaked_and_every_frame_accounted_for(busy: LocalDaemon, cameras: CameraServer) -> None:
    before = descriptors(busy)
    for turn in range(5):
        kill(busy, workers(busy))  # both ends of the ring at once
        until_inferred(busy, IDS)
        for i in range(4):
            add(busy, f"guest-{i}", cameras.url(i % 2))
        reload(busy, SMALL_MODEL if turn % 2 else OTHER_MODEL)
        for i in range(4):
            remove(busy, f"guest-{i}")
        until_inferred(busy, IDS)
    until(lambda: len(workers(busy)) == 2, "spare processes to end")
    until(lambda: descriptors(busy) <= before, f"{before} descriptors, as before, not {descriptors(busy)}")
    assert busy.process
    for pid in (busy.process.pid, *workers(busy)):
        until(lambda pid=pid: rings_mapped(pid) == 1, f"one ring in process {pid}")  # type: ignore[misc]
    for status in quiesce(busy, IDS).values():
        check_accounts(status)
        assert status.frames_waiting == status.frames_in_flight == 0
    assert all(alive(pid) for pid in busy.pids())


@pytest.mark.parametrize("kind", [DECODER, INFERENCE], ids=["decoder", "inference"])
def test_a_death_during_a_change_of_model(busy: LocalDaemon, kind: int) -> None:
    outcome: list[BaseException | None] = []

    def change() -> None:
        try:
            reload(busy, OTHER_MODEL)
            outcome.append(None)
        except grpc.RpcError as error:
            outcome.append(error)

    changing = threading.Thread(target=change)
    changing.start()
    while changing.is_alive():
        found = list(pids(busy, kind).values())
        for pid in found:
            os.kill(pid, signal.SIGKILL)
        changing.join(0.5)
    assert outcome == [None]
    until_inferred(busy, IDS)
    model = stats(busy).model
    assert (model.input_width, model.input_height) == (384, 256)
    for status in quiesce(busy, IDS).values():
        check_accounts(status)
    until(lambda: len(workers(busy)) == 2, "the old process to end")


def test_streams_come_and_go_while_a_model_loads(busy: LocalDaemon, cameras: CameraServer) -> None:
    reloading = threading.Thread(target=reload, args=(busy, OTHER_MODEL))
    reloading.start()
    loads = until(lambda: new_process(busy), "the new process")
    os.kill(loads, signal.SIGSTOP)  # or the reload might be over before a slow disk has taken the second change
    for _ in range(3):
        add(busy, "guest", cameras.url(0))
        remove(busy, "guest")
    assert reloading.is_alive()
    os.kill(loads, signal.SIGCONT)
    while reloading.is_alive():
        add(busy, "guest", cameras.url(0))
        remove(busy, "guest")
    until_inferred(busy, IDS)
    assert [s.spec.id for s in stats(busy).streams] == IDS


def test_a_death_during_a_removal_frees_the_place(busy: LocalDaemon, cameras: CameraServer) -> None:
    for _ in range(3):
        found = list(pids(busy, DECODER).values())
        remove(busy, "b")
        for pid in found:
            os.kill(pid, signal.SIGKILL)
        add(busy, "b", cameras.url(1))  # the same id again at once
        until_inferred(busy, IDS)
    for status in quiesce(busy, IDS).values():
        check_accounts(status)


def test_streams_that_share_a_place_one_after_the_other_are_never_mixed_up(
    busy: LocalDaemon, cameras: CameraServer
) -> None:
    epochs = {i: {d.epoch for d in results} for i, results in watched(busy, ["a", "b"]).items()}
    assert epochs["a"] and epochs["b"] and not epochs["a"] & epochs["b"]
    for turn in range(4):
        remove(busy, "b")
        add(busy, "b", cameras.url(turn % 2))
        later = {d.epoch for d in watched(busy, ["b"])["b"]}
        assert later
        assert min(later) > max(epochs["b"])
        epochs["b"] = later


def watched(daemon: LocalDaemon, ids: list[str]) -> dict[str, list[detection_pb2.Detection]]:
    with watching(daemon) as watch:
        until(lambda: all(len(watch.of(i)) >= 2 for i in ids), "results")
        return {i: watch.of(i) for i in ids}


def test_a_supervisor_that_was_stopped_itself_kills_nobody(busy: LocalDaemon) -> None:
    before = workers(busy)
    assert busy.process
    busy.process.send_signal(signal.SIGSTOP)
    time.sleep(5)  # heartbeat_timeout_s is 3
    busy.process.send_signal(signal.SIGCONT)
    until_inferred(busy, IDS)
    assert workers(busy) == before


@pytest.mark.parametrize("kind", [DECODER, INFERENCE], ids=["decoder", "inference"])
def test_a_stopped_worker_does_not_hold_up_the_end(busy: LocalDaemon, kind: int) -> None:
    processes = busy.pids()
    for pid in pids(busy, kind).values():
        os.kill(pid, signal.SIGSTOP)
    assert busy.stop() == 0
    until(lambda: not any(map(alive, processes)), "all processes to end")


def test_an_end_in_the_middle_of_a_change_of_model(busy: LocalDaemon) -> None:
    refusals: list[grpc.RpcError] = []

    def change() -> None:
        try:
            reload(busy, OTHER_MODEL)
        except grpc.RpcError as error:
            refusals.append(error)

    reloading = threading.Thread(target=change)
    reloading.start()
    os.kill(until(lambda: new_process(busy), "the new process"), signal.SIGSTOP)  # so it never is ready
    processes = busy.pids()
    assert busy.process
    busy.process.send_signal(signal.SIGTERM)
    assert busy.process.wait(STOP_TIMEOUT_S) == 0
    reloading.join(60)
    assert len(refusals) == 1
    until(lambda: not any(map(alive, processes)), "all processes to end")


@pytest.mark.parametrize("after_s", [0.3, 0.7, 1.0, 1.5, 2.5])
def test_an_end_in_the_middle_of_the_start(after_s: float, tmp_path: Path) -> None:
    with LocalDaemon(SMALL_MODEL, models=model_store()) as daemon:
        daemon.stop()
        process = subprocess.Popen(
            [sys.executable, "-m", "facedetd", "--config", str(daemon.config)], stderr=subprocess.DEVNULL
        )
        time.sleep(after_s)
        daemon.process = process  # type: ignore[assignment]
        processes = daemon.pids()
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_TIMEOUT_S) in (0, -signal.SIGTERM)
        until(lambda: not any(map(alive, processes)), "all processes to end")


def stored(daemon: LocalDaemon) -> bool:
    return '"guest"' in (daemon.state_dir / "streams.json").read_text()


def runs(daemon: LocalDaemon) -> bool:
    return "guest" in [s.spec.id for s in stats(daemon).streams]


def test_a_client_that_hangs_up_leaves_disk_and_daemon_agreed(busy: LocalDaemon, cameras: CameraServer) -> None:
    for turn in range(10):
        spec = stream_pb2.StreamSpec(id="guest", url=cameras.url(0))
        call = busy.streams.CreateStream.future(stream_pb2.CreateStreamRequest(spec=spec))
        time.sleep(0.002 * turn)
        call.cancel()
        time.sleep(0.2)
        # The file comes first: on a slow disk the change may be under way between the two
        until(lambda: len({stored(busy), runs(busy)}) == 1, "disk and daemon to agree")
        if runs(busy):
            remove(busy, "guest")
    assert all(stream(busy, i).status.reconnects == 0 for i in IDS)
