"""Going over to another model because the API says so, and keeping to it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from facedetd.config.model import Config
from facedetd.control import ControlError, FieldViolation, InvalidError, ModelView, UnavailableError
from facedetd.models import ModelStore
from facedetd.supervisor.active_model import ChoiceFile, resolve
from facedetd.supervisor.fleet import Fleet
from facedetd.supervisor.units import Units

log = logging.getLogger(__name__)


class Activation:
    """``chosen``: the model that goes before the configuration's, None where there is none."""

    def __init__(self, state_dir: Path, models: ModelStore):
        self._models, self._file = models, ChoiceFile(state_dir)
        self.chosen, self._problem = self._file.load()
        if self._problem:
            log.error("%s", self._problem)

    def problems(self) -> list[tuple[str, str, str]]:
        """As (severity, subject, message)."""
        return [("error", "active model", self._problem)] if self._problem else []

    def stays_in_spite_of(self, changes: Sequence[str]) -> tuple[str, ...]:
        """What to say to changes of the configuration that would bring another model."""
        if self.chosen is None or not any(change.startswith("model.name:") for change in changes):
            return ()
        stays = f"model {self.chosen.name}@{self.chosen.version} stays: it was activated"
        return (f"{stays}; `facedetctl model activate --default` goes over to the configuration's",)

    async def activate(
        self,
        name: str,
        version: str,
        config: Config,
        units: Units,
        changing: asyncio.Lock,
        take: Callable[[Fleet | None], None],
    ) -> tuple[ModelView, ModelView | None]:
        """The model that runs from now on, and the one that did; an empty name: the configuration's again. ``take``
        makes a fleet the current one, under ``changing``; None: the current one stays.

        Raises InvalidError and NotFoundError for what names no model, UnavailableError when it can't be run,
        StorageError; what ran goes on then, and will after a restart."""
        with _refusal_logged(name or config.model.name):
            if version and not name:
                raise InvalidError(
                    [FieldViolation("version", "found one without a name; allowed: both, or a name alone")]
                )
            found = await asyncio.to_thread(resolve, self._models, name or config.model.name, version)
            chosen = found if name else None
            before = units.current.running
            same = before is not None and (before.name, before.version) == (found.name, found.version)
            fleet = None if same else await units.load(config, chosen, must_run=True)
            try:
                async with changing:
                    await asyncio.to_thread(self._file.save, chosen)
                    try:
                        take(fleet)
                    except BaseException:  # the daemon is stopping: it is to begin with what it ends with
                        await asyncio.to_thread(self._file.save, self.chosen)
                        raise
                    self.chosen, self._problem = chosen, ""
                    units.current.keep_to(chosen)
            except BaseException:
                if fleet and fleet is not units.current:
                    fleet.stop()
                raise
            now = units.current.view
            if now is None:  # its process died before it was ready a first time, which load has waited for
                raise UnavailableError(f"model {units.current.wanted} was activated, but is down just now")
            log.info(
                "model %s %s is active, by the API%s", now.name, now.version, "" if chosen else ": the configuration's"
            )
            return now, before


@contextmanager
def _refusal_logged(model: str) -> Iterator[None]:
    try:
        yield
    except ControlError as error:
        log.error("model %s was not activated: %s", model, error)
        raise
