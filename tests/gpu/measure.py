"""Figures of the TensorRT engine: python -m tests.gpu.measure PLAN … [--seconds 1] [--json FILE]

For each plan and size of batch: the bare engine (TensorRT alone, the input on the GPU already), the engine as the
daemon uses it (upload, conversion, picking, boxes), one batch at a time and two under way, and through ring and batcher
with another process that hands frames over as fast as they are done: a stream has its next frame as soon as the last
one is back, so that none is replaced by a newer one on the way. Needs a GPU, and nothing else on it.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import socket
import statistics
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from facedetd.inference.batching import BatchPolicy
from facedetd.inference.engine_loop import EngineLoop
from facedetd.inference.engines.tensorrt import TensorRtEngine, plan_in
from facedetd.inference.heads import match_head
from facedetd.inference.selection import Group, pick
from facedetd.inference.types import BatchFrame, Head
from facedetd.ring.header import Geometry, SlotHeader
from facedetd.ring.link import SlotLink, link_pair
from facedetd.ring.reader import RingReader
from facedetd.ring.segment import InferenceCounter, RingSpec, Segment
from facedetd.ring.writer import RingWriter
from facedetd.trt import device
from facedetd.trt.plan import Manifest, Shapes, read_manifest

SIZES = (1, 2, 4, 8, 16, 32)
STREAMS = 4 * SIZES[-1]
"""Two batches under way, and as many frames again that wait."""
CROWD = 100


def writer_process(segment: Segment, sock: socket.socket) -> int:
    """Hands over each stream's next frame as soon as its last one is back; the pictures are written once. Returns the
    child's pid."""
    pid = os.fork()
    if pid:
        return pid
    spec = segment.spec
    writer = RingWriter(segment, SlotLink(sock))
    rng = np.random.default_rng(1)
    for slot in range(spec.slots):
        segment.picture(slot)[:] = rng.integers(0, 256, segment.picture(slot).shape, np.uint8)
    geometry = Geometry(spec.width, spec.height, spec.width, spec.height, 0, 0)
    sequence = 0
    assert writer.link is not None
    while not writer.link.closed:
        sent = False
        for stream in range(spec.streams):
            slot = writer.acquire(stream)  # its only one
            if slot is not None:
                sequence += 1
                writer.submit(stream, slot, SlotHeader(str(stream), stream, 1, 1, sequence, 0, 0, 0, 0, 0, geometry))
                sent = True
        writer.take_back()
        if not sent:
            time.sleep(0.0001)
    os._exit(0)


def bare(engine: TensorRtEngine, size: int, seconds: float) -> float:
    """ms a batch of TensorRT alone, by the GPU's clock: its kernels as a graph, again and again."""
    from facedetd.inference.engines.cuda import Graph

    cuda, lane = engine._cuda, engine._lanes[0]
    parts = lane._p
    context = lane._contexts[size]
    graph = Graph(parts.compute, lambda: context.execute_async_v3(parts.compute.handle))
    begin, end = cuda.Event(), cuda.Event()

    def run(times: int) -> float:
        begin.record(parts.compute)
        for _ in range(times):
            graph.launch()
        end.record(parts.compute)
        end.synchronize()
        return float(end.time_since(begin)) / times

    once = run(10)
    found = run(min(100_000, max(10, int(seconds * 1e3 / once))))
    graph.close()
    return found


def one_at_a_time(engine: TensorRtEngine, head: Any, batch: list[BatchFrame], size: tuple[int, int], seconds: float):
    """Median and 99th percentile in ms from frames to faces."""
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 20:
        start = time.perf_counter()
        head.decode(engine.infer(batch), *size, 0.5)
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times), float(np.percentile(times, 99))


def two_under_way(engine: TensorRtEngine, head: Any, batch: list[BatchFrame], size: tuple[int, int], seconds: float):
    """Frames/s, and CPU cores used."""
    count, ticket = 0, engine.submit(batch)
    start, cpu = time.perf_counter(), time.process_time()
    while time.perf_counter() < start + seconds:
        following = engine.submit(batch)
        head.decode(engine.collect(ticket), *size, 0.5)
        ticket, count = following, count + len(batch)
    took = time.perf_counter() - start
    cores = (time.process_time() - cpu) / took
    engine.collect(ticket)
    return count / took, cores


def through_ring(
    engine: TensorRtEngine, head: Any, size: int, picture: tuple[int, int], reader: RingReader, seconds: float
):
    """Frames/s through ring and batcher, at batches of ``size``; their mean size; CPU cores of this process."""
    loop = EngineLoop(engine, head, BatchPolicy(size, size, size, 20_000_000), picture, 0.5, lambda *_: None)
    loop._memory.clear()
    loop._readers[1] = reader  # its memory is lent already
    stop = threading.Event()

    def receive() -> None:
        while not stop.is_set():
            select.select([reader.link.fileno()], [], [], 0.05)
            if reader.drain():
                loop.wake()
            reader.link.flush()

    receiver = threading.Thread(target=receive, daemon=True)
    receiver.start()
    threading.Timer(seconds + 0.3, loop.stop).start()
    marks: dict[str, tuple[float, float, int, int]] = {}

    def mark(name: str) -> None:
        marks[name] = time.perf_counter(), time.process_time(), loop.frames, loop.batches

    for name, at in (("a", 0.3), ("b", seconds + 0.25)):
        threading.Timer(at, mark, (name,)).start()
    loop.run()  # in this thread, which has the GPU's context
    stop.set()
    receiver.join()
    for one in reader.waiting():  # for the next size
        frame = reader.take(one.stream)
        if frame is not None:
            reader.finish([frame], InferenceCounter.INFERRED)
    (t0, c0, f0, b0), (t1, c1, f1, b1) = marks["a"], marks["b"]
    return (f1 - f0) / (t1 - t0), (f1 - f0) / max(1, b1 - b0), (c1 - c0) / (t1 - t0)


