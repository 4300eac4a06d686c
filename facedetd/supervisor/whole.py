"""Changes that are made to their end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from facedetd.control import ControlError

log = logging.getLogger(__name__)
T = TypeVar("T")


class Whole:
    """Does work to its end even when the caller goes away in the middle (a client that hangs up cancels its call): else
    the disk would hold one thing and the daemon do another."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()  # asyncio itself keeps no task alive

    async def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Raises what ``work`` raises."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_alone)
            raise


def _alone(task: asyncio.Task[Any]) -> None:
    """Nobody waits for the outcome any more: what is no refusal is a fault of ours, and goes into the log."""
    error = None if task.cancelled() else task.exception()
    if error is not None and not isinstance(error, ControlError):
        log.error("a change whose client has gone failed", exc_info=error)
