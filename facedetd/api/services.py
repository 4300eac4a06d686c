"""The three servicers. Each method reads its request, makes one call on the control plane and writes the answer;
what that call raises is turned into a status by :mod:`facedetd.api.roles`."""

from __future__ import annotations

import asyncio
import base64
import binascii
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any

import grpc

import facedetd
from facedetd.api import convert, convert_daemon
from facedetd.api.limits import WorkShare
from facedetd.api.mask import changes_of
from facedetd.api.roles import SESSION
from facedetd.api.watchers import Watchers
from facedetd.control import (
    ControlPlane,
    FieldViolation,
    InvalidError,
    NotFoundError,
    WatchFilter,
)
from facedetd.types import FrameResult, Secret, StreamSpec
from facedetd.v1 import (
    daemon_pb2,
    daemon_pb2_grpc,
    detection_pb2,
    detection_pb2_grpc,
    stream_pb2,
    stream_pb2_grpc,
)

if TYPE_CHECKING:  # generic in the stubs only
    Context = grpc.aio.ServicerContext[Any, Any]

MAX_PAGE = 1000
MAX_IMPORT = 10_000
"""Entries of one import. 4 MB hold two million empty ones, which would keep the loop busy for a minute."""
TOGETHER, FACES_TOGETHER = 64, 4000
"""Results in a message at most, and faces in a message of several, as detection.proto says: with their labels under
2 MB, where gRPC's clients take 4 unless told otherwise; and the loop is busy with them for no longer than with the one
result that has the most faces."""
MIN_INTERVAL_S = 0.2
MAX_INTERVAL_S = 3600.0
LABELS_FRESH_S = 1.0
API_VERSION = "v1"
LIBRARIES = ("av", "grpcio", "numpy", "onnxruntime", "opencv-python-headless", "openvino", "protobuf")


def _bad(field: str, message: str) -> InvalidError:
    return InvalidError([FieldViolation(field, message)])


