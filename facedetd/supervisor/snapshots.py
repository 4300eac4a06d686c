"""Snapshots: a decoder holds the picture, the inference process finds the faces, the decoder draws them in.

The picture never passes through here, only its JPEG, as a descriptor.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import OrderedDict
from dataclasses import dataclass, field

from facedetd.control import SnapshotView, UnavailableError
from facedetd.ipc import Message
from facedetd.supervisor.groups import GroupManager
from facedetd.types import Face, FrameResult

FRAME_TIMEOUT_S = 10.0
RESULT_TIMEOUT_S = 5.0
KEPT_RESULTS = 32


@dataclass(slots=True)
class _Pending:
    stream_id: str
    reply: asyncio.Future[tuple[Message, list[int]]]
    results: OrderedDict[tuple[int, int], FrameResult] = field(default_factory=OrderedDict)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)


class Snapshots:
    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self._pending: dict[int, _Pending] = {}

    def on_message(self, message: Message, fds: list[int]) -> None:
        """A group's answer: shot (a picture is held), jpeg (it is encoded), no_shot (the stream is gone)."""
        pending = self._pending.get(message["id"])
        if pending is None or pending.reply.done():
            for fd in fds:
                os.close(fd)
            return
        pending.reply.set_result((message, fds))

    def on_result(self, result: FrameResult) -> None:
        """Keep results of streams a snapshot is wanted of: which frame it will be is not known yet."""
        for pending in self._pending.values():
            if pending.stream_id == result.stream_id:
                pending.results[result.epoch, result.sequence] = result
                while len(pending.results) > KEPT_RESULTS:
                    pending.results.popitem(last=False)
                pending.arrived.set()

    async def take(self, groups: GroupManager, stream_id: str, *, plain: bool) -> SnapshotView:
        """Raises UnavailableError when no frame came or nothing was inferred in time."""
        number = next(self._ids)
        loop = asyncio.get_running_loop()
        pending = self._pending[number] = _Pending(stream_id, loop.create_future())
        try:
            if not groups.send(stream_id, {"op": "snapshot", "id": number}):
                raise UnavailableError(f"stream {stream_id} is not with a decoder now")
            shot, _ = await self._reply(pending, FRAME_TIMEOUT_S, f"no frame of stream {stream_id} was sampled")
            faces: tuple[Face, ...] = ()
            if not plain:
                faces = (await self._result(pending, shot["epoch"], shot["sequence"])).faces
            pending.reply = loop.create_future()
            groups.send(
                stream_id,
                {"op": "draw", "id": number, "faces": [[f.box, f.score, f.landmarks] for f in faces]},
            )
            answer, fds = await self._reply(pending, RESULT_TIMEOUT_S, "the picture was not encoded")
            return SnapshotView(
                _read_all(fds), shot["capture_utc_ns"], shot["sequence"], answer["width"], answer["height"], len(faces)
            )
        finally:
            del self._pending[number]
            groups.send(stream_id, {"op": "forget", "id": number})

    async def _reply(self, pending: _Pending, timeout: float, otherwise: str) -> tuple[Message, list[int]]:
        try:
            message, fds = await asyncio.wait_for(pending.reply, timeout)
        except asyncio.TimeoutError:
            raise UnavailableError(f"{otherwise} within {timeout:.0f} s") from None
        if message["ev"] == "no_shot":
            raise UnavailableError(message["detail"])
        return message, fds

    async def _result(self, pending: _Pending, epoch: int, sequence: int) -> FrameResult:
        async def wait() -> FrameResult:
            while (epoch, sequence) not in pending.results:
                pending.arrived.clear()
                await pending.arrived.wait()
            return pending.results[epoch, sequence]

        try:
            return await asyncio.wait_for(wait(), RESULT_TIMEOUT_S)
        except asyncio.TimeoutError:
            raise UnavailableError(
                f"the frame was not inferred within {RESULT_TIMEOUT_S:.0f} s (dropped under load?)"
            ) from None


def _read_all(fds: list[int]) -> bytes:
    try:
        return b"".join(os.pread(fd, os.fstat(fd).st_size, 0) for fd in fds)
    finally:
        for fd in fds:
            os.close(fd)
