"""The demo behind `make run`: cameras with known faces, the daemon, and its detections live.

Everything is real: RTSP over TCP, a daemon of its own in a temporary folder, the default model. With ``--duration``
it stops by itself and prints a JSON summary as the last thing on stdout; it exits 0 only if all checks pass.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence

from facedetctl.bench.figures import Measured, Thresholds
from facedetctl.bench.measure import MeasureError, measure, wait_until_streaming
from facedetctl.local import LocalDaemon, LocalDaemonError, default_model_store
from facedetd.models import ModelError, ModelStore, pull
from facedetd.v1 import daemon_pb2, stream_pb2
from tests.cameras.client import CameraError, CameraServer
from tests.cameras.encode import encode
from tests.cameras.faces import Box
from tests.cameras.scene import make_scene

CAMERAS = 4
SIZE = (1280, 720)
FPS = 25
TARGET_FPS = 5.0
WARM_UP_S = 5.0
MODEL = "centerface"
SETTINGS = f"""
[model]
name = "{MODEL}"
width = 640
height = 384
"""
THRESHOLDS = Thresholds(fps_tolerance=0.05, max_drop=0.02, max_p95_ms=None, min_recall=0.95, min_mean_iou=0.6)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--duration", type=float, help="seconds; without it the demo runs until Ctrl-C")
    args = parser.parse_args(argv)
    if args.duration is not None and args.duration <= WARM_UP_S:
        parser.error(f"--duration {args.duration:g}: the first {WARM_UP_S:g} s are not counted, so it must be longer")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return run(args.duration)
    except (ModelError, CameraError, LocalDaemonError, MeasureError) as error:
        say(f"make run: {error}")
        return 1
    except KeyboardInterrupt:
        return 0


def run(duration_s: float | None) -> int:
    store = ModelStore(default_model_store())
    fetch_model(store)
    say(f"rendering {CAMERAS} scenes with moving faces (kept for next time)")
    clips = [encode(make_scene(*SIZE, fps=FPS, faces=3, seed=seed)) for seed in range(CAMERAS)]
    with CameraServer(clips) as cameras, LocalDaemon(SETTINGS, models=default_model_store()) as daemon:
        ids = [f"cam{i + 1}" for i in range(CAMERAS)]
        for i, stream_id in enumerate(ids):
            spec = stream_pb2.StreamSpec(id=stream_id, url=cameras.url(i), target_fps=TARGET_FPS)
            daemon.streams.CreateStream(stream_pb2.CreateStreamRequest(spec=spec), timeout=10)
            say(f"added {stream_id}: {cameras.url(i)}")
        wait_until_streaming(daemon, ids, 30)
        say(f"in another terminal: .venv/bin/facedetctl --socket {daemon.socket} stats --watch\n")
        with live(daemon):
            if duration_s is None:
                threading.Event().wait()

            def truth(stream_id: str, utc_ns: int) -> Sequence[Box]:
                return cameras.truth(ids.index(stream_id), utc_ns)

            time.sleep(WARM_UP_S)
            assert duration_s is not None
            found = measure(daemon, duration_s - WARM_UP_S, dict.fromkeys(ids, TARGET_FPS), truth, THRESHOLDS)
            health = daemon.daemon.GetHealth(daemon_pb2.GetHealthRequest(), timeout=10)
    report(found, [f"{problem.subject}: {problem.message}" for problem in health.problems])
    return 0 if found.passed else 1


def fetch_model(store: ModelStore) -> None:
    try:
        store.get(MODEL)
    except ModelError:
        say(f"fetching the model {MODEL}")
        pull(MODEL, store)


@contextlib.contextmanager
def live(daemon: LocalDaemon) -> Iterator[None]:
    """Shows detections while the body runs, as an operator would see them; on stderr, for stdout is the summary's."""
    command = [sys.executable, "-m", "facedetctl", "--socket", str(daemon.socket), "watch"]
    process = subprocess.Popen(command, stdout=sys.stderr)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def report(found: Measured, problems: Sequence[str]) -> None:
    """``problems`` are those that the daemon's health had at the end: where a check failed they say why, such as that
    other programs use the CPU."""
    for check in found.checks:
        say(f"{'pass' if check.passed else 'FAIL'}  {check.name}: wanted {check.wanted}, found {check.found}")
    if not found.passed:
        for problem in problems:
            say(f"the daemon says: {problem}")
    summary = {"streams": [stream.as_json() for stream in found.streams], "pass": found.passed}
    print(json.dumps(summary), flush=True)


if __name__ == "__main__":
    sys.exit(main())
