"""What a packet costs in Python on its way through capture: python -m tests.bench_packet CLIP ….

A stream's thread takes the clip's packets, one every 40 ms of fake time, with a decoder that gives a grey picture at
once: decoding and demuxing are left out. Timed is from a packet's hand-over till the next is asked for, sampled packets
and others apart: the median of a round, the least of the rounds, since what else the machine does only adds. ``cold``
is the same with the caches emptied before each packet, as they are where many threads take turns.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from unittest.mock import patch

import av
import numpy as np
from av import VideoFrame
from av.packet import Packet
from av.video.stream import VideoStream

from facedetd.capture.levers import Decoder
from facedetd.capture.opening import Opened
from facedetd.capture.sink import RingSink
from facedetd.capture.source import video_stream
from facedetd.capture.stream import StreamThread
from facedetd.ring.link import RETURNED, SlotLink, link_pair
from facedetd.ring.segment import DecoderCounter, RingSpec, Segment
from facedetd.ring.writer import RingWriter
from facedetd.types import StreamSpec

_WIDTH, _HEIGHT = 320, 192
_FRAME_NS = 40_000_000
_WARM_UP = 600
_CACHES_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Cost:
    """Of a packet in us: of those whose frame isn't sampled, and of those whose frame is."""

    clip: str
    caches: str
    not_sampled_us: float
    sampled_us: float


class _Bench:
    """A stream without a camera; its source hands over the clip's packets and looks at the clock."""

    codec, late = "h264", False

    def __init__(self, clip: Path, fps: float, packets: int, cold: bool):
        self._packets, self._now_ns = packets, 10**9
        self._clip = av.open(str(clip))
        self._video = video_stream(self._clip)
        self.codec = self._video.codec_context.name
        self._ballast = np.zeros(_CACHES_BYTES if cold else 0, np.uint8)
        self._segment = Segment.create(RingSpec(1, 1, _WIDTH, _HEIGHT, 1, 4))
        ours, theirs = link_pair()
        self._ring, self._reader = RingWriter(self._segment, SlotLink(ours)), SlotLink(theirs)
        sink = RingSink("bench", 0, 1, self._ring)
        spec = StreamSpec("bench", "rtsp://192.0.2.1/", target_fps=fps)
        self._thread = StreamThread(spec, None, sink, lambda *_: None, mono=lambda: self._now_ns)
        self.sampled: list[int] = []
        self.not_sampled: list[int] = []

    def run(self) -> tuple[list[int], list[int]]:
        """ns of each packet: those not sampled, those sampled."""
        picture = VideoFrame(_WIDTH, _HEIGHT, "gray")

        def decode(_: Decoder, packet: Packet[VideoStream]) -> list[VideoFrame]:
            picture.opaque = packet.opaque
            return [picture]

        with patch.object(Decoder, "decode", decode):
            self._thread._stream(Opened(self, self.packets()))
        return self.not_sampled, self.sampled

    def packets(self) -> Iterator[Packet[VideoStream]]:
        own = [packet for packet in self._clip.demux(self._video) if packet.size]
        step = round(_FRAME_NS / 1e9 / own[0].time_base)
        counters = self._segment.counters[0, 0]
        for number in range(_WARM_UP + self._packets):
            packet = own[number % len(own)]
            packet.pts = number * step
            self._now_ns += _FRAME_NS
            before = int(counters[DecoderCounter.SAMPLED])
            self._ballast += 1
            start = time.perf_counter_ns()
            yield packet
            spent = time.perf_counter_ns() - start
            taken = int(counters[DecoderCounter.SAMPLED]) > before
            if taken:
                self._give_back()
            if number >= _WARM_UP:
                (self.sampled if taken else self.not_sampled).append(spent)

    def _give_back(self) -> None:
        """As the inference process does, so that there is always a free slot."""
        self._reader.send(*(replace(record, kind=RETURNED) for record in self._reader.receive()))
        self._ring.take_back()

    def close(self) -> None:
        self._clip.close()


def measure(clip: Path, fps: float, packets: int, rounds: int, *, cold: bool) -> Cost:
    best: list[tuple[float, float]] = []
    for _ in range(rounds):
        bench = _Bench(clip, fps, packets, cold)
        others, sampled = bench.run()
        bench.close()
        best.append((statistics.median(others) / 1e3, statistics.median(sampled) / 1e3))
    not_sampled_us, sampled_us = (min(figures) for figures in zip(*best, strict=True))
    return Cost(clip.name, "cold" if cold else "warm", round(not_sampled_us, 1), round(sampled_us, 1))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("clips", metavar="CLIP", type=Path, nargs="+", help="a video of a camera")
    parser.add_argument("--fps", type=float, default=5.0, help="rate at which frames are sampled, of 25 (default 5)")
    parser.add_argument("--packets", type=int, default=2000, help="in a round (default 2000; a quarter of it cold)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if not 0 < args.fps < 20:
        parser.error(f"--fps {args.fps:g}: more than 0 and less than 20, so that some frames are sampled and some not")
    costs = [
        measure(clip, args.fps, args.packets // (4 if cold else 1), args.rounds, cold=cold)
        for clip in args.clips
        for cold in (False, True)
    ]
    if args.json:
        print(json.dumps({"python": platform.python_version(), "costs": [asdict(cost) for cost in costs]}))
        return 0
    print(f"{'clip':<40} {'caches':<6} {'not sampled us':>15} {'sampled us':>11}")
    for cost in costs:
        print(f"{cost.clip:<40} {cost.caches:<6} {cost.not_sampled_us:>15.1f} {cost.sampled_us:>11.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
