"""NVDEC and the scaling kernel against FFmpeg's decoders and swscale, on real video; and moves between them."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from facedetd.capture.levers import Decoder
from facedetd.capture.nvdec import Nvdec
from facedetd.capture.pipeline import Pipeline
from facedetd.capture.scaler import Scaler
from facedetd.capture.source import FileSource
from facedetd.capture.types import Slot
from facedetd.ring.segment import RingSpec, Segment
from facedetd.types import DecodeDevice, DecodeLevel
from tests.unit.capture_clips import KeepingSink, bar_of, make_clip, picture

CPU, NVDEC = DecodeDevice
FULL, NO_FILTER, REFERENCE, _, KEYFRAMES, OFF = DecodeLevel
FRAME_NS, GOP, LOOP = 40_000_000, 12, 96
_RINGS = itertools.count(1000)
CODINGS = {
    "p": ("libx264", "mp4", {"preset": "veryfast", "bf": "0", "g": str(GOP), "x264-params": "scenecut=0"}),
    "b": ("libx264", "mp4",
          {"preset": "veryfast", "x264-params": f"keyint={GOP}:min-keyint={GOP}:bframes=3:b-adapt=0:scenecut=0"}),
    "hevc": ("libx265", "mkv", {"preset": "veryfast", "x265-params":
             f"log-level=none:keyint={GOP}:min-keyint={GOP}:bframes=3:b-adapt=0:open-gop=0:scenecut=0"}),
}  # fmt: skip


@pytest.fixture(scope="module")
def nvdec() -> Nvdec:
    made = Nvdec(0)
    made.gpu()
    return made


@pytest.fixture
def slots(nvdec: Nvdec) -> Iterator[Any]:
    """Slots of a real ring, by the model's size."""
    segments = {}

    def make(width: int, height: int) -> list[Slot]:
        ring_id = next(_RINGS)
        segment = Segment.create(RingSpec(ring_id, 1, width, height, 1, 2))
        segments[ring_id] = segment
        for n in range(2):
            segment.picture(n)[:] = 77
        return [Slot((ring_id, n), segment.picture(n)) for n in range(2)]

    yield make
    for ring_id, segment in segments.items():
        nvdec.forget_ring(ring_id)
        segment.close()


def both_frames(path: Path, nvdec: Nvdec, n: int = 3) -> list[tuple[av.VideoFrame, av.VideoFrame]]:
    """The first frames, decoded on the CPU and on NVDEC."""
    made = []
    for device in (CPU, NVDEC):
        with av.open(str(path)) as file:
            decoder = Decoder(file.streams.video[0].codec_context, nvdec)
            frames: list[av.VideoFrame] = []
            for packet in file.demux(video=0):
                if decoder.would_renew(loop_filter=True, device=device):
                    decoder.renew(loop_filter=True, device=device)
                frames += decoder.decode(packet) if packet.size else decoder.drain()
                if len(frames) >= n:
                    break
            assert decoder.device is device, decoder.problem
            assert all((f.format.name == "cuda") is (device is NVDEC) for f in frames)
            made.append(frames[:n])
    return list(zip(*made, strict=True))


SIZES = [
    ((1920, 1080), (960, 544)), ((1920, 1080), (640, 384)), ((704, 576), (640, 384)), ((352, 288), (640, 384)),
    ((360, 640), (640, 384)),
]  # fmt: skip


