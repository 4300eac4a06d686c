"""The inference processes of one model, one a device, as one to whoever asks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from facedetd.config.model import InferenceConfig
from facedetd.control import DaemonState, ModelView
from facedetd.models.calibration import Calibration
from facedetd.supervisor.active_model import ModelChoice
from facedetd.supervisor.inference_unit import InferenceUnit
from facedetd.supervisor.workers import Worker

SLOW_S = 300.0
"""A model that isn't loaded after so long is told of."""


class Fleet:
    """``units`` are of one generation, the first device's first; at least one."""

    def __init__(self, units: Sequence[InferenceUnit]):
        self.units = tuple(units)

    @property
    def _first(self) -> InferenceUnit:
        return self.units[0]

    @property
    def generation(self) -> int:
        return self._first.generation

    @property
    def size(self) -> tuple[int, int]:
        return self._first.size

    @property
    def devices(self) -> tuple[int, ...]:
        return tuple(unit.device for unit in self.units)

    @property
    def inference(self) -> InferenceConfig:
        return self._first.inference

    @property
    def wanted(self) -> str:
        """The model that is to run, in words."""
        return self._first.wanted

    def keep_to(self, chosen: ModelChoice | None) -> None:
        """It runs the right model already; from now on because of this choice, or because of the configuration."""
        for unit in self.units:
            unit.keep_to(chosen)

    @property
    def up(self) -> tuple[InferenceUnit, ...]:
        """Those that run."""
        return tuple(unit for unit in self.units if unit.state is DaemonState.RUNNING)

    @property
    def state(self) -> DaemonState:
        """RUNNING while any device runs the model: the others' streams go there. FAILED when all were given up."""
        if self.up:
            return DaemonState.RUNNING
        return next((u.state for u in self.units if u.state is not DaemonState.FAILED), DaemonState.FAILED)

    @property
    def running(self) -> ModelView | None:
        """The model that runs; None while none does."""
        return next((unit.view for unit in self.up), None)

    @property
    def view(self) -> ModelView | None:
        """The model that runs or ran."""
        return self.running or next((unit.view for unit in self.units if unit.view), None)

    @property
    def calibration(self) -> Calibration | None:
        """Of the model that runs; None for a float model."""
        return next((unit.calibration for unit in self.up), None)

    @property
    def workers(self) -> tuple[Worker, ...]:
        return tuple(unit.worker for unit in self.units if unit.worker)

    @property
    def problem(self) -> str:
        """Why nothing is inferred, or not everywhere; empty when all is well."""
        beside = bool(self.up)
        said = {unit.device: why for unit in self.units if (why := _why_down(unit, beside=beside))}
        alike = len(set(said.values())) == 1 and len(said) == len(self.units)
        return next(iter(said.values())) if alike else by_device(said)

    def problems(self) -> Iterable[tuple[str, str, str]]:
        """For health: (severity, subject, message)."""
        if self.problem:
            less = f"; the others go on ({len(self.up)} of {len(self.units)} devices)" if self.up else ""
            yield "error", "model", self.problem + (less if len(self.units) > 1 else "")

    def start_idle(self) -> None:
        """Start now what doesn't run."""
        for unit in self.units:
            if unit.state is not DaemonState.RUNNING:
                unit.process.start_now()

    def stop(self) -> None:
        for unit in self.units:
            unit.stop()

    def drain(self) -> None:
        """A successor takes over: let the processes run what waits, then end."""
        for unit in self.units:
            unit.drain()


def by_device(said: Mapping[int, str]) -> str:
    """What is said of several devices, in one line."""
    return "; ".join(f"device {device}: {problem}" for device, problem in said.items())


def _why_down(unit: InferenceUnit, *, beside: bool) -> str:
    """Empty also where it only begins, or was given up, which health says of the process. ``beside`` others that run,
    whose state is the daemon's, more is said."""
    if unit.problem or unit.state in (DaemonState.RUNNING, DaemonState.FAILED):
        return unit.problem
    if unit.worker and not unit.worker.ready and unit.worker.lived_s > SLOW_S:  # there is no limit; a driver may hang
        return f"its process still loads after {SLOW_S / 60:.0f} min; of a GPU nvidia-smi and the kernel log tell more"
    if not beside:
        return ""
    if unit.worker and unit.worker.kill_reason:
        return f"its process was killed and has not ended yet: {unit.worker.kill_reason}"
    return f"its process {unit.process.detail}; it is started again" if unit.process.restarts else ""
