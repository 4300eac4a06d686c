"""One inference process for one model on one device, and why there is none when there is none."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace

from facedetd.config.model import InferenceConfig, ModelConfig
from facedetd.control import DaemonState, ModelView, WorkerKind
from facedetd.inference.batching import BatchPolicy
from facedetd.inference.boot import TARGET, InferenceBoot
from facedetd.ipc import Message
from facedetd.models import ModelEntry, ModelError, ModelStore
from facedetd.models.calibration import Calibration
from facedetd.results.record import MAX_RECORD_BYTES, RawResult, ResultError, unpack_result
from facedetd.supervisor.active_model import ModelChoice
from facedetd.supervisor.restarts import HEALTHY_S, look_again_s
from facedetd.supervisor.said import number, real, text
from facedetd.supervisor.supervised import LOOK_AGAIN_S, Supervised
from facedetd.supervisor.workers import Worker
from facedetd.trt import PLANS

log = logging.getLogger(__name__)

RESULTS_A_TURN = 64
MAX_TURNS = 1000
"""More than a socket holds: one that went on sending could else be read for ever."""
WAITING_FOR = {"DeviceError": DaemonState.WAITING_FOR_DEVICE}  # else for a model
LATER = ("DeviceError", "PlanMissing")
"""What may be otherwise the next time, the model being the same."""


@dataclass(frozen=True, slots=True)
class UnitHooks:
    """What the unit tells its owner. ``on_result`` gets the unit too: a result belongs to the model that made it.
    ``on_timing``: device, frames of a batch, seconds."""

    on_ready: Callable[[InferenceUnit], None]
    on_down: Callable[[Worker], None]
    on_ring_closed: Callable[[Worker, int], None]
    on_result: Callable[[InferenceUnit, RawResult], None]
    on_timing: Callable[[int, int, float], None]
    on_luma: Callable[[int, tuple[int, ...]], None] = lambda frames, counts: None
    on_ring_refused: Callable[[Worker, int, str], None] = lambda worker, ring_id, why: None


class InferenceUnit:
    """Keeps the process running. Changing the model or the engine's settings makes a new unit."""

    def __init__(
        self,
        name: str,
        generation: int,
        device: int,
        model: ModelConfig,
        inference: InferenceConfig,
        store: ModelStore,
        log_level: str,
        log_format: str,
        hooks: UnitHooks,
        chosen: ModelChoice | None = None,
        beside: Callable[[], ModelView | None] = lambda: None,
    ):
        """``chosen``: the model to run instead of ``model.name``, at the size of ``model``. ``device``: of those in
        ``inference.devices``. ``beside``: what the other devices run now."""
        self.name, self.generation, self.device = name, generation, device
        self.chosen, self._beside = chosen, beside
        self.model, self.inference = model, inference
        self.size = (model.width, model.height)
        self.view: ModelView | None = None
        self.calibration: Calibration | None = None
        """Of the model that runs or ran; None for a float model."""
        self.full_fps = 0.0
        """Frames/s of full batches, as its process measured when it began; 0: pictures run one by one."""
        self.waiting_for = DaemonState.STARTING
        self.problem = ""
        self._store, self._log_level, self._log_format, self._hooks = store, log_level, log_format, hooks
        self._tried: tuple[str, str] | None = None  # name and version of the model that was found unusable
        self._model_tries = 0  # in a row, of that model
        self._not_before_s = 0.0  # of the loop's clock: the next try of that model
        self._device_tries = 0  # in a row, in which the device was away
        self._entry: ModelEntry | None = None
        self._found: ModelEntry | None = None
        self._search: asyncio.Task[None] | None = None
        self._results: socket.socket | None = None
        self.settled = asyncio.get_running_loop().create_future()
        """Done once it is known for the first time whether the model runs: None, or the reason why not."""
        self.process = Supervised(name, self._start, self._down)

    @property
    def wanted(self) -> str:
        """The model that is to run, in words."""
        return f"{self.chosen.name}@{self.chosen.version}" if self.chosen else self.model.name

    def keep_to(self, chosen: ModelChoice | None) -> None:
        """It runs the right model already; from now on because of this choice, or because of the configuration."""
        self.chosen = chosen
        if self.view:
            self.view = replace(self.view, activated=chosen is not None)

    @property
    def worker(self) -> Worker | None:
        return self.process.worker

    @property
    def away(self) -> bool:
        """It can't run now, and it isn't known when."""
        return bool(self.problem) or self.process.halted

    @property
    def state(self) -> DaemonState:
        if self.process.halted:
            return DaemonState.FAILED
        if self.worker and self.worker.ready and not self.worker.ending:
            return DaemonState.RUNNING
        return self.waiting_for

    def _start(self) -> Worker | None:
        """The first call only sends for the model: checking its hash reads all of it, which takes a thread."""
        entry, self._found = self._found, None
        if entry is None:
            if self._search is None:
                self._search = asyncio.get_running_loop().create_task(self._find_model())
            return None
        self._entry = entry
        return self._spawn(entry)

    def _which(self) -> tuple[str, str | None]:
        """Name and version of the model to run. Where another device runs one that version: a newer one that was stored
        since would give some streams another model than others."""
        if self.chosen:
            return self.chosen.name, self.chosen.version
        there = self._beside()
        return self.model.name, there.version if there and there.name == self.model.name else None

    async def _find_model(self) -> None:
        try:
            entry = await asyncio.to_thread(self._store.get, *self._which())
        except ModelError as error:
            hint = "; it was activated: `facedetctl model activate --default` takes that back" if self.chosen else ""
            self._wait(DaemonState.WAITING_FOR_MODEL, f"{error}{hint}")
        except Exception as error:
            log.exception("the model store fails")
            self._wait(DaemonState.WAITING_FOR_MODEL, f"the model store fails: {error}")
        else:
            still = self._tried == (entry.name, entry.version)  # unusable when last tried, and the same since
            if still and asyncio.get_running_loop().time() < self._not_before_s:
                self.process.wait(LOOK_AGAIN_S)
            else:
                self._found = entry
                self.process.wait(0.0)
        finally:
            self._search = None

    def _spawn(self, entry: ModelEntry) -> Worker:
        boot = InferenceBoot(
            self.name,
            entry.path,
            entry.name,
            entry.version,
            *self.size,
            self.model.min_score,
            self.inference.engine,
            self.inference.threads,
            BatchPolicy(
                self.inference.batch_min,
                self.inference.batch_preferred,
                self.inference.batch_max,
                round(self.inference.batch_deadline_ms * 1e6),
            ),
            self._log_level,
            self._log_format,
            self._store.root.parent / PLANS,
            self.inference.precision,
            self.device,
        )
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MAX_RECORD_BYTES)
        ours.setblocking(False)
        try:
            worker = Worker(
                WorkerKind.INFERENCE, self.name, TARGET, boot, (theirs,), self._message, self.process.exited
            )
        except BaseException:
            ours.close()
            raise
        self._results = ours
        asyncio.get_running_loop().add_reader(ours.fileno(), self._read_results)
        return worker

    def _wait(self, state: DaemonState, problem: str, delay_s: float = LOOK_AGAIN_S) -> None:
        if problem != self.problem:
            log.warning("%s: %s: %s", self.name, state.value, problem)
        self.waiting_for, self.problem = state, problem
        self._settle(problem)
        self.process.wait(delay_s)

    def _settle(self, problem: str | None) -> None:
        if not self.settled.done():
            self.settled.set_result(problem)

    def _message(self, worker: Worker, message: Message, fds: list[int]) -> None:
        match message.get("ev"):
            case "ready":
                assert self._entry
                entry, head, engine = self._entry, text(message, "head"), text(message, "engine")
                activated = self.chosen is not None
                self.calibration = entry.calibration
                self.view = ModelView(entry.name, entry.version, head, engine, *self.size, entry.sha256, activated)
                self.problem, self._tried = "", None
                where = f"{engine}, GPU {self.device}" if engine == "tensorrt" else engine
                log.info("model %s %s runs at %dx%d on %s", entry.name, entry.version, *self.size, where)
                self.full_fps = real(message, "full_fps")
                self._settle(None)
                self._hooks.on_ready(self)
            case "unusable":
                # Not a crash: the same process would end the same way until the model or the device changes, mostly.
                worker.stopping = True
                kind, detail = text(message, "kind"), text(message, "detail")
                state = WAITING_FOR.get(kind, DaemonState.WAITING_FOR_MODEL)
                if kind in LATER:
                    # One that comes for a moment and goes again, over and over, is away
                    self._device_tries = 1 if worker.ready and worker.lived_s >= HEALTHY_S else self._device_tries + 1
                    self._wait(state, detail, look_again_s(self._device_tries))
                    return
                if self._entry:
                    # Tried again in spite of that: want of memory, threads or descriptors looks like a bad model
                    tried = (self._entry.name, self._entry.version)
                    self._model_tries = self._model_tries + 1 if tried == self._tried else 1
                    self._not_before_s = asyncio.get_running_loop().time() + look_again_s(self._model_tries)
                    self._tried = tried
                self._wait(state, detail)
            case "failing":
                self.problem = text(message, "detail")
            case "ring_closed":
                self._read_all_results()  # what it had sent of that ring before: nobody would know whose it is
                self._hooks.on_ring_closed(worker, number(message, "ring"))
            case "ring_refused":
                self._hooks.on_ring_refused(worker, number(message, "ring"), text(message, "detail"))
            case "beat":
                for size, seconds in worker.beat.timings:
                    self._hooks.on_timing(self.device, size, seconds)
                if worker.beat.luma_frames:
                    self._hooks.on_luma(worker.beat.luma_frames, worker.beat.luma)

    def _read_results(self) -> bool:
        """Take in some results; returns whether there may be more."""
        assert self._results
        for _ in range(RESULTS_A_TURN):
            try:
                data = self._results.recv(MAX_RECORD_BYTES + 1)
            except BlockingIOError:
                return False
            except OSError:
                data = b""
            if not data:  # the process is gone
                asyncio.get_running_loop().remove_reader(self._results.fileno())
                return False
            try:
                result = unpack_result(data)
            except ResultError as error:
                log.error("%s: %s", self.name, error)
                continue
            self._hooks.on_result(self, result)
        return True

    def _read_all_results(self) -> None:
        for _ in range(MAX_TURNS):
            if not (self._results and self._read_results()):
                break

    def _down(self, worker: Worker) -> None:
        if self._results:
            try:
                self._read_all_results()  # its last words: the sockets of the dead hold what they had sent
            except Exception:  # a fault of ours must not keep its rings from being taken back
                log.exception("%s: its last results could not be taken in", self.name)
            asyncio.get_running_loop().remove_reader(self._results.fileno())
            self._results.close()
            self._results = None
        if worker.ready and not worker.stopping:
            self.waiting_for = DaemonState.STARTING
        elif not worker.ready:
            self._settle(f"its process {worker.exit_words}")
        self._hooks.on_down(worker)

    def stop(self) -> None:
        self.process.stop()

    def drain(self) -> None:
        """A successor takes over: let the process run what waits, then end."""
        self.process.retire()
        if self.worker:
            self.worker.send({"op": "drain"})
