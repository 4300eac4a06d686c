"""Opens a camera or a file and yields its packets. The only place where a password meets a URL.

Errors are :class:`SourceError` with a short reason; FFmpeg's own texts hold the URL and are never passed on.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from enum import Enum
from fractions import Fraction
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote

import av
import av.error
import av.logging
from av.codec.context import Flags as CodecFlags
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from facedetd.capture.diagnose import Unreachable, reach, why_no_tls
from facedetd.capture.guard import LedElsewhere, NotConfinable, run_guarded
from facedetd.capture.pacing import Pace, due
from facedetd.capture.silence import Silence
from facedetd.config.urls import login_problem, split_authority, split_host_port, url_with_credentials
from facedetd.types import Secret, StreamSpec, Transport

_S = 1_000_000_000
_PORTS = {"rtsp": 554, "rtsps": 322}
_SYSTEM_CA = "/etc/ssl/certs/ca-certificates.crt"
MAX_PIXELS = 35_651_584
"""The largest picture that is decoded: H.264's and H.265's level 6.2 (8192x4352; ITU-T H.265 table A.8). Without a
limit one camera could take a group's memory: a decoder holds up to 17 pictures, of 16384x16384 each 400 MB."""


class ErrorKind(str, Enum):
    REFUSED = "refused"
    UNAUTHORISED = "unauthorised"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not-found"
    UNREACHABLE = "unreachable"
    TIMED_OUT = "timed-out"
    STALLED = "stalled"
    CLOSED = "closed"
    TLS = "tls"
    SERVER = "server"
    LED_ELSEWHERE = "led-elsewhere"
    NO_VIDEO = "no-video"
    UNSUPPORTED = "unsupported"
    FAILED = "failed"


class SourceError(Exception):
    """Why a source can't be opened or read: one short reason that holds neither URL nor password."""

    def __init__(self, kind: ErrorKind, message: str):
        self.kind = kind
        super().__init__(message)


class Source(Protocol):
    """An open source. Used by one thread."""

    codec: str  # "h264", "hevc", "mjpeg", ...
    late: bool
    """Whether a packet comes out only when the next one begins to come in: FFmpeg's parser of H.264 and H.265 over
    RTP looks for the start of the next picture to know the end of one."""

    def packets(self) -> Iterator[Packet[VideoStream]]:
        """Packets as they come. One of size 0 drains the decoder: a file begins anew after it.
        Raises SourceError when no more come."""

    def close(self) -> None: ...


def silence_ffmpeg() -> None:
    """FFmpeg's log names URLs with their passwords: no line of it may reach stderr or a logger."""
    av.logging.set_level(None)


def open_source(
    spec: StreamSpec,
    secret: Secret | None,
    connect_s: float,
    read_s: float,
    stop: threading.Event,
    clock: Callable[[], int],
    *,
    mute: bool = False,
) -> Source:
    """Open what ``spec.url`` names, in at most about ``connect_s``. ``clock`` is CLOCK_MONOTONIC in ns; ``stop`` ends
    a file's waiting, and that for a camera's port. ``mute``: the camera didn't answer the last time, so see first
    whether it says anything. A camera can't make it talk to anybody else or read a file: see
    ``guard.py``. Raises SourceError."""
    scheme, authority, rest = split_authority(spec.url)
    if scheme == "file":
        return FileSource(unquote(rest), stop, clock)
    if scheme not in ("rtsp", "rtsps"):
        raise SourceError(ErrorKind.UNSUPPORTED, f"scheme {scheme!r} is not supported; allowed are rtsp, rtsps, file")
    return LiveSource(spec, scheme, authority, secret, connect_s, read_s, stop, clock, mute)


