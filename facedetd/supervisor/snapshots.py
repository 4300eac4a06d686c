"""Snapshots: a decoder holds the picture, the inference process finds the faces, the decoder draws them in.

The picture never passes through here, only its JPEG, as a descriptor.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import stat
from collections import OrderedDict
from dataclasses import dataclass, field

from facedetd.control import SnapshotView, UnavailableError
from facedetd.ipc import Message
from facedetd.supervisor.groups import GroupManager
from facedetd.supervisor.said import BadMessageError, number, text
from facedetd.supervisor.workers import Worker
from facedetd.types import Face, FrameResult

FRAME_TIMEOUT_S = 6.0
RESULT_TIMEOUT_S = 3.0
KEPT_RESULTS = 32
MAX_JPEG_BYTES = 64 * 1024 * 1024
MAX_DRAWN = 1000
"""Faces that fit a control message."""


@dataclass(frozen=True, slots=True)
class _Shot:
    """A decoder holds a picture: of this frame."""

    epoch: int
    sequence: int
    capture_utc_ns: int


@dataclass(frozen=True, slots=True)
class _Jpeg:
    data: bytes
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class _Refusal:
    detail: str


_Answer = _Shot | _Jpeg | _Refusal


@dataclass(slots=True)
class _Pending:
    stream_id: str
    worker: Worker | None
    """The decoder that was asked: nobody else may answer."""
    reply: asyncio.Future[_Answer]
    results: OrderedDict[tuple[int, int], FrameResult] = field(default_factory=OrderedDict)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)


class Snapshots:
    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self._pending: dict[int, _Pending] = {}

    def on_message(self, worker: Worker, message: Message, fds: list[int]) -> None:
        """A group's answer: shot (a picture is held), jpeg (it is encoded), no_shot (there is none).

        The descriptors stay the caller's. Raises BadMessageError.
        """
        pending = self._pending.get(number(message, "id"))
        if pending is not None and pending.worker is worker and not pending.reply.done():
            pending.reply.set_result(_read(message, fds))

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
        id_ = next(self._ids)
        loop = asyncio.get_running_loop()
        pending = self._pending[id_] = _Pending(stream_id, None, loop.create_future())
        try:
            pending.worker = groups.send(stream_id, {"op": "snapshot", "id": id_})
            if pending.worker is None:
                raise UnavailableError(f"stream {stream_id} is not with a decoder now")
            shot = await self._reply(pending, FRAME_TIMEOUT_S, f"no frame of stream {stream_id} was sampled")
            faces: tuple[Face, ...] = ()
            if isinstance(shot, _Shot):
                faces = (await self._result(pending, shot.epoch, shot.sequence)).faces
            pending.reply = loop.create_future()
            drawn = [] if plain else [_drawn(f) for f in faces[:MAX_DRAWN]]
            groups.send(stream_id, {"op": "draw", "id": id_, "faces": drawn})
            jpeg = await self._reply(pending, RESULT_TIMEOUT_S, "the picture was not encoded")
            if not isinstance(shot, _Shot) or not isinstance(jpeg, _Jpeg):
                raise UnavailableError("the decoder answered something else than it was asked")
            return SnapshotView(jpeg.data, shot.capture_utc_ns, shot.sequence, jpeg.width, jpeg.height, len(faces))
        finally:
            del self._pending[id_]
            groups.send(stream_id, {"op": "forget", "id": id_})

    async def _reply(self, pending: _Pending, timeout: float, otherwise: str) -> _Answer:
        try:
            answer = await asyncio.wait_for(pending.reply, timeout)
        except asyncio.TimeoutError:
            raise UnavailableError(f"{otherwise} within {timeout:.0f} s") from None
        if isinstance(answer, _Refusal):
            raise UnavailableError(answer.detail)
        return answer

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


def _drawn(face: Face) -> list[object]:
    """A face as a decoder draws it; a tenth of a pixel is as fine as it gets."""
    return [
        [round(v, 1) for v in face.box],
        round(face.score, 3),
        [[round(x, 1), round(y, 1)] for x, y in face.landmarks],
    ]


def _read(message: Message, fds: list[int]) -> _Answer:
    match message["ev"]:
        case "shot":
            return _Shot(number(message, "epoch"), number(message, "sequence"), number(message, "capture_utc_ns"))
        case "jpeg" if not fds:
            return _Refusal("the daemon has no descriptor free for the picture")
        case "jpeg":
            width, height = number(message, "width", 65535), number(message, "height", 65535)
            return _Jpeg(_read_memory(fds), width, height)
        case _:
            return _Refusal(text(message, "detail"))


def _read_memory(fds: list[int]) -> bytes:
    """What a memfd holds. Only memory is read here: nothing else is sure to be quick."""
    if len(fds) != 1:
        raise BadMessageError(f"jpeg: {len(fds)} descriptors, not one")
    status = os.fstat(fds[0])
    if not stat.S_ISREG(status.st_mode) or status.st_nlink or not 0 < status.st_size <= MAX_JPEG_BYTES:
        raise BadMessageError(f"jpeg: a descriptor of mode {status.st_mode:#o} and {status.st_size} bytes")
    return os.pread(fds[0], status.st_size, 0)
