"""The daemon as a service: start-up in order, signals, systemd, and the end."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable

from facedetd import allocator, worker
from facedetd.api.server import ApiServer
from facedetd.config.model import Config
from facedetd.control import ControlError, DaemonState
from facedetd.registry.lock import lock_state_dir
from facedetd.registry.registry import Registry
from facedetd.registry.store import StateStore
from facedetd.supervisor.daemon import Daemon
from facedetd.supervisor.limits import look, raise_files_limit
from facedetd.supervisor.notify import Notifier
from facedetd.supervisor.spawn import kill_leftovers
from facedetd.threads import no_thread, started

log = logging.getLogger(__name__)

TICK_S = 0.5
API_GRACE_S = 0.5
THREADS = 4
"""For a change, a reload that reads a model, and what else may wait for the disk at the same time."""
FIRST_MODEL_S = 60.0
"""How long READY waits for a model that is being loaded."""


class StartError(Exception):
    """The daemon can't start; ``str()`` is one clear sentence."""


async def serve(config: Config, read_config: Callable[[], Config]) -> None:
    """Run the daemon until SIGTERM or SIGINT. Raises ConfigErrors, StartError, StorageError, SocketError or
    MetricsError when it can't start; nothing is left behind then."""
    worker.forbid_core_dumps()
    allocator.keep_steady()
    stop, reload_asked = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    try:
        loop.set_default_executor(started(THREADS, "files"))
    except RuntimeError:
        raise StartError(no_thread()) from None
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, reload_asked.set)
    state_dir = config.daemon.state_dir
    state_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
    with lock_state_dir(state_dir):
        store = StateStore(state_dir)
        loaded = await asyncio.to_thread(store.load)
        daemon = config.daemon
        try:
            registry = Registry.build(
                config.streams,
                loaded.streams,
                max_streams=daemon.max_streams,
                allow_file_sources=daemon.allow_file_sources,
            )
        except ControlError as error:
            raise StartError(str(error)) from None
        raise_files_limit()
        verdict = look(config, len(registry.by_id))
        if verdict.refusal:
            raise StartError(verdict.refusal)
        service = Service(Daemon(config, registry, store, read_config), config)
        for subject, warning in verdict.warnings:
            log.warning("%s: %s", subject, warning)
            service.daemon.standing_problems.append(("warning", subject, warning))
        for problem in loaded.problems:
            log.error("%s", problem)
            service.daemon.standing_problems.append(("error", "state file", problem))
        await service.run(stop, reload_asked)


class Service:
    def __init__(self, daemon: Daemon, config: Config):
        self.daemon = daemon
        self._config = config
        self._notifier = Notifier()
        self._api = ApiServer(daemon, config.api)
        self._ready = False
        daemon.on_reloading = self._tell_reloading
        daemon.prepare_api = lambda new: self._api.prepare(new.api)
        daemon.api_problems = self._api.problems

    def _tell_reloading(self, begins: bool) -> None:
        if begins:
            self._notifier.reloading()
        else:
            self._notifier.ready(self.daemon.status())

    async def run(self, stop: asyncio.Event, reload_asked: asyncio.Event) -> None:
        try:
            await self._api.start()
            await self.daemon.metrics.start(self._config.metrics.listen)
            await self.daemon.start()
            reloads = asyncio.create_task(self._reload_on_signal(reload_asked))
            try:
                await self._loop(stop)
            finally:
                reloads.cancel()
        finally:
            self._notifier.stopping("stopping")
            log.info("stopping")
            try:
                await self._api.stop(API_GRACE_S)
                await self.daemon.metrics.stop()
                await self.daemon.stop()
            finally:
                kill_leftovers()
            self._notifier.close()
            log.info("stopped")

    async def _loop(self, stop: asyncio.Event) -> None:
        started = time.monotonic()
        watchdog_s = self._notifier.watchdog_interval_s()
        turn_s = min(TICK_S, watchdog_s) if watchdog_s else TICK_S
        while not stop.is_set():
            self.daemon.tick()
            state = self.daemon.state
            self._api.set_serving(state is DaemonState.RUNNING)
            if not self._ready and (state is not DaemonState.STARTING or time.monotonic() - started > FIRST_MODEL_S):
                self._ready = True
                self._notifier.ready(self.daemon.status())
                log.info("ready: %s", self.daemon.status())
            self._notifier.status(self.daemon.status())
            self._notifier.watchdog()
            try:
                await asyncio.wait_for(stop.wait(), turn_s)
            except asyncio.TimeoutError:
                continue

    async def _reload_on_signal(self, asked: asyncio.Event) -> None:
        while True:
            await asked.wait()
            asked.clear()
            try:
                await self.daemon.reload(dry_run=False)
            except ControlError:
                continue  # the daemon has logged it
            except Exception:
                log.exception("the configuration was not reloaded, the old one goes on")
