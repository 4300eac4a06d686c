"""One worker process as its supervisor sees it: spawn, talk, watch, kill, reap."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from multiprocessing import resource_tracker
from typing import Any

from facedetd.control import WorkerKind
from facedetd.ipc import Channel, Message, channel_pair

log = logging.getLogger(__name__)

# CUDA and gRPC don't survive a fork
_SPAWN = multiprocessing.get_context("spawn")

OnMessage = Callable[["Worker", Message, list[int]], None]
OnExit = Callable[["Worker"], None]


class Worker:
    """A process that was started once; a restart makes a new Worker. Lives on the event loop of the main thread."""

    def __init__(
        self,
        kind: WorkerKind,
        name: str,
        target: Callable[..., None],
        boot: object,
        sockets: tuple[socket.socket, ...],
        on_message: OnMessage,
        on_exit: OnExit,
    ):
        """Start ``target(boot, control socket, *sockets, supervisor's pid)``. ``sockets`` are the worker's own
        ends; they are closed here. Must run on the main thread: PR_SET_PDEATHSIG fires when the spawning THREAD ends.
        """
        self.kind, self.name = kind, name
        self._on_message, self._on_exit = on_message, on_exit
        self._loop = asyncio.get_running_loop()
        self.started_ns = time.monotonic_ns()
        self.last_beat_ns = self.started_ns
        self.beat: Message = {}
        self.ready = False
        self.ended = asyncio.Event()
        """Set once the process is dead and reaped."""
        self.stopping = False
        self.kill_reason = ""
        ours, theirs = channel_pair()
        self.channel = Channel(ours)
        try:
            self._process = _SPAWN.Process(
                target=target, args=(boot, theirs, *sockets, os.getpid()), name=f"facedetd-{name}", daemon=True
            )
            self._process.start()
        except BaseException:
            self.channel.close()
            raise
        finally:
            theirs.close()
            for sock in sockets:
                sock.close()
        self.pid: int = self._process.pid or 0
        self._writing = False
        self._loop.add_reader(self.channel.fileno(), self._readable)
        self._loop.add_reader(self._process.sentinel, self._ended)

    def send(self, message: Message, fds: tuple[int, ...] = ()) -> None:
        if self.ended.is_set() or self.channel.closed:
            return
        self.channel.send(message, fds)
        if self.channel.wants_write and not self._writing:
            self._writing = True
            self._loop.add_writer(self.channel.fileno(), self._writable)

    def _writable(self) -> None:
        self.channel.flush()
        if not self.channel.wants_write:
            self._writing = False
            self._loop.remove_writer(self.channel.fileno())

    def _readable(self) -> None:
        for message, fds in self.channel.receive():
            if message.get("ev") == "beat":
                self.last_beat_ns = time.monotonic_ns()
                self.beat = message
            elif message.get("ev") == "ready":
                self.ready = True
            self._on_message(self, message, fds)
        if self.channel.closed:
            self._loop.remove_reader(self.channel.fileno())
            # It ended, or it said something that is no message; either way it is of no more use.
            self._process.kill()

    def kill(self, reason: str) -> None:
        """SIGKILL; ``on_exit`` follows when it is reaped."""
        if not self.ended.is_set():
            self.kill_reason = self.kill_reason or reason
            self._process.kill()

    def _ended(self) -> None:
        self._loop.remove_reader(self._process.sentinel)
        if not self.channel.closed:
            self._readable()  # its last words
        if self.channel.fileno() >= 0:
            self._loop.remove_reader(self.channel.fileno())
            self._loop.remove_writer(self.channel.fileno())
        self._process.join()
        self.channel.close()
        self._on_exit(self)
        self._process.close()
        self.ended.set()

    @property
    def lived_s(self) -> float:
        return (time.monotonic_ns() - self.started_ns) / 1e9

    @property
    def exit_words(self) -> str:
        """How it ended, for an operator. Only inside ``on_exit``."""
        code = self._process.exitcode
        if self.kill_reason and code == -signal.SIGKILL:
            return f"was killed: {self.kill_reason}"
        if code is not None and code < 0:
            return f"died of {signal.Signals(-code).name}"
        return f"ended with status {code}"

    @property
    def exit_code(self) -> int | None:
        return self._process.exitcode


def keep_tracker_alive() -> None:
    """multiprocessing's resource tracker is a child too: when it was killed, reap it and start another."""
    ensure: Any = resource_tracker.ensure_running
    ensure()
