"""The workshop and a running daemon on real RTSP: frames collected, a calibration's age told."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import cv2
import pytest

from facedetctl.local import LocalDaemon
from facedetd.models import ModelStore
from facedetd.models.calibration import LUMA_BINS, Calibration
from facedetd.v1 import daemon_pb2
from tests.cameras import Account, CameraServer, Coding, encode, make_scene
from tests.integration.conftest import StartCameras
from tests.integration.daemon_kit import SMALL_MODEL, add, model_store, pids, stats, until, until_inferred

PASSWORD = "pass word:@/é"


def collect(output: Path, *arguments: str, stdin: str = "", code: int = 0) -> Any:
    state = output.parent / "state"
    state.mkdir(exist_ok=True)
    if not (state / "models").exists():
        (state / "models").symlink_to(model_store())
    done = subprocess.run(
        [sys.executable, "-m", "facedetctl", "model", "collect", "--output", str(output), "--state-dir", str(state),
         "--width", "320", "--height", "192", "--threads", "1", "--json", *arguments],
        input=stdin, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert PASSWORD not in done.stdout + done.stderr
    return json.loads(done.stdout)


def test_frames_of_cameras_with_a_password(camera_server: StartCameras, tmp_path: Path) -> None:
    coding = Coding(bitrate=800_000, gop=25)
    clips = [encode(make_scene(640, 360, faces=2, frames=100, seed=s), coding=coding) for s in range(2)]
    server = camera_server(clips, account=Account("me", PASSWORD))
    output = tmp_path / "set"
    urls = [server.url(0), server.url(1)]
    login = ("--stream", *urls, "--username", "me", "--password-stdin")
    found = collect(output, *login, "--count", "6", "--every", "0.5", "--distance", "2", stdin=PASSWORD)
    assert (found["frames"], found["ended"]) == (6, "the set is full")
    assert found["streams"].keys() == {"stream-1", "stream-2"}
    written = json.loads((output / "calibration.json").read_text())
    assert PASSWORD not in (output / "calibration.json").read_text()
    for frame in written["frames"]:
        assert frame["faces"] == 2 and 0 < frame["smallest_px"] <= frame["largest_px"] < 360
        assert cv2.imread(str(output / frame["file"])).shape == (360, 640, 3)
    # by the list that `import` takes, and on
    streams = tmp_path / "streams.toml"
    tables = (f'[[stream]]\nid = "cam{i}"\nurl = "{server.url(i, with_account=True)}"\n' for i in range(2))
    streams.write_text("".join(tables))
    streams.chmod(0o600)
    found = collect(output, "--streams-file", str(streams), "--count", "8", "--every", "0.5", "--distance", "2")
    assert (found["frames"], found["ended"]) == (8, "the set is full") and {"cam0", "cam1"} & found["streams"].keys()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """centerface, and the same with a calibration of 200 days ago on pictures that were all black."""
    root = tmp_path / "store" / "models"
    shutil.copytree(model_store(), root)
    store = ModelStore(root)
    at = datetime.now(timezone.utc) - timedelta(days=200)
    told = Calibration(at, 500, "0" * 64, "entropy", (1.0, *[0.0] * (LUMA_BINS - 1)))
    store.put(
        "old8", store.get("centerface").path.read_bytes(), head="centerface", licence="MIT", source="test",
        source_sha256="0", artefact={"calibration": told.to_manifest()},
    )  # fmt: skip
    return root


@pytest.fixture
def busy(cameras: CameraServer, models: Path) -> Iterator[LocalDaemon]:
    with LocalDaemon(SMALL_MODEL, models=models) as daemon:
        for i, stream_id in enumerate("ab"):
            add(daemon, stream_id, cameras.url(i))
        try:
            until_inferred(daemon, ["a", "b"])
            yield daemon
        finally:
            print(daemon.log_text())


def test_frames_of_the_running_daemon(busy: LocalDaemon, tmp_path: Path) -> None:
    found = collect(tmp_path / "set", "--socket", str(busy.socket), "--count", "4", "--every", "0.3", "--distance", "2")
    assert found["frames"] == found["faces"]["2-3"] == 4
    assert found["streams"].keys() <= {"a", "b"}  # two of each, but where a frame is dropped: its stream rests then
    found = collect(
        tmp_path / "set", "--socket", str(busy.socket), "--id", "b", "--duration", "8s", "--every", "0.3",
        "--count", "5", "--distance", "2",
    )  # fmt: skip
    assert found["frames"] == 5 and "b" in found["streams"]


def problems(daemon: LocalDaemon) -> dict[str, str]:
    answer = daemon.daemon.GetHealth(daemon_pb2.GetHealthRequest(), timeout=10)
    assert answer.serving
    return {problem.subject: problem.message for problem in answer.problems}


def test_an_old_calibration_is_told_while_faces_are_detected(busy: LocalDaemon) -> None:
    assert "calibration" not in problems(busy) and not stats(busy).model.HasField("calibration")
    busy.daemon.ActivateModel(daemon_pb2.ActivateModelRequest(name="old8"), timeout=60)
    assert "200 days old, more than inference.calibration_max_age_days (120)" in problems(busy)["calibration"]
    calibration = stats(busy).model.calibration
    assert (calibration.frames, calibration.age.seconds // 86_400) == (500, 200)
    assert not calibration.HasField("drift")  # not before three days were seen
    inference = pids(busy, daemon_pb2.WORKER_KIND_INFERENCE)
    busy.config.write_text(busy.config.read_text() + "\n[inference]\ncalibration_max_age_days = 300\n")
    busy.daemon.Reload(daemon_pb2.ReloadRequest(), timeout=60)
    assert "calibration" not in problems(busy)
    assert pids(busy, daemon_pb2.WORKER_KIND_INFERENCE).items() <= inference.items()  # nothing was loaded for that


def test_the_drift_is_of_what_the_cameras_showed_over_days(busy: LocalDaemon) -> None:
    busy.daemon.ActivateModel(daemon_pb2.ActivateModelRequest(name="old8"), timeout=60)
    until_inferred(busy, ["a", "b"], 10)
    busy.stop()
    path = busy.state_dir / "seen-luma.json"
    data = json.loads(path.read_text())
    (hour, (frames, *counts)), *_ = sorted(data["hours"].items(), reverse=True)
    assert frames >= 1 and sum(counts) >= frames * (320 // 8) * (180 // 8)
    assert counts[0] < sum(counts) / 2  # the scenes are not black
    # four days like these moments
    data["hours"] = {str(int(hour) - i): [200, *(n * 200 // frames for n in counts)] for i in range(1, 97)}
    path.write_text(json.dumps(data))
    busy.start()
    until(lambda: stats(busy).model.calibration.HasField("drift"), "a drift")
    assert 0.5 < stats(busy).model.calibration.drift <= 1
    assert "aren't as bright" in problems(busy)["calibration"]


def test_metrics_have_it_for_an_int8_model_only(models: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with LocalDaemon(f'{SMALL_MODEL}\n[metrics]\nlisten = "127.0.0.1:{port}"\n', models=models) as daemon:

        def metrics() -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                return str(answer.read().decode())

        assert "facedetd_model_info" in metrics() and "facedetd_model_calibration" not in metrics()
        daemon.daemon.ActivateModel(daemon_pb2.ActivateModelRequest(name="old8"), timeout=60)
        assert "facedetd_model_calibration_age_seconds 1.72" in metrics()
        assert "facedetd_model_calibration_drift" not in metrics()
