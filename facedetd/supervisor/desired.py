"""The streams there are to be, and bringing what runs in line with them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TypeVar

from facedetd.control import UnavailableError
from facedetd.registry.registry import Entry, Registry, changes
from facedetd.registry.store import StateStore
from facedetd.supervisor.credentials import Credentials
from facedetd.supervisor.groups import GroupManager
from facedetd.supervisor.streams import Seen, StreamRuntime
from facedetd.supervisor.whole import Whole
from facedetd.types import StreamState

log = logging.getLogger(__name__)

T = TypeVar("T")


class Desired:
    """Owns the registry and the streams by id. ``forget`` is told of streams that are no more."""

    def __init__(self, registry: Registry, store: StateStore, groups: GroupManager, forget: Callable[[str], None]):
        self.registry = registry
        self.streams: dict[str, StreamRuntime] = {}
        self.changing = asyncio.Lock()
        self.stopping = False
        """No change is taken any more, and no stream started."""
        self._store, self._groups, self._forget = store, groups, forget
        self._credentials = Credentials()
        self._whole = Whole()

    def refuse_when_stopping(self) -> None:
        if self.stopping:
            raise UnavailableError("the daemon is stopping")

    async def commit(self, change: Callable[[Registry], Registry], answer: Callable[[], T]) -> T:
        """Make a change: checked, written to disk, then done, also when the caller goes away meanwhile. Nothing has
        changed when this raises."""
        return await self._whole.do(self._commit(change, answer))

    async def _commit(self, change: Callable[[Registry], Registry], answer: Callable[[], T]) -> T:
        self.refuse_when_stopping()
        async with self.changing:
            old, registry = self.registry, change(self.registry)
            await asyncio.to_thread(self._store.save, registry.stored())
            self.apply(registry)
            log.info("by the API: %s", "; ".join(changes(old, registry)) or "nothing changed")
            return answer()

    def runtime(self, stream_id: str) -> StreamRuntime:
        self.registry.get(stream_id)  # raises NotFoundError in the registry's words
        return self.streams[stream_id]

    async def read_credentials(self, registry: Registry) -> None:
        """Before :meth:`apply`, where streams of the TOML may have changed."""
        await self._credentials.read(registry.entries())

    def apply(self, registry: Registry) -> None:
        """Bring what runs in line with what should; streams that don't change notice nothing."""
        self.registry = registry
        blocked = registry.blocked()
        for stream_id in self.streams.keys() - registry.by_id.keys():
            if self._groups.holds(stream_id):
                self._groups.remove(stream_id)
            del self.streams[stream_id]
            self._forget(stream_id)
        self._groups.expected = len(registry.by_id)
        for entry in registry.entries():
            reasons = blocked.get(entry.spec.id, ())
            self._apply_stream(entry, "; ".join(f"{v.field}: {v.message}" for v in reasons))

    def _apply_stream(self, entry: Entry, blocked: str) -> None:
        spec = entry.spec
        secret, missing = self._credentials.secret_of(entry)
        blocked = blocked or missing
        stream = self.streams.get(spec.id)
        if stream is None:
            stream = self.streams[spec.id] = StreamRuntime(spec, entry.origin, secret)
            reconnect = False
        else:
            reconnect, tell = stream.redefine(spec, entry.origin, secret)
            if tell:
                self._groups.tell(spec.id)
        held = self._groups.holds(spec.id)
        wanted = not spec.paused and not blocked
        if held and (reconnect or not wanted):
            self._groups.remove(spec.id)
            held = False
        if spec.paused:
            stream.see(Seen(StreamState.PAUSED))
        elif blocked:
            stream.see(Seen(StreamState.ENDED, blocked))
        elif not held:
            stream.see(Seen(StreamState.WAITING))
            if not self.stopping:
                self._groups.add(stream)
