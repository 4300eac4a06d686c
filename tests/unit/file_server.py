"""A loopback HTTP server whose answers a test writes down."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[[BaseHTTPRequestHandler], None]


class FileServer:
    """``answers`` maps paths to bytes (served with 200) or to functions that answer by hand."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answers: dict[str, bytes | Answer] = {}
        self.types: dict[str, str] = {}
        self.seen: list[tuple[str, dict[str, str]]] = []


@contextmanager
def file_server() -> Iterator[FileServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.seen.append((self.path, dict(self.headers.items())))
            answer = served.answers.get(self.path)
            if answer is None:
                self.send_error(404)
            elif callable(answer):
                answer(self)
            else:
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.send_header("Content-Type", served.types.get(self.path, "application/octet-stream"))
                self.end_headers()
                self.wfile.write(answer)

        def log_message(self, *_args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        served = FileServer(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()


def redirect_to(url: str, body: bytes | None = b"") -> Answer:
    """``body``: what comes with it; None: zeros without an end."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", url)
        if body is not None:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if body is None:
            _send_zeros(handler)
        else:
            handler.wfile.write(body)

    return answer


def cut_short(body: bytes, claimed: int) -> Answer:
    """Says ``claimed`` bytes, sends ``body``, and hangs up."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(claimed))
        handler.end_headers()
        handler.wfile.write(body)
        handler.close_connection = True

    return answer


def endless(handler: BaseHTTPRequestHandler) -> None:
    """No length, and never an end."""
    handler.send_response(200)
    handler.end_headers()
    _send_zeros(handler)


def dripping(times: int) -> Answer:
    """``times`` bytes of headers, one every 10 ms, then a whole answer."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        try:
            handler.wfile.write(b"HTTP/1.0 200 OK\r\nX-Slow: ")
            for _ in range(times):
                handler.wfile.write(b"x")
                time.sleep(0.01)
            handler.wfile.write(b"\r\nContent-Length: 2\r\n\r\nok")
        except OSError:
            handler.close_connection = True

    return answer


def _send_zeros(handler: BaseHTTPRequestHandler) -> None:
    try:
        while True:
            handler.wfile.write(bytes(65536))
    except OSError:
        handler.close_connection = True


def silent_for(event: threading.Event) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        event.wait(30)
        handler.close_connection = True

    return answer
