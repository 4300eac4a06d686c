"""Starts the camera server and speaks to it; knows which frame a camera showed at which time."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

from tests.cameras.encode import Clip
from tests.cameras.faces import Box

SYSTEM_PYTHON = "/usr/bin/python3"
"""Debian's own: the GStreamer bindings come as packages for it."""

_BASE_PACKAGES = ("python3-gi", "gir1.2-gst-rtsp-server-1.0")
_ELEMENTS = {
    "appsrc": "gstreamer1.0-plugins-base",
    "qtdemux": "gstreamer1.0-plugins-good",
    "matroskademux": "gstreamer1.0-plugins-good",
    "rtph264pay": "gstreamer1.0-plugins-good",
    "rtpjpegpay": "gstreamer1.0-plugins-good",
    "h264parse": "gstreamer1.0-plugins-bad",
    "h265parse": "gstreamer1.0-plugins-bad",
    "jpegparse": "gstreamer1.0-plugins-bad",
}
_PROBE = """
import json, sys, gi
gi.require_version("Gst", "1.0"); gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gio, Gst, GstRtspServer
Gst.init(None)
print(json.dumps({"missing": [e for e in sys.argv[1:] if Gst.ElementFactory.find(e) is None],
                  "tls": Gio.TlsBackend.get_default().supports_tls()}))
"""


class CameraError(Exception):
    """The camera server could not start or refused a command."""


