"""What the daemon's integration tests share: a model, cameras, and words for what they do again and again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
read_timeout_s = 2.0
streams_per_group = 4
"""
"""A model small enough that many tests fit two cores; faces of the scenes are still found."""


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
    return daemon.streams.CreateStream(stream_pb2.CreateStreamRequest(spec=spec), timeout=10).stream


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
    return daemon.daemon.GetStats(daemon_pb2.GetStatsRequest(), timeout=10)


def stream(daemon: LocalDaemon, stream_id: str) -> stream_pb2.Stream:
    return daemon.streams.GetStream(stream_pb2.GetStreamRequest(id=stream_id), timeout=10).stream


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
    """Pause streams and wait until every frame of theirs has come to an end."""
    for stream_id in ids:
        daemon.streams.PauseStream(stream_pb2.PauseStreamRequest(id=stream_id), timeout=10)

    def settled() -> dict[str, stream_pb2.StreamStatus] | None:
        found = {i: stream(daemon, i).status for i in ids}
        return found if all(s.frames_waiting == s.frames_in_flight == 0 for s in found.values()) else None

    until(settled, "all frames to come to an end")
    time.sleep(0.3)  # a thread told to stop may be inside its last frame
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
