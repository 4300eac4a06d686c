"""A control plane in memory, for tests of the API and of facedetctl: streams in a dict, results when told."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence

from facedetd.control import (
    CapacityError,
    ConflictError,
    DaemonState,
    Degradation,
    DegradationView,
    FieldViolation,
    HealthView,
    ImportView,
    InferenceView,
    InvalidError,
    LatencyView,
    LoadView,
    MemoryView,
    ModelView,
    NotFoundError,
    ProcessView,
    ReadOnlyError,
    ReloadView,
    SnapshotView,
    Stage,
    StatsView,
    StreamCounts,
    StreamView,
    UnavailableError,
    WatchFilter,
    WorkerKind,
)
from facedetd.types import Face, FrameResult, Origin, Secret, StreamSpec, StreamState

UTC_NS = 1_780_000_000_123_456_789  # 2026-05-28T20:26:40.123456789Z
MODEL = ModelView("centerface", "1.5.0", "centerface", "onnxruntime", 640, 384, "ab" * 32)
JPEG = b"\xff\xd8 a picture \xff\xd9"


def view_of(spec: StreamSpec, *, origin: Origin = Origin.API, has_password: bool = False) -> StreamView:
    counts = StreamCounts(
        received=2500,
        received_bytes=12_000_000,
        decoded=2500,
        sampled=500,
        not_sampled=2000,
        inferred=495,
        faces=1234,
        reconnects=1,
        waiting=1,
        in_flight=1,
        dropped={"replaced": 3},
    )
    return StreamView(
        spec=spec,
        origin=origin,
        has_password=has_password,
        state=StreamState.PAUSED if spec.paused else StreamState.STREAMING,
        detail="paused by the operator" if spec.paused else "h264 1920x1080",
        state_since_utc_ns=UTC_NS,
        codec="h264",
        source_width=1920,
        source_height=1080,
        source_fps=25.0,
        granted_fps=spec.target_fps,
        actual_fps=0.0 if spec.paused else spec.target_fps - 0.1,
        latency=None if spec.paused else LatencyView(0.09, 0.082, 0.143, 0.2),
        counts=counts,
    )


LOAD = LoadView(2.0, 0.25, 0.875, 0.75, 0.125, 0.5, 0.25, 0.0, 0.0625, 0.03125, 0.125, 4e6)
MEMORY = MemoryView(8 << 30, "/sys/fs/cgroup/memory.max", 6 << 30, None, 100 << 20, 900 << 20)
DEGRADATION = DegradationView(
    Degradation.REDUCED, "inference was short: 25% of the sampled frames were dropped", UTC_NS, Stage.INFERENCE, LOAD,
    inference_capacity_fps=28.0,
)  # fmt: skip


def result_of(stream_id: str, sequence: int, faces: int = 1, score: float = 0.9) -> FrameResult:
    marks = ((10.0, 10.0), (20.0, 10.0), (15.0, 15.0), (11.0, 20.0), (19.0, 20.0))
    return FrameResult(
        stream_id=stream_id,
        epoch=1,
        sequence=sequence,
        pts_ns=sequence * 200_000_000,
        capture_utc_ns=UTC_NS + sequence * 200_000_000,
        capture_mono_ns=1_000_000_000,
        arrival_mono_ns=1_010_000_000,
        done_mono_ns=1_084_000_000,
        source_width=1920,
        source_height=1080,
        faces=tuple(Face((312.0 + i, 120.0, 392.0 + i, 216.0), score, marks) for i in range(faces)),
        model_name=MODEL.name,
        model_version=MODEL.version,
    )


class Watcher:
    """A bounded queue of one watcher that loses its oldest."""

    def __init__(self, wanted: WatchFilter, size: int) -> None:
        self.wanted = wanted
        self.queue: deque[FrameResult] = deque()
        self.size = size
        self.lost = 0
        self.ready = asyncio.Event()

    def push(self, result: FrameResult) -> None:
        if self.wanted.stream_ids and result.stream_id not in self.wanted.stream_ids:
            return
        faces = tuple(face for face in result.faces if face.score >= self.wanted.min_score)
        if not faces and not self.wanted.include_empty:
            return
        if len(self.queue) == self.size:
            self.queue.popleft()
            self.lost += 1
        self.queue.append(dataclasses.replace(result, faces=faces))
        self.ready.set()


class FakeResults:
    """What FakeControl.watch gives: a watcher's results, and what waits for it."""

    def __init__(self, results: AsyncGenerator[tuple[FrameResult, int], None], watcher: Watcher) -> None:
        self._results, self._watcher = results, watcher
        self.aclose = results.aclose

    def __aiter__(self) -> AsyncIterator[tuple[FrameResult, int]]:
        return self._results

    def waiting(self, limit: int, faces: int) -> list[FrameResult]:
        queue, found = self._watcher.queue, []
        while queue and len(found) < limit and sum(len(one.faces) for one in [*found, queue[0]]) <= faces:
            found.append(queue.popleft())
        return found


