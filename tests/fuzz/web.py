"""The HTTP server of the metrics: any bytes in, an HTTP answer or nothing out, and the next scrape works."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from facedetd.metrics.answers import Answer
from facedetd.metrics.server import MetricsServer
from tests.fuzz.target import Fed, Target, expect

STATUSES = (b"200", b"400", b"404", b"405", b"431")
GOOD = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: text/plain\r\nAccept-Encoding: gzip\r\n\r\n"


class _Web:
    def __init__(self, port: int, loop: asyncio.AbstractEventLoop):
        self._port, self.errors = port, []  # type: ignore[var-annotated]
        loop.set_exception_handler(lambda _, context: self.errors.append(context))

    def feed(self, data: bytes) -> None:
        answer = self._ask(data)
        if answer:
            expect(answer[:9] == b"HTTP/1.1 " and answer[9:12] in STATUSES, f"the answer begins with {answer[:40]!r}")
            head, blank, body = answer.partition(b"\r\n\r\n")
            expect(blank, "an answer without its end of headers")
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            expect(len(body) in (0, length), "the length doesn't fit the body")
        expect(not self.errors, f"the loop says: {self.errors[:1]}")

    def _ask(self, data: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", self._port), 30) as sock:
            answer = b""
            try:
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
                while part := sock.recv(65536):
                    answer += part
            except OSError:  # it needn't hear all of a bad request
                return b""
            return answer

    def good(self) -> None:
        expect(self._ask(GOOD).startswith(b"HTTP/1.1 200"), "a good scrape fails")


@contextmanager
def _web(_: Path) -> Iterator[Fed]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = MetricsServer(lambda: lambda accept, encoding: Answer(f"a 1\n{accept}".encode("latin-1"), "text/plain"))
    asyncio.run_coroutine_threadsafe(server.start("127.0.0.1:0"), loop).result(30)
    try:
        yield _Web(server.port or 0, loop)
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


_SEEDS = (
    GOOD,
    b"HEAD /metrics HTTP/1.0\r\n\r\n",
    b"POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
    b"GET /x?y HTTP/1.1\r\n\r\n",
)
_WORDS = (b"\r\n", b"\r\n\r\n", b"\n", b" ", b":", b"\0", b"HTTP/2.0", b"/metrics", b"GET ", b"A: b\r\n" * 300, b"\xff")
TARGETS = {"web": Target(_web, lambda: _SEEDS, _WORDS)}
