"""The controller's loop around an engine that runs so many frames a second and no more."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from facedetd.config.model import DegradationConfig
from facedetd.control import DaemonState, WorkerKind
from facedetd.ring.segment import COUNTERS_PER_BLOCK, RingSpec
from facedetd.ring.segment import DecoderCounter as D
from facedetd.ring.segment import InferenceCounter as I
from facedetd.supervisor.degrade import Degrader, Sources
from facedetd.supervisor.fleet import Fleet
from facedetd.supervisor.streams import Seen, StreamRuntime
from facedetd.types import Origin, StreamSpec, StreamState

CORES = 4.0
ENABLED = DegradationConfig()


class World:
    """Six streams, two of each priority; an engine of ``engine_fps``; seconds pass when told."""

    def __init__(self, engine_fps: float = 100.0) -> None:
        self.engine_fps = engine_fps
        self.stopped = False
        self.lags_s: dict[str, float] = {}
        self.idle = 2.5
        self.decoding = 0.0  # cores
        self.now = 1000.0
        self.counters = np.zeros((2, COUNTERS_PER_BLOCK), np.uint64)
        self.told: list[str] = []
        spec = RingSpec(1, 1, 16, 16, 6, 2)
        self.segments = [SimpleNamespace(spec=spec, counters=np.zeros((6, 2, COUNTERS_PER_BLOCK), np.uint64))]
        self.groups: Any = SimpleNamespace(
            rings=SimpleNamespace(totals=self.counters.copy, segments=lambda: self.segments),
            tell=self.told.append,
            streams_of=lambda worker: len(self.streams) // len(self.fleet.up),
        )
        self.processes: Any = SimpleNamespace(spent_s=dict.fromkeys(WorkerKind, 0.0))
        self.figures: Any = SimpleNamespace(busy_s={0: 0.0})
        self.host: Any = SimpleNamespace(cores=CORES, idle_s=0.0, look=lambda now: None)
        inference = SimpleNamespace(engine="onnxruntime")
        worker = SimpleNamespace(beat=SimpleNamespace(oldest_ns=0), last_beat_ns=0)
        self.unit: Any = SimpleNamespace(
            worker=worker, state=DaemonState.RUNNING, inference=inference, full_fps=0.0, device=0
        )
        self.fleet = Fleet([self.unit])
        self.degrader = Degrader(Sources(self.groups, self.processes, self.figures), self.host, lambda: self.now)
        self.streams: dict[str, StreamRuntime] = {}
        for priority in (90, 50, 10):
            for n in range(2):
                self.add(StreamSpec(f"p{priority}-{n}", "rtsp://cam/1", priority=priority))

    def add(self, spec: StreamSpec) -> None:
        stream = StreamRuntime(spec, Origin.API, None)
        stream.see(Seen(StreamState.STREAMING, codec="h264", width=1920, height=1080, fps=25.0))
        self.streams[spec.id] = stream

    def seconds(self, count: int, config: DegradationConfig = ENABLED) -> None:
        for _ in range(count):
            self.now += 1.0
            if not self.stopped:
                self.unit.worker.last_beat_ns = round(self.now * 1e9)
            sampled = sum(s.granted_fps for s in self.streams.values() if s.wants_capacity)
            inferred = min(sampled, self.engine_fps)
            self.counters[0, D.RECEIVED] += np.uint64(10 * len(self.streams))
            self.counters[0, D.SAMPLED] += np.uint64(round(sampled))
            self.counters[1, I.INFERRED] += np.uint64(round(inferred))
            self.counters[1, I.REPLACED] += np.uint64(round(sampled - inferred))
            self.figures.busy_s[0] += inferred / self.engine_fps
            self.host.idle_s += self.idle
            self.processes.spent_s[WorkerKind.DECODER] += self.decoding
            for place, stream in enumerate(self.streams.values()):
                lag = self.lags_s.get(stream.spec.id, 0.01)
                stream._lags.append((round(self.now * 1e9), round(lag * 1e9)))
                self.degrader.on_result(stream.spec.id, round(lag * 1e9) + 50_000_000)
                if place < 6:
                    counters = self.segments[0].counters[place, 0]
                    counters[D.RECEIVED] += np.uint64(10)
                    late = lag > 1.0
                    counters[D.PACKETS_SKIPPED] += np.uint64(8 * late)
                    self.counters[0, D.PACKETS_SKIPPED] += np.uint64(8 * late)
            self.degrader.period(config, list(self.streams.values()), self.fleet)

    def granted(self, priority: int) -> list[float]:
        return [s.granted_fps for s in self.streams.values() if s.spec.priority == priority]
