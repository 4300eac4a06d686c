"""The plain cameras: their packets hold the clip's NAL units, their clock is exact, and a slow client is alone."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from time import monotonic_ns
from typing import Any

import av
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cameras import Coding, encode, make_scene, plain_server, strip
from tests.cameras.plain import PlainCameras, PlainCamerasError
from tests.cameras.plain_clip import Loop, Unit, load, split
from tests.cameras.plain_server import Clock, Server, due_ns, frame_at, report, time_of
from tests.cameras.rtp import H264, H265, MTU, Codec, payloads
from tests.cameras.rtsp import interleaved, take_request

ROOT = Path(__file__).parents[2]
SCENE = make_scene(320, 240, frames=20, faces=1)


# ---- the other end, as RFC 6184 and RFC 7798 describe it


def packets_of(data: bytes) -> list[tuple[int, bytes]]:
    """(channel, packet) of interleaved data; fails where it isn't whole."""
    found = []
    while data:
        magic, channel, length = struct.unpack_from("!cBH", data)
        assert magic == b"$"
        assert len(data) >= 4 + length
        found.append((channel, data[4 : 4 + length]))
        data = data[4 + length :]
    return found


def joined(found: list[bytes], codec: Codec) -> list[bytes]:
    """The NAL units of RTP payloads."""
    nals: list[bytes] = []
    part: bytes | None = None
    for payload in found:
        fragment = payload[0] & 31 == 28 if codec is H264 else payload[0] >> 1 & 63 == 49
        if not fragment:
            assert part is None, "a NAL unit that never ended"
            nals.append(payload)
            continue
        flags, body = payload[codec.header], payload[codec.header + 1 :]
        assert flags & 0xC0 != 0xC0, "one fragment that is begin and end"
        assert body, "an empty fragment"
        if flags & 0x80:
            assert part is None, "a NAL unit that never ended"
            first = payload[0] & 0xE0 | flags & 31 if codec is H264 else payload[0] & 0x81 | (flags & 63) << 1
            part = bytes([first]) + payload[1 : codec.header]
        assert part is not None, "a fragment without a beginning"
        part += body
        if flags & 0x40:
            nals.append(part)
            part = None
    assert part is None, "a NAL unit that never ended"
    return nals


def made(codec: Codec, kind: int, size: int) -> bytes:
    head = bytes([0x60 | kind]) if codec is H264 else bytes([kind << 1, 1])
    return head + bytes(i * 7 + size & 0xFF for i in range(size - len(head)))


SIZES = st.one_of(
    st.integers(3, 40),
    st.builds(lambda times, more: max(3, times * MTU + more), st.integers(1, 4), st.integers(-16, 16)),
)
CODEC = st.sampled_from([H264, H265])


@settings(deadline=None)
@given(codec=CODEC, sizes=st.lists(SIZES, min_size=1, max_size=4), kind=st.integers(1, 5))
def test_depacketised_are_the_same_nal_units(codec: Codec, sizes: list[int], kind: int) -> None:
    nals = [made(codec, kind, size) for size in sizes]
    found = [payload for nal in nals for payload in payloads(nal, codec)]
    assert joined(found, codec) == nals
    assert all(len(payload) <= MTU for payload in found)


@settings(max_examples=30, deadline=None)
@given(codec=CODEC, size=st.integers(MTU + 1, 4 * MTU), data=st.data())
def test_a_lost_fragment_is_seen(codec: Codec, size: int, data: Any) -> None:
    nal = made(codec, 1, size)
    found = list(payloads(nal, codec))
    del found[data.draw(st.integers(0, len(found) - 1))]
    try:
        assert joined(found, codec) != [nal]
    except AssertionError:
        return


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(SIZES, min_size=1, max_size=4),
    stamps=st.lists(st.tuples(st.integers(0, 1 << 17), st.integers(0, 1 << 33), st.integers(0, 2**32 - 1)), min_size=1),
)
def test_a_stamp_changes_numbers_and_nothing_else(sizes: list[int], stamps: list[tuple[int, int, int]]) -> None:
    nals = [made(H264, 1, size) for size in sizes]
    unit = Unit(nals, H264, key=False)
    for sequence, time, source in stamps:
        found = packets_of(bytes(unit.stamp(sequence, time, source)))
        assert len(found) == unit.packets
        assert {channel for channel, _ in found} == {0}
        for i, (_, packet) in enumerate(found):
            version, kind, number, ticks, ssrc = struct.unpack_from("!BBHII", packet)
            assert (version, kind & 0x7F) == (0x80, 96)
            assert bool(kind & 0x80) == (i == len(found) - 1)
            assert (number, ticks, ssrc) == ((sequence + i) % 65536, time % (1 << 32), source)
        assert joined([packet[12:] for _, packet in found], H264) == nals
        assert unit.payload_bytes == sum(len(packet) - 12 for _, packet in found)


