"""The API's servers: one on the admin socket, one on the read-only socket, and one on TCP where that is wanted."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from facedetd.api import sockets
from facedetd.api.access import Tcp, check_api, read_tcp
from facedetd.api.gate import Door, Gate, SocketDoor, TcpDoor
from facedetd.api.limits import Limits, WorkShare
from facedetd.api.roles import Caller, Role
from facedetd.api.services import DaemonServicer, DetectionServicer, StreamServicer
from facedetd.api.sockets import SocketError
from facedetd.api.tls import Tls
from facedetd.api.watchers import Watchers
from facedetd.config.model import ApiConfig
from facedetd.config.urls import grpc_unix, split_host_port
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
"""Calls at once beside the watchers, on each listener."""
CONNECTIONS = 128
"""Connections beside the watchers' on each listener; over that new ones are closed. They bound the descriptors that
clients can take from the daemon."""
ADMIN_REQUEST_BYTES = 4 << 20
"""ImportStreams of 10,000 streams with long URLs and labels has about 3 MB."""
READ_ONLY_REQUEST_BYTES = 256 << 10
"""About 4,000 stream ids, the largest request there is to read with."""

LIVE = ("max_calls_per_s", "admin_clients", "read_only_clients")
"""Keys of [api] that a reload brings; the files that the others name are read anew, too."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Bound:
    server: Any
    path: Path | None = None
    identity: tuple[int, int] | None = None


def _options(config: ApiConfig, request_bytes: int) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", request_bytes),
        ("grpc.max_send_message_length", 16 << 20),
        ("grpc.max_metadata_size", 8 << 10),
        ("grpc.absolute_max_metadata_size", 16 << 10),
        ("grpc.max_concurrent_streams", config.max_watchers + UNARY_CALLS),
        ("grpc.max_allowed_incoming_connections", config.max_watchers + CONNECTIONS),
        # From the first byte to the end of TLS and HTTP/2's own greetings
        ("grpc.server_handshake_timeout_ms", 10_000),
        # A connection without a call; clients connect again by themselves
        ("grpc.max_connection_idle_ms", 300_000),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.http2.max_ping_strikes", 2),
    ]


class _Certificates:
    """What gRPC asks before each handshake, on a thread of its own: whether there are new certificates."""

    def __init__(self) -> None:
        self._fresh: deque[Any] = deque(maxlen=1)

    def renew(self, tls: Tls) -> None:
        self._fresh.append(_certificates(tls))

    def __call__(self) -> Any:
        try:
            return self._fresh.popleft()
        except IndexError:
            return None


def _certificates(tls: Tls) -> Any:
    return grpc.ssl_server_certificate_configuration([(tls.key, tls.certificate)], tls.client_ca)


