"""How many cameras NVDEC carries: python -m tests.gpu.bench_decode [--streams 10,70/3,140/5,160/5] [--json FILE]

Files of 1080p25, paced like cameras (and long enough not to begin anew), go through capture's own threads (demux,
decode, sample, scale into a ring's slots in page-locked memory) in one or several processes: 70/3 is 70 streams in
three. Somebody takes the slots back at once. All begin at another moment. ``late`` is the share of sampled frames that
reached the ring more than 40 ms after their capture time. --scaling measures the ways from the GPU into a slot instead.
Needs a GPU.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import select
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from facedetd.capture.levers import Decoder
from facedetd.capture.nvdec import Nvdec, surface_of
from facedetd.capture.sink import RingSink
from facedetd.capture.source import silence_ffmpeg
from facedetd.capture.stream import StreamThread
from facedetd.capture.types import StreamInfo
from facedetd.cuda.letterbox import Letterbox, Target
from facedetd.cuda.nvml import Nvml
from facedetd.ring.header import SlotHeader
from facedetd.ring.link import RETURNED, SENT, SlotLink, SlotRecord, link_pair
from facedetd.ring.segment import DecoderCounter as D
from facedetd.ring.segment import RingSpec, Segment
from facedetd.ring.writer import RingWriter
from facedetd.types import DecodeDevice, StreamSpec, StreamState

LATE_NS = 40_000_000
WARM_S = 4.0
START_S = 60.0
REPEATS = 12


class Taker(threading.Thread):
    """The inference process's end of the ring: notes when frames come, and gives their slots back."""

    def __init__(self, segment: Segment, link: SlotLink):
        super().__init__(daemon=True)
        self._segment, self._link = segment, link
        self.ages_ns: list[int] = []

    def run(self) -> None:
        while True:
            select.select([self._link.fileno()], [], [])
            for record in self._link.receive():
                now = time.monotonic_ns()
                if record.kind == SENT:
                    header = SlotHeader.unpack(self._segment.header_view(record.slot))
                    self.ages_ns.append(now - header.capture_mono_ns)
                    self._link.send(SlotRecord(RETURNED, record.stream, record.slot, record.epoch, record.sequence))
            if self._link.closed:
                return


