"""A worker that can't boot is given up, says so, harms nobody, and comes back once what was wrong is put right."""

from __future__ import annotations

import os
import signal
import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from facedetctl.local import LocalDaemon
from facedetd.capture import boot as capture_boot
from facedetd.inference import boot as inference_boot
from facedetd.v1 import daemon_pb2
from tests.faults.process_kit import INFERENCE, KINDS, PATIENCE_S, SETTINGS, require_only_known_children
from tests.integration.daemon_kit import CALL_S, add, model_store, stats, until, until_inferred

BREAK = """
import os, sys
class Broken:
    def find_spec(self, name, *_):
        if name == {module!r} and os.path.exists({flag!r}):
            print("a library is broken", file=sys.stderr)
            os._exit(7)
sys.meta_path.insert(0, Broken())
"""
"""Run by each interpreter at its start (site, in Python's library reference)."""
MODULES = {"decoder": capture_boot.TARGET, "inference": inference_boot.TARGET}


class Broken:
    """What workers of one kind start with is broken as long as ``flag`` is there."""

    def __init__(self, folder: Path, kind: str):
        self.kind, self.flag = kind, folder / "broken"
        module = MODULES[kind].partition(":")[0]
        (folder / "sitecustomize.py").write_text(BREAK.format(flag=str(self.flag), module=module))

    def state(self, daemon: LocalDaemon) -> daemon_pb2.Process:
        return next(p for p in stats(daemon).processes if p.kind == KINDS[self.kind])


@pytest.fixture(params=sorted(KINDS))
def broken(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Broken:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return Broken(tmp_path, request.param)


@pytest.fixture
def port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture
def daemon(broken: Broken, port: int) -> Iterator[LocalDaemon]:
    settings = SETTINGS.format(heartbeat_s=5) + f'[metrics]\nlisten = "127.0.0.1:{port}"\n'
    with LocalDaemon(settings, models=model_store()) as local:
        yield local
        print(local.log_text())


@pytest.mark.timeout(300)
def test_it_is_given_up_and_comes_back(broken: Broken, daemon: LocalDaemon, port: int, light_url: str) -> None:
    for name in ("a", "b"):
        add(daemon, name, light_url)
    until_inferred(daemon, ["a", "b"], timeout_s=PATIENCE_S)
    others = {p.name: p.pid for p in stats(daemon).processes if p.kind != KINDS[broken.kind]}
    broken.flag.touch()
    os.kill(broken.state(daemon).pid, signal.SIGKILL)
    until(lambda: broken.state(daemon).state == "halted", "it to be given up", PATIENCE_S)

    given_up = broken.state(daemon)
    assert given_up.detail == "ended with status 7"
    health = daemon.daemon.GetHealth(daemon_pb2.GetHealthRequest(), timeout=CALL_S)
    said = [p for p in health.problems if p.subject == f"worker {given_up.name}"]
    assert "ended with status 7" in said[0].message
    assert "tried again in 10 min" in said[0].message
    line = f'facedetd_process_state{{kind="{broken.kind}",name="{given_up.name}",state="halted"}} 1.0'
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=CALL_S) as answer:
        assert line in answer.read().decode()
    if KINDS[broken.kind] == INFERENCE:
        assert health.state == daemon_pb2.DAEMON_STATE_FAILED
        assert not health.serving
    time.sleep(6)  # the longest pause between quick restarts is 5 s
    assert broken.state(daemon).restarts == given_up.restarts
    assert {p.name: p.pid for p in stats(daemon).processes if p.kind != KINDS[broken.kind]} == others
    require_only_known_children(daemon)

    broken.flag.unlink()
    daemon.daemon.Reload(daemon_pb2.ReloadRequest(), timeout=60)
    until_inferred(daemon, ["a", "b"], timeout_s=PATIENCE_S)
    assert broken.state(daemon).state == "running"

    def well() -> bool:
        problems = daemon.daemon.GetHealth(daemon_pb2.GetHealthRequest(), timeout=CALL_S).problems
        return {p.subject for p in problems} <= {"degradation"}  # of a machine that is slow, for long

    until(well, "health to have nothing to say", PATIENCE_S)
