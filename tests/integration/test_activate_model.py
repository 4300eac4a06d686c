"""Another model on a running daemon: nothing that was accepted is lost, and what can't run changes nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from facedetctl.local import LocalDaemon
from facedetd.models import ModelStore
from facedetd.v1 import daemon_pb2
from tests.cameras import CameraServer
from tests.integration.daemon_kit import (
    FACTS,
    SMALL_MODEL,
    check_accounts,
    model_store,
    pids,
    put_another,
    quiesce,
    start_streams,
    stats,
    tallying,
    until,
    until_inferred,
)

IDS = ["a", "b", "c"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with centerface; the same model under another name, with another hash; and one that is no model."""
    root = tmp_path_factory.mktemp("store") / "models"
    shutil.copytree(model_store(), root)
    store = ModelStore(root)
    put_another(store, "another")
    store.put("broken", b"no model at all", **FACTS)
    return root


@pytest.fixture
def busy(cameras: CameraServer, models: Path) -> Iterator[LocalDaemon]:
    with LocalDaemon(SMALL_MODEL, models=models) as daemon:
        start_streams(daemon, cameras, IDS)
        try:
            until_inferred(daemon, IDS)
            yield daemon
        finally:
            print(daemon.log_text())


def activate(daemon: LocalDaemon, name: str, version: str = "") -> daemon_pb2.ActivateModelResponse:
    request = daemon_pb2.ActivateModelRequest(name=name, version=version)
    return daemon.daemon.ActivateModel(request, timeout=120)


def running(daemon: LocalDaemon) -> tuple[str, str, bool]:
    model = stats(daemon).model
    return model.name, model.version, model.activated


def test_back_and_forth_under_load_loses_no_accepted_frame(busy: LocalDaemon, models: Path) -> None:
    store = ModelStore(models)
    names = {name: store.get(name).version for name in ("centerface", "another")}
    with tallying(busy, IDS) as tally:
        until_inferred(busy, IDS)
        for name in ("another", "centerface", "another"):
            answer = activate(busy, name)
            assert (answer.model.name, answer.model.version, answer.model.activated) == (name, names[name], True)
            assert running(busy) == (name, names[name], True)
            until_inferred(busy, IDS)
        health = busy.daemon.GetHealth(daemon_pb2.GetHealthRequest(), timeout=10)
        assert health.serving and health.model.name == "another"
        assert busy.daemon.GetVersion(daemon_pb2.GetVersionRequest(), timeout=10).model.name == "another"
        for stream_id, status in quiesce(busy, IDS).items():
            check_accounts(status)
            assert status.reconnects == 0
            others = {reason for reason, n in status.frames_dropped.items() if n} - {"replaced", "no_slot"}
            assert not others
            results = tally.results(stream_id, status.frames_inferred)
            assert {r.model_name for r in results} == {"centerface", "another"}
            # Every frame that is counted as inferred since the watch began has had its result, once, and in order but
            # for a change, when the old process may be at its last frame while the new one is at its first
            assert len({r.sequence for r in results}) == len(results)
            for name in names:
                own = [r.sequence for r in results if r.model_name == name]
                assert own == sorted(own)
    until(lambda: len(pids(busy, daemon_pb2.WORKER_KIND_INFERENCE)) == 1, "the old processes to end")


def test_it_is_kept_over_a_restart_and_a_reload_until_it_is_taken_back(busy: LocalDaemon, models: Path) -> None:
    version = ModelStore(models).get("another").version
    activate(busy, "another", version)
    busy.stop()
    busy.start()
    until(lambda: running(busy) == ("another", version, True), "the chosen model")
    good = busy.config.read_text()
    busy.config.write_text(good.replace('name = "centerface"', 'name = "broken"'))
    answer = busy.daemon.Reload(daemon_pb2.ReloadRequest(), timeout=60)
    assert any(f"another@{version} stays" in change for change in answer.changes)
    assert running(busy) == ("another", version, True)
    with pytest.raises(grpc.RpcError) as error:  # the configuration's can't be run: what runs goes on
        activate(busy, "")
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    busy.config.write_text(good)
    busy.daemon.Reload(daemon_pb2.ReloadRequest(), timeout=60)
    answer = activate(busy, "")
    assert (answer.previous.name, answer.model.name, answer.model.activated) == ("another", "centerface", False)
    busy.stop()
    busy.start()
    until(lambda: running(busy)[::2] == ("centerface", False), "the configuration's model")
    until_inferred(busy, IDS)


def test_what_can_not_be_run_leaves_the_old_one(busy: LocalDaemon) -> None:
    before = running(busy)
    inference = pids(busy, daemon_pb2.WORKER_KIND_INFERENCE)
    for name, version, code, said in (
        ("broken", "", grpc.StatusCode.UNAVAILABLE, "the old one goes on"),
        ("nosuch", "", grpc.StatusCode.NOT_FOUND, "nosuch"),
        ("centerface", "000000000000", grpc.StatusCode.NOT_FOUND, "000000000000"),
        ("../../etc", "", grpc.StatusCode.INVALID_ARGUMENT, "../../etc"),
    ):
        with pytest.raises(grpc.RpcError) as error:
            activate(busy, name, version)
        assert error.value.code() is code
        assert said in f"{error.value.details()} {error.value.trailing_metadata()}"
        until_inferred(busy, IDS)
    assert running(busy) == before
    assert pids(busy, daemon_pb2.WORKER_KIND_INFERENCE) == inference
    busy.stop()
    busy.start()
    until(lambda: running(busy) == before, "the model that ran before")


def test_a_chosen_model_that_is_gone_is_said_with_the_way_out(busy: LocalDaemon, models: Path) -> None:
    activate(busy, "another")
    busy.stop()
    (models / "another").rename(models.parent / "elsewhere")
    try:
        busy.start()
        health = busy.daemon.GetHealth(daemon_pb2.GetHealthRequest(), timeout=10)
        assert health.state == daemon_pb2.DAEMON_STATE_WAITING_FOR_MODEL
        assert any("model activate --default" in problem.message for problem in health.problems)
        assert activate(busy, "").model.name == "centerface"
        until_inferred(busy, IDS)
    finally:
        (models.parent / "elsewhere").rename(models / "another")
