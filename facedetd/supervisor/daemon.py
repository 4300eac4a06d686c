"""The daemon's control plane: desired state in, running streams and results out."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from facedetd.config.issues import ConfigErrors
from facedetd.config.model import Config
from facedetd.control import (
    ControlError,
    DaemonState,
    FieldViolation,
    HealthView,
    ImportView,
    InvalidError,
    ModelView,
    NotFoundError,
    ReloadView,
    SnapshotView,
    StatsView,
    StreamView,
    UnavailableError,
    WatchFilter,
)
from facedetd.metrics.exporter import Metrics
from facedetd.registry.registry import Registry
from facedetd.registry.store import StateStore
from facedetd.results.hub import ResultsHub, Watch
from facedetd.results.latency import merged_view
from facedetd.results.record import RawResult
from facedetd.results.roi import filter_rois
from facedetd.supervisor import observe
from facedetd.supervisor.chores import Chores
from facedetd.supervisor.decoders import DecoderPlacer
from facedetd.supervisor.degrade import Degrader, Sources
from facedetd.supervisor.desired import Desired
from facedetd.supervisor.fleet import Fleet
from facedetd.supervisor.gpus import Gpus
from facedetd.supervisor.groups import GroupManager
from facedetd.supervisor.heartbeats import Heartbeats
from facedetd.supervisor.inference_unit import InferenceUnit, UnitHooks
from facedetd.supervisor.limits import memory_view
from facedetd.supervisor.model_desk import ModelDesk
from facedetd.supervisor.reload import difference, taken_over
from facedetd.supervisor.snapshots import Snapshots
from facedetd.supervisor.streams import StreamRuntime, frame_result
from facedetd.supervisor.units import Units
from facedetd.supervisor.whole import Whole
from facedetd.supervisor.workers import Worker
from facedetd.types import Secret, StreamSpec, StreamState

log = logging.getLogger(__name__)

GPU_WAIT_S = 10.0
"""So long a start waits to be told whether there is a GPU; without a driver that is known at once. One that nobody uses
and that nvidia-persistenced doesn't keep awake takes seconds, and the driver wakes one after the other. One that is not
waited for is taken for none, and then there are as many decoder groups as cores."""


class Daemon:
    """Implements :class:`facedetd.control.ControlPlane`. Everything runs on the main thread's event loop, but for
    file writes."""

    def __init__(self, config: Config, registry: Registry, store: StateStore, read_config: Callable[[], Config]):
        self.config = config
        self.on_reloading: Callable[[bool], None] = lambda begins: None
        """Called when a reload begins (True) and when it has ended, however it went (False)."""
        self.prepare_api: Callable[[Config], tuple[tuple[str, ...], Callable[[], None]]] = lambda _: ((), lambda: None)
        """What the API makes of a new configuration: changes in words, and what brings them. Raises ConfigErrors."""
        self.api_problems: Callable[[], Sequence[tuple[str, str, str]]] = lambda: ()
        self.standing_problems: list[tuple[str, str, str]] = []
        self.metrics = Metrics(self.stats)
        self._read_config = read_config
        self._hub = ResultsHub(config.api.max_watchers, config.api.watcher_queue)
        self._reloading = asyncio.Lock()  # taken before changing: loading a model holds up no other change
        self._whole = Whole()
        self._heartbeats = Heartbeats()
        self._chores = Chores()
        self._snapshots = Snapshots()
        self._gpus = Gpus()
        self._processes = observe.Processes()
        self._figures = observe.InferenceFigures()
        self._problems = observe.Problems({})
        daemon = config.daemon
        self._desk = ModelDesk(daemon.state_dir)
        self._groups = GroupManager(
            config.capture,
            (config.model.width, config.model.height),
            daemon.log_level,
            daemon.log_format,
            self._snapshots.on_message,
        )
        self._groups.turns_at = str(daemon.state_dir)
        self._desired = Desired(registry, store, self._groups, self.metrics.forget_stream)
        self._decoders = DecoderPlacer(
            config.capture.decode, config.inference.devices, self._groups.gpu_of, self._groups.tell
        )
        self._degrader = Degrader(Sources(self._groups, self._processes, self._figures, self._decoders.takes))
        hooks = UnitHooks(
            self._on_unit_ready,
            self._groups.consumer_down,
            self._groups.ring_closed,
            self._on_result,
            self._on_timing,
            self._desk.on_luma,
            self._groups.refused_by_reader,
        )
        self._units = Units(config, self._desk.store, hooks, self._desk.activation.chosen)

    # ---- start, ticks, stop

    async def start(self) -> None:
        """Start the inference processes and all streams."""
        await self._desired.read_credentials(self._desired.registry)
        await asyncio.to_thread(self._decoders.wait, GPU_WAIT_S)
        self._groups.packed = self._decoders.has_gpu
        self._groups.consume_by(self._units.current)
        self._units.current.start_idle()
        self._desired.apply(self._desired.registry)
        self._place_decoders()

    def workers(self) -> list[Worker]:
        return self._units.workers() + self._groups.workers()

    def tick(self) -> None:
        """Once or twice a second: end what is stuck, free what has drained, share out what there is. Never raises."""
        self._chores.do("workers", self._end_stuck)
        self._chores.do("decoder groups", self._groups.tick)
        self._chores.do("models", self._units.tick)
        self._chores.do("load", self._look_at_load)
        self._chores.do("decoders", self._place_decoders)
        self._chores.do("brightness", self._desk.tick)
        self._chores.do("GPUs", lambda: self._gpus.look(self.config))

    def _place_decoders(self) -> None:
        self._decoders.tick(list(self._desired.streams.values()))

    def _end_stuck(self) -> None:
        self._heartbeats.look(self.workers(), int(self.config.daemon.heartbeat_timeout_s * 1e9))

    def _look_at_load(self) -> None:
        if self._degrader.is_due:
            # At the same moment, however often others ask for it: their difference is what others use of the host
            self._processes.look(self._groups, self._units)
            self._degrader.period(self.config.degradation, list(self._desired.streams.values()), self._units.current)

    async def stop(self) -> None:
        """End all workers: asked first, killed when they don't."""
        self._desired.stopping = True
        self._hub.close()
        self._groups.stop()
        self._units.stop()
        await self._desk.save()
        patience_s = self.config.daemon.stop_timeout_s / 2
        if not await self._all_ended(patience_s):
            for worker in self.workers():
                worker.kill("it did not end when asked")
            if not await self._all_ended(patience_s):
                log.error("workers %s can't be killed", ", ".join(str(w.pid) for w in self.workers()))

    async def _all_ended(self, timeout_s: float) -> bool:
        waits = [asyncio.ensure_future(worker.ended.wait()) for worker in self.workers()]
        if not waits:
            return True
        _, unfinished = await asyncio.wait(waits, timeout=timeout_s)
        for wait in unfinished:
            wait.cancel()
        return not unfinished

    # ---- inference

    def _on_unit_ready(self, unit: InferenceUnit) -> None:
        if unit in self._units.current.units:
            self._groups.consume_by(self._units.current)

    def _on_timing(self, device: int, size: int, seconds: float) -> None:
        self._figures.observe(device, size, seconds)
        self.metrics.observe_batch(size, seconds)

    def _on_result(self, unit: InferenceUnit, raw: RawResult) -> None:
        stream = self._groups.rings.owner(raw.ring_id, raw.stream_index, raw.epoch, self._desired.streams)
        if stream is None or unit.view is None:
            return
        faces = filter_rois(raw.faces, stream.spec.rois, raw.source_width, raw.source_height)
        stream.account.faces += len(faces)
        stream.rate.add()
        latency_ns = time.monotonic_ns() - raw.capture_mono_ns
        stream.latency.add(latency_ns)
        self._degrader.on_result(stream.spec.id, latency_ns)
        self.metrics.observe_result(stream.spec.id, latency_ns / 1e9)
        result = frame_result(raw, stream.spec.id, unit.view, faces)
        self._snapshots.on_result(result)
        self._hub.publish(result)

    # ---- ControlPlane

    async def create_stream(
        self, spec: StreamSpec, secret: Secret | None, *, dry_run: bool = False
    ) -> tuple[StreamView, tuple[str, ...]]:
        if dry_run:
            entry = self._desired.registry.add(spec, secret).get(spec.id)
            return StreamRuntime(entry.spec, entry.origin, entry.secret).view(), self._warnings([spec])
        view = await self._desired.commit(lambda r: r.add(spec, secret), lambda: self.get_stream(spec.id))
        return view, self._warnings([spec])

    def _warnings(self, specs: Iterable[StreamSpec]) -> tuple[str, ...]:
        specs = list(specs)
        shortfall = self._degrader.admission(self._desired.streams.values(), specs)
        warnings = (*observe.admission_warnings(self._units.current, specs), *self._decoders.warnings(specs))
        return (*warnings, shortfall) if shortfall else warnings

    def get_stream(self, stream_id: str) -> StreamView:
        return self._desired.runtime(stream_id).view()

    def stream_specs(self) -> Sequence[StreamSpec]:
        return [self._desired.streams[stream_id].spec for stream_id in sorted(self._desired.streams)]

    async def update_stream(
        self, stream_id: str, changes: Mapping[str, object], secret: Secret | None
    ) -> tuple[StreamView, tuple[str, ...]]:
        view = await self._desired.commit(
            lambda r: r.update(stream_id, changes, secret), lambda: self.get_stream(stream_id)
        )
        return view, self._warnings([view.spec])

    async def delete_stream(self, stream_id: str) -> None:
        await self._desired.commit(lambda r: r.remove(stream_id), lambda: None)

    async def import_streams(self, entries: Sequence[tuple[StreamSpec, Secret | None]], *, dry_run: bool) -> ImportView:
        outcome = self._desired.registry.import_all(entries)
        if not dry_run:

            def change(registry: Registry) -> Registry:
                nonlocal outcome
                outcome = registry.import_all(entries)
                return outcome.registry

            await self._desired.commit(change, lambda: None)
        return ImportView(outcome.created, outcome.unchanged, self._warnings(spec for spec, _ in entries))

    async def snapshot(self, stream_id: str, *, plain: bool) -> SnapshotView:
        seen = self._desired.runtime(stream_id).seen
        if seen.state is not StreamState.STREAMING:
            raise UnavailableError(f"stream {stream_id} is {seen.state.value}{seen.detail and ': '}{seen.detail}")
        if self._units.current.state is not DaemonState.RUNNING:
            raise UnavailableError(
                f"no frames are sampled now: {self._units.current.problem or self._units.current.state.value}"
            )
        return await self._snapshots.take(self._groups, stream_id, plain=plain)

    @property
    def state(self) -> DaemonState:
        return DaemonState.STOPPING if self._desired.stopping else self._units.current.state

    def stats(self, stream_ids: frozenset[str] = frozenset()) -> StatsView:
        unknown = stream_ids - self._desired.streams.keys()
        if unknown:
            raise NotFoundError(f"there is no stream {sorted(unknown)[0]}")
        streams = [s for i, s in sorted(self._desired.streams.items()) if not stream_ids or i in stream_ids]
        processes = self._processes.view(self._groups, self._units, len(self._desired.streams))
        return StatsView(
            time_utc_ns=time.time_ns(),
            state=self.state,
            uptime_s=self._processes.uptime_s,
            model=self.model(),
            streams=tuple(s.view() for s in streams),
            processes=processes,
            inference=self._figures.view(self._units.current),
            watchers=self._hub.watchers,
            watcher_results_lost=self._hub.lost_total,
            latency=merged_view(s.latency for s in streams),
            degradation=self._degrader.view,
            gpus=self._gpus.views({p.pid for p in processes}),
            memory=memory_view(self.config, len(self._desired.streams)),
        )

    def model(self) -> ModelView | None:
        return self._desk.running(self._units.current)

    async def activate_model(self, name: str, version: str) -> tuple[ModelView, ModelView | None]:
        """Raises as Activation.activate does."""
        self._desired.refuse_when_stopping()
        return await self._whole.do(self._activate(name, version))

    async def _activate(self, name: str, version: str) -> tuple[ModelView, ModelView | None]:
        async with self._reloading:
            return await self._desk.activation.activate(
                name, version, self.config, self._units, self._desired.changing, self._go_over_to
            )

    def _go_over_to(self, fleet: Fleet | None) -> None:
        self._desired.refuse_when_stopping()
        if fleet is None:
            return
        # Both first: where it is dead by now, or there is no thread to be had for this, nothing has changed
        self._units.check(fleet)
        self._decoders.use(fleet.devices)
        old = self._units.make_current(fleet)
        self._groups.consume_by(fleet)
        old.drain()

    def health(self) -> HealthView:
        model = self.model()
        return observe.health(
            self._problems,
            self.state,
            self._units.current,
            self._groups,
            self._desired.streams.values(),
            [
                *self.standing_problems,
                *self._desk.problems(model, self.config.inference.calibration_max_age_days),
                *self._chores.problems(),
                *self._degrader.problems(),
                *self._decoders.problems(self._desired.streams.values()),
                *self._gpus.problems(),
                *self.api_problems(),
            ],
            model,
        )

    async def reload(self, *, dry_run: bool) -> ReloadView:
        """Raises InvalidError with every error of a bad config, ConflictError when a stream of it was also added
        through the API, or UnavailableError when a new model doesn't load."""
        self._desired.refuse_when_stopping()
        return await self._whole.do(self._reload(dry_run=True) if dry_run else self._reload_and_say())

    async def _reload_and_say(self) -> ReloadView:
        self.on_reloading(True)
        try:
            view = await self._reload(dry_run=False)
            log.info("reloaded: %s", "; ".join(view.changes) or "nothing changed")
            return view
        except ControlError as error:
            log.error("the configuration was not reloaded, the old one goes on: %s", error)
            raise
        finally:
            if not self._desired.stopping:  # the service manager was told of that since
                self.on_reloading(False)

    async def _reload(self, *, dry_run: bool) -> ReloadView:
        async with self._reloading:
            try:
                new = await asyncio.to_thread(self._read_config)
                api_changes, take_api = await asyncio.to_thread(self.prepare_api, new)
            except ConfigErrors as errors:
                raise InvalidError([FieldViolation("config", str(issue)) for issue in errors.issues]) from None
            found = difference(self.config, new)
            registry = self._with_config(new)
            if not dry_run:
                fleet = await self._units.load(new, self._desk.activation.chosen) if found.swap else None
                try:
                    async with self._desired.changing:
                        registry = self._with_config(new)  # again: streams may have come and gone meanwhile
                        await self._desired.read_credentials(registry)
                        self._take_over(new, registry, fleet)
                        take_api()
                except BaseException:
                    if fleet and fleet is not self._units.current:
                        fleet.stop()
                    raise
        stays = self._desk.activation.stays_in_spite_of(found.changes)
        return ReloadView((*found.changes, *stays, *api_changes), found.restart_needed)

    def _with_config(self, new: Config) -> Registry:
        return self._desired.registry.with_config(
            new.streams, max_streams=new.daemon.max_streams, allow_file_sources=new.daemon.allow_file_sources
        )

    def _take_over(self, new: Config, registry: Registry, fleet: Fleet | None) -> None:
        self._desired.refuse_when_stopping()
        self._go_over_to(fleet)
        self.config = taken_over(self.config, new)
        for group in self._groups.groups.values():
            if group.process.halted:
                group.process.start_now()
        if not fleet:
            self._units.current.start_idle()
        self._desired.apply(registry)

    def status(self) -> str:
        """One line for an operator. Cheap: it is asked for all the time."""
        seen = [stream.seen.state for stream in self._desired.streams.values()]
        running = sum(1 for state in seen if state is StreamState.STREAMING)
        fps = self._figures.frames_per_second
        return f"{self.state.value}: {running} of {len(seen)} streams, {fps:.1f} detections/s"

    def watch(self, wanted: WatchFilter) -> Watch:
        unknown = wanted.stream_ids - self._desired.streams.keys()
        if unknown:
            raise NotFoundError(f"there is no stream {sorted(unknown)[0]}")
        return self._hub.watch(wanted)
