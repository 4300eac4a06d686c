"""The open streaming calls of both sockets: how many there may be, and how all of them end at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from facedetd.control import CapacityError, UnavailableError

if TYPE_CHECKING:  # generic in the stubs only
    import grpc

    Context = grpc.aio.ServicerContext[Any, Any]


class Watchers:
    """Counts watchers of both sockets together. Used on the event loop only."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._places: set[Place] = set()
        self.stopping = False

    def __len__(self) -> int:
        return len(self._places)

    @asynccontextmanager
    async def admit(self) -> AsyncIterator[Place]:
        """Hold a place while the body runs.

        Raises CapacityError when all places are taken, UnavailableError when the server stops (also in the body).
        """
        if self.stopping:
            raise _stopping()
        if len(self._places) >= self._limit:
            raise CapacityError(f"all {self._limit} places for watchers are taken (api.max_watchers)")
        task = asyncio.current_task()
        assert task is not None
        place = Place(self, task)
        self._places.add(place)
        try:
            yield place
        except asyncio.CancelledError:
            # The caller's own cancellation passes; ours becomes an answer that says why.
            if place.told_to_stop:
                raise _stopping() from None
            raise
        finally:
            self._places.discard(place)

    def stop(self) -> None:
        """End all watchers and admit no more."""
        self.stopping = True
        for place in self._places:
            place.stop()


class Place:
    """One watcher's place."""

    def __init__(self, watchers: Watchers, task: asyncio.Task[Any]) -> None:
        self._watchers = watchers
        self._task = task
        self._writing = False
        self.told_to_stop = False

    async def write(self, context: Context, message: object) -> None:
        """Send a message; returns once HTTP/2 flow control has let it out, so a caller that doesn't read is waited
        for. Raises UnavailableError when the server stops."""
        self._writing = True
        try:
            await context.write(message)
        finally:
            self._writing = False
        if self._watchers.stopping:
            raise _stopping()

    def stop(self) -> None:
        # gRPC can't send a status while a message is under way: then the end of the write ends the call, or, if its
        # reader never reads, the end of the grace time does.
        if not self._writing:
            self.told_to_stop = True
            self._task.cancel()


def _stopping() -> UnavailableError:
    return UnavailableError("the daemon is stopping")
