"""What the daemon's integration tests share: a model, cameras, and words for what they do again and again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from facedetctl.local import LocalDaemon, default_model_store
from facedetd.models import ModelEntry, ModelError, ModelStore, pull
from facedetd.v1 import daemon_pb2, detection_pb2, stream_pb2
from tests.cameras import CameraServer

SMALL_MODEL = """
[daemon]
allow_file_sources = true
heartbeat_timeout_s = 3.0
[model]
name = "centerface"
width = 320
height = 192
[capture]
backoff_initial_s = 0.3
backoff_max_s = 1.0
read_timeout_s = 20.0
streams_per_group = 4
"""
"""A model small enough that many tests fit two cores; faces of the scenes are still found. A machine that stops for
some seconds makes no camera reconnect."""
EVERY_FRAME = SMALL_MODEL + "max_frame_age_ms = 10000\n[degradation]\nenabled = false\n"
"""For tests that count frames: on a busy machine they come late and fewer would be asked for, which is not what these
test."""


TINY_MODEL = """
[model]
name = "centerface"
width = 64
height = 64
[capture]
streams_per_group = 64
"""
"""For streams that are never seen: few processes, small rings."""
AWAY = "rtsp://127.0.0.1:1/cam"
CALL_S = 30.0
"""How long a call may take: a change is written to a disk that others may use, too."""
QUIET_LOOKS = 15
"""0.05 s apart; a camera of 25 fps gives a frame in each."""


FACTS = {"head": "centerface", "licence": "MIT", "source": "test", "source_sha256": "0"}
"""What the store is told of a model made here."""


def model_store() -> Path:
    root = default_model_store()
    store = ModelStore(root)
    try:
        store.get("centerface")
    except ModelError:
        pull("centerface", store)
    return root


def until(condition: Callable[[], Any], what: str, timeout_s: float = 30.0) -> Any:
    """Wait until ``condition()`` is true and return what it gave."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.05)


def add(daemon: LocalDaemon, stream_id: str, url: str, **fields: Any) -> stream_pb2.Stream:
    spec = stream_pb2.StreamSpec(id=stream_id, url=url, **fields)
    return daemon.streams.CreateStream(stream_pb2.CreateStreamRequest(spec=spec), timeout=CALL_S).stream


def start_streams(daemon: LocalDaemon, cameras: CameraServer, ids: Sequence[str]) -> None:
    """Add streams, each of a camera of its own."""
    for i, stream_id in enumerate(ids):
        add(daemon, stream_id, cameras.url(i))


def reload(daemon: LocalDaemon, settings: str) -> None:
    daemon.write_config(settings)
    daemon.daemon.Reload(daemon_pb2.ReloadRequest(), timeout=60)


def put_another(store: ModelStore, name: str) -> ModelEntry:
    """The store's centerface as another model: with another hash, under ``name``."""
    import onnx

    model = onnx.load(str(store.get("centerface").path))
    model.producer_name = "another"
    return store.put(name, model.SerializeToString(), **FACTS)


def stats(daemon: LocalDaemon) -> daemon_pb2.GetStatsResponse:
    return daemon.daemon.GetStats(daemon_pb2.GetStatsRequest(), timeout=CALL_S)


def stream(daemon: LocalDaemon, stream_id: str) -> stream_pb2.Stream:
    return daemon.streams.GetStream(stream_pb2.GetStreamRequest(id=stream_id), timeout=CALL_S).stream


def snapshot(daemon: LocalDaemon, stream_id: str, *, plain: bool) -> stream_pb2.GetSnapshotResponse:
    """A frame's picture. On a busy machine the first that is asked for may be dropped, which is said as UNAVAILABLE."""
    asked = stream_pb2.GetSnapshotRequest(id=stream_id, plain=plain)

    def taken() -> stream_pb2.GetSnapshotResponse | None:
        try:
            return daemon.streams.GetSnapshot(asked, timeout=CALL_S)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return None

    return until(taken, f"a picture of {stream_id}")  # type: ignore[no-any-return]


