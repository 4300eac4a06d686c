"""The API's two servers: one on the admin socket, one on the read-only socket."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from facedetd.api import sockets
from facedetd.api.roles import Gate, Role
from facedetd.api.services import DaemonServicer, DetectionServicer, StreamServicer
from facedetd.api.sockets import SocketError
from facedetd.api.watchers import Watchers
from facedetd.config.model import ApiConfig
from facedetd.control import ControlPlane
from facedetd.v1 import (
    daemon_pb2,
    daemon_pb2_grpc,
    detection_pb2,
    detection_pb2_grpc,
    stream_pb2,
    stream_pb2_grpc,
)

DETECTION_SERVICE = detection_pb2.DESCRIPTOR.services_by_name["DetectionService"].full_name
SERVICE_NAMES = (
    stream_pb2.DESCRIPTOR.services_by_name["StreamService"].full_name,
    DETECTION_SERVICE,
    daemon_pb2.DESCRIPTOR.services_by_name["DaemonService"].full_name,
    health.SERVICE_NAME,
    reflection.SERVICE_NAME,
)
UNARY_CALLS = 64
"""Calls at once beside the watchers, on each socket."""


@dataclass(slots=True)
class _Bound:
    server: Any
    path: Path
    identity: tuple[int, int] | None = None


def _options(config: ApiConfig) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", 4 << 20),
        ("grpc.max_send_message_length", 16 << 20),
        ("grpc.max_concurrent_streams", config.max_watchers + UNARY_CALLS),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ]


class ApiServer:
    """Serves a control plane on the two Unix sockets of the config.

    All methods run on the event loop on which :meth:`start` was called.
    """

    def __init__(self, control: ControlPlane, config: ApiConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._watchers = Watchers(config.max_watchers)
        self._streams = StreamServicer(control)
        self._detections = DetectionServicer(control, self._watchers, clock)
        self._daemon = DaemonServicer(control, self._watchers)
        self._health: Any = health.aio.HealthServicer()  # type: ignore[attr-defined]
        self._bound: list[_Bound] = []
        self._pending: set[asyncio.Task[None]] = set()
        self._serving = False

    @property
    def watchers(self) -> int:
        """Streaming calls that are open now, on both sockets."""
        return len(self._watchers)

    async def start(self) -> None:
        """Bind both sockets and serve. Raises SocketError, with nothing left bound."""
        await self._publish(self._serving)
        wanted = [(self._config.socket, Role.ADMIN), (self._config.read_only_socket, Role.READ_ONLY)]
        if self._config.socket == self._config.read_only_socket:
            raise SocketError(f"the admin and the read-only socket are both {self._config.socket}; they must differ")
        try:
            for path, role in wanted:
                self._bound.append(self._bind(path, role))
            for bound in self._bound:
                await bound.server.start()
        except BaseException:
            await self._close(0)
            raise

    async def stop(self, grace: float) -> None:
        """End watchers at once, let other calls finish for ``grace`` seconds, then cut them off."""
        await self._health.enter_graceful_shutdown()
        self._watchers.stop()
        await self._close(grace)

    def set_serving(self, serving: bool) -> None:
        """Whether faces are being detected: what grpc.health.v1 answers for DetectionService.

        The service "" is SERVING from start to stop: the daemon can be controlled.
        """
        if serving == self._serving:
            return
        self._serving = serving
        task = asyncio.get_running_loop().create_task(self._publish(serving))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def _publish(self, serving: bool) -> None:
        words = health_pb2.HealthCheckResponse
        await self._health.set(DETECTION_SERVICE, words.SERVING if serving else words.NOT_SERVING)

    def _bind(self, path: Path, role: Role) -> _Bound:
        sockets.prepare(path)
        server: Any = grpc.aio.server(
            interceptors=[Gate(role)],
            options=_options(self._config),
            maximum_concurrent_rpcs=self._config.max_watchers + UNARY_CALLS,
        )
        stream_pb2_grpc.add_StreamServiceServicer_to_server(self._streams, server)
        detection_pb2_grpc.add_DetectionServiceServicer_to_server(self._detections, server)
        daemon_pb2_grpc.add_DaemonServiceServicer_to_server(self._daemon, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection(SERVICE_NAMES, server)
        try:
            with sockets.private_umask():
                server.add_insecure_port(f"unix:{path}")
            path.chmod(sockets.SOCKET_MODE)
            return _Bound(server, path, sockets.identity(path))
        except (RuntimeError, OSError) as error:
            raise SocketError(f"can't listen on {path}: {error}") from error

    async def _close(self, grace: float) -> None:
        bound, self._bound = self._bound, []
        await asyncio.gather(*(one.server.stop(grace) for one in bound))
        for one in bound:
            sockets.remove_own(one.path, one.identity)
