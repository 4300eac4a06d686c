"""Streams that can't all fit are added and whoever adds them is told so; over the configured cap they are refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from facedetctl.local import LocalDaemon
from facedetd.v1 import stream_pb2
from tests.integration.daemon_kit import AWAY, TINY_MODEL, add, model_store

pytestmark = pytest.mark.integration

SETTINGS = "[daemon]\nmax_streams = {cap}\n" + TINY_MODEL


def ctl(daemon: LocalDaemon, *words: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "facedetctl", "--socket", str(daemon.socket), *words]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr.strip()


def ids(daemon: LocalDaemon) -> list[str]:
    return [s.spec.id for s in daemon.streams.ListStreams(stream_pb2.ListStreamsRequest(), timeout=10).streams]


def test_what_can_not_fit_is_added_with_a_warning(tmp_path: Path) -> None:
    """A camera not seen yet counts as one of 1080p25, of which a core decodes fewer than ten."""
    with LocalDaemon(SETTINGS.format(cap=0), models=model_store()) as daemon:
        assert ctl(daemon, "add-stream", "first", AWAY) == (0, "")
        names = [f"s{i}" for i in range(10 * len(os.sched_getaffinity(0)))]
        listed = tmp_path / "cameras.csv"
        listed.write_text("id,url\n" + "".join(f"{name},{AWAY}\n" for name in names))
        code, said = ctl(daemon, "import", str(listed))
        assert code == 0 and said.startswith("facedetctl: warning: ") and "the streams ask for" in said
        assert set(ids(daemon)) == {"first", *names}


def test_over_the_cap_it_is_refused_and_said_which_cap() -> None:
    with LocalDaemon(SETTINGS.format(cap=2), models=model_store()) as daemon:
        for name in ("a", "b"):
            add(daemon, name, AWAY, paused=True)
        with pytest.raises(grpc.RpcError) as refused:
            add(daemon, "c", AWAY)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        code, said = ctl(daemon, "add-stream", "c", AWAY)
        assert code == 9 and "daemon.max_streams is 2" in said and "\n" not in said
        assert ids(daemon) == ["a", "b"]
        daemon.write_config(SETTINGS.format(cap=3))
        assert ctl(daemon, "reload")[0] == 0
        assert ctl(daemon, "add-stream", "c", AWAY, "--paused")[0] == 0
        assert ids(daemon) == ["a", "b", "c"]
