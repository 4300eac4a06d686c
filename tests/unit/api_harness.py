"""A real ApiServer in its own thread on temporary sockets, for tests of the API and of facedetctl."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
from fakes_control import FakeControl

from facedetd.api.server import ApiServer
from facedetd.config.model import ApiConfig


class Served:
    """A running server; ``call`` runs a function on its loop and returns the answer."""

    def __init__(self, control: FakeControl, folder: Path, max_watchers: int, settings: dict[str, Any]) -> None:
        self.control = control
        self.config = ApiConfig(folder / "facedetd.sock", folder / "facedetd-ro.sock", max_watchers, **settings)
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

        async def make() -> ApiServer:
            server = ApiServer(control, self.config)
            await server.start()
            return server

        self.server = self.run(make())
        self._stopped = False

    @property
    def socket(self) -> Path:
        return self.config.socket

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)

    def call(self, function: Callable, *args):
        async def inner():
            return function(*args)

        return self.run(inner())

    def channel(self, *, read_only: bool = False, options=()) -> grpc.Channel:
        path = self.config.read_only_socket if read_only else self.config.socket
        # Each channel its own connection: gRPC would share one between channels with equal options.
        return grpc.insecure_channel(f"unix:{path}", options=[("grpc.use_local_subchannel_pool", 1), *options])

    def stop(self, grace: float = 0.2) -> None:
        if not self._stopped:
            self._stopped = True
            self.run(self.server.stop(grace))

    def close(self) -> None:
        self.stop()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()


@contextlib.contextmanager
def serving(control: FakeControl | None = None, max_watchers: int = 64, **settings: Any) -> Iterator[Served]:
    """``settings`` are further keys of [api]."""
    # Not tmp_path: a Unix socket's path may have 107 bytes at most.
    folder = Path(tempfile.mkdtemp(prefix="fd-"))
    served = None
    try:
        served = Served(control or FakeControl(), folder, max_watchers, settings)
        yield served
    finally:
        if served:
            served.close()
        shutil.rmtree(folder, ignore_errors=True)
