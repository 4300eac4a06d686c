"""The engine's thread: load, then batch after batch from the rings to the results."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from facedetd.inference.batching import BatchPolicy, decide
from facedetd.inference.types import BatchFrame, DeviceError, Engine, Head, Outputs, QueuedEngine, faces_in_source
from facedetd.ring.reader import RingReader, WaitingFrame
from facedetd.ring.segment import InferenceCounter
from facedetd.types import ByteArray, Face

log = logging.getLogger(__name__)

FAILURES_IN_A_ROW = 10
"""So many failed batches with no good one between them and the process gives up: a fresh one may do better."""


@dataclass(frozen=True, slots=True)
class BatchTiming:
    """One batch that ran: its size and its duration in seconds, conversion and head decoding included; of batches that
    overlap the time since the one before was done."""

    size: int
    seconds: float


Emit = Callable[[int, WaitingFrame, int, tuple[Face, ...], int], None]
"""ring id, frame, time it was done (CLOCK_MONOTONIC ns), faces, batch size"""


class _Direct:
    """An engine that does all its work in its own thread, as a QueuedEngine."""

    depth = 1

    def __init__(self, engine: Engine, max_batch: int):
        self._engine, self.max_batch = engine, max_batch

    def submit(self, batch: Sequence[BatchFrame]) -> Outputs:
        return self._engine.infer(batch)

    def collect(self, ticket: Outputs) -> Outputs:
        return ticket

    def lend(self, memory: ByteArray) -> None: ...

    def take_back(self, memory: ByteArray) -> None: ...


Batch = list[tuple[RingReader, WaitingFrame]]


@dataclass(frozen=True, slots=True)
class _UnderWay:
    batch: Batch
    frames: list[BatchFrame]
    ticket: object
    since_ns: int


class EngineLoop:
    """Owned by one thread (``run``); the receiver thread calls ``attach``, ``wake``, ``stop`` and reads the rest."""

    def __init__(
        self,
        engine: Engine,
        head: Head,
        policy: BatchPolicy,
        size: tuple[int, int],
        min_score: float,
        emit: Emit,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ):
        self._engine: Any = engine if isinstance(engine, QueuedEngine) else _Direct(engine, policy.maximum)
        self._head = head
        self._policy = policy.up_to(self._engine.max_batch)
        self._size, self._min_score, self._emit, self._clock_ns = size, min_score, emit, clock_ns
        self._changed = threading.Condition()
        self._readers: dict[int, RingReader] = {}
        self._memory: deque[tuple[Callable[[ByteArray], None], ByteArray]] = deque()  # to lend and to take back
        self._under_way: deque[_UnderWay] = deque()
        self._done_ns = 0
        self._stopping = False
        self._failures = 0
        self.busy_since_ns: int | None = None
        """When the batch that runs now began, or the device was told of memory; None while there is none. A stuck
        engine shows here."""
        self.batches = 0
        self.frames = 0
        self.timings: deque[BatchTiming] = deque(maxlen=4096)

    def attach(self, reader: RingReader) -> None:
        with self._changed:
            self._readers[reader.segment.spec.ring_id] = reader
            self._memory.append((self._engine.lend, reader.segment.memory))
            self._changed.notify()

    def detach(self, ring_id: int) -> None:
        """The ring is idle. Its memory lives until the engine has let go of it."""
        with self._changed:
            reader = self._readers.pop(ring_id, None)
            if reader is not None:
                self._memory.append((self._engine.take_back, reader.segment.memory))
                self._changed.notify()

    def wake(self) -> None:
        with self._changed:
            self._changed.notify()

    def stop(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def oldest_waiting_ns(self) -> int:
        """Age of the oldest frame that waits, 0 where none does."""
        with self._changed:
            since = [frame.since_ns for reader in self._readers.values() for frame in reader.waiting()]
        return self._clock_ns() - min(since) if since else 0

    def run(self) -> None:
        """Until ``stop``. Raises what the engine raised: a DeviceError at once, else after too many failures in a
        row."""
        while True:
            while len(self._under_way) < self._engine.depth:
                batch = self._next_batch()
                if not batch:
                    break
                self._submit(batch)
            if self._under_way:
                self._collect()
            elif self._stopping:
                return

    def _next_batch(self) -> Batch | None:
        """The next that may leave. While another is under way it isn't waited for: None where there is none."""
        while True:
            with self._changed:
                while not (self._stopping or self._memory):
                    waiting = [(reader, frame) for reader in self._readers.values() for frame in reader.waiting()]
                    idle = not self._under_way
                    decision = decide([frame.since_ns for _, frame in waiting], self._clock_ns(), idle, self._policy)
                    if decision.count:
                        waiting.sort(key=lambda w: (-w[1].header.priority, w[1].since_ns))
                        taken = [(reader, reader.take(frame.stream)) for reader, frame in waiting[: decision.count]]
                        return [(reader, frame) for reader, frame in taken if frame is not None]
                    if not idle:
                        return None
                    self._changed.wait(None if decision.wait_ns is None else decision.wait_ns / 1e9)
                if self._stopping:
                    return None
                change, memory = self._memory.popleft()
            # Without the lock: page-locking takes its time. A driver that hangs in it is stuck as in a batch
            busy_since_ns, self.busy_since_ns = self.busy_since_ns, self.busy_since_ns or self._clock_ns()
            change(memory)
            self.busy_since_ns = busy_since_ns

    def _submit(self, batch: Batch) -> None:
        start = self._clock_ns()
        self.busy_since_ns = self.busy_since_ns or start
        frames = [BatchFrame(frame.header, reader.picture(frame.slot)) for reader, frame in batch]
        try:
            ticket = self._engine.submit(frames)
        except Exception as error:
            self._failed(batch, error)
        else:
            self._under_way.append(_UnderWay(batch, frames, ticket, start))

    def _collect(self) -> None:
        one = self._under_way[0]
        try:
            found = self._head.decode(self._engine.collect(one.ticket), *self._size, self._min_score)
            faces = [faces_in_source(f, b.header.geometry) for f, b in zip(found, one.frames, strict=True)]
        except Exception as error:
            self._under_way.popleft()
            self._failed(one.batch, error)
            return
        self._under_way.popleft()
        self.busy_since_ns = self._under_way[0].since_ns if self._under_way else None
        self._failures = 0
        done = self._clock_ns()
        # Results go out before they are counted: killed in between, they show as worker_lost, never as inferred
        # without a result.
        for (reader, frame), found_here in zip(one.batch, faces, strict=True):
            self._emit(reader.segment.spec.ring_id, frame, done, found_here, len(one.batch))
        _finish(one.batch, InferenceCounter.INFERRED)
        self.batches += 1
        self.frames += len(one.batch)
        self.timings.append(BatchTiming(len(one.batch), (done - max(one.since_ns, self._done_ns)) / 1e9))
        self._done_ns = done

    def _failed(self, batch: Batch, error: Exception) -> None:
        """Count a batch as failed; raise what ends the process, and then count those under way as well."""
        self._failures += 1
        self.busy_since_ns = self._under_way[0].since_ns if self._under_way else None
        # no frame fares better on a device that is away
        ends = isinstance(error, DeviceError) or self._failures >= FAILURES_IN_A_ROW
        for lost in (batch, *(one.batch for one in self._under_way if ends)):
            _finish(lost, InferenceCounter.FAILED)
        if ends:
            self._under_way.clear()
            self.busy_since_ns = None
        if not isinstance(error, DeviceError):
            log.error("a batch of %d frames failed (%d in a row)", len(batch), self._failures, exc_info=error)
        if ends:
            raise error


def _finish(batch: Batch, outcome: InferenceCounter) -> None:
    """All slots of a ring go back in one message."""
    rings: dict[int, tuple[RingReader, list[WaitingFrame]]] = {}
    for reader, frame in batch:
        rings.setdefault(id(reader), (reader, []))[1].append(frame)
    for reader, frames in rings.values():
        reader.finish(frames, outcome)
