"""A watcher that doesn't read costs the server a bounded amount of memory and nobody else anything.

The client that doesn't read is a gRPC channel whose call is not iterated: gRPC takes in its flow-control window and
no more, so the server's writes wait.
"""

import asyncio
import dataclasses
import resource
import time
from pathlib import Path

import grpc
from api_harness import serving
from fakes_control import FakeControl, result_of, view_of

from facedetd.types import StreamSpec
from facedetd.v1 import detection_pb2, detection_pb2_grpc

RESULTS = 5000
PADDING = "x" * 40_000  # carried as the model's version: 200 MB in all if it were buffered
QUEUE = 64


class CountingControl(FakeControl):
    """Notes how far each watcher's iterator has been read."""

    def __init__(self) -> None:
        super().__init__(watcher_queue=QUEUE)
        self.taken: dict[str, int] = {}
        self.streams = {name: view_of(StreamSpec(name, "rtsp://h/")) for name in ("cam", "slow", "fast")}

    async def watch(self, wanted):
        who = next(iter(wanted.stream_ids - {"cam"}))
        self.taken[who] = 0
        narrowed = type(wanted)(frozenset({"cam"}), wanted.min_score, wanted.include_empty)
        inner = super().watch(narrowed)
        try:
            async for item in inner:
                self.taken[who] += 1
                yield item
        finally:
            await inner.aclose()


def wait_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not come true"
        time.sleep(0.01)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * resource.getpagesize()


def test_a_watcher_that_does_not_read_is_bounded_and_harms_nobody():
    control = CountingControl()
    with serving(control) as served, served.channel() as slow_channel, served.channel() as fast_channel:

        def watch(channel: grpc.Channel, who: str):
            request = detection_pb2.WatchDetectionsRequest(stream_ids=["cam", who])
            return detection_pb2_grpc.DetectionServiceStub(channel).WatchDetections(request, timeout=110)

        slow = watch(slow_channel, "slow")
        fast = watch(fast_channel, "fast")
        wait_for(lambda: len(control.watchers) == 2)
        message_bytes = 0
        before = resident_bytes()
        last_fast = 0

        def push_some(first: int, count: int) -> None:
            for number in range(first, first + count):
                control.push(dataclasses.replace(result_of("cam", number), model_version=PADDING))

        # The fast one is never further behind than its queue, because it reads before the next are pushed.
        chunk = QUEUE // 2
        for first in range(0, RESULTS, chunk):
            count = min(chunk, RESULTS - first)
            served.call(push_some, first, count)
            for number in range(first, first + count):
                answer = next(fast)
                assert (answer.detection.sequence, answer.lost) == (number, 0)
                last_fast = number
                message_bytes = message_bytes or answer.ByteSize()
        assert last_fast == RESULTS - 1
        grown = resident_bytes() - before
        everything = RESULTS * message_bytes
        assert everything > 150_000_000

        async def settle() -> int:
            taken = -1
            while taken != control.taken["slow"]:
                taken = control.taken["slow"]
                await asyncio.sleep(0.2)
            return taken

        taken = served.run(settle())
        # What was taken from the control plane stands in gRPC's buffers and windows: a small part of the whole.
        assert 1 <= taken * message_bytes < everything / 8, (taken, message_bytes)
        assert grown < everything / 3, grown

        sequences, lost = [], 0
        while not sequences or sequences[-1] < RESULTS - 1:
            answer = next(slow)
            sequences.append(answer.detection.sequence)
            lost = answer.lost
        assert sequences == sorted(set(sequences))
        assert lost > 0 and lost + len(sequences) == RESULTS
        slow.cancel()
        fast.cancel()