@functools.lru_cache(maxsize=1)
def requirements() -> tuple[str, ...]:
    """The Debian packages that the camera server needs and doesn't find here; empty when all is there."""
    if not Path(SYSTEM_PYTHON).exists():
        return ("python3", *_BASE_PACKAGES, *sorted(set(_ELEMENTS.values())), "glib-networking", "openssl")
    probe = subprocess.run([SYSTEM_PYTHON, "-c", _PROBE, *_ELEMENTS], capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        return (*_BASE_PACKAGES, *sorted(set(_ELEMENTS.values())), "glib-networking", "openssl")
    found = json.loads(probe.stdout)
    missing = {_ELEMENTS[element] for element in found["missing"]}
    if not found["tls"]:
        missing.add("glib-networking")
    if shutil.which("openssl") is None:
        missing.add("openssl")
    return tuple(sorted(missing))


def missing_message(packages: Sequence[str]) -> str:
    return f"the test cameras need Debian packages that are missing; install them: apt-get install {' '.join(packages)}"


@dataclass(frozen=True, slots=True)
class Account:
    """A camera's user; ``scheme`` is digest or basic."""

    user: str
    password: str = field(repr=False)
    scheme: str = "digest"


class CameraServer:
    """N cameras, camera i playing ``clips[i]`` in a loop. A context manager.

    ``port`` 0 takes a free one. ``tls`` serves rtsps with a fresh certificate for ``host`` (see ``ca_file``).
    ``timestamp_offsets`` sets the first RTP timestamp of each camera (4294900000 wraps within a second at 90 kHz).
    ``netns`` names a network namespace to run in (root only).
    Raises CameraError when the server can't start.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        account: Account | None = None,
        tls: bool = False,
        timestamp_offsets: Sequence[int] = (),
        netns: str = "",
    ):
        self.clips = tuple(clips)
        self.host, self.port = host, port
        self.account = account
        self._tls = tls
        self._offsets = tuple(timestamp_offsets)
        self._command = [*(["ip", "netns", "exec", netns] if netns else []), SYSTEM_PYTHON]
        self._folder: Path | None = None
        self._process: subprocess.Popen[str] | None = None
        self._starts: list[list[tuple[int, int]]] = [[] for _ in self.clips]
        self._starts_until = 0

    def __enter__(self) -> CameraServer:
        missing = requirements()
        if missing:
            raise CameraError(missing_message(missing))
        self._folder = Path(tempfile.mkdtemp(prefix="cameras-"))
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start(self) -> None:
        offsets = (*self._offsets, *[-1] * len(self.clips))
        account = self.account
        config = {
            "host": self.host,
            "port": self.port,
            "control": str(self.control),
            "tls": str(self._make_certificate()) if self._tls else "",
            "auth": {"user": account.user, "password": account.password, "scheme": account.scheme} if account else None,
            "cameras": [
                {"clip": str(clip.path), "fps": clip.fps, "timestamp_offset": offset}
                for clip, offset in zip(self.clips, offsets, strict=False)
            ],
        }
        with (self._room / "log").open("w") as log:
            self._process = subprocess.Popen(
                [*self._command, str(Path(__file__).with_name("server.py"))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it ended at once; why stands in its log
            self._process.stdin.write(json.dumps(config) + "\n")
            self._process.stdin.flush()
        ready = self._process.stdout.readline()
        if not ready:
            raise CameraError(f"the camera server ended at start: {self.log()[-2000:].strip()}")
        self.port = int(json.loads(ready)["port"])

    def _make_certificate(self) -> Path:
        certificate, key = self.ca_file, self._room / "key.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", f"/CN={self.host}",
             "-addext", f"subjectAltName=IP:{self.host}", "-keyout", str(key), "-out", str(certificate)],
            check=True, capture_output=True,
        )  # fmt: skip
        both = self._room / "both.pem"
        both.write_text(certificate.read_text() + key.read_text())
        return both

    @property
    def _room(self) -> Path:
        if self._folder is None:
            raise CameraError("the camera server isn't running")
        return self._folder

    @property
    def ca_file(self) -> Path:
        """The certificate that clients may trust, as PEM (only with tls)."""
        return self._room / "ca.pem"

    @property
    def control(self) -> Path:
        """The control socket; ``server.py`` says what it takes."""
        return self._room / "control"

    @property
    def pid(self) -> int:
        if self._process is None:
            raise CameraError("the camera server isn't running")
        return self._process.pid

    def log(self) -> str:
        """What the server said on stderr."""
        return (self._room / "log").read_text(errors="replace")

    def url(self, i: int, *, with_account: bool = False) -> str:
        """Camera ``i``'s address; with its user and password only if asked, then percent-encoded."""
        login = ""
        if with_account and self.account is not None:
            login = f"{quote(self.account.user, safe='')}:{quote(self.account.password, safe='')}@"
        return f"{'rtsps' if self._tls else 'rtsp'}://{login}{self.host}:{self.port}/cam{i}"

    def ctl(self, *words: object) -> Any:
        """Sends one command (``ctl("stall", 0)``) and gives what the server answers. Raises CameraError when it
        refuses or doesn't answer."""
        line = " ".join(str(word) for word in words)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(15)
            try:
                connection.connect(str(self.control))
                connection.sendall(line.encode() + b"\n")
                with connection.makefile() as file:
                    answer = json.loads(file.readline() or "{}")
            except OSError as error:
                raise CameraError(f"the camera server doesn't answer {line!r}: {error}") from error
        if "ok" not in answer:
            raise CameraError(f"the camera server refused {answer.get('error', line)}")
        return answer["ok"]

    def stats(self, i: int) -> dict[str, Any]:
        """Counters of camera ``i``: sent, bytes, lost, clients, stalled, up, starts."""
        return dict(self.ctl("stats")[str(i)])

    def cpu_seconds(self) -> float:
        """CPU time, user and system, that the server has used so far."""
        import psutil  # what only serves clips must load without it

        times = psutil.Process(self.pid).cpu_times()
        return float(times.user + times.system)

    def frame_at(self, i: int, utc_ns: int, hold: int = 0) -> int:
        """Which frame of camera ``i`` (display order, counted on over loops) has this capture time.

        ``utc_ns`` is a capture time as the daemon tells it, or a clock time. A plain client of FFmpeg's that takes PTS
        plus the least (arrival - PTS) is late by a frame of H.264 or H.265 (FFmpeg's parser gives a picture out when
        the next has begun): ``hold`` 1 subtracts it. The answer is exact as long as the rest of the way takes between
        -10 and +30 ms at 25 fps.
        Works after the server has stopped, too. Raises LookupError when nobody watched the camera at that time.
        """
        if utc_ns > self._starts_until and self._process is not None:
            self._read_starts()
        clip = self.clips[i]
        period = 1e9 / clip.fps
        # The way takes time, so a capture time is late rather than early: a quarter of a frame of slack before.
        time_ns = utc_ns + (0.25 - hold) * period
        for begin, n in reversed(self._starts[i]):
            if begin <= time_ns:
                return n + math.floor((time_ns - begin) / period)
        raise LookupError(f"camera {i} did not play at {utc_ns}")

    def truth(self, i: int, utc_ns: int) -> list[Box]:
        """The face boxes in the frame that ``frame_at`` finds, in pixels of the encoded picture."""
        return self.clips[i].truth(self.frame_at(i, utc_ns))

    def _read_starts(self) -> None:
        asked = time.time_ns()
        stats = self.ctl("stats")
        self._starts = [[(begin, n) for begin, n in stats[str(i)]["starts"]] for i in range(len(self.clips))]
        self._starts_until = asked

    def stop(self) -> None:
        """Ends the server. Harmless when it is down already."""
        process, folder = self._process, self._folder
        if process is not None:
            if process.poll() is None:
                # Killed on purpose by a test, or stuck: then the starts known so far must do.
                with contextlib.suppress(CameraError):
                    self._read_starts()
            self._process = None
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if folder is not None:
            self._folder = None
            shutil.rmtree(folder, ignore_errors=True)
