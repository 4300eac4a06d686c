"""What each decode level costs on this machine: ``python -m tests.decode_levels``.

The clips go through capture's own pipeline, as fast as it can, sampled at 5 fps; CPU ms are a packet's (user and system
time of the process), packets of all kinds. Pictures are 1920x1080, 25 fps, 4 Mbit/s, a keyframe every 2 s.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Sequence

import numpy as np

from facedetd.capture.pipeline import Pipeline
from facedetd.capture.source import open_source, silence_ffmpeg
from facedetd.capture.types import SampledFrame, Slot
from facedetd.types import DecodeLevel, StreamSpec
from tests.cameras import Clip, Coding, encode, make_scene

CODINGS = {
    "H.264, P-frames only": Coding(),
    "H.264, two B-frames": Coding(bframes=2),
    "H.265, two B-frames": Coding(codec="h265", container="mkv", bframes=2),
}
SUB = "sub-stream 640x360, P-frames only, 500 kbit/s"
LEVELS = [level for level in DecodeLevel if level is not DecodeLevel.SUB_STREAM]


class Sink:
    """A FrameSink that has one slot, 640x384, always free."""

    attached = True

    def __init__(self) -> None:
        self.slot = Slot(0, np.zeros((384 * 3 // 2, 640), np.uint8))
        self.sampled = self.decoded = 0

    def acquire(self) -> Slot:
        return self.slot

    def submit(self, slot: Slot, frame: SampledFrame) -> None:
        self.sampled += 1
        self.decoded += 1

    def release(self, slot: Slot) -> None:
        raise AssertionError("no picture here is refused")

    def count(self, *, not_sampled: int = 0, **more: int) -> None:
        self.decoded += not_sampled


class _Playing(threading.Event):
    """Clock and stop event in one: waiting takes no time."""

    now = 10**12

    def clock(self) -> int:
        return self.now

    def wait(self, timeout: float | None = None) -> bool:
        self.now += int((timeout or 0) * 1e9)
        return False


def measure(clip: Clip, level: DecodeLevel, packets: int) -> tuple[float, float]:
    """(CPU ms a packet, pictures decoded a packet), after one GOP that isn't counted."""
    playing, sink = _Playing(), Sink()
    source = open_source(StreamSpec("clip", clip.path.as_uri()), None, 5, 5, playing, playing.clock)
    pipeline = Pipeline(sink, 5.0, 1.0, playing.clock)
    pipeline.level = level
    pipeline.begin(source.codec, 0)
    fed, before, began = 0, 0, 0.0
    try:
        for packet in source.packets():
            pipeline.feed(packet)
            fed += bool(packet.size)
            if fed == clip.coding.gop and not began:
                before, began = sink.decoded, time.process_time()
            if fed == clip.coding.gop + packets:
                break
        return 1000 * (time.process_time() - began) / packets, (sink.decoded - before) / packets
    finally:
        source.close()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.decode_levels", description=__doc__.split("\n")[0])
    parser.add_argument("--packets", type=int, default=500, help="of each clip at each level (default 500)")
    options = parser.parse_args(arguments)
    silence_ffmpeg()
    print(f"{'':45} {'level':17} {'ms/packet':>9} {'of full':>8} {'pictures/packet':>16}")
    for name, coding in CODINGS.items():
        clip = encode(make_scene(1920, 1080, faces=3), coding=coding)
        full = 0.0
        for level in LEVELS:
            ms, pictures = measure(clip, level, options.packets)
            full = full or ms
            print(f"{name:45} {level.value:17} {ms:9.3f} {ms / full:8.0%} {pictures:16.2f}", flush=True)
    clip = encode(make_scene(640, 360, faces=3), coding=Coding(bitrate=500_000))
    for of_sub in (DecodeLevel.SUB_STREAM, DecodeLevel.KEYFRAMES):
        ms, pictures = measure(clip, of_sub, options.packets)
        print(f"{SUB:45} {of_sub.value:17} {ms:9.3f} {'':8} {pictures:16.2f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