@given(nals=st.lists(st.binary(min_size=1, max_size=300), max_size=5), size=st.sampled_from([2, 4]))
def test_nal_units_by_length(nals: list[bytes], size: int) -> None:
    data = b"".join(len(nal).to_bytes(size, "big") + nal for nal in nals)
    assert split(data, size) == nals
    if data:
        with pytest.raises(ValueError, match=r"a NAL unit of \d+ bytes where \d+ are left"):
            split(data[:-1], size)


@pytest.mark.parametrize(
    "coding",
    [
        Coding(bitrate=500_000, gop=10),
        Coding(bitrate=500_000, gop=10, container="mkv", bframes=2),
        Coding(bitrate=500_000, gop=10, container="ts"),
        Coding(bitrate=500_000, gop=10, container="raw"),
        Coding(codec="h265", gop=10),
        Coding(codec="h265", gop=10, container="raw"),
    ],
    ids=str,
)
def test_a_clip_s_packets_decode_to_all_its_pictures(coding: Coding) -> None:
    loop = load(encode(SCENE, coding=coding).path, Fraction(25))
    assert len(loop.units) == 20
    assert [i for i, unit in enumerate(loop.units) if unit.key] == [0, 10]
    assert sorted(loop.shown) == list(range(20))
    assert loop.lead == (2 if coding.bframes else 0)
    decoder: Any = av.CodecContext.create("hevc" if loop.codec is H265 else "h264", "r")
    frames = []
    for n, unit in enumerate(loop.units):
        nals = joined([packet[12:] for _, packet in packets_of(bytes(unit.stamp(0, 0, 0)))], loop.codec)
        packet = av.Packet(b"".join(b"\0\0\0\1" + nal for nal in nals))
        packet.pts = loop.display(n)
        frames += decoder.decode(packet)
        if unit.key:  # who joins here has all it needs
            assert nals[: len(loop.sets)] == list(loop.sets)
    frames += decoder.decode(None)
    assert [frame.pts for frame in frames] == list(range(20))
    assert [strip.read(frame.to_ndarray(format="bgr24")) for frame in frames] == list(range(20))


def test_what_cannot_be_played_is_told(tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"broken\.mp4: Invalid data"):
        load(broken)
    with pytest.raises(ValueError, match="mjpeg in it, allowed are h264, hevc"):
        load(encode(SCENE, coding=Coding(codec="mjpeg", container="mkv")).path)
    with pytest.raises(PlainCamerasError, match=r"none\.mp4"), PlainCameras(tmp_path / "none.mp4", 1):
        pass


# ---- the clock


def a_loop(fps: Fraction, frames: int = 7) -> Loop:
    unit = Unit([made(H264, 5, 20)], H264, key=True)
    return Loop(H264, (unit,) * frames, tuple(range(frames)), 0, (), fps)


RATES = st.sampled_from([Fraction(25), Fraction(30000, 1001), Fraction(5), Fraction(1, 3), Fraction(60)])


@given(fps=RATES, camera=st.integers(0, 999), n=st.integers(0, 10**9), begun=st.integers(0, 10**18))
def test_a_frame_is_the_newest_from_when_it_is_due(fps: Fraction, camera: int, n: int, begun: int) -> None:
    loop, clock = a_loop(fps), Clock(begun, 0)
    due = due_ns(loop, camera, clock, n)
    assert frame_at(loop, camera, clock, due) == n
    assert frame_at(loop, camera, clock, due - 1) == n - 1


@given(fps=RATES, camera=st.integers(0, 999), n=st.integers(0, 10**9))
def test_times_go_on_rising_over_loops(fps: Fraction, camera: int, n: int) -> None:
    loop = a_loop(fps)
    step = (time_of(loop, camera, loop.display(n + 1)) - time_of(loop, camera, loop.display(n))) % (1 << 32)
    assert abs(step - 90_000 / fps) < 1