def inferred(daemon: LocalDaemon, stream_id: str) -> int:
    return stream(daemon, stream_id).status.frames_inferred


def until_inferred(daemon: LocalDaemon, ids: Sequence[str], more: int = 3, timeout_s: float = 30.0) -> None:
    """Until each of these streams has had so many more frames inferred."""
    start = {i: inferred(daemon, i) for i in ids}
    until(lambda: all(inferred(daemon, i) >= start[i] + more for i in ids), f"{more} frames more of {ids}", timeout_s)


def pids(daemon: LocalDaemon, kind: int) -> dict[str, int]:
    """Workers of a kind by name; those that run."""
    return {p.name: p.pid for p in stats(daemon).processes if p.kind == kind and p.pid and p.state == "running"}


def quiesce(daemon: LocalDaemon, ids: Sequence[str]) -> dict[str, stream_pb2.StreamStatus]:
    """Pause streams and wait until nothing of theirs comes any more and every frame has come to an end."""
    for stream_id in ids:
        daemon.streams.PauseStream(stream_pb2.PauseStreamRequest(id=stream_id), timeout=CALL_S)
    quiet, before = 0, -1

    def settled() -> dict[str, stream_pb2.StreamStatus] | None:
        """The call returns before the decoder has heard of it. So many looks in a row that see nothing new, rather
        than a time, in which the whole machine may have stood still."""
        nonlocal quiet, before
        found = {i: stream(daemon, i).status for i in ids}
        known, before = before, sum(s.frames_received + s.frames_decoded + s.frames_inferred for s in found.values())
        ended = all(s.frames_waiting == s.frames_in_flight == 0 for s in found.values())
        quiet = quiet + 1 if ended and before == known else 0
        return found if quiet >= QUIET_LOOKS else None

    return until(settled, "all frames to come to an end")  # type: ignore[no-any-return]


def check_accounts(status: stream_pb2.StreamStatus) -> None:
    dropped = sum(status.frames_dropped.values())
    assert status.frames_decoded == status.frames_sampled + status.frames_not_sampled
    assert status.frames_sampled == status.frames_inferred + dropped + status.frames_waiting + status.frames_in_flight


class Watch:
    """Collects every result, empty ones too."""

    def __init__(self, daemon: LocalDaemon):
        self.messages: list[detection_pb2.WatchDetectionsResponse] = []
        self._call: Any = daemon.detections.WatchDetections(detection_pb2.WatchDetectionsRequest(include_empty=True))
        self._call.initial_metadata()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for message in self._call:
                self.messages.append(message)
        except grpc.RpcError:
            pass

    def of(self, stream_id: str) -> list[detection_pb2.Detection]:
        return [m.detection for m in list(self.messages) if m.detection.stream_id == stream_id]

    def close(self) -> None:
        self._call.cancel()
        self._thread.join(10)


@contextmanager
def watching(daemon: LocalDaemon) -> Iterator[Watch]:
    watch = Watch(daemon)
    try:
        yield watch
    finally:
        watch.close()


@dataclass(frozen=True)
class Tally:
    """A watch, and by stream how many frames had been inferred ``before`` it began and ``after``."""

    watch: Watch
    before: dict[str, int]
    after: dict[str, int]

    def results(self, stream_id: str, inferred_now: int, uncounted: int = 0) -> list[detection_pb2.Detection]:
        """All of a stream that is at rest: one for each frame that was inferred since the watch began. ``uncounted``:
        of so many frames the count may have died with a worker."""
        least, most = inferred_now - self.after[stream_id], inferred_now - self.before[stream_id] + uncounted
        # One may have been sent before the watch began and counted after ``after`` was read
        until(lambda: len(self.watch.of(stream_id)) >= least - 1, f"{least} results of {stream_id}")
        found = self.watch.of(stream_id)
        assert len(found) <= most
        return found


@contextmanager
def tallying(daemon: LocalDaemon, ids: Sequence[str]) -> Iterator[Tally]:
    before = {i: inferred(daemon, i) for i in ids}
    with watching(daemon) as watch:
        yield Tally(watch, before, {i: inferred(daemon, i) for i in ids})