def camera_like(path: Path, width: int, height: int, codec: str, pix_fmt: str) -> Path:
    """Three frames: smooth, with edges and a camera's noise."""
    rng = np.random.default_rng(5)
    quiet = {"preset": "ultrafast", "x265-params": "log-level=none"} if codec == "libx265" else {"preset": "ultrafast"}
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.options = {**quiet, "crf": "12"}
        for i in range(3):
            bgr = picture(i, width, height).astype(int) + rng.integers(-6, 7, (height, width, 3))
            bgr[height // 3 : height // 2, width // 4 : width // 2] = (20, 60, 200)
            frame = av.VideoFrame.from_ndarray(np.clip(bgr, 0, 255).astype(np.uint8), "bgr24")
            frame.pts = i
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


@pytest.mark.parametrize(("source", "model"), SIZES)
@pytest.mark.parametrize(
    ("codec", "pix_fmt"), [("libx264", "yuv420p"), ("libx264", "yuvj420p"), ("libx265", "yuv420p")]
)
def test_what_nvdec_puts_into_a_slot_is_what_the_cpu_puts_there(
    nvdec: Nvdec, slots: Any, tmp_path: Path, source: Any, model: Any, codec: str, pix_fmt: str
) -> None:
    path = camera_like(tmp_path / "clip.mkv", *source, codec, pix_fmt)
    on_cpu, on_gpu = slots(*model)
    for cpu, gpu in both_frames(path, nvdec):
        scaler = Scaler(nvdec)
        assert scaler.scale(cpu, None, on_cpu) == scaler.scale(gpu, None, on_gpu)
        off = np.abs(on_cpu.picture.astype(int) - on_gpu.picture)
        assert off.max() <= 2 and off.mean() < 0.05
        same = cpu.reformat(format="nv12")  # swscale makes BGR of it another way than of yuv420p
        shown = np.abs(scaler.bgr(same).astype(int) - scaler.bgr(gpu))
        assert shown.mean() < 1.5, "a snapshot; PyAV 17 forgets where chroma lies when it downloads, so edges differ"
        scaler.close()


def test_ten_bits_of_h265(nvdec: Nvdec, slots: Any, tmp_path: Path) -> None:
    path = camera_like(tmp_path / "clip.mkv", 1280, 720, "libx265", "yuv420p10le")
    on_cpu, on_gpu = slots(640, 384)
    for cpu, gpu in both_frames(path, nvdec):
        scaler = Scaler(nvdec)
        assert scaler.scale(cpu, None, on_cpu) == scaler.scale(gpu, None, on_gpu)
        off = np.abs(on_cpu.picture.astype(int) - on_gpu.picture)
        assert off.max() <= 2 and off.mean() < 0.6  # swscale dithers


class Clock(threading.Event):
    """Clock and stop event in one: waiting takes no time."""

    now = 10**12

    def clock(self) -> int:
        return self.now

    def wait(self, timeout: float | None = None) -> bool:
        self.now += int((timeout or 0) * 1e9)
        return False


class Play:
    def __init__(self, path: Path, nvdec: Nvdec, device: DecodeDevice = NVDEC):
        self.time, self.sink = Clock(), KeepingSink((320, 192))
        self.source = FileSource(str(path), self.time, self.time.clock)
        self.pipeline = Pipeline(self.sink, 1000.0, 1.0, self.time.clock, None, nvdec)
        self.pipeline.device = device
        self.pipeline.begin(self.source.codec, 0)
        self.packets, self.fed = self.source.packets(), 0

    def feed(self, n: int = 1) -> Play:
        until = self.fed + n
        while self.fed < until:
            packet = next(self.packets)
            self.pipeline.feed(packet)
            self.fed += bool(packet.size)
        return self

    def check(self) -> None:
        counts = self.sink.counts
        assert not counts.get("decode_errors") and not counts.get("skipped")
        indices = [round(f.pts_ns / FRAME_NS) for f in self.sink.frames]
        assert all(b > a for a, b in itertools.pairwise(indices)), "a frame came twice, or too late"
        for index, shown in zip(indices, self.sink.pictures, strict=True):
            assert bar_of(shown[:192]) == index % 16
        assert len(indices) + counts.get("not_sampled", 0) == self.pipeline._frame_number

    def close(self) -> None:
        self.pipeline.close()
        self.source.close()


def aligned(sink: KeepingSink) -> None:
    """Memory that can be page-locked."""
    segment = Segment.create(RingSpec(77, 1, 320, 192, 1, 4))
    sink.memory = [segment.picture(n) for n in range(4)]
    sink.segment = segment  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("nvdec")
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            codec, suffix, options = CODINGS[name]
            made[name] = make_clip(folder / f"{name}.{suffix}", LOOP, size=(320, 192), codec=codec, options=options)
        return made[name]

    return get


@pytest.mark.parametrize("name", CODINGS)
@pytest.mark.parametrize("seed", range(3))
def test_any_move_at_any_packet_gives_whole_pictures(clips: Any, nvdec: Nvdec, name: str, seed: int) -> None:
    rng = random.Random(f"{name} {seed}")
    playing = Play(clips(name), nvdec, rng.choice([CPU, NVDEC]))
    aligned(playing.sink)
    for _ in range(250):
        playing.feed()
        if rng.random() < 0.06:
            playing.pipeline.device = rng.choice([CPU, NVDEC])
        if rng.random() < 0.04:
            playing.pipeline.level = rng.choice([FULL, NO_FILTER, REFERENCE, KEYFRAMES, OFF])
    playing.pipeline.level, playing.pipeline.device = FULL, NVDEC
    playing.feed(3 * GOP)
    playing.check()
    assert playing.pipeline.info.device is NVDEC and not playing.pipeline.info.nvdec_problem
    playing.close()
    nvdec.forget_ring(1)


def test_no_frame_is_lost_on_nvdec_also_over_loops_of_the_file(clips: Any, nvdec: Nvdec) -> None:
    playing = Play(clips("p"), nvdec)
    aligned(playing.sink)
    playing.feed(2 * LOOP + GOP)
    playing.check()
    held = playing.fed - len(playing.sink.frames)
    print("frames that NVDEC holds back:", held)
    assert held <= 4
    playing.close()
    nvdec.forget_ring(1)


def test_ten_bits_of_h264_go_to_the_cpu(nvdec: Nvdec, tmp_path: Path) -> None:
    path = make_clip(tmp_path / "ten.mp4", 30, size=(320, 192), pix_fmt="yuv420p10le")
    playing = Play(path, nvdec)
    playing.feed(20)
    assert playing.pipeline.info.device is CPU and playing.pipeline.info.nvdec_problem
    playing.check()
    assert len(playing.sink.frames) >= 18
    playing.close()


def test_decoders_give_their_memory_back(clips: Any, nvdec: Nvdec) -> None:
    def used_by(n: int) -> int:
        playing = [Play(clips("p"), nvdec) for _ in range(n)]
        for one in playing:
            aligned(one.sink)
            one.feed(3)
            nvdec.forget_ring(1)
        free = nvdec.gpu().memory()[0]
        for one in playing:
            one.close()
        return free

    empty = nvdec.gpu().memory()[0]
    during = used_by(16)
    after = nvdec.gpu().memory()[0]  # the driver keeps some for the next
    for _ in range(3):
        used_by(16)
    later = nvdec.gpu().memory()[0]
    print(f"16 decoders of 320x192 take {(empty - during) / 1e6:.0f} MB; {(empty - after) / 1e6:.0f} MB stay, then 0")
    assert after - later < 20e6, "48 more decoders have come and gone"
