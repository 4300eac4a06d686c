"""The open streaming calls of both sockets: how many there may be, and how all of them end at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from facedetd.control import CapacityError, UnavailableError


class Watchers:
    """Counts watchers of both sockets together. Used on the event loop only."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tasks: set[asyncio.Task[object]] = set()
        self._stopping = False

    def __len__(self) -> int:
        return len(self._tasks)

    @asynccontextmanager
    async def admit(self) -> AsyncIterator[None]:
        """Hold a place while the body runs.

        Raises CapacityError when all places are taken, UnavailableError when the server stops (also in the body).
        """
        if self._stopping:
            raise UnavailableError("the daemon is stopping")
        if len(self._tasks) >= self._limit:
            raise CapacityError(f"all {self._limit} places for watchers are taken (api.max_watchers)")
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            yield
        except asyncio.CancelledError:
            # The caller's own cancellation passes; ours becomes an answer that says why.
            if self._stopping:
                raise UnavailableError("the daemon is stopping") from None
            raise
        finally:
            self._tasks.discard(task)

    def stop(self) -> None:
        """End all watchers and admit no more."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