def test_cameras_are_at_different_moments() -> None:
    loop, clock = a_loop(Fraction(25), 250), Clock(0, 0)
    due = sorted(due_ns(loop, i, clock, 0) % loop.at_ns(50) for i in range(70))  # keyframes of a GOP of 50
    steps = [b - a for a, b in itertools.pairwise(due)]
    assert max(steps) < 4 * loop.at_ns(50) / 70


@given(utc_ns=st.integers(0, 2**61), time=st.integers(0, 2**32 - 1), packets=st.integers(0, 2**40))
def test_a_sender_report_says_when(utc_ns: int, time: int, packets: int) -> None:
    data = report(7, utc_ns, time, packets, packets * 3)
    head, kind, words, source, seconds, fraction, *rest = struct.unpack_from("!BBHIIIIII", data)
    assert (head, kind, words, source) == (0x80, 200, 6, 7)
    assert rest == [time, packets % (1 << 32), packets * 3 % (1 << 32)]
    told = (seconds - 2_208_988_800) % (1 << 32) * 1_000_000_000 + (fraction * 1_000_000_000 >> 32)
    assert 0 <= (utc_ns - told) % ((1 << 32) * 1_000_000_000) <= 1
    second = data[28:]
    assert second[1] == 202
    assert len(second) == 4 * (int.from_bytes(second[2:4], "big") + 1)


# ---- RTSP


@given(cuts=st.lists(st.integers(0, 400), max_size=6))
def test_requests_are_found_however_they_arrive(cuts: list[int]) -> None:
    data = (
        b"OPTIONS rtsp://h/cam0 RTSP/1.0\r\nCSeq: 1\r\n\r\n"
        + interleaved(1, b"OPTIONS x\r\n\r\n")
        + b"GET_PARAMETER rtsp://h/cam0 RTSP/1.0\r\ncseq:2\r\nContent-Length: 6\r\n\r\n$\0\0\1\r\n"
        + b"PLAY rtsp://h/cam0 RTSP/1.0\r\nCSeq: 3\r\n\r\n"
    )
    found, rest, edges = [], b"", sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    for a, b in itertools.pairwise(edges):
        rest += data[a:b]
        while True:
            request, rest = take_request(rest, 1)
            if request is None:
                break
            found.append((request.method, request.headers["cseq"]))
    assert found == [("OPTIONS", "1"), ("GET_PARAMETER", "2"), ("PLAY", "3")]
    assert rest == b""


@pytest.mark.parametrize("data", [b"hello\r\n\r\n", b"PLAY x RTSP/1.0\r\nContent-Length: -5\r\n\r\n"])
def test_what_is_not_rtsp_is_told(data: bytes) -> None:
    with pytest.raises(ValueError, match="is no"):
        take_request(data, 1)


class Client:
    """A client that takes one answer, or one packet, at a time."""

    def __init__(self, port: int, buffer: int = 0):
        self.socket = socket.socket()
        self.socket.settimeout(20)
        if buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.connect(("127.0.0.1", port))
        self.url = f"rtsp://127.0.0.1:{port}/cam0"
        self.data = b""

    def _more(self) -> None:
        more = self.socket.recv(65536)
        if not more:
            raise EOFError
        self.data += more

    def ask(self, method: str, path: str = "", **headers: str) -> tuple[int, str]:
        more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.socket.sendall(f"{method} {self.url}{path} RTSP/1.0\r\nCSeq: 9\r\n{more}\r\n".encode())
        while self.data[:1] != b"R":
            if self.data:
                self.packet()
            else:
                self._more()
        while b"\r\n\r\n" not in self.data:
            self._more()
        head, _, self.data = self.data.partition(b"\r\n\r\n")
        text = head.decode()
        length = re.search(r"Content-Length: (\d+)", text)
        while len(self.data) < int(length[1] if length else 0):
            self._more()
        size = int(length[1] if length else 0)
        body, self.data = self.data[:size], self.data[size:]
        return int(text.split(" ")[1]), text + "\r\n\r\n" + body.decode()

    def play(self) -> str:
        status, said = self.ask("SETUP", "/trackID=0", Transport="RTP/AVP/TCP;unicast;interleaved=0-1")
        assert status == 200
        found = re.search(r"Session: (\d+)", said)
        assert found
        status, said = self.ask("PLAY", Session=found[1])
        assert status == 200
        return said

    def packet(self) -> tuple[int, bytes]:
        while len(self.data) < 4 or len(self.data) < 4 + int.from_bytes(self.data[2:4], "big"):
            self._more()
        end = 4 + int.from_bytes(self.data[2:4], "big")
        packet, self.data = self.data[:end], self.data[end:]
        return packets_of(packet)[0]

    def picture(self) -> tuple[int, int, bool]:
        """(first sequence, RTP time, is a keyframe) of the next picture."""
        first, parts = -1, []
        while True:
            channel, packet = self.packet()
            if channel == 0:
                _, kind, sequence, time = struct.unpack_from("!BBHI", packet)
                assert first < 0 or sequence == (first + len(parts)) % 65536
                first = sequence if first < 0 else first
                parts.append(packet[12:])
                if kind & 0x80:
                    nals = joined(parts, H264)
                    return first, time, any(H264.kind(nal) == 5 for nal in nals)


