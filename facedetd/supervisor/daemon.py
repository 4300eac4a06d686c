"""The daemon's control plane: desired state in, running streams and results out."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from facedetd.config.credentials import CredentialError, read_credential
from facedetd.config.issues import ConfigErrors
from facedetd.config.model import Config
from facedetd.control import (
    DaemonState,
    FieldViolation,
    HealthView,
    ImportView,
    InvalidError,
    NotFoundError,
    ReloadView,
    SnapshotView,
    StatsView,
    StreamView,
    UnavailableError,
    WatchFilter,
)
from facedetd.metrics.exporter import Metrics
from facedetd.models import ModelStore
from facedetd.registry.registry import Entry, Registry
from facedetd.registry.store import StateStore
from facedetd.results.hub import ResultsHub
from facedetd.results.latency import merged_view
from facedetd.results.record import RawResult
from facedetd.results.roi import filter_rois
from facedetd.supervisor import observe
from facedetd.supervisor.groups import GroupManager
from facedetd.supervisor.inference_unit import InferenceUnit, UnitHooks
from facedetd.supervisor.reload import Difference, difference
from facedetd.supervisor.snapshots import Snapshots
from facedetd.supervisor.streams import Seen, StreamRuntime, needs_reconnect
from facedetd.supervisor.workers import Worker
from facedetd.types import FrameResult, Secret, StreamSpec, StreamState

log = logging.getLogger(__name__)

SWAP_TIMEOUT_S = 120.0
"""How long a reload waits for a new model to load before it goes on with the old one."""


class Daemon:
    """Implements :class:`facedetd.control.ControlPlane`. Everything runs on the main thread's event loop, but for
    file writes."""

    def __init__(self, config: Config, registry: Registry, store: StateStore, read_config: Callable[[], Config]):
        self.config = config
        self.registry = registry
        self.standing_problems: list[tuple[str, str, str]] = []
        self.metrics = Metrics(self.stats)
        self._store, self._read_config = store, read_config
        self._models = ModelStore(config.daemon.state_dir / "models")
        self._hub = ResultsHub(config.api.max_watchers, config.api.watcher_queue)
        self._streams: dict[str, StreamRuntime] = {}
        self._changing = asyncio.Lock()
        self._snapshots = Snapshots()
        self._processes = observe.Processes()
        self._figures = observe.InferenceFigures()
        self._problems = observe.Problems({})
        self._stopping = False
        self._generation = 0
        self._retiring: list[InferenceUnit] = []
        daemon = config.daemon
        self._groups = GroupManager(
            config.capture,
            (config.model.width, config.model.height),
            daemon.log_level,
            daemon.log_format,
            self._snapshots.on_message,
        )
        self._unit = self._new_unit(config)

    # ---- start, ticks, stop

    def start(self) -> None:
        """Start the inference process and all streams."""
        self._groups.consume_by(self._unit)
        self._unit.process.start_now()
        self._apply(self.registry)

    def workers(self) -> list[Worker]:
        processes = [self._unit.process, *(u.process for u in self._retiring)]
        processes += [g.process for g in self._groups.groups.values()]
        return [p.worker for p in processes if p.worker] + self._groups.leaving_workers()

    def tick(self) -> None:
        """Once or twice a second: end what is stuck, free what has drained."""
        limit_ns = int(self.config.daemon.heartbeat_timeout_s * 1e9)
        now = time.monotonic_ns()
        for worker in self.workers():
            silent = now - worker.last_beat_ns
            if worker.ready and silent > limit_ns:
                worker.kill(f"no sign of life for {silent / 1e9:.1f} s")
            elif worker.beat.get("busy_ns", 0) > limit_ns:
                worker.kill(f"one batch takes over {limit_ns / 1e9:.1f} s")
        self._groups.tick()

    async def stop(self) -> None:
        """End all workers: asked first, killed when they don't."""
        self._stopping = True
        self._hub.close()
        self._groups.stop()
        self._unit.stop()
        for unit in self._retiring:
            unit.stop()
        ends = [worker.ended.wait() for worker in self.workers()]
        try:
            await asyncio.wait_for(asyncio.gather(*ends), self.config.daemon.stop_timeout_s / 2)
        except asyncio.TimeoutError:
            for worker in self.workers():
                worker.kill("it did not end when asked")
            await asyncio.gather(*(worker.ended.wait() for worker in self.workers()))

    # ---- inference

    def _new_unit(self, config: Config) -> InferenceUnit:
        self._generation += 1
        hooks = UnitHooks(
            self._on_unit_ready,
            self._groups.consumer_down,
            self._groups.ring_closed,
            self._on_result,
            self._on_timing,
        )
        return InferenceUnit(
            f"inference-{self._generation - 1}",
            self._generation,
            config.model,
            config.inference,
            self._models,
            config.daemon.log_level,
            config.daemon.log_format,
            hooks,
        )

    def _on_unit_ready(self, unit: InferenceUnit) -> None:
        if unit is self._unit:
            self._groups.consume_by(unit)

    def _on_timing(self, size: int, seconds: float) -> None:
        self._figures.observe(size, seconds)
        self.metrics.observe_batch(size, seconds)

    async def _swap(self, config: Config) -> None:
        """Go over to another model. The old one runs until the new one is ready, and goes on if it never is.

        Raises UnavailableError then.
        """
        unit = self._new_unit(config)
        unit.process.start_now()
        try:
            problem = await asyncio.wait_for(asyncio.shield(unit.settled), SWAP_TIMEOUT_S)
        except asyncio.TimeoutError:
            problem = f"it was not loaded within {SWAP_TIMEOUT_S:.0f} s"
        running = self._unit.state is DaemonState.RUNNING
        if problem and running:
            unit.stop()
            self._retiring.append(unit)
            raise UnavailableError(f"model {config.model.name} can't be run, the old one goes on: {problem}")
        old, self._unit = self._unit, unit
        self._groups.consume_by(unit)
        self._retiring = [u for u in [*self._retiring, old] if u.worker]
        old.drain()

    def _on_result(self, unit: InferenceUnit, raw: RawResult) -> None:
        stream_id = self._groups.lookup(raw.ring_id, raw.stream_index, raw.epoch)
        stream = self._streams.get(stream_id) if stream_id else None
        if stream is None or unit.view is None:  # removed while the frame was under way
            return
        faces = filter_rois(raw.faces, stream.spec.rois, raw.source_width, raw.source_height)
        stream.account.faces += len(faces)
        stream.rate.add()
        latency_ns = time.monotonic_ns() - raw.capture_mono_ns
        stream.latency.add(latency_ns)
        self.metrics.observe_result(stream.spec.id, latency_ns / 1e9)
        result = FrameResult(
            stream_id=stream.spec.id,
            epoch=raw.epoch,
            sequence=raw.sequence,
            pts_ns=raw.pts_ns,
            capture_utc_ns=raw.capture_utc_ns,
            capture_mono_ns=raw.capture_mono_ns,
            arrival_mono_ns=raw.arrival_mono_ns,
            done_mono_ns=raw.done_mono_ns,
            source_width=raw.source_width,
            source_height=raw.source_height,
            faces=faces,
            model_name=unit.view.name,
            model_version=unit.view.version,
            batch_size=raw.batch_size,
        )
        self._snapshots.on_result(result)
        self._hub.publish(result)

    # ---- desired state

    def _apply(self, registry: Registry) -> None:
        """Bring what runs in line with what should; streams that don't change notice nothing."""
        self.registry = registry
        blocked = registry.blocked()
        for stream_id in self._streams.keys() - registry.by_id.keys():
            if self._groups.holds(stream_id):
                self._groups.remove(stream_id)
            del self._streams[stream_id]
            self.metrics.forget_stream(stream_id)
        for entry in registry.entries():
            reasons = blocked.get(entry.spec.id, ())
            self._apply_stream(entry, "; ".join(f"{v.field}: {v.message}" for v in reasons))

    def _apply_stream(self, entry: Entry, blocked: str) -> None:
        spec, secret = entry.spec, entry.secret
        if spec.credential:
            try:
                secret = read_credential(spec.credential)
            except CredentialError as error:
                blocked = blocked or str(error)
        stream = self._streams.get(spec.id)
        if stream is None:
            stream = self._streams[spec.id] = StreamRuntime(spec, entry.origin, secret)
            reconnect = False
        else:
            reconnect = needs_reconnect(stream.spec, spec) or stream.secret != secret
            stream.spec, stream.secret, stream.origin = spec, secret, entry.origin
        if stream.granted_fps != spec.target_fps:
            stream.granted_fps = spec.target_fps
            self._groups.set_fps(spec.id, spec.target_fps)
        held = self._groups.holds(spec.id)
        wanted = not spec.paused and not blocked
        if held and (reconnect or not wanted):
            self._groups.remove(spec.id)
            held = False
        if spec.paused:
            stream.see(Seen(StreamState.PAUSED))
        elif blocked:
            stream.see(Seen(StreamState.ENDED, blocked))
        elif not held:
            stream.see(Seen(StreamState.WAITING))
            self._groups.add(stream)

    async def _commit(self, change: Callable[[Registry], Registry]) -> Registry:
        """Make a change: checked, written to disk, then done. Nothing has changed when this raises."""
        if self._stopping:
            raise UnavailableError("the daemon is stopping")
        async with self._changing:
            registry = change(self.registry)
            await asyncio.to_thread(self._store.save, registry.stored())
            self._apply(registry)
            return registry

    # ---- ControlPlane

    async def create_stream(
        self, spec: StreamSpec, secret: Secret | None, *, dry_run: bool = False
    ) -> tuple[StreamView, tuple[str, ...]]:
        if dry_run:
            entry = self.registry.add(spec, secret).get(spec.id)
            return StreamRuntime(entry.spec, entry.origin, entry.secret).view(), self._warnings()
        await self._commit(lambda registry: registry.add(spec, secret))
        return self.get_stream(spec.id), self._warnings()

    def _warnings(self) -> tuple[str, ...]:
        unit = self._unit
        if unit.state is DaemonState.RUNNING:
            return ()
        return (f"no faces are detected now: {unit.problem or unit.state.value}",)

    def get_stream(self, stream_id: str) -> StreamView:
        return self._runtime(stream_id).view()

    def _runtime(self, stream_id: str) -> StreamRuntime:
        self.registry.get(stream_id)  # raises NotFoundError in the registry's words
        return self._streams[stream_id]

    def list_streams(self) -> Sequence[StreamView]:
        return [self._streams[stream_id].view() for stream_id in sorted(self._streams)]

    async def update_stream(
        self, stream_id: str, changes: Mapping[str, object], secret: Secret | None
    ) -> tuple[StreamView, tuple[str, ...]]:
        await self._commit(lambda registry: registry.update(stream_id, changes, secret))
        return self.get_stream(stream_id), self._warnings()

    async def delete_stream(self, stream_id: str) -> None:
        await self._commit(lambda registry: registry.remove(stream_id))

    async def import_streams(self, entries: Sequence[tuple[StreamSpec, Secret | None]], *, dry_run: bool) -> ImportView:
        if dry_run:
            outcome = self.registry.import_all(entries)
        else:
            async with self._changing:
                outcome = self.registry.import_all(entries)
                await asyncio.to_thread(self._store.save, outcome.registry.stored())
                self._apply(outcome.registry)
        return ImportView(outcome.created, outcome.unchanged, self._warnings())

    async def snapshot(self, stream_id: str, *, plain: bool) -> SnapshotView:
        stream = self._runtime(stream_id)
        if stream.seen.state is StreamState.PAUSED:
            raise UnavailableError(f"stream {stream_id} is paused")
        if self._unit.state is not DaemonState.RUNNING:
            raise UnavailableError(f"no frames are sampled now: {self._unit.problem or self._unit.state.value}")
        return await self._snapshots.take(self._groups, stream_id, plain=plain)

    @property
    def state(self) -> DaemonState:
        return DaemonState.STOPPING if self._stopping else self._unit.state

    def stats(self, stream_ids: frozenset[str] = frozenset()) -> StatsView:
        unknown = stream_ids - self._streams.keys()
        if unknown:
            raise NotFoundError(f"there is no stream {sorted(unknown)[0]}")
        streams = [s for i, s in sorted(self._streams.items()) if not stream_ids or i in stream_ids]
        return StatsView(
            time_utc_ns=time.time_ns(),
            state=self.state,
            uptime_s=self._processes.uptime_s,
            model=self._unit.view if self._unit.state is DaemonState.RUNNING else None,
            streams=tuple(s.view() for s in streams),
            processes=self._processes.view(self._groups, [self._unit, *self._retiring], len(self._streams)),
            inference=self._figures.view(self._unit),
            watchers=self._hub.watchers,
            watcher_results_lost=self._hub.lost_total,
            latency=merged_view(s.latency for s in streams),
        )

    def health(self) -> HealthView:
        return observe.health(
            self._problems, self.state, self._unit, self._groups, self._streams.values(), self.standing_problems
        )

    async def reload(self, *, dry_run: bool) -> ReloadView:
        """Raises InvalidError with every error of a bad config, or UnavailableError when a new model doesn't load."""
        try:
            new = await asyncio.to_thread(self._read_config)
        except ConfigErrors as errors:
            raise InvalidError([FieldViolation("config", str(issue)) for issue in errors.issues]) from None
        async with self._changing:
            found = difference(self.config, new)
            registry = self.registry.with_config(
                new.streams, max_streams=new.daemon.max_streams, allow_file_sources=new.daemon.allow_file_sources
            )
            if not dry_run:
                if found.swap:
                    await self._swap(new)
                self._take_over(found, new, registry)
        return ReloadView(found.changes, found.restart_needed)

    def _take_over(self, found: Difference, new: Config, registry: Registry) -> None:
        self.config = dataclasses.replace(
            new, api=self.config.api, metrics=self.config.metrics, capture=self.config.capture
        )
        for process in (self._unit.process, *(g.process for g in self._groups.groups.values())):
            if process.halted:
                process.start_now()
        if not found.swap and self._unit.state is not DaemonState.RUNNING:
            self._unit.process.start_now()
        self._apply(registry)

    def watch(self, wanted: WatchFilter) -> AsyncIterator[tuple[FrameResult, int]]:
        unknown = wanted.stream_ids - self._streams.keys()
        if unknown:
            raise NotFoundError(f"there is no stream {sorted(unknown)[0]}")
        return self._hub.watch(wanted)
