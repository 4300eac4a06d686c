"""A camera that misbehaves on purpose: a small RTSP server over raw sockets, each of whose answers a test may change.

    clip = encode(make_scene(640, 360), coding=Coding(container="raw"))     # Annex B, H.264 or H.265
    with RogueCamera(clip.path) as camera:                                  # well: plays the clip, looped, TCP or UDP
        camera.script = Script(on={"DESCRIBE": redirect("rtsp://127.0.0.2:1/x")})
        ...                                                                 # point a client at camera.url
        camera.script = Script()                                            # well again

``camera.script`` may be changed at any time; each request, frame and packet looks at it anew. ``camera.requests`` are
those that came, ``camera.connections`` counts connections, ``camera.cut()`` (``reset=True``: RST) ends them,
``camera.port`` stays over ``close_port()`` and ``open_port()``.

``Script.on`` has a hook for a method (or "*" for any other, or "ACCEPT", called with a Request of no URL before
anything is read): ``hook(request, answer) -> Answer | bytes | Iterable[bytes] | None``. ``answer`` is what a well
camera would say. Bytes are sent as they are, an iterable until it ends or the client goes (so it may be endless), None
is silence. Raise ``Close`` to close (``Close(reset=True)``: RST). Ready-made: ``redirect``, ``status``, ``header``,
``silence``, ``close``, ``endless``.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from tests.cameras.rtp import H264, H265, PAYLOAD_TYPE, payloads, pictures, sdp
from tests.cameras.rtsp import Answer, Request, interleaved, take_request


class Close(Exception):
    """Raised by a hook: the connection ends here."""

    def __init__(self, reset: bool = False):
        self.reset = reset


Said: TypeAlias = "Answer | bytes | Iterable[bytes] | None"
Hook: TypeAlias = Callable[[Request, Answer], Said]


@dataclass(frozen=True)
class Script:
    """What is not as with a well camera.

    ``sdp`` changes the text of the SDP. ``frame(n, nals)`` changes the NAL units (without start codes) of the n-th
    picture of the connection; an empty list leaves it out. ``packet(data)`` changes an RTP packet; None leaves it out.
    ``timestamp(n, ticks)`` changes the RTP time of picture n (90 kHz). ``media`` is sent instead of the clip, as it is,
    over the RTSP connection (so it needs its own interleaving, see ``interleaved``). ``frames`` ends the sending after
    so many pictures; the connection stays. ``drop_keyframes`` leaves out keyframes and parameter sets, in the SDP too.
    """

    on: Mapping[str, Hook] = field(default_factory=dict)
    sdp: Callable[[str], str] = lambda text: text
    frame: Callable[[int, list[bytes]], list[bytes]] = lambda n, nals: nals
    packet: Callable[[bytes], bytes | None] = lambda data: data
    timestamp: Callable[[int, int], int] = lambda n, ticks: ticks
    media: Iterable[bytes] | None = None
    frames: int | None = None
    drop_keyframes: bool = False


def redirect(location: str, code: int = 302) -> Hook:
    return lambda request, answer: Answer(code, {"Location": location})


def status(code: int, **headers: str) -> Hook:
    return lambda request, answer: Answer(code, headers)


def header(name: str, value: str) -> Hook:
    """The usual answer with this header added or changed, unless it is an error."""

    def hook(request: Request, answer: Answer) -> Answer:
        return replace(answer, headers={**answer.headers, name: value}) if answer.status == 200 else answer

    return hook


def silence(request: Request, answer: Answer) -> None:
    """Never an answer; the connection stays."""


def close(reset: bool = False) -> Hook:
    def hook(request: Request, answer: Answer) -> None:
        raise Close(reset)

    return hook


def endless(start: bytes, more: bytes) -> Hook:
    """``start``, then ``more`` for ever: headers or a body that don't end."""
    return lambda request, answer: itertools.chain([start], itertools.repeat(more))