class Pace:
    """The server's clock: it runs, or stands where a test puts it. On a machine that stops for a moment, a client that
    must get every picture would else be sent more of them at once than its socket holds."""

    def __init__(self) -> None:
        self._stands_at: int | None = None
        self._ahead = 0

    def __call__(self) -> int:
        return monotonic_ns() + self._ahead if self._stands_at is None else self._stands_at

    def put(self, ns: int) -> None:
        """Back only while nobody watches."""
        self._stands_at = ns

    def run(self) -> None:
        self._ahead = self() - monotonic_ns()
        self._stands_at = None


@pytest.fixture
def pace(monkeypatch: pytest.MonkeyPatch) -> Pace:
    made = Pace()
    monkeypatch.setattr(plain_server, "monotonic_ns", made)
    return made


@pytest.fixture
def quick(pace: Pace) -> Iterator[tuple[Loop, int]]:
    """Camera 0 with 400 pictures a second, of 13 kB, each 20th a keyframe; and its server's port."""
    units = tuple(Unit([made(H264, 5 if i % 20 == 0 else 1, 13_000)], H264, key=i % 20 == 0) for i in range(40))
    loop = Loop(H264, units, tuple(range(40)), 0, (made(H264, 7, 20), made(H264, 8, 9)), Fraction(400))
    near, far = socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as listener, near, far:
        server = Server(loop, range(1), listener, Clock(0, 0))
        thread = threading.Thread(target=server.run, args=(far.fileno(),))
        thread.start()
        try:
            yield loop, listener.getsockname()[1]
        finally:
            near.close()
            thread.join(20)
            assert not thread.is_alive()


def test_a_client_gets_every_picture_from_a_keyframe_on(quick: tuple[Loop, int], pace: Pace) -> None:
    loop, port = quick
    pace.put(0)
    client = Client(port)
    said = client.play()
    pace.put(loop.at_ns(20))
    report_at = client.packet()
    assert (report_at[0], report_at[1][1]) == (1, 200)
    before = client.picture()
    assert f"seq={before[0]};rtptime={before[1]}" in said
    assert before[2]
    for i in range(1, 100):
        pace.put(loop.at_ns(20 + i))
        sequence, time, key = client.picture()
        assert (sequence - before[0]) % 65536 == 10  # 13 kB in packets of 1400
        assert (time - before[1]) % (1 << 32) == 225
        assert key == (i % 20 == 0)
        before = sequence, time, key
    assert client.ask("GET_PARAMETER")[0] == 200
    pace.run()
    assert client.picture()


def test_a_slow_client_loses_whole_pictures_up_to_a_keyframe_and_holds_up_nobody(
    quick: tuple[Loop, int], pace: Pace
) -> None:
    loop, port = quick
    pace.put(0)
    slow, neighbour = Client(port, buffer=8192), Client(port)
    slow.play()
    neighbour.play()
    seen, times = [], []
    for n in range(20, 1040):  # 13 MB: more than the sockets on the slow way hold
        pace.put(loop.at_ns(n))
        times.append(neighbour.picture()[1])
        if n < 40:
            seen.append(slow.picture())
    assert {(b - a) % (1 << 32) for a, b in itertools.pairwise(times)} == {225}
    pace.run()
    seen += [slow.picture() for _ in range(1000)]
    gaps = [(a, b) for a, b in itertools.pairwise(seen) if (b[1] - a[1]) % (1 << 32) != 225]
    assert gaps
    assert all(b[2] for _, b in gaps)
    assert {(b[0] - a[0]) % 65536 for a, b in itertools.pairwise(seen)} == {10}  # as if those had never been packets


