"""The camera server as an RTSP client sees it: whole pictures, exact truth, and every fault on command."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import av
import psutil
import pytest

from tests.cameras import Account, CameraError, CameraServer, Clip, Coding, encode, make_scene, strip
from tests.integration.conftest import StartCameras

pytestmark = pytest.mark.integration
SCENE = make_scene(320, 240, frames=50, faces=1)


@pytest.fixture(scope="module")
def clip(clip_cache: Path) -> Clip:
    return encode(SCENE, coding=Coding(bitrate=500_000, gop=25), cache=clip_cache)


class Viewer(threading.Thread):
    """Reads a camera until told to stop: the frame number drawn in each picture, its PTS, and when its packet came."""

    def __init__(self, url: str, options: dict[str, str] | None = None):
        super().__init__(daemon=True)
        self.url, self.options = url, options or {}
        self.numbers: list[int | None] = []
        self.seen: list[tuple[float, int, int | None]] = []  # PTS in s, least arrival - PTS so far in ns, number
        self.sizes: set[tuple[int, int]] = set()
        self.error: Exception | None = None
        self.enough = threading.Event()

    def run(self) -> None:
        least = None
        try:
            with av.open(self.url, options={"rtsp_transport": "tcp", **self.options}, timeout=(30, 20)) as source:
                for packet in source.demux(video=0):
                    arrived = time.time_ns()
                    if packet.pts is not None:
                        offset = arrived - int(packet.pts * packet.time_base * 1_000_000_000)
                        least = offset if least is None else min(least, offset)
                    for frame in self._frames(packet):
                        number = strip.read(frame.to_ndarray(format="bgr24"))
                        self.numbers.append(number)
                        self.sizes.add((frame.width, frame.height))
                        if frame.pts is not None and least is not None:
                            self.seen.append((frame.time, least, number))
                    if self.enough.is_set():
                        return
        except (av.FFmpegError, OSError) as error:
            self.error = error

    def _frames(self, packet: av.Packet) -> list[av.VideoFrame]:
        """A packet so damaged that it gives no picture is a picture without a number."""
        try:
            return packet.decode()
        except av.InvalidDataError:
            self.numbers.append(None)
            return []

    def __enter__(self) -> Viewer:
        if self.ident is None:
            self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.enough.set()
        self.join(60)
        assert not self.is_alive()

    def read(self, frames: int) -> None:
        """Waits for so many more frames."""
        want = len(self.numbers) + frames
        wait_for(lambda: len(self.numbers) >= want, lambda: f"{len(self.numbers)} of {want} frames, {self.error}")


def wait_for(condition: Callable[[], bool], why: Callable[[], str] = lambda: "", seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"it did not happen: {why()}"
        time.sleep(0.02)


def refused(url: str, **options: str) -> Exception:
    with Viewer(url, options) as viewer:
        viewer.join(60)
    assert viewer.error is not None
    assert not viewer.numbers
    return viewer.error


def played(url: str) -> Viewer:
    """Started. A server that is still ending the last session of a camera answers 503 (PyAV's HTTPServerError)."""
    while True:
        viewer = Viewer(url)
        viewer.start()
        wait_for(lambda seen=viewer: seen.numbers or not seen.is_alive())  # type: ignore[misc]
        if not isinstance(viewer.error, av.HTTPServerError):
            return viewer


def test_all_codecs_play_whole_and_truth_is_exact(camera_server: StartCameras, clip: Clip, clip_cache: Path) -> None:
    def other(**coding: object) -> Clip:
        return encode(SCENE, coding=Coding(bitrate=500_000, gop=25, **coding), cache=clip_cache)  # type: ignore[arg-type]

    changing = encode(
        SCENE, make_scene(240, 320, frames=25, faces=1), coding=Coding(container="raw", gop=25), cache=clip_cache
    )
    clips = [
        clip,
        other(container="mkv", bframes=2),
        other(codec="h265", pix_fmt="yuv420p10le"),
        other(codec="h265", bframes=2, container="mkv"),
        other(codec="mjpeg", container="mkv"),
        changing,
        clip,
    ]
    server = camera_server(clips)
    viewers = [Viewer(server.url(i)) for i in range(len(clips))]
    viewers[6].options["rtsp_transport"] = "udp"
    for viewer in viewers:
        viewer.start()
    wait_for(lambda: all(len(v.numbers) >= 110 for v in viewers), lambda: f"{[len(v.numbers) for v in viewers]}")
    for viewer in viewers:
        viewer.__exit__()
    server.stop()
    for i, viewer in enumerate(viewers):
        assert viewer.error is None
        assert viewer.sizes == ({(320, 240), (240, 320)} if i == 5 else {(320, 240)})
        times = [t for t, _, _ in viewer.seen]
        assert [b - a for a, b in itertools.pairwise(times)] == pytest.approx([0.04] * (len(times) - 1), abs=2e-3)
        # The least arrival - PTS is settled once what waited while the stream was opened has been read.
        least = viewer.seen[-1][1]
        for seconds, _, number in viewer.seen:
            hold = 0 if clips[i].coding.codec == "mjpeg" else 1
            scene, shown = clips[i].frame(server.frame_at(i, least + int(seconds * 1e9), hold))
            near = number is not None and strip.apart(shown, number, scene.frames) <= 1
            assert near, f"camera {i}: frame {number} taken for {shown}"


@pytest.mark.parametrize("scheme", ["digest", "basic"])
def test_account(scheme: str, camera_server: StartCameras, clip: Clip) -> None:
    account = Account("ca m", "p@ss:w/örd%41", scheme)
    server = camera_server([clip], account=account)
    assert account.password not in repr(account)
    assert not any("p@ss" in word for word in psutil.Process(server.pid).cmdline())
    with Viewer(server.url(0, with_account=True)) as viewer:
        viewer.read(3)
    assert isinstance(refused(server.url(0)), av.HTTPUnauthorizedError)
    wrong = server.url(0).replace("rtsp://", "rtsp://ca%20m:wrong@")
    assert isinstance(refused(wrong), av.HTTPUnauthorizedError)
    server.stop()


def test_tls(camera_server: StartCameras, clip: Clip) -> None:
    server = camera_server([clip], tls=True)
    assert server.url(0).startswith("rtsps://")
    with Viewer(server.url(0), {"tls_verify": "1", "ca_file": str(server.ca_file)}) as viewer:
        viewer.read(3)
    refused(server.url(0), tls_verify="1")
    server.stop()


def test_faults_on_command_hit_one_camera_only(camera_server: StartCameras, clip: Clip) -> None:
    server = camera_server([clip, clip])
    with Viewer(server.url(1)) as neighbour:
        with Viewer(server.url(0), {"timeout": "20000000"}) as viewer:
            viewer.read(5)
            server.ctl("stall", 0)
            sent = server.stats(0)["sent"]
            neighbour.read(20)
            assert server.stats(0)["sent"] == sent
            assert server.stats(0)["stalled"]
            server.ctl("resume", 0)
            viewer.read(5)
            assert None not in viewer.numbers
            assert server.stats(0)["clients"] == 1
            server.ctl("corrupt", 0, 0.5)
            wait_for(lambda: server.stats(0)["lost"] > 10)
            server.ctl("corrupt", 0, 0)
            assert server.ctl("cut", 0) == 1
            viewer.join(60)
            assert not viewer.is_alive(), "cutting the connection did not end the stream"
        damaged = [n for n in viewer.numbers if n is None]
        steps = {(b - a) % 50 for a, b in itertools.pairwise(viewer.numbers) if None not in (a, b)}
        assert damaged or steps != {1}, "corruption changed nothing"
        server.ctl("down", 0)
        assert isinstance(refused(server.url(0)), av.HTTPNotFoundError)
        assert not server.stats(0)["up"]
        server.ctl("up", 0)
        with played(server.url(0)) as again:
            again.read(30)
        assert {(b - a) % 50 for a, b in itertools.pairwise(again.numbers)} == {1}
        neighbour.read(1)
    assert {(b - a) % 50 for a, b in itertools.pairwise(neighbour.numbers)} == {1}
    assert len(server.stats(0)["starts"]) == 2
    server.stop()


class Player:
    """A client that asks for PLAY as often as it is told, and drops what it is sent."""

    def __init__(self, url: str):
        where = urlsplit(url)
        assert where.hostname and where.port
        self.url = url
        self.socket = socket.create_connection((where.hostname, where.port), timeout=30)
        self.stream = self.socket.makefile("rb")
        self._ask("DESCRIBE", "", "Accept: application/sdp")  # or SETUP would make a pipeline of its own
        answer = self._ask("SETUP", "/stream=0", "Transport: RTP/AVP/TCP;unicast;interleaved=0-1")
        found = re.search(r"Session: ([^;\s]+)", answer)
        assert found, answer
        self.session = found[1]

    def play(self) -> None:
        self._ask("PLAY", "", f"Session: {self.session}")

    def _ask(self, method: str, path: str, header: str) -> str:
        self.socket.sendall(f"{method} {self.url}{path} RTSP/1.0\r\nCSeq: 1\r\n{header}\r\n\r\n".encode())
        while (begin := self.stream.read(1)) == b"$":
            self.stream.read(int.from_bytes(self.stream.read(3)[1:], "big"))
        answer = (begin + b"".join(iter(self.stream.readline, b"\r\n"))).decode()
        assert answer.startswith("RTSP/1.0 200 "), answer
        if body := re.search(r"Content-Length: (\d+)", answer):
            self.stream.read(int(body[1]))
        return answer

    def close(self) -> None:
        self.stream.close()
        self.socket.close()


def test_who_begins_to_play_silences_nobody_who_shares_the_camera(camera_server: StartCameras, clip: Clip) -> None:
    server = camera_server([clip])
    with Viewer(server.url(0)) as viewer:
        viewer.read(5)
        with contextlib.closing(Player(server.url(0))) as other:
            for _ in range(10_000):  # each has an instant in which a frame could be held for good; few frames meet one
                other.play()
            viewer.read(20)
    server.stop()


def test_timestamps_wrap_and_jump(camera_server: StartCameras, clip: Clip) -> None:
    server = camera_server([clip], timestamp_offsets=[2**32 - 90_000])
    with Viewer(server.url(0)) as viewer:
        viewer.read(40)  # over the wrap, a second after the start
        server.ctl("jump", 0, 100)
        viewer.read(40)
    times = [t for t, _, _ in viewer.seen]
    steps = [b - a for a, b in itertools.pairwise(times)]
    assert [s for s in steps if s > 1] == [pytest.approx(100.04, abs=2e-3)]
    assert [s for s in steps if s <= 1] == pytest.approx([0.04] * (len(steps) - 1), abs=2e-3)
    server.stop()


def test_bad_commands_and_bad_starts_are_told(camera_server: StartCameras, clip: Clip, tmp_path: Path) -> None:
    server = camera_server([clip])
    for words, message in ((("dance", 0), "dance"), (("stall", 7), "stall 7"), (("stall",), "stall")):
        with pytest.raises(CameraError, match=message):
            server.ctl(*words)
    with pytest.raises(LookupError, match="camera 0"):
        server.truth(0, time.time_ns())
    with pytest.raises(CameraError, match=str(server.port)):
        camera_server([clip], port=server.port)
    server.stop()
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"nothing")
    with pytest.raises(CameraError, match=r"broken\.mp4"):
        camera_server([Clip(broken, clip.scenes)])


def test_the_server_dies_with_who_started_it(cameras_possible: None, clip: Clip) -> None:
    code = (
        "import sys, time; from pathlib import Path; from tests.cameras import CameraServer, Clip, make_scene\n"
        "server = CameraServer([Clip(Path(sys.argv[1]), (make_scene(320, 240, frames=50, faces=1),))]).__enter__()\n"
        "print(server.pid, flush=True); time.sleep(60)"
    )
    owner = subprocess.Popen([sys.executable, "-c", code, str(clip.path)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    try:
        server = psutil.Process(int(owner.stdout.readline()))
        assert server.is_running()
    finally:
        os.kill(owner.pid, signal.SIGKILL)
        owner.communicate()
    wait_for(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE)


def test_stopping_twice_and_truth_afterwards(cameras_possible: None, clip: Clip) -> None:
    with CameraServer([clip]) as server, Viewer(server.url(0)) as viewer:
        viewer.read(10)
        cpu = server.cpu_seconds()
        assert cpu > 0
    server.stop()
    seconds, least, number = viewer.seen[-1]
    assert number is not None
    assert len(server.truth(0, least + int(seconds * 1e9))) == 1
    with pytest.raises(CameraError, match="isn't running"):
        _ = server.control