class RogueCamera:
    """See the module. ``user``, ``password`` and ``scheme`` ("digest", with ``algorithm`` "MD5" or "SHA-256"; or
    "basic") ask for credentials; ``tls`` makes it RTSPS."""

    def __init__(
        self, clip: Path, *, script: Script | None = None, fps: int = 25, h265: bool = False, host: str = "127.0.0.1",
        port: int = 0, user: str = "", password: str = "", scheme: str = "digest", algorithm: str = "MD5",
        tls: ssl.SSLContext | None = None,
    ):  # fmt: skip
        self.script = script or Script()
        self.requests: list[Request] = []
        self.connections = 0
        self.host, self.port = host, port
        self._codec = H265 if h265 else H264
        self._pictures = pictures(Path(clip).read_bytes(), self._codec)
        self._fps = fps
        self._user, self._password, self._scheme, self._algorithm = user, password, scheme, algorithm
        self._tls = tls
        self._open: dict[int, socket.socket] = {}
        self._to_reset: set[int] = set()
        self._listener: socket.socket | None = None
        self.open_port()

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"rtsp{'s' if self._tls else ''}://{host}:{self.port}/live"

    def __enter__(self) -> RogueCamera:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self.close_port()
        self.cut()

    def open_port(self) -> None:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self.host, self.port))
        listener.listen(128)
        self.port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def close_port(self) -> None:
        """New connections are refused."""
        if self._listener:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # close alone wouldn't wake the thread in accept
            self._listener.close()
            self._listener = None

    def cut(self, reset: bool = False) -> None:
        """Ends all connections; with RST if ``reset``."""
        for number, connection in list(self._open.items()):
            if reset:
                self._to_reset.add(number)
            _end(connection, reset)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection, self.connections), daemon=True).start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        reset = False
        try:
            if self._tls:
                connection = self._tls.wrap_socket(connection, server_side=True)
            self._open[number] = connection
            _Session(self, connection, number).run()
        except Close as asked:
            reset = asked.reset
        except (OSError, ValueError):
            pass  # the client went, or said something that isn't RTSP
        finally:
            self._open.pop(number, None)
            _end(connection, reset or number in self._to_reset)

    # ---- what a well camera says

    def answer(self, request: Request) -> Answer:
        if self._user and request.method != "OPTIONS" and not self._is_allowed(request):
            if self._scheme == "basic":
                return Answer(401, {"WWW-Authenticate": 'Basic realm="rogue"'})
            challenge = f'Digest realm="rogue", nonce="5ca1ab1e", algorithm={self._algorithm}'
            return Answer(401, {"WWW-Authenticate": challenge})
        match request.method:
            case "OPTIONS":
                return Answer(headers={"Public": "OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER"})
            case "DESCRIBE":
                base = {"Content-Type": "application/sdp", "Content-Base": request.url.rstrip("/") + "/"}
                return Answer(headers=base, body=self.script.sdp(self.sdp()).encode())
            case "SETUP" | "PLAY" | "TEARDOWN" | "GET_PARAMETER":
                return Answer(headers={"Session": "4711"})
        return Answer(501)

    def sdp(self) -> str:
        sets = [n for n in self._pictures[0] if self._codec.kind(n) in self._codec.parameters]
        return sdp(self._codec, self.host, [] if self.script.drop_keyframes else sets)

    def _is_allowed(self, request: Request) -> bool:
        given = request.headers.get("authorization", "")
        if self._scheme == "basic":
            return given == "Basic " + base64.b64encode(f"{self._user}:{self._password}".encode()).decode()
        parts = dict(re.findall(r'(\w+)="?([^",]*)"?', given))
        hashed = hashlib.md5 if self._algorithm == "MD5" else hashlib.sha256
        ha1 = hashed(f"{self._user}:rogue:{self._password}".encode()).hexdigest()
        ha2 = hashed(f"{request.method}:{parts.get('uri')}".encode()).hexdigest()
        return parts.get("response") == hashed(f"{ha1}:5ca1ab1e:{ha2}".encode()).hexdigest()

    def frames(self) -> Iterator[tuple[int, list[bytes]]]:
        """(time in 90 kHz ticks, NAL units) of each picture to send, as the script then wants them."""
        for n in itertools.count():
            script = self.script
            if script.frames is not None and n >= script.frames:
                return
            nals = list(self._pictures[n % len(self._pictures)])
            if script.drop_keyframes:
                nals = [nal for nal in nals if self._codec.kind(nal) not in self._codec.key]
            ticks = script.timestamp(n, n * 90_000 // self._fps)
            yield ticks & 0xFFFFFFFF, script.frame(n, nals)

    def packets(self) -> Iterator[list[bytes]]:
        """RTP packets of each picture."""
        sequence = 0
        for ticks, nals in self.frames():
            found = [p for nal in nals for p in payloads(nal, self._codec)]
            out = []
            for i, payload in enumerate(found):
                marker = 0x80 if i == len(found) - 1 else 0
                rtp = struct.pack("!BBHII", 0x80, marker | PAYLOAD_TYPE, sequence & 0xFFFF, ticks, 0x0BADCA3E)
                changed = self.script.packet(rtp + payload)
                sequence += 1
                if changed is not None:
                    out.append(changed)
            yield out

    @property
    def period(self) -> float:
        return 1 / self._fps


class _Session:
    """One connection."""

    def __init__(self, camera: RogueCamera, connection: socket.socket, number: int):
        self._camera, self._socket, self._number = camera, connection, number
        self._sending = threading.Lock()
        self._ended = threading.Event()
        self._udp: tuple[socket.socket, tuple[str, int]] | None = None
        self._buffer = b""

    def run(self) -> None:
        try:
            greeting = self._camera.script.on.get("ACCEPT")
            if greeting:
                self._say(greeting(Request("ACCEPT", "", {}, self._number), Answer()), "0")
            while request := self._read():
                self._camera.requests.append(request)
                self._handle(request)
                if request.method == "TEARDOWN":
                    return
        finally:
            self._ended.set()
            if self._udp:
                self._udp[0].close()

    def _handle(self, request: Request) -> None:
        answer = self._camera.answer(request)
        if request.method == "SETUP" and answer.status == 200:
            answer = replace(answer, headers={**answer.headers, "Transport": self._transport(request)})
        on = self._camera.script.on
        hook = on.get(request.method, on.get("*"))
        said = hook(request, answer) if hook else answer
        self._say(said, request.headers.get("cseq", "0"))
        if request.method == "PLAY" and isinstance(said, Answer) and said.status == 200:
            threading.Thread(target=self._play, daemon=True).start()

    def _say(self, said: Said, cseq: str) -> None:
        if isinstance(said, Answer):
            said = said.encode(cseq)
        for part in [said] if isinstance(said, bytes) else said or ():
            self._send(part)

    def _send(self, data: bytes) -> None:
        with self._sending:
            self._socket.sendall(data)

    def _transport(self, request: Request) -> str:
        asked = request.headers.get("transport", "")
        ports = re.search(r"client_port=(\d+)", asked)
        if not ports:
            return "RTP/AVP/TCP;unicast;interleaved=0-1"
        udp = socket.socket(self._socket.family, socket.SOCK_DGRAM)
        udp.bind((self._camera.host, 0))
        self._udp = udp, (self._socket.getpeername()[0], int(ports[1]))
        port = udp.getsockname()[1]
        return f"RTP/AVP;unicast;client_port={ports[1]}-{int(ports[1]) + 1};server_port={port}-{port + 1}"

    def _play(self) -> None:
        camera = self._camera
        with contextlib.suppress(OSError):
            if camera.script.media is not None:
                for part in camera.script.media:
                    self._send(part)
                return
            due = time.monotonic()
            for packets in camera.packets():
                if self._ended.wait(max(0.0, due - time.monotonic())):
                    return
                due += camera.period
                if self._udp:
                    for packet in packets:
                        self._udp[0].sendto(packet, self._udp[1])
                else:
                    self._send(b"".join(interleaved(0, p) for p in packets))

    def _read(self) -> Request | None:
        """The next request; RTCP that comes between is dropped. None: the client has gone."""
        while True:
            request, self._buffer = take_request(self._buffer, self._number)
            if request:
                return request
            more = self._socket.recv(65536)
            if not more:
                return None
            self._buffer += more


def _end(connection: socket.socket, reset: bool) -> None:
    with contextlib.suppress(OSError):
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.shutdown(socket.SHUT_RD)  # wakes the thread that reads; while it does, close sends nothing
        else:
            connection.shutdown(socket.SHUT_RDWR)
    with contextlib.suppress(OSError):
        connection.close()