def test_answers_to_what_is_not_offered(quick: tuple[Loop, int]) -> None:
    _, port = quick
    client = Client(port)
    assert client.ask("OPTIONS")[0] == 200
    status, said = client.ask("DESCRIBE")
    assert status == 200
    assert "sprop-parameter-sets=" in said
    assert client.ask("PLAY")[0] == 455
    assert client.ask("SETUP", "/trackID=0", Transport="RTP/AVP;unicast;client_port=5000-5001")[0] == 461
    assert client.ask("ANNOUNCE")[0] == 501
    assert client.ask("SETUP", "/trackID=0", Transport="RTP/AVP/TCP;interleaved=0-1")[0] == 200
    assert client.ask("PLAY", Session="12345")[0] == 454
    client.url = client.url.replace("cam0", "cam1")
    assert client.ask("DESCRIBE")[0] == 404
    client.socket.sendall(b"nonsense\r\n\r\n")
    with pytest.raises((EOFError, ConnectionError)):
        client.ask("OPTIONS")
    long = Client(port)
    with pytest.raises((EOFError, ConnectionError)):
        for _ in range(10):
            long.ask("OPTIONS", Padding="x" * 200_000)


def test_teardown_ends_the_connection(quick: tuple[Loop, int]) -> None:
    client = Client(quick[1])
    found = re.search(r"Session: (\d+)", client.play())
    assert found
    client.picture()
    assert client.ask("TEARDOWN", Session=found[1])[0] == 200
    with pytest.raises((EOFError, ConnectionError)):
        while True:
            client.packet()


# ---- processes


@pytest.fixture(scope="module")
def clip() -> Path:
    return encode(SCENE, coding=Coding(bitrate=500_000, gop=10)).path


def test_needs_no_packages_that_the_daemon_does_not(clip: Path) -> None:
    blocked = ["psutil", "skimage", "matplotlib", "hypothesis", "pytest", "gi", "facedetd"]
    script = f"import sys\nfor name in {blocked}: sys.modules[name] = None\n"
    script += f"from tests.cameras.plain_clip import load\nfrom pathlib import Path\nload(Path({str(clip)!r}))\n"
    subprocess.run([sys.executable, "-c", f"{script}import tests.cameras.plain_drain"], check=True, cwd=ROOT)


def gone(pids: list[int]) -> bool:
    processes = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    _, alive = psutil.wait_procs(processes, timeout=60)
    return not [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def test_urls_are_shared_out_and_all_ends_with_the_block(clip: Path) -> None:
    cameras = PlainCameras(clip, 5, processes=2)
    with cameras as urls:
        assert [url.rpartition("/")[2] for url in urls] == [f"cam{i}" for i in range(5)]
        ports = [int(url.split(":")[2].partition("/")[0]) for url in urls]
        assert ports[0] == ports[2] == ports[4] != ports[1] == ports[3]
        assert len(cameras.pids) == 2
        assert cameras.cpu_seconds() > 0
        client = Client(ports[1])
        assert client.ask("DESCRIBE")[0] == 404  # camera 0 is the other process's
        with pytest.raises(PlainCamerasError, match=rf"can't listen on 127\.0\.0\.1 port {ports[0]}"):
            PlainCameras(clip, 1, port=ports[0]).__enter__()
    assert gone(cameras.pids)


@pytest.mark.parametrize("way", ["stdin", "SIGTERM", "SIGKILL", "a worker"])
def test_none_is_left(clip: Path, way: str) -> None:
    command = [sys.executable, "-m", "tests.cameras.plain", "--clip", str(clip), "--cameras", "2", "--processes", "2"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdin
        assert process.stdout
        pids = json.loads(process.stdout.readline())["pids"]
        if way == "stdin":
            process.stdin.close()
        elif way == "a worker":
            os.kill(pids[0], signal.SIGKILL)
        else:
            process.send_signal(getattr(signal, way))
        assert process.wait(60) == {"stdin": 0, "SIGTERM": 0, "SIGKILL": -9, "a worker": 1}[way]
    assert gone(pids)
