"""The fleet of inference processes that is current, the one that a reload loads, and those that end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from facedetd.config.model import Config
from facedetd.control import DaemonState, UnavailableError
from facedetd.models import ModelStore
from facedetd.supervisor.active_model import ModelChoice
from facedetd.supervisor.fleet import Fleet, by_device
from facedetd.supervisor.inference_unit import InferenceUnit, UnitHooks
from facedetd.supervisor.workers import Worker

LOAD_TIMEOUT_S = 120.0
"""How long a reload waits for a new model to load before it goes on with the old one."""


class Units:
    def __init__(self, config: Config, models: ModelStore, hooks: UnitHooks, chosen: ModelChoice | None = None):
        """``chosen``: the model to run instead of the configuration's."""
        self._log_level, self._log_format = config.daemon.log_level, config.daemon.log_format
        self._models, self._hooks = models, hooks
        self._generation = 0
        self._stopping = False
        self._others: list[Fleet] = []
        self.current = self._make(config, chosen)

    def _make(self, config: Config, chosen: ModelChoice | None) -> Fleet:
        self._generation += 1
        name, devices = f"inference-{self._generation - 1}", config.inference.devices
        fleet = Fleet(
            [
                InferenceUnit(
                    name if len(devices) == 1 else f"{name}.{device}",
                    self._generation,
                    device,
                    config.model,
                    config.inference,
                    self._models,
                    self._log_level,
                    self._log_format,
                    self._hooks,
                    chosen,
                    lambda: fleet.running,
                )
                for device in devices
            ]
        )
        return fleet

    def __iter__(self) -> Iterator[InferenceUnit]:
        for fleet in (self.current, *self._others):
            yield from fleet.units

    def workers(self) -> list[Worker]:
        return [unit.worker for unit in self if unit.worker]

    async def load(self, config: Config, chosen: ModelChoice | None, *, must_run: bool = False) -> Fleet:
        """Start another model on each device and wait until it is known whether that runs; the current one goes on.

        Raises UnavailableError when it doesn't run where the current one does; otherwise there is nothing to lose, and
        it raises only where it ``must_run`` and no device runs it.
        """
        if self._stopping:  # nobody would end it
            raise UnavailableError("the daemon is stopping")
        fleet = self._make(config, chosen)
        self._others.append(fleet)
        try:
            fleet.start_idle()
            await asyncio.wait([unit.settled for unit in fleet.units], timeout=LOAD_TIMEOUT_S)
        except BaseException:
            fleet.stop()
            raise
        if self._stopping:
            raise UnavailableError("the daemon is stopping")
        try:
            self.check(fleet, must_run=must_run)
        except UnavailableError:
            fleet.stop()
            raise
        return fleet

    def check(self, fleet: Fleet, *, must_run: bool = False) -> None:
        """Raises UnavailableError as ``load`` does: whoever takes it calls this at that moment, for a process may have
        died since it was ready."""
        failed = {unit.device: problem for unit in fleet.units if (problem := _outcome(unit))}
        runs_now = {unit.device for unit in self.current.up}
        if failed.keys() & runs_now or (len(failed) == len(fleet.units) and (runs_now or must_run)):
            goes_on = ", the old one goes on" if runs_now else ""
            why = by_device(failed) if len(fleet.units) > 1 else "".join(failed.values())
            raise UnavailableError(f"model {fleet.wanted} can't be run{goes_on}: {why}")

    def make_current(self, fleet: Fleet) -> Fleet:
        """Returns the one that was; once no ring leads to it any more, it is to be drained."""
        old, self.current = self.current, fleet
        self._others = [old, *(other for other in self._others if other is not fleet)]
        return old

    def tick(self) -> None:
        """Forget those that have ended."""
        self._others = [f for f in self._others if f.workers or not all(u.process.retired for u in f.units)]

    def stop(self) -> None:
        self._stopping = True
        for unit in self:
            unit.stop()


def _outcome(unit: InferenceUnit) -> str | None:
    """Why it doesn't run; None: it does."""
    if not unit.settled.done():
        return f"it was not loaded within {LOAD_TIMEOUT_S:.0f} s"
    problem: str | None = unit.settled.result()
    if problem is None and unit.state is not DaemonState.RUNNING:
        killed = unit.worker.kill_reason if unit.worker else ""
        how = f"was killed: {killed}" if killed else unit.process.detail
        return unit.problem or f"its process was ready, then {how}"
    return problem
