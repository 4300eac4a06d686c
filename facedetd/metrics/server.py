"""A small HTTP/1.1 server for ``GET /metrics`` on the loopback.

On the daemon's event loop, so that StatsView is taken on its thread; the text is made on a thread of its own.
One request a connection, everything bounded: connections, size of a request, time for it and for its answer.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from facedetd.metrics.answers import Answers, Kind, Take
from facedetd.threads import no_thread, started

MAX_CONNECTIONS = 16
MAX_HEAD_BYTES = 8192
HEAD_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 10.0
FRESH_S = 0.2
"""So long an answer is given again: who asks without a pause costs no more than five small scrapes a second."""

_log = logging.getLogger(__name__)


class MetricsError(Exception):
    """The metrics can't be served; the message names the address."""


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    headers: dict[str, str]


class _BadRequest(Exception):
    pass


def parse_listen(listen: str) -> tuple[str, int]:
    """``127.0.0.1:9464``, ``[::1]:9464`` or ``localhost:9464`` as (host, port); port 0 takes a free one.

    Raises MetricsError on anything else: the metrics have no password, so they don't leave the machine.
    """
    host, colon, port = listen.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    if (
        not colon
        or not host
        or not (port.isascii() and port.isdigit())
        or int(port) > 65535
        or (":" in host) != bracketed
    ):
        raise MetricsError(f"metrics.listen {listen!r}: want HOST:PORT, such as 127.0.0.1:9464 or [::1]:9464")
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise MetricsError(f"metrics.listen {listen!r}: want an address of the loopback: 127.0.0.1, [::1] or localhost")
    return host, int(port)


class MetricsServer:
    def __init__(
        self,
        take: Take,
        *,
        max_connections: int = MAX_CONNECTIONS,
        head_timeout_s: float = HEAD_TIMEOUT_S,
        answer_timeout_s: float = ANSWER_TIMEOUT_S,
        fresh_s: float = FRESH_S,
        kind: Kind = lambda accept, accept_encoding: (accept, accept_encoding),
    ):
        self._max_connections = max_connections
        self._head_timeout_s = head_timeout_s
        self._answer_timeout_s = answer_timeout_s
        self._answers = Answers(take, kind, fresh_s)
        self._server: asyncio.base_events.Server | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._silent: dict[asyncio.Task[None], asyncio.StreamWriter] = {}  # no whole request yet; oldest first
        self._failing = False

    @property
    def port(self) -> int | None:
        return int(self._server.sockets[0].getsockname()[1]) if self._server and self._server.sockets else None

    async def start(self, listen: str) -> None:
        """Raises MetricsError when ``listen`` is bad or can't be bound, or no thread can be started."""
        host, port = parse_listen(listen)
        try:
            threads = started(1, "metrics")
        except RuntimeError:
            raise MetricsError(f"metrics.listen {listen!r}: {no_thread('for it')}") from None
        try:
            self._server = await asyncio.start_server(self._connected, host, port, limit=MAX_HEAD_BYTES)
        except OSError as error:
            threads.shutdown(wait=False)
            raise MetricsError(f"metrics.listen {listen!r}: can't listen there: {error.strerror or error}") from None
        self._threads = threads

    async def stop(self) -> None:
        """Close the port and every connection."""
        if self._server is None or self._threads is None:
            return
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        self._answers.stop()
        await self._server.wait_closed()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._server = self._threads = None

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._connections) >= self._max_connections and not self._drop_oldest_silent():
            writer.transport.abort()
            return
        self._connections.add(task)
        # With no buffer of its own, drain() returns when the kernel has everything: the timeout covers it all.
        writer.transport.set_write_buffer_limits(0)
        try:
            self._silent[task] = writer
            answer = await self._answer(reader, task)
            writer.write(answer)
            await asyncio.wait_for(writer.drain(), self._answer_timeout_s)
            writer.close()
        except (asyncio.TimeoutError, asyncio.IncompleteReadError, OSError):  # slow, half-open or gone
            pass
        except asyncio.CancelledError:  # by stop(); asyncio's own callback would log it as an error
            pass
        finally:
            if not writer.is_closing():
                writer.transport.abort()
            self._silent.pop(task, None)
            self._connections.discard(task)

    def _drop_oldest_silent(self) -> bool:
        """Make room: whoever connected and said nothing for longest goes, so that such can't keep a scraper out."""
        if not self._silent:
            return False
        task = next(iter(self._silent))
        self._silent.pop(task).transport.abort()
        return True

    async def _answer(self, reader: asyncio.StreamReader, task: asyncio.Task[None]) -> bytes:
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), self._head_timeout_s)
            self._silent.pop(task, None)
            request = _parse(head)
        except asyncio.LimitOverrunError:
            return _plain("431 Request Header Fields Too Large", f"over {MAX_HEAD_BYTES} bytes of request\n")
        except _BadRequest:
            return _plain("400 Bad Request", "not an HTTP/1 request\n")
        if request.path != "/metrics":
            return _plain("404 Not Found", "only /metrics is here\n")
        if request.method not in ("GET", "HEAD"):
            return _plain("405 Method Not Allowed", "only GET\n", "Allow: GET, HEAD\r\n")
        try:
            wanted = request.headers.get("accept", ""), request.headers.get("accept-encoding", "")
            answer = await asyncio.wait_for(self._answers.give(self._threads, *wanted), self._answer_timeout_s)
        except asyncio.TimeoutError:
            return _plain("503 Service Unavailable", "the metrics took too long\n")
        except Exception:
            if not self._failing:
                _log.exception("a scrape failed; further failures are not logged until one succeeds")
            self._failing = True
            return _plain("500 Internal Server Error", "the metrics could not be made; see the daemon's log\n")
        self._failing = False
        encoding = f"Content-Encoding: {answer.encoding}\r\n" if answer.encoding else ""
        head = _head("200 OK", answer.content_type, len(answer.body), f"Vary: Accept, Accept-Encoding\r\n{encoding}")
        return head if request.method == "HEAD" else head + answer.body


def _parse(head: bytes) -> _Request:
    first, *lines = head[:-4].decode("latin-1").split("\r\n")
    parts = first.split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1.") or not parts[1].startswith("/"):
        raise _BadRequest
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise _BadRequest
        headers[name.lower()] = value.strip()
    return _Request(parts[0], parts[1].partition("?")[0], headers)


def _plain(status: str, text: str, more: str = "") -> bytes:
    return _head(status, "text/plain; charset=utf-8", len(text), more) + text.encode()


def _head(status: str, content_type: str, length: int, more: str = "") -> bytes:
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n"
        f"{more}Connection: close\r\n\r\n"
    ).encode("latin-1")
