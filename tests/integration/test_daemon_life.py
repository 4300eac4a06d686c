"""Start, stop, kill, reload: what must survive, and what must not be left behind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from facedetctl.local import LocalDaemon, LocalDaemonError
from facedetd.v1 import daemon_pb2, stream_pb2
from tests.cameras import Account, CameraServer, Coding, encode, make_scene
from tests.integration.conftest import StartCameras
from tests.integration.daemon_kit import (
    SMALL_MODEL,
    add,
    check_accounts,
    model_store,
    pids,
    quiesce,
    start_streams,
    stats,
    stream,
    tallying,
    until,
    until_inferred,
    watching,
)

IDS = ["a", "b", "c"]


@pytest.fixture
def daemon() -> Iterator[LocalDaemon]:
    with LocalDaemon(SMALL_MODEL, models=model_store()) as local:
        yield local
        print(local.log_text())


@pytest.fixture
def busy(daemon: LocalDaemon, cameras: CameraServer) -> LocalDaemon:
    """A daemon with three streams that run."""
    start_streams(daemon, cameras, IDS)
    until_inferred(daemon, IDS)
    return daemon


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def gone(pids: list[int]) -> bool:
    return not any(alive(pid) for pid in pids)


def test_sigterm_ends_everything(busy: LocalDaemon) -> None:
    processes = busy.pids()
    assert len(processes) >= 3  # supervisor, inference, a decoder group
    assert busy.stop() == 0  # it wasn't killed for taking too long
    until(lambda: gone(processes), "all processes to end")
    assert not busy.socket.exists()


def test_kill_9_of_the_supervisor_ends_its_workers_and_loses_no_stream(busy: LocalDaemon) -> None:
    processes = busy.pids()
    assert busy.process
    busy.process.kill()
    busy.stop()
    until(lambda: gone(processes), "no worker to outlive its parent")
    busy.start()
    assert [s.spec.id for s in stats(busy).streams] == IDS
    until_inferred(busy, IDS)


def replaced(daemon: LocalDaemon, kind: int, doomed: set[int]) -> bool:
    found = set(pids(daemon, kind).values())
    return bool(found) and not found & doomed


@pytest.mark.parametrize("kind", [daemon_pb2.WORKER_KIND_DECODER, daemon_pb2.WORKER_KIND_INFERENCE])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_dies_or_hangs_is_replaced_and_every_frame_accounted_for(
    busy: LocalDaemon, kind: int, how: signal.Signals
) -> None:
    other = next(k for k in (daemon_pb2.WORKER_KIND_DECODER, daemon_pb2.WORKER_KIND_INFERENCE) if k != kind)
    others = pids(busy, other)
    rounds = 3 if how is signal.SIGKILL else 1
    with tallying(busy, IDS) as tally:
        until_inferred(busy, IDS)
        for _ in range(rounds):
            doomed = set(pids(busy, kind).values())
            for pid in doomed:
                os.kill(pid, how)
            until(lambda: replaced(busy, kind, doomed), "a new worker")  # noqa: B023
            until_inferred(busy, IDS)
        assert pids(busy, other) == others
        for stream_id, status in quiesce(busy, IDS).items():
            check_accounts(status)
            assert status.frames_dropped["worker_lost"] <= rounds * 4  # at most what the ring holds
            # A result may have reached the supervisor of a frame whose count died with its worker, one each time.
            tally.results(stream_id, status.frames_inferred, uncounted=rounds)
    until(lambda: all(map(alive, busy.pids())), "the dead to be reaped")


def test_a_changed_model_size_is_taken_over_without_losing_an_accepted_frame(busy: LocalDaemon) -> None:
    with watching(busy) as watch:
        until_inferred(busy, IDS)
        busy.write_config(SMALL_MODEL.replace("320", "384").replace("192", "256"))
        answer = busy.daemon.Reload(daemon_pb2.ReloadRequest(), timeout=60)
        assert "model.width: 320 -> 384" in list(answer.changes)
        until_inferred(busy, IDS, 5)
        assert (stats(busy).model.input_width, stats(busy).model.input_height) == (384, 256)
        until(lambda: len(watch.of("a")) > 5, "their results")
    for status in quiesce(busy, IDS).values():
        check_accounts(status)
        assert status.reconnects == 0
        assert not any(n for reason, n in status.frames_dropped.items() if reason not in ("replaced", "no_slot"))
    until(lambda: len(pids(busy, daemon_pb2.WORKER_KIND_INFERENCE)) == 1, "the old process to end")


def test_a_bad_reload_changes_nothing(busy: LocalDaemon) -> None:
    good = busy.config.read_text()
    busy.config.write_text(good.replace("width = 320", "widht = 320\nheight = 7"))
    with pytest.raises(grpc.RpcError) as error:
        busy.daemon.Reload(daemon_pb2.ReloadRequest(), timeout=60)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    busy.config.write_text(good.replace('name = "centerface"', 'name = "nosuch"'))
    with pytest.raises(grpc.RpcError) as error:
        busy.daemon.Reload(daemon_pb2.ReloadRequest(), timeout=60)
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "nosuch" in str(error.value.details())
    until_inferred(busy, IDS)
    assert all(stream(busy, i).status.reconnects == 0 for i in IDS)


def test_streams_of_the_config_come_and_go_with_reload_and_are_read_only(
    daemon: LocalDaemon, cameras: CameraServer
) -> None:
    add(daemon, "mine", cameras.url(0))
    daemon.write_config(SMALL_MODEL + f'[[stream]]\nid = "fixed"\nurl = "{cameras.url(1)}"\n')
    daemon.daemon.Reload(daemon_pb2.ReloadRequest(), timeout=60)
    until_inferred(daemon, ["fixed", "mine"])
    with pytest.raises(grpc.RpcError) as error:
        daemon.streams.DeleteStream(stream_pb2.DeleteStreamRequest(id="fixed"), timeout=10)
    assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    daemon.write_config(SMALL_MODEL)
    daemon.daemon.Reload(daemon_pb2.ReloadRequest(), timeout=60)
    assert [s.spec.id for s in stats(daemon).streams] == ["mine"]
    daemon.write_config(SMALL_MODEL + f'[[stream]]\nid = "mine"\nurl = "{cameras.url(1)}"\n')
    with pytest.raises(grpc.RpcError) as error:
        daemon.daemon.Reload(daemon_pb2.ReloadRequest(), timeout=60)
    assert "mine" in str(error.value.details())


def test_without_a_model_the_daemon_waits_and_can_be_controlled(cameras: CameraServer, tmp_path: Path) -> None:
    store = tmp_path / "models"
    store.mkdir()
    with LocalDaemon(SMALL_MODEL, models=store) as daemon:
        health = daemon.daemon.GetHealth(daemon_pb2.GetHealthRequest(), timeout=10)
        assert health.state == daemon_pb2.DAEMON_STATE_WAITING_FOR_MODEL
        assert not health.serving
        assert any("centerface" in p.message for p in health.problems)
        spec = stream_pb2.StreamSpec(id="cam", url=cameras.url(0))
        answer = daemon.streams.CreateStream(stream_pb2.CreateStreamRequest(spec=spec), timeout=10)
        assert answer.warnings
        until(lambda: stream(daemon, "cam").status.frames_decoded > 10, "the camera to be seen all the same")
        shutil.copytree(model_store() / "centerface", store / "centerface")
        until_inferred(daemon, ["cam"])
        assert daemon.daemon.GetHealth(daemon_pb2.GetHealthRequest(), timeout=10).serving
        check_accounts(quiesce(daemon, ["cam"])["cam"])


def test_a_corrupt_state_file_is_set_aside_and_said(daemon: LocalDaemon, cameras: CameraServer) -> None:
    add(daemon, "cam", cameras.url(0))
    daemon.stop()
    state = daemon.state_dir / "streams.json"
    state.write_bytes(state.read_bytes()[:-20])
    (daemon.state_dir / "streams.json.bak").unlink(missing_ok=True)
    daemon.start()
    assert not stats(daemon).streams
    problems = daemon.daemon.GetHealth(daemon_pb2.GetHealthRequest(), timeout=10).problems
    assert any(p.subject == "state file" for p in problems)
    assert list(daemon.state_dir.glob("streams.json.corrupt-*"))


def test_a_second_daemon_is_refused(daemon: LocalDaemon) -> None:
    assert daemon.process
    with LocalDaemonRefused(daemon) as message:
        assert str(daemon.process.pid) in message
    assert stats(daemon).state == daemon_pb2.DAEMON_STATE_RUNNING


class LocalDaemonRefused:
    """Starts a second daemon on the first one's state directory and gives what it says."""

    def __init__(self, first: LocalDaemon):
        self._first = first

    def __enter__(self) -> str:
        second = LocalDaemon()
        try:
            second.state_dir.symlink_to(self._first.state_dir)
            second.write_config(SMALL_MODEL)
            with pytest.raises(LocalDaemonError) as error:
                second.start()
            return str(error.value)
        finally:
            shutil.rmtree(second.folder, ignore_errors=True)

    def __exit__(self, *_: object) -> None:
        pass


