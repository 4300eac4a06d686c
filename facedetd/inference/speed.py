"""A batch before there are cameras: whether engine and head run one, and what the engine carries when batches are full.
While they aren't, how busy it is says little: a GPU takes hardly longer for eight pictures than for one."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from facedetd.inference.types import BatchFrame, Engine, Head, QueuedEngine
from facedetd.ring.header import Geometry, SlotHeader

_BATCHES = 6


def try_out(
    engine: Engine, head: Head, width: int, height: int, min_score: float,
    clock: Callable[[], float] = time.perf_counter,
) -> float:  # fmt: skip
    """Run all that a frame takes, so that a model which can't doesn't take over from one that can.

    Returns frames/s of grey pictures in the largest batches, one after the other, boxes included; 0 for an engine that
    runs pictures one by one: it runs one. Takes a few batches' time. Raises as ``engine.infer`` and ``head.decode`` do.
    """
    picture = np.full((height * 3 // 2, width), 128, np.uint8)
    header = SlotHeader("speed", 0, 1, 1, 0, 0, 0, 0, 0, 0, Geometry(width, height, width, height, 0, 0))
    batch = [BatchFrame(header, picture)] * (engine.max_batch if isinstance(engine, QueuedEngine) else 1)
    head.decode(engine.infer(batch), width, height, min_score)  # the first is slow
    if not isinstance(engine, QueuedEngine):
        return 0.0
    began = clock()
    ticket = engine.submit(batch)
    for _ in range(_BATCHES):
        following = engine.submit(batch)
        head.decode(engine.collect(ticket), width, height, min_score)
        ticket = following
    engine.collect(ticket)
    took = clock() - began
    return (_BATCHES + 1) * len(batch) / took if took > 0 else 0.0