def play(streams: int, clip: Path, size: tuple[int, int], fps: float, device: DecodeDevice, seconds: float) -> Any:
    """In a process of its own: the figures of its streams."""
    silence_ffmpeg()
    segment = Segment.create(RingSpec(1, 1, *size, streams, 4))
    near, far = link_pair()
    link = SlotLink(near)
    ring, taker = RingWriter(segment, link), Taker(segment, SlotLink(far))
    taker.start()

    def take_back() -> None:
        while True:
            select.select([link.fileno()], [], [])
            ring.take_back()

    threading.Thread(target=take_back, daemon=True).start()
    nvdec = Nvdec(0) if device is DecodeDevice.NVDEC else None
    infos: dict[int, StreamInfo] = {}
    threads = []
    for i in range(streams):
        spec = StreamSpec(f"cam-{i}", clip.as_uri(), target_fps=fps)

        def said(state: StreamState, detail: str, info: StreamInfo, i: int = i) -> None:
            infos[i] = info

        phase = i * 0.6180339887 % 1
        sink = RingSink(spec.id, i, 1, ring)
        threads.append(StreamThread(spec, None, sink, said, fps=fps, phase=phase, device=device, nvdec=nvdec))
    began = time.monotonic()
    for thread in threads:  # a keyframe every two seconds: not all at once
        thread.start()
        time.sleep(2.0 / streams)
    while sum(info.width > 0 and info.device is device for info in list(infos.values())) < streams:
        time.sleep(0.1)
        if time.monotonic() - began > START_S:
            break
    started = time.monotonic() - began
    time.sleep(WARM_S)

    def count() -> Any:
        return segment.counters[:, 0, :].astype(np.int64).sum(axis=0)

    taker.ages_ns.clear()
    before, cpu, began = count(), time.process_time(), time.monotonic()
    print("measuring", flush=True)
    time.sleep(seconds)
    after, cpu, took = count(), time.process_time() - cpu, time.monotonic() - began
    ages = sorted(taker.ages_ns) or [0]
    delta = after - before
    figures = {
        "streams": streams,
        "started": started,
        "received": int(delta[D.RECEIVED]) / took,
        "decoded": int(delta[D.SAMPLED] + delta[D.NOT_SAMPLED]) / took,
        "sampled": int(delta[D.SAMPLED]) / took,
        "errors": int(delta[D.DECODE_ERRORS]),
        "skipped": int(delta[D.PACKETS_SKIPPED]),
        "stale": int(delta[D.NOT_SAMPLED_STALE]),
        "no_slot": int(delta[D.NO_SLOT]),
        "cores": cpu / took,
        "age_ms": [ages[len(ages) // 2] / 1e6, ages[len(ages) * 99 // 100] / 1e6, ages[-1] / 1e6],
        "late": sum(age > LATE_NS for age in ages) / len(ages),
        "on": {d.value: sum(info.device is d for info in infos.values()) for d in DecodeDevice},
        "problems": sorted({info.nvdec_problem for info in infos.values() if info.nvdec_problem}),
    }
    print(json.dumps(figures), flush=True)
    os._exit(0)


def lengthened(clip: Path, times: int, *, first: int = 0) -> Path:
    """The clip so many times one after the other, as one file in a folder that goes with this process.

    ``first``: of the first group of pictures so many frames only (0: all), so that later keyframes come earlier.
    Such a clip has no B-frames.
    """
    import av

    long = Path(_FOLDER.name) / f"{times}-{first}-{clip.name}"
    with av.open(str(clip)) as source, av.open(str(long), "w") as out:
        video = source.streams.video[0]
        to = out.add_stream_from_template(video)
        assert video.time_base and video.average_rate
        frames = video.frames or sum(packet.size > 0 for packet in source.demux(video))  # Matroska doesn't tell
        ticks = 1 / video.average_rate / video.time_base  # of a frame
        left_out = max(group_length(clip) - first, 0) if first else 0
        for n in range(times):
            source.seek(0)
            for i, packet in enumerate(source.demux(video)):
                if packet.dts is None or packet.pts is None or (n == 0 and first <= i < first + left_out):
                    continue
                ahead = 0 if n == 0 and i < first else left_out
                moved = int((n * frames - ahead) * ticks)
                packet.dts, packet.pts, packet.stream = packet.dts + moved, packet.pts + moved, to
                out.mux(packet)
    return long


def group_length(clip: Path) -> int:
    """Frames from the first keyframe to the second; all where there is one."""
    import av

    with av.open(str(clip)) as source:
        frames = 0
        for packet in source.demux(source.streams.video[0]):
            if frames and packet.is_keyframe:
                break
            frames += packet.size > 0
        return frames


def phases(clip: Path, times: int, most: int = 10) -> list[Path]:
    """:func:`lengthened`, up to ``most`` files whose keyframes fall on different moments, as those of cameras do."""
    group = group_length(clip)
    return [lengthened(clip, times, first=first) for first in range(group, 0, -max(1, -(-group // most)))]


def rung(streams: int, processes: int, options: argparse.Namespace, nvml: Nvml) -> dict[str, Any]:
    shares = [streams // processes + (i < streams % processes) for i in range(processes)]
    common = ["--clip", str(options.clip), "--seconds", str(options.seconds), "--model", options.model]
    common += ["--fps", str(options.fps), "--device", options.device]
    command = [sys.executable, "-m", "tests.gpu.bench_decode", *common, "--child"]
    empty = nvml.read().memory_used or 0
    children = [subprocess.Popen([*command, str(n)], stdout=subprocess.PIPE, text=True) for n in shares]
    for child in children:
        assert child.stdout and child.stdout.readline().strip() == "measuring"
    busy, decoder, memory = [], [], 0
    until = time.monotonic() + options.seconds - 0.5
    while time.monotonic() < until:
        figures = nvml.read()
        busy.append(figures.busy or 0.0)
        decoder.append(figures.decoder_busy or 0.0)
        memory = max(memory, figures.memory_used or 0)
        time.sleep(0.25)
    said = [json.loads(child.communicate()[0]) for child in children]
    return {
        "streams": streams, "processes": processes, "device": options.device, "fps": options.fps,
        "model": options.model, "clip": Path(options.clip).name,
        "wanted": 25.0 * streams,
        **{key: sum(s[key] for s in said) for key in
           ("received", "decoded", "sampled", "errors", "skipped", "stale", "no_slot", "cores")},
        "age_ms": [max(s["age_ms"][i] for s in said) for i in range(3)],
        "started": max(s["started"] for s in said),
        "late": sum(s["late"] * s["sampled"] for s in said) / max(1e-9, sum(s["sampled"] for s in said)),
        "nvdec": statistics.mean(decoder), "gpu": statistics.mean(busy), "memory": memory - empty,
        "on": {d.value: sum(s["on"][d.value] for s in said) for d in DecodeDevice},
        "problems": sorted({p for s in said for p in s["problems"]}),
    }  # fmt: skip


_FOLDER = tempfile.TemporaryDirectory()
COLUMNS = (
    "streams", "processes", "decoded/s", "sampled/s", "late", "age p50/p99 ms", "cores", "NVDEC", "GPU", "GPU memory",
    "on NVDEC", "all on after",
)  # fmt: skip


def row(r: dict[str, Any]) -> str:
    return (
        f"| {r['streams']} | {r['processes']} | {r['decoded']:.0f} of {r['wanted']:.0f} | {r['sampled']:.1f} | "
        f"{r['late']:.2%} | {r['age_ms'][0]:.1f} / {r['age_ms'][1]:.1f} | {r['cores']:.2f} | {r['nvdec']:.0%} | "
        f"{r['gpu']:.0%} | {r['memory'] / 1e9:.2f} GB | {r['on']['nvdec']} | {r['started']:.1f} s |"
    )


def scaling(clip: Path, size: tuple[int, int]) -> None:
    """The kernel writing into page-locked memory, against one that writes on the GPU and is copied from there."""
    import av

    nvdec = Nvdec(0)
    gpu = nvdec.gpu()
    with av.open(str(clip)) as file:
        decoder = Decoder(file.streams.video[0].codec_context, nvdec)
        decoder.renew(loop_filter=True, device=DecodeDevice.NVDEC)
        frames = [f for packet, _ in zip(file.demux(video=0), range(8), strict=False) for f in decoder.decode(packet)]
        frame = frames[0]
    surface = surface_of(frame)
    assert surface is not None
    width, height = size
    nbytes = width * height * 3 // 2

    def timed(threads: int, mapped: bool, rounds: int = 400) -> list[float]:
        times: list[float] = []

        def one(n: int) -> None:
            segment = Segment.create(RingSpec(10 + n, 1, width, height, 1, 1))
            address = segment.picture(0).ctypes.data
            seen = gpu.pin(address, -(-nbytes // 4096) * 4096)
            letterbox, device = Letterbox(gpu), ctypes.c_uint64()
            gpu.call("cuMemAlloc_v2", ctypes.byref(device), ctypes.c_size_t(nbytes))
            to = Target(seen if mapped else device.value, width, height, width, width * 9 // 16, 0, 2, 16)
            own = []
            for _ in range(rounds):
                start = time.perf_counter()
                letterbox.scale(surface, to)
                if not mapped:
                    gpu.call("cuMemcpyDtoH_v2", ctypes.c_void_p(address), device, ctypes.c_size_t(nbytes))
                own.append(time.perf_counter() - start)
            times.extend(own[20:])
            gpu.unpin(address)
            gpu.call("cuMemFree_v2", device)

        workers = [threading.Thread(target=one, args=(n,)) for n in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return times

    timed(1, True, 50)
    print("| way | threads | a frame p50 / p99 | all together |\n|---|---|---|---|")
    for threads in (1, 16):
        for mapped in (True, False):
            began = time.process_time()
            times = sorted(timed(threads, mapped))
            cpu = (time.process_time() - began) / len(times)
            rate = threads / statistics.mean(times)
            way = "kernel writes the slot" if mapped else "kernel, then a copy"
            middle, late = times[len(times) // 2] * 1e6, times[len(times) * 99 // 100] * 1e6
            shown = f"{middle:.0f} / {late:.0f} us | {rate:.0f}/s, {cpu * 1e6:.0f} us CPU a frame"
            print(f"| {way} | {threads} | {shown} |", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.bench_decode", description=__doc__.split("\n")[0])
    parser.add_argument("--streams", default="10,70/3,140/5,160/5", help="rungs, as 10,70/3,140/5")
    parser.add_argument("--seconds", type=float, default=12)
    parser.add_argument("--fps", type=float, default=5)
    parser.add_argument("--model", default="960x544")
    parser.add_argument("--device", choices=[d.value for d in DecodeDevice], default="nvdec")
    parser.add_argument("--codec", choices=["h264", "h265"], default="h264")
    parser.add_argument("--clip", type=Path, help="1080p25; made when not given")
    parser.add_argument("--json", type=Path, help="add the results to this file")
    parser.add_argument("--scaling", action="store_true")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    width, height = (int(n) for n in options.model.split("x"))
    if options.child:
        play(options.child, options.clip, (width, height), options.fps, DecodeDevice(options.device), options.seconds)
    if options.clip is None:
        from tests.cameras import Coding, encode, make_scene  # needs more packages than a machine with a GPU may have

        container = "mp4" if options.codec == "h264" else "mkv"
        options.clip = encode(make_scene(1920, 1080, faces=3), coding=Coding(options.codec, container)).path
    if options.scaling:
        scaling(options.clip, (width, height))
        return 0
    options.clip = lengthened(options.clip, REPEATS)
    nvml = Nvml(0)
    print(
        f"{nvml.read().name}, {os.cpu_count()} cores\n| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True
    )
    results = []
    for name in options.streams.split(","):
        streams, _, processes = name.partition("/")
        results.append(rung(int(streams), int(processes or 1), options, nvml))
        print(row(results[-1]), results[-1]["problems"] or "", flush=True)
    if options.json:
        before = json.loads(options.json.read_text()) if options.json.exists() else []
        options.json.write_text(json.dumps([*before, *results], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
