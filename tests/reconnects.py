"""What connecting again and again costs in memory: python -m tests.reconnects [--seconds 60]

Four light cameras are cut in turn; prints connections and resident memory (this process is decoder and test in one).
"""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

import numpy as np

from facedetd.capture.stream import StreamThread
from facedetd.capture.types import Slot, StreamTimeouts
from facedetd.types import StreamSpec, StreamState
from tests.cameras import CameraServer, Coding, encode, make_scene
from tests.procfs import read_usage

CAMERAS = 4


class Sink:
    """Takes every frame and keeps none."""

    attached = True

    def __init__(self) -> None:
        self._picture = np.zeros((192 * 3 // 2, 320), np.uint8)

    def acquire(self) -> Slot:
        return Slot(0, self._picture)

    def submit(self, slot: Slot, frame: Any) -> None: ...

    def release(self, slot: Slot) -> None: ...

    def count(self, **counts: int) -> None: ...


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.reconnects", description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    connected = 0

    def on_state(state: StreamState, *_: object) -> None:
        nonlocal connected
        connected += state is StreamState.STREAMING

    clip = encode(make_scene(640, 360, faces=2, frames=120, fps=12), coding=Coding(bitrate=500_000, gop=12))
    with CameraServer([clip] * CAMERAS) as cameras:
        quick = StreamTimeouts(backoff_initial_s=0.1, backoff_max_s=0.1)
        for i in range(CAMERAS):
            StreamThread(StreamSpec(f"c{i}", cameras.url(i)), None, Sink(), on_state, quick, fps=2.0).start()
        time.sleep(4)
        end = time.monotonic() + options.seconds
        turn = 0
        while time.monotonic() < end:
            cameras.ctl("cut", turn % CAMERAS)
            turn += 1
            time.sleep(0.3)
            if turn % 60 == 0:
                tell(connected)
        tell(connected)
    os._exit(0)  # the threads may sit in a read


def tell(connected: int) -> None:
    usage = read_usage(os.getpid())
    print(f"{connected} connections, {usage.resident_bytes / 1e6 if usage else 0:.0f} MB", flush=True)


if __name__ == "__main__":
    main()