class FakeControl:
    """Keeps what it is told. ``fail`` makes the next call raise; ``secrets`` shows what arrived."""

    def __init__(self, *, watcher_queue: int = 256, max_streams: int = 0) -> None:
        self.streams: dict[str, StreamView] = {}
        self.secrets: dict[str, Secret] = {}
        self.fail: Exception | None = None
        self.state = DaemonState.RUNNING
        self.serving = True
        self.running = MODEL.name, MODEL.version
        self.problems: tuple = ()
        self.watchers: list[Watcher] = []
        self.closed_watchers = 0
        self.reloads: list[bool] = []
        self.watch_ready: list[FrameResult] = []  # pushed to each watcher as it begins
        self._watcher_queue = watcher_queue
        self._max_streams = max_streams

    def _raise(self) -> None:
        if self.fail is not None:
            error, self.fail = self.fail, None
            raise error

    def _find(self, stream_id: str) -> StreamView:
        if stream_id not in self.streams:
            raise NotFoundError(f"no stream {stream_id!r}")
        return self.streams[stream_id]

    @staticmethod
    def _check(spec: StreamSpec) -> None:
        problems = []
        if not spec.id:
            problems.append(FieldViolation("spec.id", "empty; a letter or digit, then letters, digits, '.', '_', '-'"))
        if not spec.url.startswith(("rtsp://", "rtsps://", "file://")):
            problems.append(FieldViolation("spec.url", "not rtsp://, rtsps:// or file://"))
        elif "@" in spec.url:
            problems.append(FieldViolation("spec.url", "holds a user or password; use the credentials"))
        if not 0 <= spec.priority <= 100:
            problems.append(FieldViolation("spec.priority", f"{spec.priority} is not between 0 and 100"))
        if problems:
            raise InvalidError(problems)

    async def create_stream(
        self, spec: StreamSpec, secret: Secret | None, *, dry_run: bool = False
    ) -> tuple[StreamView, tuple[str, ...]]:
        self._raise()
        self._check(spec)
        if spec.id in self.streams:
            raise ConflictError(f"stream {spec.id!r} already exists")
        if self._max_streams and len(self.streams) >= self._max_streams:
            raise CapacityError(f"{self._max_streams} streams are the most (daemon.max_streams)")
        view = view_of(spec, has_password=secret is not None)
        if not dry_run:
            self.streams[spec.id] = view
            if secret is not None:
                self.secrets[spec.id] = secret
        warnings = ("min_fps is over target_fps",) if spec.min_fps > spec.target_fps else ()
        return view, warnings

    def get_stream(self, stream_id: str) -> StreamView:
        self._raise()
        return self._find(stream_id)

    def stream_specs(self) -> Sequence[StreamSpec]:
        self._raise()
        return [self.streams[key].spec for key in sorted(self.streams)]

    async def update_stream(
        self, stream_id: str, changes: Mapping[str, object], secret: Secret | None
    ) -> tuple[StreamView, tuple[str, ...]]:
        self._raise()
        old = self._find(stream_id)
        if old.origin is Origin.CONFIG:
            raise ReadOnlyError(f"stream {stream_id!r} stands in the TOML; change it there")
        spec = dataclasses.replace(old.spec, **changes)
        self._check(spec)
        if secret is not None:
            self.secrets.pop(stream_id, None)
            if secret.value:
                self.secrets[stream_id] = secret
        self.streams[stream_id] = view_of(spec, has_password=stream_id in self.secrets)
        return self.streams[stream_id], ()

    async def delete_stream(self, stream_id: str) -> None:
        self._raise()
        if self._find(stream_id).origin is Origin.CONFIG:
            raise ReadOnlyError(f"stream {stream_id!r} stands in the TOML; remove it there")
        del self.streams[stream_id]
        self.secrets.pop(stream_id, None)

    async def import_streams(self, entries: Sequence[tuple[StreamSpec, Secret | None]], *, dry_run: bool) -> ImportView:
        self._raise()
        created, unchanged = [], []
        for spec, _ in entries:
            self._check(spec)
            if spec.id not in self.streams:
                created.append(spec.id)
            elif self.streams[spec.id].spec == spec:
                unchanged.append(spec.id)
            else:
                raise ConflictError(f"stream {spec.id!r} already exists and differs")
        if not dry_run:
            for spec, secret in entries:
                if spec.id in created:
                    await self.create_stream(spec, secret)
        return ImportView(tuple(created), tuple(unchanged), ())

    async def snapshot(self, stream_id: str, *, plain: bool) -> SnapshotView:
        self._raise()
        view = self._find(stream_id)
        if view.spec.paused:
            raise UnavailableError(f"no frame of {stream_id!r} came within 5 s: it is paused")
        return SnapshotView(JPEG + (b"plain" if plain else b""), UTC_NS, 7, 1920, 1080, 0 if plain else 2)

    def stats(self, stream_ids: frozenset[str] = frozenset()) -> StatsView:
        self._raise()
        chosen = [self._find(key) for key in sorted(stream_ids or self.streams)]
        return StatsView(
            time_utc_ns=UTC_NS,
            state=self.state,
            uptime_s=183_845.0,
            model=MODEL if self.state is DaemonState.RUNNING else None,
            streams=tuple(chosen),
            degradation=DEGRADATION,
            memory=MEMORY,
            processes=(
                ProcessView(
                    WorkerKind.SUPERVISOR, "supervisor", 100, "running", 183845.0, 90.5, 0.02, 61 << 20, 0, 0, ""
                ),
                ProcessView(
                    WorkerKind.DECODER,
                    "decoder-0",
                    101,
                    "running",
                    3600.0,
                    1800.25,
                    0.5,
                    120 << 20,
                    1,
                    4,
                    "killed: stuck",
                ),
                ProcessView(
                    WorkerKind.INFERENCE, "inference-0", 102, "running", 183840.0, 9000.0, 1.25, 310 << 20, 0, 0, ""
                ),
            ),
            inference=InferenceView(19.8, 2.1, 0.031, 4000, 8400, 0, 0.012),
            watchers=len(self.watchers),
            latency=LatencyView(0.09, 0.082, 0.143, 0.2),
        )

    def health(self) -> HealthView:
        self._raise()
        return HealthView(self.state, self.serving, self.problems, self.model())

    async def reload(self, *, dry_run: bool) -> ReloadView:
        self._raise()
        self.reloads.append(dry_run)
        return ReloadView(("model.min_score: 0.5 to 0.6",), ("api.socket",))

    def model(self) -> ModelView | None:
        name, version = self.running
        runs = self.state is DaemonState.RUNNING
        return dataclasses.replace(MODEL, name=name, version=version) if runs else None

    async def activate_model(self, name: str, version: str) -> tuple[ModelView, ModelView | None]:
        self._raise()
        if name == "nosuch":
            raise NotFoundError("no model 'nosuch'")
        if name == "broken":
            raise UnavailableError("model broken can't be run, the old one goes on: it is torn")
        now = dataclasses.replace(MODEL, name=name or MODEL.name, version=version or "v1", activated=bool(name))
        return now, self.model()

    def watch(self, wanted: WatchFilter) -> FakeResults:
        watcher = Watcher(wanted, self._watcher_queue)
        return FakeResults(self._results(wanted, watcher), watcher)

    async def _results(self, wanted: WatchFilter, watcher: Watcher) -> AsyncGenerator[tuple[FrameResult, int], None]:
        self._raise()
        for stream_id in wanted.stream_ids:
            self._find(stream_id)
        self.watchers.append(watcher)
        for result in self.watch_ready:
            watcher.push(result)
        try:
            while True:
                while watcher.queue:
                    yield watcher.queue.popleft(), watcher.lost
                watcher.ready.clear()
                await watcher.ready.wait()
        finally:
            self.watchers.remove(watcher)
            self.closed_watchers += 1

    def push(self, result: FrameResult) -> None:
        for watcher in self.watchers:
            watcher.push(result)