class ApiServer:
    """Serves a control plane on the two Unix sockets of the config, and over TCP where it says so.

    All methods run on the event loop on which :meth:`start` was called, but for :meth:`prepare`.
    """

    def __init__(
        self,
        control: ControlPlane,
        config: ApiConfig,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._clock, self._wall = clock, wall
        self._watchers = Watchers(config.max_watchers)
        work = WorkShare(clock)
        self._streams = StreamServicer(control, work)
        self._detections = DetectionServicer(control, self._watchers, clock)
        self._daemon = DaemonServicer(control, self._watchers, work)
        self._health: Any = health.aio.HealthServicer()  # type: ignore[attr-defined]
        self._bound: list[_Bound] = []
        self._limits: list[Limits] = []
        self._tcp: Tcp | None = None
        self._tcp_door: TcpDoor | None = None
        self._certificates = _Certificates()
        self._pending: set[asyncio.Task[None]] = set()
        self._serving = False

    @property
    def watchers(self) -> int:
        """Streaming calls that are open now, on all listeners."""
        return len(self._watchers)

    async def start(self) -> None:
        """Bind all listeners and serve. Raises ConfigErrors for certificates or tokens that can't be used and
        SocketError for what can't be bound, with nothing left bound."""
        await self._publish(self._serving)
        config = self._config
        if config.socket == config.read_only_socket:
            raise SocketError(f"the admin and the read-only socket are both {config.socket}; they must differ")
        for warning in await asyncio.to_thread(check_api, config):
            log.warning("%s", warning)
        self._tcp = await asyncio.to_thread(read_tcp, config)
        try:
            self._bound.append(self._bind_socket(config.socket, config.group, Role.ADMIN))
            self._bound.append(self._bind_socket(config.read_only_socket, config.read_only_group, Role.READ_ONLY))
            if self._tcp:
                self._bound.append(self._bind_tcp(config.listen, self._tcp))
            for bound in self._bound:
                await bound.server.start()
        except BaseException:
            await self._close(0)
            raise
        if self._tcp:
            log.info("the API listens on %s with TLS", config.listen)

    def prepare(self, config: ApiConfig) -> tuple[tuple[str, ...], Callable[[], None]]:
        """For a reload: read certificates and tokens anew. Returns what changed, in words, and what makes it so (on
        the loop). Where and whether to listen changes with a restart only.

        Raises ConfigErrors. May run on any thread."""
        old, new = self._tcp, None
        if old:
            new = read_tcp(replace(self._config, **{key: getattr(config, key) for key in LIVE}))
        changes = []
        if old and new:
            if (old.tls.certificate, old.tls.client_ca) != (new.tls.certificate, new.tls.client_ca):
                changes.append("api: new certificates")
            if old.access.tokens != new.access.tokens:
                changes.append("api: new tokens")

        def take() -> None:
            for limits in self._limits:
                limits.change(config.max_calls_per_s)
            if new and self._tcp_door:
                self._tcp = new
                self._tcp_door.access = new.access
                self._certificates.renew(new.tls)
                self._watchers.check()

        return tuple(changes), take

    def problems(self) -> list[tuple[str, str, str]]:
        """What an operator should know, as (severity, subject, message)."""
        found = self._tcp.tls.problem(self._wall()) if self._tcp else None
        return [(found[0], "api", found[1])] if found else []

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

    def _server(self, door: Door, request_bytes: int) -> Any:
        limits = Limits(self._config.max_calls_per_s, self._clock)
        self._limits.append(limits)
        server: Any = grpc.aio.server(
            interceptors=[Gate(door, limits)],
            options=_options(self._config, request_bytes),
            maximum_concurrent_rpcs=self._config.max_watchers + UNARY_CALLS,
        )
        stream_pb2_grpc.add_StreamServiceServicer_to_server(self._streams, server)
        detection_pb2_grpc.add_DetectionServiceServicer_to_server(self._detections, server)
        daemon_pb2_grpc.add_DaemonServiceServicer_to_server(self._daemon, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection(SERVICE_NAMES, server)
        return server

    def _bind_socket(self, path: Path, group: str, role: Role) -> _Bound:
        sockets.prepare(path)
        name = "the admin socket" if role is Role.ADMIN else "the read-only socket"
        request_bytes = ADMIN_REQUEST_BYTES if role is Role.ADMIN else READ_ONLY_REQUEST_BYTES
        server = self._server(SocketDoor(Caller(name, role)), request_bytes)
        own = None
        try:
            with sockets.private_umask():
                server.add_insecure_port(grpc_unix(path))
            own = sockets.identity(path)
            sockets.give_to(path, group)
            return _Bound(server, path, own)
        except (RuntimeError, OSError) as error:
            raise SocketError(f"can't listen on {path}: {error}") from error
        except SocketError:
            sockets.remove_own(path, own)
            raise

    def _bind_tcp(self, listen: str, tcp: Tcp) -> _Bound:
        host, port = split_host_port(listen)
        sockets.probe_tcp(host, port or 0)
        self._tcp_door = TcpDoor(tcp.access)
        server = self._server(self._tcp_door, ADMIN_REQUEST_BYTES)
        # Without a CA gRPC asks clients for no certificate; with one, it lets none in that it didn't sign.
        credentials = grpc.dynamic_ssl_server_credentials(
            _certificates(tcp.tls), self._certificates, require_client_authentication=tcp.tls.client_ca is not None
        )
        try:
            server.add_secure_port(listen, credentials)
        except RuntimeError as error:
            raise SocketError(f"can't listen on {listen}: {error}") from error
        return _Bound(server)

    async def _close(self, grace: float) -> None:
        bound, self._bound = self._bound, []
        await asyncio.gather(*(one.server.stop(grace) for one in bound))
        for one in bound:
            if one.path:
                sockets.remove_own(one.path, one.identity)
