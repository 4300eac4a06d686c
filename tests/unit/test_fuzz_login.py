"""What arrives at a camera as the login is what was given, byte by byte, or a clear error: FFmpeg cuts long ones."""

from __future__ import annotations

import base64
import re
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from facedetd.capture.source import ErrorKind, SourceError, open_source, silence_ffmpeg
from facedetd.config.urls import login_problem
from facedetd.types import Secret, StreamSpec


class BasicCamera:
    """Asks everyone for Basic authentication, lets nobody in, and keeps what they said."""

    def __init__(self) -> None:
        self.logins: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                while request := connection.recv(65536):
                    number = re.search(rb"CSeq: (\d+)", request)
                    login = re.search(rb"Authorization: Basic (\S*)", request)
                    if login:
                        self.logins.append(base64.b64decode(login[1]))
                    status = b"200 OK" if request.startswith(b"OPTIONS") else b"401 Unauthorized"
                    asked = b'WWW-Authenticate: Basic realm="x"\r\n'
                    connection.sendall(
                        b"RTSP/1.0 %s\r\nCSeq: %s\r\n%s\r\n" % (status, number[1] if number else b"1", asked)
                    )

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


@pytest.fixture
def camera() -> Iterator[BasicCamera]:
    silence_ffmpeg()
    made = BasicCamera()
    yield made
    made.close()


def log_in(camera: BasicCamera, username: str, password: str) -> SourceError:
    spec = StreamSpec("cam", f"rtsp://127.0.0.1:{camera.port}/x", username=username)
    with pytest.raises(SourceError) as caught:
        open_source(spec, Secret(password), 20, 20, threading.Event(), time.monotonic_ns)
    return caught.value


@pytest.mark.parametrize(
    ("username", "password"),
    [
        ("user", "p@ss:w/ö rd%2F\"'\\$#?&"),
        ("user", "a" * 122),
        ("user", "ü" * 61),
        ("user", "#" * 40),
        ("user", "a\r\nX-Evil: 1\t\x7f\u2028\u00a0"),
        ('"a b"/@é', "%00%zz%%"),
        ("user", "[::1]@host:554/"),
    ],
)
def test_any_login_arrives_as_it_was_given(camera: BasicCamera, username: str, password: str) -> None:
    assert log_in(camera, username, password).kind is ErrorKind.UNAUTHORISED
    assert camera.logins
    assert set(camera.logins) == {f"{username}:{password}".encode()}


@pytest.mark.parametrize("password", ["a" * 123, "#" * 41, "a\0b"])
def test_what_ffmpeg_would_cut_is_never_sent(camera: BasicCamera, password: str) -> None:
    error = log_in(camera, "user", password)
    assert error.kind is ErrorKind.UNAUTHORISED and "can't be used" in str(error) and password not in str(error)
    assert not camera.logins


@pytest.mark.parametrize(("username", "password"), [("viewer", "\ud800"), ("\udfff", None), ("a", "b\ud83dc")])
def test_half_a_character_is_refused_not_raised(username: str, password: str | None) -> None:
    assert "isn't one" in login_problem(username, password)
