"""The walk of docs/models.md from a checkpoint to a running INT8 model: make test-model.

Every step is a facedetctl command as a user would type it, on the small model (YOLOv5n-0.5-face). The cameras are
rendered scenes; accuracy is asked of other scenes, whose faces are known. Where $FACEDETD_TEST_EVAL is set it is also
measured on the photos there, and only told: a model calibrated on drawn backgrounds needn't hold it on those. Prints a
JSON summary as the last thing on stdout; exits 0 only if every step held.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2

from facedetctl.local import LocalDaemon
from tests.cameras import CameraServer, Coding, encode, make_scene, truth
from tests.cameras.render import render
from tests.integration.daemon_kit import stats, until

CTL = (sys.executable, "-m", "facedetctl")
FLOAT, INT8 = "walk-float", "walk-int8"
SIZES = ((640, 360), (960, 540), (1280, 720))
CAMERAS, LABELLED, FPS = 9, 60, 10
COUNT = 90
MAX_DROP = "0.005,0.008,0.008"
MIN_SHARE = 0.995
SETTINGS = f'[model]\nname = "{FLOAT}"\nwidth = 640\nheight = 640\n'


class WalkError(Exception):
    """A step that didn't hold, in words."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Walk:
    def __init__(self, folder: Path):
        self.folder = folder
        self.seconds: dict[str, float] = {}

    def ctl(self, *words: str | Path, step: str = "") -> Any:
        """Run facedetctl with --json; returns what it said. Raises WalkError where it failed."""
        say(f"\n$ facedetctl {' '.join(map(str, words))}")
        began = time.monotonic()
        done = subprocess.run([*CTL, *words, "--json"], stdout=subprocess.PIPE, cwd=self.folder, check=False)
        self.seconds[step or str(words[1])] = round(time.monotonic() - began, 1)
        if done.returncode:
            raise WalkError(f"{step or words[1]}: facedetctl exited with {done.returncode}")
        return json.loads(done.stdout) if done.stdout.strip() else None


def checkpoint() -> Path:
    """Raises WalkError."""
    models = os.environ.get("FACEDETD_TEST_MODELS")
    path = Path(models or ".") / "yolov5n-0.5-face.pt"
    if not models or not path.is_file():
        raise WalkError(
            "needs a checkpoint of YOLOv5n-0.5-face (GPL-3.0, not part of facedetd): name it with --checkpoint, "
            "or the folder of yolov5n-0.5-face.pt with FACEDETD_TEST_MODELS"
        )
    return path


def labels_of_scenes(folder: Path) -> Path:
    """Pictures of scenes that no camera shows, and their faces. All count at each level: none is small."""
    folder.mkdir()
    entries = []
    for n in range(LABELLED):
        width, height = SIZES[n % len(SIZES)]
        scene = make_scene(width, height, frames=100, faces=1 + n % 4, seed=1000 + n)
        name = f"{n}.png"
        cv2.imwrite(str(folder / name), render(scene, n))
        boxes = [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in truth(scene, n)]
        every = list(range(len(boxes)))
        levels = {"easy": every, "medium": every, "hard": every}
        entries.append({"file": name, "orig_wh": [width, height], "boxes_xywh_orig": boxes, **levels})
    path = folder / "labels.json"
    path.write_text(json.dumps(entries))
    return path


def compare(walk: Walk, labels: Path, what: str, *asked: str) -> dict[str, Any]:
    """AP of both models and their matched boxes. Raises WalkError where what is ``asked`` isn't held."""
    words = ("model", "evaluate", f"{INT8}.onnx", "--against", f"{FLOAT}.onnx", "--labels", labels)
    found = walk.ctl(*words, *asked, step=f"evaluate on {what}")
    share = next(m["share"] for m in found["matched"] if m["iou"] == 0.7)
    if asked and share < MIN_SHARE:
        raise WalkError(f"{what}: {share:.4f} of the float model's boxes are found, allowed are {MIN_SHARE} and more")
    levels = ("ap_easy", "ap_medium", "ap_hard")
    return {
        "float": [round(found["against"][level], 4) for level in levels],
        "int8": [round(found[level], 4) for level in levels],
        "matched": round(share, 4),
    }


