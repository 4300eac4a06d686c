"""The daemon on the cameras that need no GStreamer: every frame it asks for, with the right time of capture."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest

from facedetctl.local import LocalDaemon
from tests.cameras import Coding, encode, make_scene, strip
from tests.cameras.plain import PlainCameras
from tests.cameras.score import score
from tests.integration.daemon_kit import (
    EVERY_FRAME,
    add,
    check_accounts,
    model_store,
    quiesce,
    snapshot,
    until_inferred,
    watching,
)

pytestmark = pytest.mark.integration
FPS = 5.0


@pytest.mark.parametrize(
    "coding",
    [
        Coding(bitrate=800_000, gop=25),
        Coding(bitrate=800_000, gop=25, bframes=2, container="mkv"),
        Coding("h265", bitrate=800_000, gop=25),
    ],
    ids=["h264", "h264-b-frames", "h265"],
)
def test_detections_of_three_cameras_at_their_rate_and_time(coding: Coding) -> None:
    clip = encode(make_scene(640, 360, faces=2, frames=100), coding=coding)
    cameras = PlainCameras(clip.path, 3, processes=2)
    with cameras as urls, LocalDaemon(EVERY_FRAME, models=model_store()) as daemon, watching(daemon) as watch:
        ids = [f"cam-{i}" for i in range(3)]
        for name, url in zip(ids, urls, strict=True):
            add(daemon, name, url, target_fps=FPS)
        until_inferred(daemon, ids, 60, 60)  # three loops of the clip
        for i, name in enumerate(ids):
            shown = snapshot(daemon, name, plain=True)
            picture = cv2.imdecode(np.frombuffer(shown.jpeg, np.uint8), cv2.IMREAD_COLOR)
            assert picture is not None
            number = strip.read(picture)  # drawn in it
            assert number is not None
            assert strip.apart(number, cameras.frame_at(i, shown.capture_time.ToNanoseconds()), clip.frames) <= 1
        for i, (name, status) in enumerate(quiesce(daemon, ids).items()):
            check_accounts(status)
            found = watch.of(name)
            times = [(d.sequence, round(d.pts.ToNanoseconds() / 1e6)) for d in found[1:]]  # the first has no RTP time
            # A camera that can't send leaves pictures out: the one after such a hole is taken, and the grid goes on
            holes = sum(b[0] == a[0] + 1 and b[1] - a[1] > 200 for a, b in pairwise(times))
            assert holes <= 10, "it is the machine that makes them, by standing still"
            even = [b[1] for a, b in pairwise(times) if b[1] - a[1] <= 200]
            assert len(even) >= 20 and {(t - even[0]) % 200 for t in even} == {0}
            assert abs(status.frames_sampled - status.frames_decoded / (clip.fps / FPS) + 0.5) <= 1.5 + holes
            boxes = [
                (
                    d.capture_time.ToNanoseconds(),
                    [(f.box.x_min, f.box.y_min, f.box.x_max, f.box.y_max) for f in d.faces],
                )
                for d in found
            ]
            result = score(boxes, lambda utc_ns, i=i: clip.truth(cameras.frame_at(i, utc_ns)))
            assert result.recall >= 0.95
            assert result.mean_iou >= 0.6
        print(daemon.log_text())
