"""Whether a camera's port can be reached, and why TLS fails, where FFmpeg only says "Input/output error": asks the
system and TLS itself. Reasons are exact, and a camera that is away costs no FFmpeg."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import threading
import time
from typing import Any

_SLICE_S = 1.0
"""How long a wait may go on after a stop. A thousand cameras that don't answer wake up once in it each."""


class Unreachable(Exception):
    """``kind`` is a value of :class:`facedetd.capture.source.ErrorKind`; the text is a reason to show."""

    def __init__(self, kind: str, reason: str):
        self.kind = kind
        super().__init__(reason)


def reach(host: str, port: int, timeout_s: float, stop: threading.Event, *, knock: bool = False) -> tuple[str, ...]:
    """All numeric addresses of ``host``, once one of them has taken a TCP connection, which is closed at once: some
    cameras serve but one or two. The addresses share ``timeout_s``; the look-up of a name isn't counted. ``knock``
    asks for RTSP's OPTIONS, too, and waits for a first byte: a camera that takes connections and says nothing would
    have FFmpeg look ten times a second, which a thousand such make dear. Raises Unreachable, soon after ``stop`` is
    set, too."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError):  # the latter: a label that is empty or too long for a name
        raise Unreachable("unreachable", f"the name {host} is not known") from None
    end = time.monotonic() + timeout_s
    why = _why(TimeoutError(), timeout_s)
    for n, (family, kind, protocol, _, address) in enumerate(found):
        try:
            with socket.socket(family, kind, protocol) as connection:
                now = time.monotonic()
                until = now + max(0.0, end - now) / (len(found) - n)
                _connect(connection, address, until, stop)
                if knock:
                    named = f"[{host}]" if ":" in host else host
                    connection.send(f"OPTIONS rtsp://{named}:{port}/ RTSP/1.0\r\nCSeq: 1\r\n\r\n".encode())
                    _wait(connection, select.POLLIN, until, stop)
            return tuple(str(entry[4][0]).partition("%")[0] for entry in found)
        except OSError as error:
            why = _why(error, timeout_s)
    raise Unreachable(*why)


def _connect(connection: socket.socket, address: Any, end: float, stop: threading.Event) -> None:
    connection.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        connection.connect(address)
    _wait(connection, select.POLLOUT, end, stop)
    code = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


def _wait(connection: socket.socket, event: int, end: float, stop: threading.Event) -> None:
    ready = select.poll()
    ready.register(connection, event)
    while not ready.poll(1000 * max(0.0, min(_SLICE_S, end - time.monotonic()))):
        if stop.is_set():
            raise Unreachable("failed", "stopped")
        if time.monotonic() >= end:
            raise TimeoutError


def why_no_tls(host: str, port: int, verify: bool, ca_file: str, timeout_s: float) -> Unreachable | None:
    """What is wrong with TLS at a port that can be reached; None when all is well."""
    context = ssl.create_default_context(cafile=ca_file or None)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    try:
        with socket.create_connection((host, port), timeout=timeout_s) as plain:
            context.wrap_socket(plain, server_hostname=host).close()
    except ssl.SSLCertVerificationError as error:
        return Unreachable("tls", f"the camera's certificate isn't valid: {error.verify_message}")
    except ssl.SSLError as error:
        return Unreachable("tls", f"no TLS with the camera: {error.reason or 'handshake failed'}")
    except OSError as error:
        return Unreachable(*_why(error, timeout_s))
    return None


def _why(error: OSError, timeout_s: float) -> tuple[str, str]:
    if isinstance(error, TimeoutError):
        return "timed-out", f"no answer within {timeout_s:g} s"
    if isinstance(error, ConnectionRefusedError):
        return "refused", "connection refused"
    return "unreachable", f"can't be reached: {error.strerror or 'network error'}"