def live_options(spec: StreamSpec, scheme: str) -> dict[str, str]:
    """FFmpeg's options for a camera."""
    udp = spec.transport is Transport.UDP and scheme == "rtsp"
    options = {
        "rtsp_transport": "udp" if udp else "tcp",
        "allowed_media_types": "video",
        # Nothing but what this scheme needs: not http (tunnels), not file. And not rtsp itself: FFmpeg opens the URL
        # without, and would follow a redirect with it
        "protocol_whitelist": "tcp,udp,rtp" if udp else "tls,tcp" if scheme == "rtsps" else "tcp",
        # The SDP tells the codec, its parameter sets come again in band, the rate is measured: so no probing,
        # which takes a second (0.04 s to open instead of 1.1)
        "probesize": "32",
        "analyzeduration": "0",
        "threads": "1",
    }
    if scheme == "rtsps":
        options["tls_verify"] = "1" if spec.tls_verify else "0"
        # The FFmpeg in PyAV's wheel was built elsewhere: it doesn't know where this system keeps its CAs
        ca_file = spec.ca_file or os.environ.get("SSL_CERT_FILE", _SYSTEM_CA)
        if spec.tls_verify:
            options["ca_file"] = ca_file
    return options


class LiveSource:
    def __init__(
        self, spec: StreamSpec, scheme: str, authority: str, secret: Secret | None,
        connect_s: float, read_s: float, stop: threading.Event, clock: Callable[[], int], mute: bool,
    ):  # fmt: skip
        self._clock = clock
        self._read_ns = int(read_s * _S)
        if scheme == "rtsps" and spec.tls_verify and spec.ca_file and not Path(spec.ca_file).is_file():
            raise SourceError(ErrorKind.TLS, f"the CA file {spec.ca_file} can't be read")
        if problem := login_problem(spec.username, secret.value if secret else None):  # of a systemd credential
            raise SourceError(ErrorKind.UNAUTHORISED, f"the password can't be used: {problem}")
        try:
            host, port = split_host_port(authority.rpartition("@")[2])
        except ValueError as error:
            raise SourceError(ErrorKind.FAILED, f"the URL's host is bad: {error}") from None
        camera = host, port or _PORTS[scheme]
        began = clock()
        try:
            addresses = reach(*camera, connect_s, stop, knock=mute and scheme == "rtsp")
        except Unreachable as found:
            raise SourceError(ErrorKind(found.kind), str(found)) from None
        left_s = max(0.5, connect_s - (clock() - began) / _S)
        try:
            self._container, connections = _opened(spec, scheme, secret, addresses, camera[1], left_s, read_s)
        except LedElsewhere as found:
            raise SourceError(ErrorKind.LED_ELSEWHERE, f"the camera leads to {found}; {_NOT_FOLLOWED}") from None
        except NotConfinable as found:
            raise SourceError(
                ErrorKind.UNSUPPORTED, f"UDP can't be kept to the camera here ({found}): use TCP"
            ) from None
        except (av.error.FFmpegError, OSError, ValueError) as error:
            late = clock() - began > 0.95 * connect_s * _S
            kind, message = _why_camera(error)
            if kind is ErrorKind.UNAUTHORISED and secret is None:
                message = "the camera wants a username and a password, and the stream has none"
                if spec.username:
                    message = "the camera refuses the username: the stream has no password for it"
            if late:
                kind, message = ErrorKind.TIMED_OUT, f"no answer within {connect_s:g} s"
            elif scheme == "rtsps" and kind in (ErrorKind.FAILED, ErrorKind.CLOSED):
                why = why_no_tls(*camera, spec.tls_verify, spec.ca_file, connect_s)
                if why:
                    kind, message = ErrorKind(why.kind), str(why)
            raise SourceError(kind, message) from None
        try:
            self._silence = Silence(connections, self._read_ns, clock, stop)
        except OSError as error:
            self._container.close()
            raise SourceError(ErrorKind.FAILED, str(error)) from None
        try:
            self._stream = video_stream(self._container)
        except SourceError:
            self.close()
            raise
        self.codec = self._stream.codec_context.name
        self.late = self.codec in ("h264", "hevc")

    def packets(self) -> Iterator[Packet[VideoStream]]:
        silence = self._silence
        silence.since_ns = last = self._clock()
        try:
            for packet in self._container.demux(self._stream):
                silence.since_ns = None
                # At the end of its time FFmpeg first lets go of the packet its parser held
                if silence.ran_out(last):
                    raise self._stalled()
                if packet.size:
                    yield packet
                # What the packet's way took is not the camera's silence
                silence.since_ns = last = self._clock()
        except av.error.FFmpegError as error:
            if silence.ran_out(last, 0.95):
                raise self._stalled() from None
            kind, message = _why(error)
            if kind is ErrorKind.FAILED:
                kind, message = ErrorKind.CLOSED, "the connection broke"
            raise SourceError(kind, message) from None
        raise SourceError(ErrorKind.CLOSED, "the camera ended the stream")

    def _stalled(self) -> SourceError:
        return SourceError(ErrorKind.STALLED, f"no packet for {self._read_ns / _S:g} s")

    def close(self) -> None:
        self._silence.since_ns = self._clock()  # FFmpeg says TEARDOWN, and waits for a camera that has no room for it
        try:
            self._container.close()
        finally:
            self._silence.close()


