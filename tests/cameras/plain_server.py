"""Serves looped clips as live cameras over RTSP, interleaved in TCP, with one thread and few system calls.

A camera plays whether somebody watches or not: its n-th frame is due at a time that follows from the camera's number
alone, so any process can say which frame was shown when. Who begins to watch gets the camera's next keyframe first.
"""

from __future__ import annotations

import heapq
import selectors
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic_ns
from typing import TypeAlias

from tests.cameras.plain_clip import Loop
from tests.cameras.rtp import sdp
from tests.cameras.rtsp import Answer, Request, interleaved, take_request

GOLDEN = 0.6180339887498949
REPORT_NS = 5_000_000_000
"""A sender report so often (RFC 3550, 6.2), and before the first frame."""
MAX_REQUEST = 65_536
_NTP_EPOCH_S = 2_208_988_800  # from 1900 to 1970
_METHODS = "OPTIONS, DESCRIBE, SETUP, PLAY, GET_PARAMETER, TEARDOWN"

Handle: TypeAlias = Callable[[int], None]


@dataclass(frozen=True)
class Clock:
    """When the cameras began: CLOCK_MONOTONIC and UTC of one moment, in ns."""

    mono_ns: int
    utc_ns: int


def phase_ns(loop: Loop, camera: int) -> int:
    """How far into the loop a camera was when all began: multiples of the golden ratio spread both the keyframes and
    the moments inside a frame's time evenly, however many cameras there are."""
    return int(camera * GOLDEN % 1 * loop.at_ns(len(loop.units)))


def frame_at(loop: Loop, camera: int, clock: Clock, mono_ns: int) -> int:
    """The camera's newest frame at that time, counted in sending order."""
    passed = mono_ns - clock.mono_ns + phase_ns(loop, camera)
    n = passed * loop.fps.numerator // (1_000_000_000 * loop.fps.denominator)
    return n + 1 if loop.at_ns(n + 1) <= passed else n  # at_ns rounds down


def due_ns(loop: Loop, camera: int, clock: Clock, n: int) -> int:
    """When the camera sends its frame ``n``, on CLOCK_MONOTONIC."""
    return clock.mono_ns - phase_ns(loop, camera) + loop.at_ns(n)


def source_of(camera: int) -> int:
    """A camera's SSRC."""
    return 0x0CA00000 + camera


def time_of(loop: Loop, camera: int, shown: int) -> int:
    """RTP time of display frame ``shown``. It begins somewhere else for each camera, as RFC 3550 (5.1) wants."""
    return (camera * 2_654_435_761 + loop.ticks(shown)) & 0xFFFFFFFF