def page(
    specs: Sequence[StreamSpec], size: int, token: str, labels: Mapping[str, str]
) -> tuple[Sequence[StreamSpec], str]:
    """One page of streams that have all of the labels, and the token of the next page. Pure.

    The token holds the last id shown, so streams that come and go between two pages disturb nothing.
    Raises InvalidError for a negative size and a token that isn't one.
    """
    if size < 0:
        raise _bad("page_size", f"{size} is negative; 0 means all")
    try:
        after = base64.b64decode(token.encode(), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise _bad("page_token", "not a token of an earlier answer") from None
    wanted = set(labels.items())
    found = [spec for spec in specs if spec.id > after and wanted <= set(spec.labels)]
    limit = min(size, MAX_PAGE) if size else len(found)
    if len(found) <= limit:
        return found, ""
    shown = found[:limit]
    return shown, base64.urlsafe_b64encode(shown[-1].id.encode()).decode()


class StreamServicer(stream_pb2_grpc.StreamServiceServicer):
    def __init__(self, control: ControlPlane, work: WorkShare) -> None:
        self._control, self._work = control, work

    async def CreateStream(
        self, request: stream_pb2.CreateStreamRequest, context: Context
    ) -> stream_pb2.CreateStreamResponse:
        spec, secret = convert.entry_from_proto(request.spec, request.credentials)
        view, warnings = await self._control.create_stream(spec, secret, dry_run=request.dry_run)
        return stream_pb2.CreateStreamResponse(stream=convert.stream_to_proto(view), warnings=warnings)

    async def GetStream(self, request: stream_pb2.GetStreamRequest, context: Context) -> stream_pb2.GetStreamResponse:
        view = self._control.get_stream(request.id)
        return stream_pb2.GetStreamResponse(stream=convert.stream_to_proto(view))

    async def ListStreams(
        self, request: stream_pb2.ListStreamsRequest, context: Context
    ) -> stream_pb2.ListStreamsResponse:
        def answer() -> stream_pb2.ListStreamsResponse:
            specs, token = page(self._control.stream_specs(), request.page_size, request.page_token, request.labels)
            return stream_pb2.ListStreamsResponse(
                streams=[convert.stream_to_proto(self._control.get_stream(spec.id)) for spec in specs],
                next_page_token=token,
            )

        return await self._work.do(SESSION.get().caller.name, answer)

    async def UpdateStream(
        self, request: stream_pb2.UpdateStreamRequest, context: Context
    ) -> stream_pb2.UpdateStreamResponse:
        changes, secret = changes_of(request)
        view, warnings = await self._control.update_stream(request.spec.id, changes, secret)
        return stream_pb2.UpdateStreamResponse(stream=convert.stream_to_proto(view), warnings=warnings)

    async def DeleteStream(
        self, request: stream_pb2.DeleteStreamRequest, context: Context
    ) -> stream_pb2.DeleteStreamResponse:
        await self._control.delete_stream(request.id)
        return stream_pb2.DeleteStreamResponse()

    async def PauseStream(
        self, request: stream_pb2.PauseStreamRequest, context: Context
    ) -> stream_pb2.PauseStreamResponse:
        view, _ = await self._control.update_stream(request.id, {"paused": True}, None)
        return stream_pb2.PauseStreamResponse(stream=convert.stream_to_proto(view))

    async def ResumeStream(
        self, request: stream_pb2.ResumeStreamRequest, context: Context
    ) -> stream_pb2.ResumeStreamResponse:
        view, _ = await self._control.update_stream(request.id, {"paused": False}, None)
        return stream_pb2.ResumeStreamResponse(stream=convert.stream_to_proto(view))

    async def ImportStreams(
        self, request: stream_pb2.ImportStreamsRequest, context: Context
    ) -> stream_pb2.ImportStreamsResponse:
        if len(request.streams) > MAX_IMPORT:
            raise _bad("streams", f"{len(request.streams)} entries; at most {MAX_IMPORT} at once")
        entries: list[tuple[StreamSpec, Secret | None]] = []
        problems: list[FieldViolation] = []
        for number, entry in enumerate(request.streams):
            try:
                entries.append(convert.entry_from_proto(entry.spec, entry.credentials, f"streams[{number}]."))
            except InvalidError as error:
                problems.extend(error.violations)
        if problems:
            raise InvalidError(problems)
        done = await self._control.import_streams(entries, dry_run=request.dry_run)
        return stream_pb2.ImportStreamsResponse(created=done.created, unchanged=done.unchanged, warnings=done.warnings)

    async def GetSnapshot(
        self, request: stream_pb2.GetSnapshotRequest, context: Context
    ) -> stream_pb2.GetSnapshotResponse:
        shot = await self._control.snapshot(request.id, plain=request.plain)
        return stream_pb2.GetSnapshotResponse(
            jpeg=shot.jpeg,
            capture_time=convert.timestamp(shot.capture_utc_ns),
            sequence=shot.sequence,
            width=shot.width,
            height=shot.height,
            faces=shot.faces,
        )


class Labels:
    """The labels of streams, read again at most once a second: a result doesn't carry them."""

    def __init__(self, control: ControlPlane, clock: Callable[[], float]) -> None:
        self._control = control
        self._clock = clock
        self._known: dict[str, dict[str, str]] = {}
        self._until = 0.0

    def of(self, stream_id: str) -> Mapping[str, str]:
        now = self._clock()
        if now >= self._until:
            self._known.clear()
            self._until = now + LABELS_FRESH_S
        found = self._known.get(stream_id)
        if found is None:
            try:
                found = dict(self._control.get_stream(stream_id).spec.labels)
            except NotFoundError:  # removed while its last results were under way
                found = {}
            self._known[stream_id] = found
        return found


class DetectionServicer(detection_pb2_grpc.DetectionServiceServicer):
    def __init__(self, control: ControlPlane, watchers: Watchers, clock: Callable[[], float]) -> None:
        self._control = control
        self._watchers = watchers
        self._labels = Labels(control, clock)

    async def WatchDetections(  # type: ignore[override]
        self, request: detection_pb2.WatchDetectionsRequest, context: Context
    ) -> None:
        if not 0.0 <= request.min_score <= 1.0:
            raise _bad("min_score", f"{request.min_score:g} is not between 0 and 1")
        wanted = WatchFilter(frozenset(request.stream_ids), request.min_score, request.include_empty)
        async with self._watchers.admit() as place:
            results = self._control.watch(wanted)
            try:
                await context.send_initial_metadata(())  # the client may rely on getting all from here on
                # Each message waits here until HTTP/2 flow control lets it out; meanwhile the control plane
                # drops this watcher's oldest, so nothing grows.
                async for result, lost in results:
                    message = detection_pb2.WatchDetectionsResponse(detection=self._detection(result), lost=lost)
                    if request.together:  # gRPC costs as much for each message as for a result, about
                        more = results.waiting(TOGETHER - 1, FACES_TOGETHER - len(result.faces))
                        message.more.extend(map(self._detection, more))
                    await place.write(context, message)
            finally:
                close = getattr(results, "aclose", None)
                if close is not None:
                    await close()

    def _detection(self, result: FrameResult) -> detection_pb2.Detection:
        return convert.detection_to_proto(result, self._labels.of(result.stream_id))


class DaemonServicer(daemon_pb2_grpc.DaemonServiceServicer):
    def __init__(self, control: ControlPlane, watchers: Watchers, work: WorkShare) -> None:
        self._control = control
        self._watchers = watchers
        self._work = work
        self._version = version_message()

    async def GetStats(self, request: daemon_pb2.GetStatsRequest, context: Context) -> daemon_pb2.GetStatsResponse:
        return await self._stats(frozenset(request.stream_ids))

    async def _stats(self, wanted: frozenset[str]) -> daemon_pb2.GetStatsResponse:
        return await self._work.do(
            SESSION.get().caller.name, lambda: convert_daemon.stats_to_proto(self._control.stats(wanted))
        )

    async def WatchStats(  # type: ignore[override]
        self, request: daemon_pb2.WatchStatsRequest, context: Context
    ) -> None:
        interval = convert.seconds(request.interval) if request.HasField("interval") else 1.0
        if not MIN_INTERVAL_S <= interval <= MAX_INTERVAL_S:
            raise _bad("interval", f"{interval:g} s is not between {MIN_INTERVAL_S:g} and {MAX_INTERVAL_S:g} s")
        wanted = frozenset(request.stream_ids)
        async with self._watchers.admit() as place:
            while True:
                stats = await self._stats(wanted)
                await place.write(context, daemon_pb2.WatchStatsResponse(stats=stats))
                await asyncio.sleep(interval)

    async def GetHealth(self, request: daemon_pb2.GetHealthRequest, context: Context) -> daemon_pb2.GetHealthResponse:
        # Apart from the rest: who asks for stats without a pause keeps nobody on that socket from asking how it is
        name = f"{SESSION.get().caller.name}: health"
        return await self._work.do(name, lambda: convert_daemon.health_to_proto(self._control.health()))

    async def Reload(self, request: daemon_pb2.ReloadRequest, context: Context) -> daemon_pb2.ReloadResponse:
        done = await self._control.reload(dry_run=request.dry_run)
        return daemon_pb2.ReloadResponse(changes=done.changes, restart_needed=done.restart_needed)

    async def ActivateModel(
        self, request: daemon_pb2.ActivateModelRequest, context: Context
    ) -> daemon_pb2.ActivateModelResponse:
        now, before = await self._control.activate_model(request.name, request.version)
        answer = daemon_pb2.ActivateModelResponse(model=convert_daemon.model_to_proto(now))
        if before:
            answer.previous.CopyFrom(convert_daemon.model_to_proto(before))
        return answer

    async def GetVersion(
        self, request: daemon_pb2.GetVersionRequest, context: Context
    ) -> daemon_pb2.GetVersionResponse:
        version = daemon_pb2.GetVersionResponse()
        version.CopyFrom(self._version)
        if model := self._control.model():
            version.model.CopyFrom(convert_daemon.model_to_proto(model))
        return version


def version_message() -> daemon_pb2.GetVersionResponse:
    """What runs here. Reads the disk, so it is made once."""
    libraries = {}
    for name in LIBRARIES:
        try:
            libraries[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return daemon_pb2.GetVersionResponse(
        version=facedetd.__version__,
        api_version=API_VERSION,
        python_version=platform.python_version(),
        libraries=libraries,
    )
