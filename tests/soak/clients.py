"""Watchers of results, each with a connection of its own, as other programs would be."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import grpc

from facedetd.v1 import detection_pb2, detection_pb2_grpc


class Watcher:
    """Watches all results until closed; one that doesn't read opens the call and leaves what comes where it is."""

    def __init__(self, socket: Path, results_before: int, *, reads: bool):
        self.reads, self.results_before = reads, results_before
        self.error = ""
        self._got = 0
        # Channels to one address share a connection unless told otherwise
        self._channel = grpc.insecure_channel(f"unix:{socket}", options=[("grpc.use_local_subchannel_pool", 1)])
        stub = detection_pb2_grpc.DetectionServiceStub(self._channel)
        self._call: Any = stub.WatchDetections(detection_pb2.WatchDetectionsRequest(include_empty=True))
        self._thread = threading.Thread(target=self._read, name="soak-watcher", daemon=True)
        if reads:
            self._thread.start()

    def _read(self) -> None:
        try:
            for _ in self._call:
                self._got += 1
        except grpc.RpcError as error:
            code = error.code() if isinstance(error, grpc.Call) else None
            if code is not grpc.StatusCode.CANCELLED:
                self.error = f"{code}"

    def close(self) -> int:
        """How many results it got."""
        self._call.cancel()
        if self.reads:
            self._thread.join(10)
        self._channel.close()
        return self._got