def test_passwords_with_any_character_reach_the_camera_and_nothing_else(camera_server: StartCameras) -> None:
    password = "p@ss:w/rd %41#?&\u00e9"
    clip = encode(make_scene(640, 360, faces=2, frames=100), coding=Coding(bitrate=800_000, gop=25))
    cameras = camera_server([clip], account=Account("viewer", password))
    with LocalDaemon(SMALL_MODEL, models=model_store()) as daemon:
        spec = stream_pb2.StreamSpec(id="cam", url=cameras.url(0))
        request = stream_pb2.CreateStreamRequest(
            spec=spec, credentials=stream_pb2.Credentials(username="viewer", password="wrong")
        )
        daemon.streams.CreateStream(request, timeout=10)
        refused = until(
            lambda: (s := stream(daemon, "cam").status).state == stream_pb2.STREAM_STATE_BACKING_OFF and s, "a refusal"
        )
        assert "password" in refused.detail or "unauthor" in refused.detail.lower()
        update = stream_pb2.UpdateStreamRequest(
            spec=spec, credentials=stream_pb2.Credentials(username="viewer", password=password)
        )
        update.update_mask.paths.append("credentials")
        daemon.streams.UpdateStream(update, timeout=10)
        until_inferred(daemon, ["cam"])
        said = str(stats(daemon)) + daemon.log_text()
        for pid in daemon.pids():
            said += Path(f"/proc/{pid}/cmdline").read_text() + Path(f"/proc/{pid}/environ").read_text()
        for form in (password, "p%40ss", "p@ss", "wrong@"):
            assert form not in said
        assert (daemon.state_dir / "streams.json").stat().st_mode & 0o077 == 0
        daemon.stop()
        daemon.start()
        until_inferred(daemon, ["cam"])


def test_systemd_hears_ready_status_and_stopping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        listener.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        monkeypatch.setenv("WATCHDOG_USEC", "3000000")
        heard: list[str] = []

        def hear(word: str) -> None:
            while not any(word in line for line in heard):
                heard.extend(listener.recv(4096).decode().splitlines())

        with LocalDaemon(SMALL_MODEL, models=model_store()) as daemon:
            hear("READY=1")
            hear("STATUS=running: 0 of 0 streams")
            hear("WATCHDOG=1")
            assert daemon.process
            for reload in (
                lambda: daemon.process.send_signal(signal.SIGHUP),
                lambda: daemon.daemon.Reload(daemon_pb2.ReloadRequest(), timeout=60),
            ):
                heard.clear()
                reload()
                hear("RELOADING=1")
                hear("MONOTONIC_USEC=")
                hear("READY=1")
            daemon.stop()
            hear("STOPPING=1")
