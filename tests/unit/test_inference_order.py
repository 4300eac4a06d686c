"""Which frame goes first where several wait: the highest priority, among equals who has waited longest."""

from __future__ import annotations

import os
from collections.abc import Sequence

from facedetd.inference.batching import BatchPolicy
from facedetd.inference.engine_loop import EngineLoop
from facedetd.inference.heads.yunet import YuNetHead
from facedetd.inference.types import BatchFrame, RawOutputs
from facedetd.ring.header import Geometry, SlotHeader
from facedetd.ring.link import SlotLink, link_pair
from facedetd.ring.reader import RingReader
from facedetd.ring.segment import RingSpec, Segment
from facedetd.ring.writer import RingWriter

SIZE = 64, 32


class Recorder:
    """An engine that notes whose frames it gets and fails, which costs nothing here."""

    name = "fake"

    def __init__(self, count: int) -> None:
        self.seen: list[str] = []
        self.count = count
        self.full = lambda: None

    def load(self) -> None: ...

    def warm_up(self) -> None: ...

    def infer(self, batch: Sequence[BatchFrame]) -> RawOutputs:
        self.seen += [frame.header.stream_id for frame in batch]
        if len(self.seen) >= self.count:
            self.full()
        raise ValueError("only a recorder")

    def close(self) -> None: ...


def test_the_highest_priority_goes_first_and_among_equals_the_oldest() -> None:
    streams = [("low", 10), ("high", 90), ("middle", 50), ("high-later", 90), ("low-later", 10)]
    segment = Segment.create(RingSpec(1, 1, *SIZE, len(streams), 2))
    near, far = link_pair()
    writer = RingWriter(segment, SlotLink(near))
    ticks = iter(range(100))
    reader = RingReader(Segment.attach(os.dup(segment.fd)), SlotLink(far), lambda: next(ticks))
    for index, (name, priority) in enumerate(streams):
        slot = writer.acquire(index)
        assert slot
        geometry = Geometry(*SIZE, *SIZE, 0, 0)
        writer.submit(index, slot, SlotHeader(name, index, 1, 1, 0, 0, 0, 0, 0, 0, geometry, priority=priority))
    assert reader.drain()
    engine = Recorder(len(streams))
    loop = EngineLoop(engine, YuNetHead(), BatchPolicy(1, 1, 1, 0), SIZE, 0.5, lambda *_: None)
    engine.full = loop.stop
    loop.attach(reader)
    loop.run()
    assert engine.seen == ["high", "high-later", "middle", "low", "low-later"]
    reader.close()
    near.close()
