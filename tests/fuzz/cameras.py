"""What cameras send, through the real decoder: RTSP answers, SDP, RTP packets, NAL units, containers."""

from __future__ import annotations

import functools
import io
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random

from facedetd.capture.pipeline import Pipeline
from facedetd.capture.source import FileSource, Source, SourceError, open_source, silence_ffmpeg
from facedetd.types import StreamSpec
from tests.fuzz.mutate import mutate
from tests.fuzz.rtp import PATIENT_S, QUIET_S, Wire, annex_b_units, conversation
from tests.fuzz.target import Fed, Target, expect

sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))
from capture_clips import KeepingSink, make_clip

PACKETS = 60
S = 1_000_000_000
KINDS = {"h264": ("libx264", "yuv420p"), "hevc": ("libx265", "yuv420p"), "mjpeg": ("mjpeg", "yuvj420p")}
BOXES = {"mp4": ("libx264", "yuv420p"), "mkv": ("libx265", "yuv420p"), "ts": ("libx264", "yuv420p")}


class FakeTime(threading.Event):
    """A clock and a stop event in one: waiting takes no time but moves the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000 * S

    def clock(self) -> int:
        return self.now

    def wait(self, timeout: float | None = None) -> bool:
        self.now += int((timeout or 0) * S)
        return self.is_set()


def through(source: Source, clock: FakeTime) -> int:
    """Feed some packets through a pipeline; how many pictures became a frame. Checks the accounts and the slots."""
    sink = KeepingSink(slots=2)
    pipeline = Pipeline(sink, 1000.0, 1.0, clock.clock)
    undated = 0
    try:
        pipeline.begin(source.codec, 5000 * S, late=source.late)
        for n, packet in enumerate(source.packets()):
            pipeline.feed(packet)
            if n >= PACKETS:
                break
    except SourceError as error:
        expect("://" not in str(error) and len(str(error)) < 500, f"an error such as: {error}")
    finally:
        source.close()
    told = len(sink.frames) + sink.counts.get("not_sampled", 0) + sink.counts.get("no_slot", 0)
    undated = told - pipeline._frame_number
    # What is drained after a flush may have lost its time: those frames have no number and are counted
    expect(0 <= undated <= 32, f"{pipeline._frame_number} frames decoded, {told} accounted for")
    expect(sink.held is None and sorted(sink.free) == [0, 1], "a slot was not given back")
    return len(sink.frames)


class _Files:
    def __init__(self, folder: Path, names: Sequence[str], clips: Sequence[bytes]):
        self._folder, self._names, self._clips = folder, names, clips

    def feed(self, data: bytes) -> None:
        if data:
            self._play(self._names[data[0] % len(self._names)], data[1:])

    def _play(self, name: str, data: bytes) -> int:
        file, clock = self._folder / f"clip.{name}", FakeTime()
        file.write_bytes(data)
        try:
            source = FileSource(str(file), clock, clock.clock)
        except SourceError:
            return 0
        return through(source, clock)

    def good(self) -> None:
        for name, clip in zip(self._names, self._clips, strict=True):
            expect(self._play(name, clip[1:]) >= 10, f"a good {name} gives no frames")


class _Rtsp:
    """``data`` is a conversation: what a camera answers, and what it sends after PLAY."""

    def __init__(self, wire: Wire):
        self._wire = wire

    def feed(self, data: bytes) -> None:
        self._watch(data, QUIET_S, 4.0)

    def _watch(self, data: bytes, quiet_s: float, timeout_s: float) -> int:
        self._wire.script, self._wire.quiet_s = data, quiet_s
        spec = StreamSpec("cam", f"rtsp://127.0.0.1:{self._wire.port}/cam")
        began = time.monotonic()
        try:
            source = open_source(spec, None, timeout_s, timeout_s, threading.Event(), time.monotonic_ns)
        except SourceError as error:
            expect("://" not in str(error) and len(str(error)) < 500, f"an error such as: {error}")
            return 0
        clock = FakeTime()
        clock.now = time.monotonic_ns()
        frames = through(source, clock)
        expect(time.monotonic() - began < 60, "a connection took over a minute")
        return frames

    def good(self) -> None:
        for seed in rtsp_seeds():
            expect(self._watch(seed, PATIENT_S, PATIENT_S) >= 10, "a good camera gives no frames")


@functools.cache
def clips(kind: str) -> tuple[bytes, ...]:
    """A small clip of each sort; the first byte is its number."""
    table = KINDS if kind == "nal" else BOXES
    made = []
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, (codec, pix_fmt)) in enumerate(table.items()):
            form = name if kind == "nal" else None
            path = make_clip(Path(folder) / f"c.{name}", 16, codec=codec, pix_fmt=pix_fmt, fmt=form)
            made.append(bytes([number]) + path.read_bytes())
    return tuple(made)


@functools.cache
def rtsp_seeds() -> tuple[bytes, ...]:
    h264, hevc, _ = clips("nal")
    return conversation("H264", annex_b_units(h264[1:])), conversation("H265", annex_b_units(hevc[1:]))


def make_nal(rng: Random, seeds: Sequence[bytes]) -> bytes:
    """Whole NAL units damaged, left out, doubled, exchanged with those of other streams."""
    seed = rng.choice(seeds[:2])
    units = annex_b_units(seed[1:])
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(units))
        kind = rng.randrange(5)
        if kind == 0:
            units[at : at + 1] = []
        elif kind == 1:
            units.insert(rng.randrange(len(units) + 1), units[at])
        elif kind == 2:
            units[at] = rng.choice(annex_b_units(rng.choice(seeds[:2])[1:]) or [b""])
        else:
            # The first ones are parameter sets: small, and all depends on them
            at = at if kind == 3 else min(at, rng.randrange(4))
            units[at] = mutate(rng, [units[at]])
        if not units:
            break
    return seed[:1] + b"".join(b"\0\0\0\1" + unit for unit in units)


def make_rtsp(rng: Random, seeds: Sequence[bytes]) -> bytes:
    """One part of the conversation damaged; the others let it get that far."""
    parts = Wire.split(rng.choice(seeds))
    at = rng.choice((0, 1, 1, 1, 2, 3, *(4,) * 6))
    if at == 4:
        out = io.BytesIO()
        for packet in Wire.frames(parts[4]):
            damage = rng.random() < 0.1
            out.write(mutate(rng, [packet], RTP_WORDS) if damage else packet)
        parts[4] = out.getvalue()
    else:
        parts[at] = mutate(rng, [parts[at]], SDP_WORDS)
    return Wire.SEPARATOR.join(parts)


SDP_WORDS = (
    b"a=control:", b"m=video 0 RTP/AVP 96\r\n", b"m=audio 0 RTP/AVP 97\r\n", b"a=rtpmap:96 ", b"a=fmtp:96 ",
    b"H264/90000", b"H265/90000", b"JPEG/90000", b"VP9/90000", b"X-QT/90000", b"MP2T/90000", b"MP4V-ES/90000",
    b"sprop-parameter-sets=", b"a=range:npt=", b"a=framerate:", b"a=framesize:96 ", b"packetization-mode=",
    b"\r\n", b"\r\n\r\n", b"Content-Length: ", b"Session: ", b"Transport: RTP/AVP/TCP;unicast;interleaved=",
    b"a=x\r\n" * 2000, b"Q" * 9000, b"=", b"\0",
)  # fmt: skip
RTP_WORDS = (
    b"$\x00\x00\x00", b"$\x00\xff\xff", b"\x80\x60", b"\x80\xe0", b"\x7c\x85", b"\x78\x00\x04",
    b"RTSP/1.0 200 OK\r\n\r\n",
)  # fmt: skip


@contextmanager
def _nal(folder: Path) -> Iterator[Fed]:
    silence_ffmpeg()
    yield _Files(folder, tuple(KINDS), clips("nal"))


@contextmanager
def _boxes(folder: Path) -> Iterator[Fed]:
    silence_ffmpeg()
    yield _Files(folder, tuple(BOXES), clips("boxes"))


@contextmanager
def _rtsp(_: Path) -> Iterator[Fed]:
    silence_ffmpeg()
    with Wire() as wire:
        yield _Rtsp(wire)


TARGETS = {
    "nal": Target(_nal, lambda: clips("nal"), make=make_nal, memory=3 << 30, growth=300 << 20, good_every=100),
    "file": Target(_boxes, lambda: clips("boxes"), memory=3 << 30, growth=300 << 20, good_every=100),
    "rtsp": Target(_rtsp, rtsp_seeds, SDP_WORDS, make_rtsp, memory=3 << 30, growth=300 << 20, good_every=100),
}
