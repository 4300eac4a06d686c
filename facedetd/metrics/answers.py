"""Answers of /metrics, made once for all who ask at about the same time, and not all the time: whoever can reach the
loopback may ask without a pause.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

REST = 3.0
"""So many times as long as the making of an answer took nothing is made after it: it is a quarter of the time."""
REST_MAX_S = 2.0


@dataclass(frozen=True, slots=True)
class Answer:
    body: bytes
    content_type: str
    encoding: str = ""


Take = Callable[[], Callable[[str, str], Answer]]
"""Takes the numbers of a scrape (quick, on the loop's thread) and returns what makes them into an answer for the
Accept and Accept-Encoding headers (slow, on any thread)."""
Kind = Callable[[str, str], tuple[str, str]]
"""The headers that stand for all that get the same answer as these. There must be few."""


class Answers:
    """Used on the event loop only."""

    def __init__(self, take: Take, kind: Kind, fresh_s: float):
        self._take, self._kind, self._fresh_s = take, kind, fresh_s
        self._made: dict[tuple[str, str], asyncio.Task[Answer]] = {}  # under way, or still fresh
        self._making = asyncio.Lock()
        self._rest_until_s = 0.0

    async def give(self, threads: Executor | None, accept: str, accept_encoding: str) -> Answer:
        """Raises what the making of it raises."""
        kind = self._kind(accept, accept_encoding)
        task = self._made.get(kind)
        if task is None:
            task = self._made[kind] = asyncio.create_task(self._make(threads, *kind))
            task.add_done_callback(lambda done: self._keep(kind, done))
        return await asyncio.shield(task)

    def _keep(self, kind: tuple[str, str], done: asyncio.Task[Answer]) -> None:
        failed = done.cancelled() or done.exception() is not None
        asyncio.get_running_loop().call_later(0.0 if failed else self._fresh_s, self._made.pop, kind, None)

    async def _make(self, threads: Executor | None, accept: str, accept_encoding: str) -> Answer:
        loop = asyncio.get_running_loop()
        async with self._making:
            await asyncio.sleep(max(0.0, self._rest_until_s - loop.time()))
            began = loop.time()
            try:
                return await loop.run_in_executor(threads, self._take(), accept, accept_encoding)
            finally:
                now = loop.time()
                self._rest_until_s = now + min(REST_MAX_S, REST * (now - began))

    def stop(self) -> None:
        for task in self._made.values():
            task.cancel()