def modest(path: Path, s: Shapes, head: Head, frame: BatchFrame) -> tuple[Group, ...]:
    """What the head wants at a score of 0.5, but of this picture no more than CROWD candidates: random weights find
    faces everywhere, and then their suppression would be what is measured."""
    groups = head.selection(s.width, s.height, 0.5)
    engine = TensorRtEngine(plan_in(path), s.width, s.height, head.input, 1)
    engine.load()
    keys = pick(engine.infer([frame]), [replace(g, floor=-np.inf, values=g.keys) for g in groups])
    engine.close()
    best = np.sort(np.concatenate([rows.values.prod(axis=1) for rows in keys.groups]))[::-1]
    least = float(best[min(CROWD, len(best) - 1)])
    if any(least > group.floor for group in groups):
        print(f"{path.name}: finds more than {CROWD} candidates in noise; only the best {CROWD} are counted as such")
    return tuple(replace(group, floor=max(group.floor, least)) for group in groups)


def measure(path: Path, manifest: Manifest, segment: Segment, link: SlotLink, seconds: float) -> list[dict[str, Any]]:
    s = manifest.recipe.shapes
    size = s.width, s.height
    head = match_head({o.name: np.zeros((1, *o.shape), np.float32) for o in manifest.outputs}, *size)
    geometry = Geometry(*size, *size, 0, 0)
    header = SlotHeader("x", 0, 1, 1, 0, 0, 0, 0, 0, 0, geometry)
    groups = modest(path, s, head, BatchFrame(header, segment.picture(0)))
    cuda = device.driver()
    with device.context(0):
        before = cuda.mem_get_info()[0]
    engine = TensorRtEngine(plan_in(path), *size, head.input, s.max_batch, 0, groups)
    start = time.perf_counter()
    engine.load()
    loaded = time.perf_counter() - start
    engine.warm_up()
    warm = time.perf_counter() - start - loaded
    used = (before - cuda.mem_get_info()[0]) / 1e6
    reader = RingReader(segment, link, time.monotonic_ns)
    start = time.perf_counter()
    engine.lend(segment.memory)
    locked = time.perf_counter() - start
    print(f"{path.name}: loaded in {loaded:.2f} s, warm after {warm:.2f} s, {used:.0f} MB of the GPU's memory, "
          f"{segment.memory.nbytes / 1e6:.0f} MB page-locked in {1e3 * locked:.1f} ms", flush=True)  # fmt: skip
    rows = []
    for n in [n for n in SIZES if n <= engine.max_batch]:
        batch = [BatchFrame(header, segment.picture(i)) for i in range(n)]
        alone = bare(engine, n, seconds / 2)
        median, p99 = one_at_a_time(engine, head, batch, size, seconds / 2)
        overlapped, cores = two_under_way(engine, head, batch, size, seconds)
        ring, mean, ring_cores = through_ring(engine, head, n, size, reader, seconds)
        rows.append({
            "plan": path.name, "batch": n, "bare_ms": alone, "bare_fps": 1e3 * n / alone, "latency_ms": median,
            "latency_p99_ms": p99, "overlapped_fps": overlapped, "cores": cores, "ring_fps": ring,
            "ring_batch": mean, "ring_cores": ring_cores, "ring_share": ring * alone / 1e3 / n,
        })  # fmt: skip
        print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in rows[-1].items()}), flush=True)
    engine.close()
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    heads = (
        "plan",
        "batch",
        "bare ms",
        "bare /s",
        "1 at a time ms",
        "p99",
        "2 under way /s",
        "ring /s",
        "of bare",
        "cores",
    )
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for r in rows:
        lines.append(
            f"| {r['plan']} | {r['batch']} | {r['bare_ms']:.2f} | {r['bare_fps']:.0f} | {r['latency_ms']:.2f} | "
            f"{r['latency_p99_ms']:.2f} | {r['overlapped_fps']:.0f} | {r['ring_fps']:.0f} | {r['ring_share']:.0%} | "
            f"{r['ring_cores']:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("plans", nargs="+", type=Path)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    children, rings = [], []
    for path in args.plans:  # the writers are forked before this process has anything of CUDA
        manifest = read_manifest(path)
        s = manifest.recipe.shapes
        segment = Segment.create(RingSpec(1, 1, s.width, s.height, STREAMS, 1))
        near, far = link_pair()
        children.append(writer_process(segment, near))
        near.close()
        rings.append((path, manifest, segment, SlotLink(far)))
    try:
        rows = [
            row
            for path, manifest, segment, link in rings
            for row in measure(path, manifest, segment, link, args.seconds)
        ]
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
    print(device.find(0))
    print(table(rows))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
