"""What an engine carries when its batches are full. While they aren't, how busy it is says little: a GPU takes hardly
longer for eight pictures than for one."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from facedetd.inference.types import BatchFrame, Engine, Head, QueuedEngine
from facedetd.ring.header import Geometry, SlotHeader

_BATCHES = 6


def full_fps(
    engine: Engine, head: Head, width: int, height: int, min_score: float,
    clock: Callable[[], float] = time.perf_counter,
) -> float:  # fmt: skip
    """Frames/s of grey pictures in the largest batches, one after the other, boxes included; 0 for an engine that runs
    pictures one by one. Takes a few batches' time. Raises as ``engine.infer`` does."""
    if not isinstance(engine, QueuedEngine):
        return 0.0
    picture = np.full((height * 3 // 2, width), 128, np.uint8)
    header = SlotHeader("speed", 0, 1, 1, 0, 0, 0, 0, 0, 0, Geometry(width, height, width, height, 0, 0))
    batch = [BatchFrame(header, picture)] * engine.max_batch
    head.decode(engine.infer(batch), width, height, min_score)  # the first is slow
    began = clock()
    ticket = engine.submit(batch)
    for _ in range(_BATCHES):
        following = engine.submit(batch)
        head.decode(engine.collect(ticket), width, height, min_score)
        ticket = following
    engine.collect(ticket)
    took = clock() - began
    return (_BATCHES + 1) * len(batch) / took if took > 0 else 0.0
