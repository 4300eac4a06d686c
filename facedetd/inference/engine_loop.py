"""The engine's thread: load, then batch after batch from the rings to the results."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from facedetd.inference.batching import BatchPolicy, decide
from facedetd.inference.types import BatchFrame, DeviceError, Engine, Head, faces_in_source
from facedetd.ring.reader import RingReader, WaitingFrame
from facedetd.ring.segment import InferenceCounter
from facedetd.types import Face

log = logging.getLogger(__name__)

FAILURES_IN_A_ROW = 10
"""So many failed batches with no good one between them and the process gives up: a fresh one may do better."""


@dataclass(frozen=True, slots=True)
class BatchTiming:
    """One batch that ran: its size and its duration in seconds, conversion and head decoding included."""

    size: int
    seconds: float


Emit = Callable[[int, WaitingFrame, int, tuple[Face, ...], int], None]
"""ring id, frame, time it was done (CLOCK_MONOTONIC ns), faces, batch size"""


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
        self._engine, self._head, self._policy = engine, head, policy
        self._size, self._min_score, self._emit, self._clock_ns = size, min_score, emit, clock_ns
        self._changed = threading.Condition()
        self._readers: dict[int, RingReader] = {}
        self._stopping = False
        self._failures = 0
        self.busy_since_ns: int | None = None
        """When the batch that runs now began; None while there is none. A stuck engine shows here."""
        self.batches = 0
        self.frames = 0
        self.timings: deque[BatchTiming] = deque(maxlen=4096)

    def attach(self, reader: RingReader) -> None:
        with self._changed:
            self._readers[reader.segment.spec.ring_id] = reader

    def detach(self, ring_id: int) -> None:
        with self._changed:
            self._readers.pop(ring_id, None)

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
            batch = self._next_batch()
            if batch is None:
                return
            self._run_batch(batch)

    def _next_batch(self) -> list[tuple[RingReader, WaitingFrame]] | None:
        with self._changed:
            while not self._stopping:
                waiting = [(reader, frame) for reader in self._readers.values() for frame in reader.waiting()]
                decision = decide([frame.since_ns for _, frame in waiting], self._clock_ns(), True, self._policy)
                if decision.count:
                    waiting.sort(key=lambda w: (-w[1].header.priority, w[1].since_ns))
                    taken = [(reader, reader.take(frame.stream)) for reader, frame in waiting[: decision.count]]
                    return [(reader, frame) for reader, frame in taken if frame is not None]
                self._changed.wait(None if decision.wait_ns is None else decision.wait_ns / 1e9)
        return None

    def _run_batch(self, batch: list[tuple[RingReader, WaitingFrame]]) -> None:
        start = self._clock_ns()
        self.busy_since_ns = start
        try:
            frames = [BatchFrame(frame.header, reader.picture(frame.slot)) for reader, frame in batch]
            found = self._head.decode(self._engine.infer(frames), *self._size, self._min_score)
            faces = [faces_in_source(f, b.header.geometry) for f, b in zip(found, frames, strict=True)]
        except Exception as error:
            self._failures += 1
            for reader, frame in batch:
                reader.finish(frame, InferenceCounter.FAILED)
            if isinstance(error, DeviceError):  # no frame fares better on a device that is away
                raise
            log.exception("a batch of %d frames failed (%d in a row)", len(batch), self._failures)
            if self._failures >= FAILURES_IN_A_ROW:
                raise
            return
        finally:
            self.busy_since_ns = None
        self._failures = 0
        done = self._clock_ns()
        for (reader, frame), found_here in zip(batch, faces, strict=True):
            # The result goes out before it is counted: killed in between, it shows as worker_lost, never as
            # inferred without a result.
            self._emit(reader.segment.spec.ring_id, frame, done, found_here, len(batch))
            reader.finish(frame, InferenceCounter.INFERRED)
        self.batches += 1
        self.frames += len(batch)
        self.timings.append(BatchTiming(len(batch), (done - start) / 1e9))
