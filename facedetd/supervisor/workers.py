"""One worker process as its supervisor sees it: spawn, talk, watch, kill, reap."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable

from facedetd.control import WorkerKind
from facedetd.ipc import Channel, Message, channel_pair
from facedetd.supervisor.said import BadMessageError, Beat, read_beat
from facedetd.supervisor.spawn import spawn

log = logging.getLogger(__name__)

LAST_WORDS_S = 1.0
"""How long a process may take to end after its control channel has closed."""

_LAST_TURNS = 100  # of reading what a dead worker said; a descriptor it gave away could go on for ever

OnMessage = Callable[["Worker", Message, list[int]], None]
OnExit = Callable[["Worker"], None]


class Worker:
    """A process that was started once; a restart makes a new Worker. Lives on the event loop of the main thread."""

    def __init__(
        self,
        kind: WorkerKind,
        name: str,
        target: str,
        boot: object,
        sockets: tuple[socket.socket, ...],
        on_message: OnMessage,
        on_exit: OnExit,
    ):
        """Start ``target`` (``module:function``) with ``(boot, control socket, *sockets)``. ``sockets`` are the
        worker's own ends; they are closed here. Must run on the main thread: PR_SET_PDEATHSIG fires when the spawning
        THREAD ends.

        ``on_message`` gets all messages but beats that hold nothing more; descriptors that came along are closed when
        it returns. When it raises, the worker is killed: BadMessageError says that it sent nonsense. Raises OSError.
        """
        self.kind, self.name = kind, name
        self._on_message, self._on_exit = on_message, on_exit
        self._loop = asyncio.get_running_loop()
        self.started_ns = time.monotonic_ns()
        self.last_beat_ns = self.started_ns
        self.beat = Beat()
        self.ready = False
        self.ended = asyncio.Event()
        """Set once the process is dead and reaped."""
        self.stopping = False
        self.kill_reason = ""
        self._distrusted = False
        self._writing = False
        with contextlib.ExitStack() as undo:
            for sock in sockets:
                undo.callback(sock.close)
            ours, theirs = channel_pair()
            undo.callback(theirs.close)
            self.channel = Channel(ours, goes_without=True)  # its own want of descriptors is no fault of a worker's
            with contextlib.ExitStack() as undo_on_failure:
                undo_on_failure.callback(self.channel.close)
                self._process = spawn(target, f"facedetd-{name}", boot, (theirs, *sockets))
                undo_on_failure.callback(self._process.join)
                undo_on_failure.callback(self._process.kill)
                self.pid: int = self._process.pid or 0
                # Not the end of its descriptors: it can close those while it lives, and a GPU's context takes seconds
                # to go after that.
                self._pidfd = os.pidfd_open(self.pid)
                undo_on_failure.pop_all()
        self._loop.add_reader(self.channel.fileno(), self._readable)
        self._loop.add_reader(self._pidfd, self._ended)

    def send(self, message: Message, fds: tuple[int, ...] = ()) -> None:
        """Queue a message; to a worker that is gone this does nothing. Raises as ``Channel.send`` does."""
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
        try:
            self._hear()
        except Exception:  # want of memory, say: whatever it said is lost, and it would wait for an answer for ever
            self._distrust("what it said could not be taken in")
            log.exception("worker %s: what it said could not be taken in", self.name)
        if self.channel.closed:
            self._loop.remove_reader(self.channel.fileno())
            # It is ending, and its exit status tells why; or it said what is no message, and is of no more use
            self.kill_soon("it closed its control channel")

    def _hear(self) -> bool:
        """Act on some of what it said; returns whether there was anything."""
        messages = self.channel.receive()
        for message, fds in messages:
            try:
                if not self._distrusted:
                    self._act_on(message, fds)
            except BadMessageError as error:
                self._distrust(f"it sent a bad message: {error}")
            except Exception:
                log.exception("worker %s: a message could not be acted on", self.name)
                self._distrust("a message of its could not be acted on")
            finally:
                for fd in fds:
                    os.close(fd)
        return bool(messages)

    def _act_on(self, message: Message, fds: list[int]) -> None:
        match message.get("ev"):
            case "beat":
                self.last_beat_ns, self.beat = time.monotonic_ns(), read_beat(message)
            case "ready":
                if self.ready:
                    raise BadMessageError("ready, a second time")
                self.ready = True
        self._on_message(self, message, fds)

    def _distrust(self, reason: str) -> None:
        self._distrusted = True
        self.kill(reason)

    def kill_soon(self, reason: str) -> None:
        """Kill it unless it ends by itself: its descriptors close before that shows."""
        self._loop.call_later(LAST_WORDS_S, self.kill, reason)

    def kill(self, reason: str) -> None:
        """SIGKILL; ``on_exit`` follows when it is reaped."""
        if not self.ended.is_set() and self._process.exitcode is None:  # what died by itself wasn't killed for a reason
            self.kill_reason = self.kill_reason or reason
            self._process.kill()

    def _ended(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._loop.remove_reader(self.channel.fileno())
        self._loop.remove_writer(self.channel.fileno())
        self._process.join()
        try:
            self._hear_last_words()
        finally:
            self._bury()

    def _hear_last_words(self) -> None:
        for _ in range(_LAST_TURNS):
            if not self._hear():
                break

    def _bury(self) -> None:
        self.channel.close()
        try:
            self._on_exit(self)
        finally:
            self._process.close()
            self.ended.set()

    @property
    def ending(self) -> bool:
        """It was asked to end, or killed, and is not reaped yet: a GPU's context takes seconds to go, and a driver that
        hangs lets go of nothing."""
        return self.stopping or bool(self.kill_reason)

    @property
    def lived_s(self) -> float:
        return (time.monotonic_ns() - self.started_ns) / 1e9

    @property
    def died_of(self) -> int:
        """The signal, 0 for none. Only inside ``on_exit``."""
        return max(0, -(self._process.exitcode or 0))

    @property
    def exit_words(self) -> str:
        """How it ended, for an operator. Only inside ``on_exit``."""
        if self.kill_reason and self.died_of == signal.SIGKILL:
            return f"was killed: {self.kill_reason}"
        if self.died_of:
            return f"died of {_signal_name(self.died_of)}"
        return f"ended with status {self._process.exitcode}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
