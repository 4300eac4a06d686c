"""The inference unit that is current, the one that a reload loads, and those that end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from facedetd.config.model import Config
from facedetd.control import DaemonState, UnavailableError
from facedetd.models import ModelStore
from facedetd.supervisor.active_model import ModelChoice
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
        self._others: list[InferenceUnit] = []
        self.current = self._make(config, chosen)

    def _make(self, config: Config, chosen: ModelChoice | None) -> InferenceUnit:
        self._generation += 1
        return InferenceUnit(
            f"inference-{self._generation - 1}",
            self._generation,
            config.model,
            config.inference,
            self._models,
            self._log_level,
            self._log_format,
            self._hooks,
            chosen,
        )

    def __iter__(self) -> Iterator[InferenceUnit]:
        yield from (self.current, *self._others)

    def workers(self) -> list[Worker]:
        return [unit.worker for unit in self if unit.worker]

    async def load(self, config: Config, chosen: ModelChoice | None, *, must_run: bool = False) -> InferenceUnit:
        """Start a unit for another model and wait until it is known whether that runs; the current one goes on.

        Raises UnavailableError when it doesn't run and the current one does; otherwise there is nothing to lose, and it
        raises only where it ``must_run``.
        """
        unit = self._make(config, chosen)
        self._others.append(unit)
        try:
            unit.process.start_now()
            problem = await asyncio.wait_for(asyncio.shield(unit.settled), LOAD_TIMEOUT_S)
        except asyncio.TimeoutError:
            problem = f"it was not loaded within {LOAD_TIMEOUT_S:.0f} s"
        except BaseException:
            unit.stop()
            raise
        if self._stopping:
            raise UnavailableError("the daemon is stopping")
        runs = self.current.state is DaemonState.RUNNING
        if problem and (runs or must_run):
            unit.stop()
            goes_on = ", the old one goes on" if runs else ""
            raise UnavailableError(f"model {unit.wanted} can't be run{goes_on}: {problem}")
        return unit

    def make_current(self, unit: InferenceUnit) -> InferenceUnit:
        """Returns the one that was; once no ring leads to it any more, it is to be drained."""
        old, self.current = self.current, unit
        self._others = [old, *(other for other in self._others if other is not unit)]
        return old

    def tick(self) -> None:
        """Forget those that have ended."""
        self._others = [unit for unit in self._others if unit.worker or not unit.process.retired]

    def stop(self) -> None:
        self._stopping = True
        for unit in self:
            unit.stop()
