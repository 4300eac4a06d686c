"""Small clips made with PyAV for the capture tests, and a sink that keeps what it gets."""

from __future__ import annotations

import av
import numpy as np

from facedetd.capture.types import Slot


def picture(i, width, height):
    """Frame ``i`` of the test scene, BGR: smooth gradients, and a bright bar that moves a sixteenth a frame."""
    y, x = np.mgrid[0:height, 0:width]
    bgr = np.empty((height, width, 3), np.uint8)
    bgr[..., 0] = 40 + 150 * x / width
    bgr[..., 1] = 40 + 150 * y / height
    bgr[..., 2] = 90
    left = (i % 16) * width // 16
    bgr[:, left : left + max(1, width // 16)] = 230
    return bgr


def bar_of(luma):
    """Which sixteenth of the picture the bar stands in."""
    return int(np.argmax(luma.astype(float).mean(axis=0))) * 16 // luma.shape[1]


def make_clip(
    path, n=25, size=(160, 96), codec="libx264", rate=25, pix_fmt="yuv420p", options=None, pts=None, sar=None, fmt=None
):
    """Write ``n`` frames; ``pts`` maps a frame's number to its PTS in frames."""
    with av.open(str(path), "w", format=fmt) as out:
        stream = out.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        if sar:
            stream.codec_context.sample_aspect_ratio = sar
        if options is None:
            options = {"libx264": {"preset": "ultrafast", "g": "10", "bf": "0", "crf": "12"},
                       "libx265": {"preset": "ultrafast", "x265-params": "log-level=none:keyint=10:bframes=0"}}.get(
                codec, {"qmin": "2", "qmax": "2"})  # fmt: skip
        stream.options = options
        for i in range(n):
            frame = av.VideoFrame.from_ndarray(picture(i, *size), "bgr24")
            frame.pts = i if pts is None else pts(i)
            for packet in stream.encode(frame):
                out.mux(packet)
        for packet in stream.encode():
            out.mux(packet)
    return path


class KeepingSink:
    """A FrameSink with ``slots`` slots that come back at once; checks the protocol as it goes."""

    def __init__(self, size=(160, 96), slots=2):
        self.attached = True
        self.frames, self.pictures = [], []
        self.counts = {}
        self.held = None
        self.resize(size)
        self.free = list(range(slots))

    def resize(self, size, generation=1):
        width, height = size
        self.generation = generation
        self.memory = [np.full((height * 3 // 2, width), 77, np.uint8) for _ in range(4)]

    def acquire(self):
        assert self.held is None, "a slot was acquired before the last one went back"
        if not self.attached or not self.free:
            return None
        number = self.free.pop(0)
        self.held = Slot((self.generation, number), self.memory[number])
        return self.held

    def _back(self, slot):
        assert slot is self.held
        self.held = None
        self.free.append(slot.key[1])

    def release(self, slot):
        self._back(slot)

    def submit(self, slot, frame):
        self.frames.append(frame)
        self.pictures.append(slot.picture.copy())
        self._back(slot)

    def count(self, **more):
        for name, n in more.items():
            self.counts[name] = self.counts.get(name, 0) + n