def run_it(walk: Walk) -> dict[str, Any]:
    """The daemon goes over from the float model to INT8 under load. Raises WalkError."""
    state = walk.folder / "state"
    for name in (FLOAT, INT8):
        walk.ctl("model", "import", f"{name}.onnx", "--name", name, "--state-dir", state, step=f"import of {name}")
    say("\na daemon with two cameras")
    clips = [encode(make_scene(640, 360, fps=FPS, frames=60, faces=2, seed=s)) for s in range(2)]
    with CameraServer(clips) as cameras, LocalDaemon(SETTINGS, models=state / "models") as daemon:
        for n in range(2):
            walk.ctl("add-stream", f"cam{n}", cameras.url(n), "--socket", daemon.socket, step="add-stream")

        def inferred() -> int:
            return sum(s.status.frames_inferred for s in stats(daemon).streams)

        until(lambda: inferred() > 20, "results of the float model", 60)
        walk.ctl("model", "activate", INT8, "--socket", daemon.socket)
        before = inferred()
        until(lambda: inferred() > before + 20, "results of the INT8 model", 60)
        told = stats(daemon)
        if told.model.name != INT8 or not told.model.HasField("calibration"):
            raise WalkError(f"the daemon runs {told.model.name}, not {INT8}, or knows nothing of its calibration")
        lost = {
            reason: count
            for s in told.streams
            for reason, count in s.status.frames_dropped.items()
            if reason not in ("replaced", "no_slot", "stale") and count
        }
        if lost:
            raise WalkError(f"frames were lost on the way: {lost}")
        return {"model": f"{told.model.name}@{told.model.version}", "inferred": inferred()}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.model_walk", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--checkpoint", type=Path, help="a .pt file (default: in $FACEDETD_TEST_MODELS)")
    parser.add_argument("--folder", type=Path, default=Path(".run/model"), help="for all that is made, emptied before")
    args = parser.parse_args()
    began = time.monotonic()
    try:
        source = (args.checkpoint or checkpoint()).absolute()
        shutil.rmtree(args.folder, ignore_errors=True)
        args.folder.mkdir(parents=True)
        walk = Walk(args.folder.absolute())
        say("rendering cameras and labelled pictures")
        labels = labels_of_scenes(walk.folder / "labelled")
        clips = [
            encode(
                make_scene(*SIZES[n % len(SIZES)], fps=FPS, frames=10 * FPS, faces=n % 5, seed=n + 50),
                coding=Coding(gop=4),
            )
            for n in range(CAMERAS)
        ]
        urls = [f"file://{clip.path}" for clip in clips]
        walk.ctl("model", "export", source, "--output", f"{FLOAT}.onnx", "--picture", "labelled/0.png")
        collected = walk.ctl(
            "model", "collect", "--stream", *urls, "--output", "set", "--count", str(COUNT), "--every", "0.4",
            "--distance", "0", "--model", f"{FLOAT}.onnx",
        )  # fmt: skip
        quantized = walk.ctl("model", "quantize", f"{FLOAT}.onnx", "--calibration", "set", "--output", f"{INT8}.onnx")
        walk.ctl("model", "test", f"{INT8}.onnx", "labelled/1.png", "labelled/2.png", "--output", "found.jpg")
        accuracy = {"rendered scenes": compare(walk, labels, "rendered scenes", "--max-drop", MAX_DROP)}
        if "FACEDETD_TEST_EVAL" in os.environ:
            given = Path(os.environ["FACEDETD_TEST_EVAL"]) / "wider" / "ground_truth.json"
            accuracy["FACEDETD_TEST_EVAL"] = compare(walk, given.absolute(), "the given pictures")
        ran = run_it(walk)
    except (WalkError, AssertionError) as error:
        say(f"make test-model: {error}")
        return 1
    summary = {
        "seconds": {"all": round(time.monotonic() - began, 1), **walk.seconds},
        "collected": collected,
        "quantized": quantized,
        "accuracy": accuracy,
        "ran": ran,
    }
    print(json.dumps(summary, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
