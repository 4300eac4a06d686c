"""What the daemon knows of models beside their processes: the store, which one was chosen, and whether a calibration
still fits what the cameras show."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from facedetd.control import ModelView
from facedetd.models import ModelStore
from facedetd.supervisor.activation import Activation
from facedetd.supervisor.calibration_watch import calibration_problems, calibration_view
from facedetd.supervisor.fleet import Fleet
from facedetd.supervisor.seen_luma import SeenLuma


class ModelDesk:
    def __init__(self, state_dir: Path):
        self.store = ModelStore(state_dir / "models")
        self.activation = Activation(state_dir, self.store)
        self._seen = SeenLuma(state_dir, time.time)
        self._saving: asyncio.Task[None] | None = None

    def on_luma(self, frames: int, counts: Sequence[int]) -> None:
        """How bright so many frames were that were inferred."""
        self._seen.add(frames, counts)

    def tick(self) -> None:
        """Save what was seen, once an hour."""
        if self._seen.take_turn():
            self._saving = asyncio.ensure_future(self.save())

    async def save(self) -> None:
        await asyncio.to_thread(self._seen.save)

    def running(self, fleet: Fleet) -> ModelView | None:
        """The model that runs in the current fleet, with its calibration as it stands now; None while none does."""
        model, calibration = fleet.running, fleet.calibration
        if model is None or calibration is None:
            return model
        return replace(model, calibration=calibration_view(calibration, self._seen.seen, time.time()))

    def problems(self, model: ModelView | None, max_age_days: int) -> list[tuple[str, str, str]]:
        """For health: (severity, subject, message)."""
        return [*self.activation.problems(), *calibration_problems(model, max_age_days)]
