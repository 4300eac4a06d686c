"""Runs a call in a thread whose connections somebody else allows or refuses, one by one: seccomp's user notification
(seccomp_unotify(2), Linux 5.5). The thread stops in connect or sendto until the caller has judged where it leads.

It holds back a library that does what a camera says, not hostile code: that could change an address after it was read.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import platform
import select
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Address, ip_address
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")

# By machine: seccomp, connect, sendto (asm/unistd.h)
_CALLS = {"x86_64": (317, 42, 44), "aarch64": (277, 203, 206)}
_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER = 1
# A listener; and without the second, kernels before 5.16 would slow the thread down against Spectre
_FLAGS = 1 << 3 | 1 << 2
_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000
_RECEIVE, _SEND = 0xC0502100, 0xC0182101  # ioctls (linux/seccomp.h)
_NOTICE, _VERDICT = struct.Struct("=QIIiIQ6Q"), struct.Struct("=QqiI")
_CONTINUE = 1
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
_MAX_SOCKADDR = 128
_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)  # want, not lack of the feature
_MAX_IDLE = 4  # threads kept for the next call, by process


@dataclass(frozen=True, slots=True)
class Attempt:
    """A connect, or a datagram with an address. ``address`` and ``port`` are "" and 0 but for AF_INET and AF_INET6.
    ``descriptor``: the socket's, and no other's while this is judged."""

    family: int
    type: int  # socket.SOCK_STREAM, ...
    address: str = ""
    port: int = 0
    descriptor: int = field(default=-1, compare=False)


class NotConfinable(Exception):
    """This system can't do it; the text says why."""


def run_judged(call: Callable[[], T], judge: Callable[[Attempt], bool]) -> T:
    """What ``call`` returns or raises. It runs in another thread; ``judge`` is asked in this one about each of its
    attempts to connect or to send a datagram to an address, and what it refuses fails there with EACCES. ``call`` must
    let go of the GIL while it is in the network. Raises NotConfinable, or OSError where descriptors or threads have run
    out; nothing has been called then."""
    results: list[T] = []
    errors: list[BaseException] = []

    def task() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    try:
        runner = _idle.pop()
    except IndexError:
        runner = _Runner()
    try:
        runner.run(task, judge)
    except BaseException:
        runner.end()
        raise
    if len(_idle) < _MAX_IDLE:
        _idle.append(runner)
    else:
        runner.end()
    if errors:
        try:
            raise errors[0]
        finally:
            errors.clear()  # its traceback holds this frame, which would hold it
    return results[0]


class _Runner:
    """A confined thread. To make one costs more than what a camera that is away does in FFmpeg."""

    def __init__(self) -> None:
        """Raises NotConfinable, or OSError without descriptors or threads."""
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._made: SimpleQueue[int | OSError] = SimpleQueue()
        self._done = os.eventfd(0)
        try:
            threading.Thread(target=self._main, name="opener", daemon=True).start()
        except RuntimeError:
            os.close(self._done)
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from None
        made = self._made.get()
        if isinstance(made, OSError):
            os.close(self._done)
            if made.errno in _PASSING:
                raise made
            raise NotConfinable(f"seccomp user notification: {made.strerror}")
        self._listener = made
        self._poller = select.poll()
        self._poller.register(self._done, select.POLLIN)
        self._poller.register(self._listener, select.POLLIN)

    def _main(self) -> None:
        try:
            self._made.put(_confine_this_thread())
        except OSError as error:
            self._made.put(error)
            return
        while task := self._tasks.get():
            task()
            del task
            os.eventfd_write(self._done, 1)
        os.close(self._done)

    def run(self, task: Callable[[], None], judge: Callable[[Attempt], bool]) -> None:
        """Returns when ``task`` has."""
        self._tasks.put(task)
        while (ready := dict(self._poller.poll())) and self._done not in ready:
            if ready[self._listener] & select.POLLIN:
                _answer(self._listener, judge)
        os.eventfd_read(self._done)

    def end(self) -> None:
        """Where a task still runs, it can connect no more."""
        os.close(self._listener)
        self._tasks.put(None)


_idle: list[_Runner] = []


def _confine_this_thread() -> int:
    """From now on connect, and sendto with an address, wait for a verdict; the descriptor to read them from."""
    machine = platform.machine()
    if machine not in _CALLS:
        raise OSError(errno.ENOSYS, f"not written for {machine}")
    seccomp, connect, sendto = _CALLS[machine]
    destination = 16 + 8 * 4  # of struct seccomp_data: sendto's fifth argument, a pointer
    code = (
        (_LOAD, 0, 0, 0),
        (_JUMP_EQUAL, 6, 0, connect),
        (_JUMP_EQUAL, 0, 4, sendto),
        (_LOAD, 0, 0, destination),
        (_JUMP_EQUAL, 0, 3, 0),
        (_LOAD, 0, 0, destination + 4),
        (_JUMP_EQUAL, 0, 1, 0),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _NOTIFY),
    )
    filters = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in code))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(code), ctypes.addressof(filters)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    listener = libc.syscall(seccomp, _SET_MODE_FILTER, _FLAGS, program)
    if listener < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(listener)


def _answer(listener: int, judge: Callable[[Attempt], bool]) -> None:
    notice = bytearray(_NOTICE.size)
    try:
        fcntl.ioctl(listener, _RECEIVE, notice)
    except OSError:  # a signal took the thread out of its call: it will come again
        return
    number, _, _, call, _, _, *arguments = _NOTICE.unpack(notice)
    allowed = False
    try:
        allowed = judge(_attempt(call, arguments))
    finally:
        verdict = _VERDICT.pack(number, 0, 0 if allowed else -errno.EACCES, _CONTINUE if allowed else 0)
        with contextlib.suppress(OSError):  # as above
            fcntl.ioctl(listener, _SEND, verdict)


def _attempt(call: int, arguments: list[int]) -> Attempt:
    at, length = arguments[1:3] if call == _CALLS[platform.machine()][1] else arguments[4:6]
    raw = ctypes.string_at(at, min(length & 0xFFFFFFFF, _MAX_SOCKADDR))
    peek = socket.socket(fileno=arguments[0])  # the same process: its descriptor is ours
    kind, descriptor = peek.type, peek.detach()  # before anything can fail: it isn't ours to close
    return replace(parse(raw, kind), descriptor=descriptor)


def parse(raw: bytes, kind: int) -> Attempt:
    """The struct sockaddr ``raw`` for a socket of type ``kind``."""
    if len(raw) < 2:
        return Attempt(socket.AF_UNSPEC, kind)
    (family,) = struct.unpack_from("@H", raw)
    if family == socket.AF_INET and len(raw) >= 8:
        return Attempt(family, kind, str(ip_address(raw[4:8])), struct.unpack_from("!H", raw, 2)[0])
    if family == socket.AF_INET6 and len(raw) >= 24:
        address = IPv6Address(raw[8:24])
        return Attempt(family, kind, str(address.ipv4_mapped or address), struct.unpack_from("!H", raw, 2)[0])
    return Attempt(family, kind)
