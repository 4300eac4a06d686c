"""The open streaming calls of all listeners: how many there may be, and how they are ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from facedetd.api.roles import SESSION, Role, Session
from facedetd.control import CapacityError, ControlError, UnavailableError

if TYPE_CHECKING:  # generic in the stubs only
    import grpc

    Context = grpc.aio.ServicerContext[Any, Any]

RESERVED = 8
"""One place in so many is the admins' alone, so that readers can't keep them out."""


class Watchers:
    """Counts watchers of all listeners together. Used on the event loop only, in calls that a Gate let in."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._places: set[Place] = set()
        self.stopping = False

    def __len__(self) -> int:
        return len(self._places)

    @asynccontextmanager
    async def admit(self) -> AsyncIterator[Place]:
        """Hold a place while the body runs.

        Raises CapacityError when all places are taken, and in the body too UnavailableError when the server stops and
        the session's own error when it ends.
        """
        if self.stopping:
            raise _stopping()
        session = SESSION.get()
        admin = session.caller.role is Role.ADMIN
        limit = self._limit if admin else self._limit - self._limit // RESERVED
        if len(self._places) >= limit:
            raise CapacityError(f"all {limit} places for watchers are taken (api.max_watchers)")
        task = asyncio.current_task()
        assert task is not None
        place = Place(session, task)
        self._places.add(place)
        try:
            yield place
        except asyncio.CancelledError:
            # The caller's own cancellation passes; ours becomes an answer that says why.
            if place.told_to_stop and place.end:
                raise place.end from None
            raise
        finally:
            self._places.discard(place)

    def stop(self) -> None:
        """End all watchers and admit no more."""
        self.stopping = True
        for place in self._places:
            place.stop(_stopping())

    def check(self) -> None:
        """End those that would no longer be let in."""
        for place in self._places:
            try:
                place.session.check()
            except ControlError as error:
                place.stop(error)


class Place:
    """One watcher's place."""

    def __init__(self, session: Session, task: asyncio.Task[Any]) -> None:
        self.session = session
        self._task = task
        self._writing = False
        self.end: ControlError | None = None
        self.told_to_stop = False

    async def write(self, context: Context, message: object) -> None:
        """Send a message; returns once HTTP/2 flow control has let it out, so a caller that doesn't read is waited
        for. Raises what :meth:`stop` was given."""
        self._writing = True
        try:
            await context.write(message)
        finally:
            self._writing = False
        if self.end:
            raise self.end

    def stop(self, why: ControlError) -> None:
        """End the call with this error."""
        self.end = why
        # gRPC can't send a status while a message is under way: then the end of the write ends the call, or, if its
        # reader never reads, the end of the grace time does.
        if not self._writing:
            self.told_to_stop = True
            self._task.cancel()


def _stopping() -> UnavailableError:
    return UnavailableError("the daemon is stopping")