def _opened(
    spec: StreamSpec, scheme: str, secret: Secret | None, addresses: tuple[str, ...], port: int,
    connect_s: float, read_s: float,
) -> tuple[InputContainer, list[socket.socket]]:  # fmt: skip
    """With its connections; without them it gives up a read by itself."""
    url = url_with_credentials(spec.url, spec.username, secret.value if secret else None)
    options = live_options(spec, scheme)

    def call(read_s: float | None = None) -> InputContainer:
        return av.open(url, format="rtsp", options=options, timeout=(connect_s, read_s))

    try:
        return run_guarded(call, addresses, port, InputContainer.close)
    except NotConfinable:
        if options["rtsp_transport"] == "udp":
            raise
        return call(read_s), []  # over TCP the protocol list is enough


class FileSource:
    """A file, looped at its own pace; its PTS go on over the loops."""

    def __init__(self, path: str, stop: threading.Event, clock: Callable[[], int]):
        self._path = path
        self._stop = stop
        self._clock = clock
        self._container, self._stream = self._open()
        self.codec = self._stream.codec_context.name
        self.late = False

    def _open(self) -> tuple[InputContainer, VideoStream]:
        try:
            container = av.open(self._path, options={"protocol_whitelist": "file", "threads": "1"})
        except (av.error.FFmpegError, OSError, ValueError) as error:
            kind, message = _why(error)
            if isinstance(error, av.error.InvalidDataError):
                kind, message = ErrorKind.UNSUPPORTED, "the file is no video that FFmpeg can read"
            raise SourceError(kind, f"{message}: {self._path}") from None
        try:
            return container, video_stream(container)
        except SourceError:
            container.close()
            raise

    def packets(self) -> Iterator[Packet[VideoStream]]:
        pace: Pace | None = None
        shift = 0  # ticks added to this loop's PTS
        time_ns = 0
        while True:
            first, end, count = None, 0, 0
            time_base = self._stream.time_base or Fraction(1, 90000)
            tick_ns = float(time_base * _S)
            frame_ns = int(_S / (self._stream.average_rate or self._stream.guessed_rate or 25))
            frame_ticks = int(Fraction(frame_ns, _S) / time_base)
            for packet in self._demux():
                if packet.size:
                    count += 1
                    if packet.pts is not None:
                        if first is None:
                            first = packet.pts
                            shift -= first
                        packet.pts += shift
                        end = max(end, packet.pts + (packet.duration or frame_ticks))
                    decoded = packet.pts if packet.dts is None or packet.pts is None else packet.dts + shift
                    time_ns = time_ns + frame_ns if decoded is None else int(decoded * tick_ns)
                    pace, wait_ns, lost_ns = due(pace, time_ns, self._clock())
                    if lost_ns:
                        lost = round(lost_ns / tick_ns)
                        shift, time_ns = shift + lost, time_ns + lost_ns
                        if packet.pts is not None:
                            packet.pts += lost
                            end = packet.pts + (packet.duration or frame_ticks)
                    if wait_ns > 0 and self._stop.wait(wait_ns / _S):
                        return
                yield packet
            if not count:
                raise SourceError(ErrorKind.NO_VIDEO, f"the file holds no picture: {self._path}")
            shift = end
            self._container.close()
            self._container, self._stream = self._open()

    def _demux(self) -> Iterator[Packet[VideoStream]]:
        try:
            yield from self._container.demux(self._stream)
        except av.error.FFmpegError as error:
            raise SourceError(ErrorKind.FAILED, f"{_why(error)[1]}: {self._path}") from None

    def close(self) -> None:
        self._container.close()


