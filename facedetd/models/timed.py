"""HTTP that ends in time however slowly a server speaks. Python's own limit is for each wait for bytes: a server that
sends one now and then keeps within it for ever, in the headers as in the body."""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any


@dataclass(frozen=True, slots=True)
class Patience:
    """``idle_s`` for each wait, and none after ``until_s`` of the clock ``now`` (s)."""

    until_s: float
    idle_s: float
    now: Callable[[], float] = time.monotonic

    @property
    def left_s(self) -> float:
        return self.until_s - self.now()

    def wait_s(self) -> float:
        """How long the next wait may last. Raises TimeoutError when the time is up."""
        left_s = self.left_s
        if left_s <= 0:
            raise TimeoutError
        return min(self.idle_s, left_s)


class _Reads(io.RawIOBase):
    """What comes on ``sock``, through its ``raw`` file."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, patience: Patience):
        self._raw, self._sock, self._patience = raw, sock, patience

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._patience.wait_s())
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Answer(http.client.HTTPResponse):
    def __init__(self, patience: Patience, sock: socket.socket, *args: Any, **kwargs: Any):
        super().__init__(sock, *args, **kwargs)
        # All is read from it: status, headers, body, and before them a proxy's answer
        self.fp = io.BufferedReader(_Reads(self.fp.detach(), sock, patience))


class _Handler(urllib.request.AbstractHTTPHandler):
    patience: Patience

    def do_open(self, http_class: Any, req: urllib.request.Request, **args: Any) -> http.client.HTTPResponse:
        def connection(host: str, **others: Any) -> http.client.HTTPConnection:
            made: http.client.HTTPConnection = http_class(host, **{**others, "timeout": self.patience.wait_s()})
            made.response_class = partial(_Answer, self.patience)  # type: ignore[assignment]
            return made

        return super().do_open(connection, req, **args)


class _Plain(_Handler, urllib.request.HTTPHandler):
    pass


class _Secure(_Handler, urllib.request.HTTPSHandler):
    pass


def handlers(patience: Patience, tls: ssl.SSLContext) -> tuple[urllib.request.BaseHandler, ...]:
    """For urllib's opener, instead of its own for http and https."""
    plain, secure = _Plain(), _Secure(context=tls)
    plain.patience = secure.patience = patience
    return plain, secure