def report(source: int, utc_ns: int, time: int, packets: int, payload_bytes: int) -> bytes:
    """A sender report and the name that must go with it (RFC 3550, 6.4.1 and 6.5): ``time`` in RTP ticks was at
    ``utc_ns``; ``packets`` and ``payload_bytes`` were sent so far."""
    seconds, rest = divmod(utc_ns, 1_000_000_000)
    fraction = (rest << 32) // 1_000_000_000
    numbers = (seconds + _NTP_EPOCH_S) & 0xFFFFFFFF, fraction, time, packets & 0xFFFFFFFF, payload_bytes & 0xFFFFFFFF
    name = b"camera"
    chunk = struct.pack("!IBB", source, 1, len(name)) + name
    chunk += bytes(4 - len(chunk) % 4)  # ends with at least one zero
    sender = struct.pack("!BBHIIIIII", 0x80, 200, 6, source, *numbers)
    return sender + struct.pack("!BBH", 0x81, 202, len(chunk) // 4) + chunk


@dataclass(eq=False)
class Watcher:
    """One connection. ``waiting``: nothing goes out before the next keyframe. ``rest``: what the socket didn't take."""

    socket: socket.socket
    number: int
    camera: int | None = None  # since SETUP
    playing: bool = False
    waiting: bool = True
    sequence: int = 0
    packets: int = 0
    payload_bytes: int = 0
    reported_ns: int = 0
    inbox: bytes = b""
    rest: bytearray = field(default_factory=bytearray)


class Server:
    """The cameras ``numbers``, at paths /camN, for whoever connects to ``listener``. ``run`` serves until ``stop``
    becomes readable."""

    def __init__(self, loop: Loop, numbers: range, listener: socket.socket, clock: Clock):
        self._loop, self._numbers, self._clock = loop, numbers, clock
        self._listener = listener
        listener.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._watchers: dict[int, set[Watcher]] = {}  # by camera; those that play
        self._due: list[tuple[int, int, int]] = []  # (when, camera, frame) of each camera that is watched
        self._connections = 0
        # A second of the stream, so that a slow client's backlog stays small, but always a whole keyframe.
        per_second = sum(u.data.size for u in loop.units) * loop.fps / len(loop.units)
        self._send_buffer = max(int(per_second), 2 * loop.largest)

    def run(self, stop: int) -> None:
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(stop, selectors.EVENT_READ, None)
        while True:
            wait = max(0, self._due[0][0] - monotonic_ns()) / 1e9 if self._due else None
            for key, events in self._selector.select(wait):
                if key.data is None:
                    return
                key.data(events)
            now = monotonic_ns()
            while self._due and self._due[0][0] <= now:
                _, camera, n = heapq.heappop(self._due)
                self._play(camera, n)

    # ---- pictures

    def _play(self, camera: int, n: int) -> None:
        watchers = self._watchers.get(camera)
        if not watchers:
            self._watchers.pop(camera, None)
            return
        loop = self._loop
        unit = loop.units[n % len(loop.units)]
        time = time_of(loop, camera, loop.display(n))
        at = due_ns(loop, camera, self._clock, n)
        for watcher in tuple(watchers):
            if watcher.rest:
                watcher.waiting = True
            if watcher.rest or (watcher.waiting and not unit.key):
                continue
            watcher.waiting = False
            data: memoryview | bytes = unit.stamp(watcher.sequence, time, source_of(camera))
            if at - watcher.reported_ns >= REPORT_NS:
                watcher.reported_ns = at
                data = self._report(camera, n, at, watcher) + bytes(data)
            watcher.sequence = (watcher.sequence + unit.packets) & 0xFFFF
            watcher.packets += unit.packets
            watcher.payload_bytes += unit.payload_bytes
            self._send(watcher, data)
        heapq.heappush(self._due, (due_ns(loop, camera, self._clock, n + 1), camera, n + 1))

    def _report(self, camera: int, n: int, at_ns: int, watcher: Watcher) -> bytes:
        """A picture is sent ``lead`` frames after it was taken, or sooner after it where it is shown later."""
        utc_ns = at_ns - self._clock.mono_ns + self._clock.utc_ns
        time = time_of(self._loop, camera, n + self._loop.lead)
        return interleaved(1, report(source_of(camera), utc_ns, time, watcher.packets, watcher.payload_bytes))

    def _send(self, watcher: Watcher, data: memoryview | bytes) -> None:
        try:
            sent = watcher.socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._close(watcher)
            return
        if sent < len(data):
            watcher.rest += data[sent:]
            self._watch(watcher)

    def _watch(self, watcher: Watcher) -> None:
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if watcher.rest else 0)
        self._selector.modify(watcher.socket, events, self._selector.get_key(watcher.socket).data)

    # ---- requests

    def _accept(self, _events: int) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return  # it has gone already, or there are too many open files; both pass
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._send_buffer)
        self._connections += 1
        watcher = Watcher(connection, self._connections)
        self._selector.register(connection, selectors.EVENT_READ, lambda events: self._ready(watcher, events))

    def _ready(self, watcher: Watcher, events: int) -> None:
        if events & selectors.EVENT_WRITE and watcher.rest:
            rest, watcher.rest = bytes(watcher.rest), bytearray()
            self._send(watcher, rest)
            if watcher.socket.fileno() < 0:
                return
            if not watcher.rest:
                self._watch(watcher)
        if events & selectors.EVENT_READ:
            self._read(watcher)

    def _read(self, watcher: Watcher) -> None:
        try:
            more = watcher.socket.recv(65_536)
            watcher.inbox += more
            while more:
                request, watcher.inbox = take_request(watcher.inbox, watcher.number)
                if request is None:
                    break
                self._send_answer(watcher, request)
                if watcher.socket.fileno() < 0:
                    return
        except BlockingIOError:
            return
        except (OSError, ValueError):
            more = b""  # the client went, or said something that isn't RTSP
        if not more or len(watcher.inbox) > MAX_REQUEST:
            self._close(watcher)

    def _send_answer(self, watcher: Watcher, request: Request) -> None:
        data = self._answer(watcher, request).encode(request.headers.get("cseq", "0"))
        if watcher.rest:  # not into the middle of a packet
            watcher.rest += data
            if len(watcher.rest) > self._send_buffer + MAX_REQUEST:  # asks and asks, and never reads
                self._close(watcher)
        else:
            self._send(watcher, data)
        if request.method == "TEARDOWN":
            self._close(watcher)

    def _answer(self, watcher: Watcher, request: Request) -> Answer:
        """What the camera says; a PLAY or SETUP that is allowed takes effect."""
        session = {"Session": f"{watcher.number};timeout=60"}
        if request.method == "OPTIONS":
            return Answer(headers={"Public": _METHODS})
        if request.method == "GET_PARAMETER":  # by which clients say that they are there
            return Answer(headers=session if watcher.camera is not None else {})
        if request.method not in _METHODS.split(", "):
            return Answer(501, {"Public": _METHODS})
        camera = self._camera_of(request.url)
        if camera is None:
            return Answer(404)
        if request.method == "DESCRIBE":
            host = self._listener.getsockname()[0]
            headers = {"Content-Type": "application/sdp", "Content-Base": request.url.rstrip("/") + "/"}
            return Answer(headers=headers, body=sdp(self._loop.codec, host, self._loop.sets).encode())
        if request.method == "SETUP":
            asked = request.headers.get("transport", "").split(",")
            if not any(one.strip().upper().startswith("RTP/AVP/TCP") for one in asked):
                return Answer(461)
            if watcher.playing:
                return Answer(455)
            watcher.camera = camera
            return Answer(headers={**session, "Transport": "RTP/AVP/TCP;unicast;interleaved=0-1"})
        if watcher.camera is None:
            return Answer(455)
        if request.headers.get("session", "").partition(";")[0] != str(watcher.number) or camera != watcher.camera:
            return Answer(454)
        if request.method == "TEARDOWN":
            return Answer(headers=session)
        track = request.url.partition("/trackID=")[0].rstrip("/") + "/trackID=0"
        time = self._begin(watcher, camera)
        info = f"url={track};seq={watcher.sequence};rtptime={time}"
        return Answer(headers={**session, "Range": "npt=now-", "RTP-Info": info})

    def _camera_of(self, url: str) -> int | None:
        name = url.partition("://")[2].partition("/")[2].partition("/")[0]
        number = name[3:]
        if not (name.startswith("cam") and number.isascii() and number.isdigit()):
            return None
        return int(number) if int(number) in self._numbers else None

    def _begin(self, watcher: Watcher, camera: int) -> int:
        """Lets the camera's frames come, from its next keyframe on; that one's RTP time."""
        loop = self._loop
        n = frame_at(loop, camera, self._clock, monotonic_ns()) + 1
        if camera not in self._watchers:
            self._watchers[camera] = set()
            heapq.heappush(self._due, (due_ns(loop, camera, self._clock, n), camera, n))
        if not watcher.playing:
            watcher.playing = True
            watcher.sequence = (camera * 40_503 + watcher.number) & 0xFFFF
            watcher.reported_ns = -REPORT_NS
            self._watchers[camera].add(watcher)
        while not loop.units[n % len(loop.units)].key:
            n += 1
        return time_of(loop, camera, loop.display(n))

    def _close(self, watcher: Watcher) -> None:
        if watcher.socket.fileno() < 0:
            return
        if watcher.camera is not None:
            self._watchers.get(watcher.camera, set()).discard(watcher)
        self._selector.unregister(watcher.socket)
        watcher.socket.close()