def video_stream(container: InputContainer) -> VideoStream:
    """The first video stream, its decoder set up for one thread and for carrying each packet's times to its frame.
    Raises SourceError."""
    if not container.streams.video:
        raise SourceError(ErrorKind.NO_VIDEO, "the source has no video stream")
    stream = container.streams.video[0]
    context = stream.codec_context
    if context is None:
        raise SourceError(ErrorKind.UNSUPPORTED, "the source's codec is not supported")
    # Parallelism is across streams. Not FFmpeg's low_delay: it breaks the order of B-frames.
    context.thread_count = 1
    context.flags |= CodecFlags.copy_opaque
    context.options = {"max_pixels": str(MAX_PIXELS)}
    return stream


def _why(error: Exception) -> tuple[ErrorKind, str]:
    for types, kind, message in _REASONS:
        if isinstance(error, types):
            return kind, message
    return ErrorKind.FAILED, "the source can't be opened"


def _why_camera(error: Exception) -> tuple[ErrorKind, str]:
    if isinstance(error, av.error.ArgumentError):  # rtsp isn't on the protocol list
        return ErrorKind.LED_ELSEWHERE, f"the camera answers with a redirect; {_NOT_FOLLOWED}"
    if isinstance(error, PermissionError):  # FFmpeg's word for an answer to PLAY that isn't 200
        return ErrorKind.SERVER, "the camera closed the connection or refuses to play"
    if isinstance(error, av.error.InvalidDataError):  # its word for no answer, too
        return ErrorKind.FAILED, "the camera closed the connection or said what isn't RTSP"
    return _why(error)


_NOT_FOLLOWED = "that is not followed: set the stream's url to where it leads, if that is yours"

_REASONS: tuple[tuple[tuple[type[Exception], ...], ErrorKind, str], ...] = (
    ((av.error.HTTPUnauthorizedError,), ErrorKind.UNAUTHORISED, "username or password refused"),
    ((av.error.HTTPForbiddenError,), ErrorKind.FORBIDDEN, "the camera forbids it (403)"),
    ((av.error.HTTPNotFoundError,), ErrorKind.NOT_FOUND, "no such stream on the camera (404)"),
    ((av.error.HTTPClientError,), ErrorKind.SERVER, "the camera refuses the request (4xx)"),
    ((av.error.HTTPServerError,), ErrorKind.SERVER, "the camera answers with an error of its own (5xx)"),
    ((ConnectionRefusedError,), ErrorKind.REFUSED, "connection refused"),
    ((ConnectionResetError, BrokenPipeError, EOFError), ErrorKind.CLOSED, "the camera closed the connection"),
    ((TimeoutError, av.error.ExitError), ErrorKind.TIMED_OUT, "timed out"),
    ((FileNotFoundError,), ErrorKind.NOT_FOUND, "no such file"),
    ((PermissionError,), ErrorKind.FAILED, "permission denied"),
    ((IsADirectoryError,), ErrorKind.UNSUPPORTED, "a directory, not a video file"),
    ((av.error.DecoderNotFoundError,), ErrorKind.UNSUPPORTED, "the source's codec is not supported"),
    ((av.error.InvalidDataError,), ErrorKind.FAILED, "data that FFmpeg can't read"),
)  # fmt: skip
