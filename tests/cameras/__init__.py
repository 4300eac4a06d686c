"""Cameras for tests, demo and benchmark: scenes with known truth, encoded once, served by a real RTSP server.

May be called by tests, ``make run`` and ``facedetctl bench``; imports nothing of the daemon. The rooms:

- ``scene``   geometry: ``make_scene(width, height, fps, frames, faces, seed, sar)``, ``truth(scene, n)``; pure
- ``render``  ``render(scene, n)`` draws a frame as BGR; ``strip.read(picture)`` gives n back from a picture
- ``encode``  ``encode(scene, coding=Coding(codec="h265", bframes=2))`` -> ``Clip``, cached; several scenes make a clip
  whose size changes; ``shift_times`` writes a file whose times jump, go back or wrap
- ``score``   ``score([(time, boxes), ..], truth_for_time)`` -> (recall, mean_iou), matches at IoU >= 0.5
- ``client``  ``CameraServer(clips)`` starts ``server.py`` under Debian's python3; ``requirements()`` says what it lacks
- ``plain``   ``PlainCameras(clip.path, 70)`` needs no GStreamer and little CPU; many cameras of one clip, TCP only
- ``rogue``   ``RogueCamera(clip.path)`` misbehaves on purpose; ``rtp`` and ``rtsp`` are what both speak

    clips = demo_clips(4, 1280, 720)
    with CameraServer(clips, account=Account("viewer", "s3cret")) as cameras:
        ...  # point a client at cameras.url(0)
        cameras.ctl("stall", 0)          # also resume, cut, down, up, corrupt I P, jump I S, stats, clients
        found = [(d.capture_utc_ns, [f.box for f in d.faces]) for d in detections]
        recall, mean_iou = score(found, lambda utc_ns: cameras.truth(0, utc_ns))

For files, ``clip.path`` is what to open and ``clip.truth(n)`` the boxes of its n-th frame. Ask for frames without
faces too when scoring, or misses go unseen. By hand: ``python -m tests.cameras --streams 4 --size 1280x720``.
"""

from __future__ import annotations

from tests.cameras.client import Account, CameraError, CameraServer, missing_message, requirements
from tests.cameras.encode import Clip, Coding, encode, shift_times
from tests.cameras.render import render
from tests.cameras.scene import FacePath, Scene, make_scene, truth
from tests.cameras.score import Score, iou, match, score

__all__ = [
    "Account",
    "CameraError",
    "CameraServer",
    "Clip",
    "Coding",
    "FacePath",
    "Scene",
    "Score",
    "demo_clips",
    "encode",
    "iou",
    "make_scene",
    "match",
    "missing_message",
    "render",
    "requirements",
    "score",
    "shift_times",
    "truth",
]


def demo_clips(
    streams: int,
    width: int = 1280,
    height: int = 720,
    fps: int = 25,
    *,
    coding: Coding | None = None,
    distinct: int = 4,
) -> list[Clip]:
    """A clip for each of ``streams`` cameras, 10 s long, of at most ``distinct`` different scenes (faces differ in
    number, size and way). Takes some seconds a scene the first time, nothing after."""
    scenes = [
        make_scene(width, height, fps, frames=10 * fps, faces=2 + seed % 3, seed=seed)
        for seed in range(min(streams, distinct))
    ]
    clips = [encode(scene, coding=coding) for scene in scenes]
    return [clips[i % len(clips)] for i in range(streams)]
