"""Hands every result to everyone who watches. Runs on one event loop; nothing here blocks or grows."""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import replace
from types import TracebackType

from facedetd.control import CapacityError, UnavailableError, WatchFilter
from facedetd.types import FrameResult


class _Mailbox:
    """What the hub knows of a watcher: what it wants, what waits for it, how much it lost."""

    __slots__ = ("closed", "lost", "queue", "size", "waiter", "wanted")

    def __init__(self, wanted: WatchFilter, size: int):
        self.wanted = wanted
        self.size = size
        self.queue: deque[FrameResult] = deque()
        self.lost = 0
        self.waiter: asyncio.Future[None] | None = None
        self.closed = False

    def wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)


class Watch(AsyncIterator[tuple[FrameResult, int]]):
    """One watcher's results as ``(result, lost)``; ``lost`` counts what this watcher has lost so far.

    Ends with the hub, with :meth:`aclose`, or when a waiting ``__anext__`` is cancelled (as an async generator
    would). A watch that is merely forgotten gives its place back when it is collected.
    """

    def __init__(self, hub: ResultsHub, box: _Mailbox):
        self._hub = hub
        self._box = box
        self._finalizer = weakref.finalize(self, hub._remove, box)

    async def __anext__(self) -> tuple[FrameResult, int]:
        box = self._box
        while not box.queue:
            if box.closed:
                raise StopAsyncIteration
            if box.waiter is not None:
                raise RuntimeError("a watch has one reader")
            box.waiter = asyncio.get_running_loop().create_future()
            try:
                await box.waiter
            except asyncio.CancelledError:
                self._close()
                raise
            finally:
                box.waiter = None
        return box.queue.popleft(), box.lost

    def waiting(self, limit: int, faces: int) -> list[FrameResult]:
        """Those that wait after the last one given: at most ``limit`` of them, with at most ``faces`` in all. Never
        waits itself."""
        queue = self._box.queue
        found: list[FrameResult] = []
        while queue and len(found) < limit and (faces := faces - len(queue[0].faces)) >= 0:
            found.append(queue.popleft())
        return found

    async def aclose(self) -> None:
        """Stop watching; what still waits is thrown away. May be called twice."""
        self._close()

    async def __aenter__(self) -> Watch:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        self._finalizer()
        self._box.queue.clear()


class ResultsHub:
    """Publishes results to watchers, each with a bounded queue that drops its own oldest.

    ``lost_total`` counts what all watchers, present and past, have lost.
    """

    def __init__(self, max_watchers: int = 64, queue_size: int = 1024):
        if max_watchers < 0 or queue_size < 1:
            raise ValueError(f"max_watchers {max_watchers} must be at least 0, queue_size {queue_size} at least 1")
        self._max_watchers = max_watchers
        self._queue_size = queue_size
        self._boxes: dict[_Mailbox, None] = {}  # a set that keeps its order
        self._closed = False
        self.lost_total = 0

    @property
    def watchers(self) -> int:
        return len(self._boxes)

    def publish(self, result: FrameResult) -> None:
        """Queue a result for everyone who wants it. Call on the loop's thread; O(watchers), never waits."""
        if not self._boxes:
            return
        by_score: dict[float, FrameResult] = {}  # watchers mostly share a minimum: cut the faces once for each
        for box in self._boxes:
            wanted = box.wanted
            if wanted.stream_ids and result.stream_id not in wanted.stream_ids:
                continue
            seen = by_score.get(wanted.min_score)
            if seen is None:
                seen = by_score[wanted.min_score] = _above(result, wanted.min_score)
            if not seen.faces and not wanted.include_empty:
                continue
            if len(box.queue) >= box.size:
                box.queue.popleft()
                box.lost += 1
                self.lost_total += 1
            box.queue.append(seen)
            box.wake()

    def watch(self, wanted: WatchFilter) -> Watch:
        """Watch from now on.

        Raises CapacityError over the cap (here, not at the first result) and UnavailableError after :meth:`close`.
        """
        if self._closed:
            raise UnavailableError("the daemon is stopping: no more results")
        if len(self._boxes) >= self._max_watchers:
            raise CapacityError(f"{len(self._boxes)} watchers already; api.max_watchers allows {self._max_watchers}")
        box = _Mailbox(wanted, self._queue_size)
        self._boxes[box] = None
        return Watch(self, box)

    def close(self) -> None:
        """End all watches: each still gets what waits for it, then its end."""
        self._closed = True
        for box in list(self._boxes):
            self._remove(box)

    def _remove(self, box: _Mailbox) -> None:
        self._boxes.pop(box, None)
        box.closed = True
        box.wake()


def _above(result: FrameResult, min_score: float) -> FrameResult:
    faces = tuple(face for face in result.faces if face.score >= min_score)
    return result if len(faces) == len(result.faces) else replace(result, faces=faces)
