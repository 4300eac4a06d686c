"""What the plain cameras cost: python -m tests.cameras.plain_drain [--clip FILE] [--cameras 20,40] [--processes 1]

Watches all cameras with a client that reads and throws away, and gives for each number of them the CPU cores that the
server used, the frames that came of those that should have, and how late they came: a frame's lateness is by how much
its arrival differs from the earliest frame of its camera, measured by their RTP times. The client's own cost (it looks
at every packet's header) is printed beside it.

Two EPYC cores of a virtual machine that was busy with other work, 2026-11-22, 1080p25 of 4 Mbit/s, one process: 0.05
cores for 20 cameras, 0.07 for 40, 0.10 for 70, every frame sent; half of them at most 0.9 ms late, 99 % at most 17 ms.
"""

from __future__ import annotations

import argparse
import resource
import selectors
import socket
import struct
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from tests.cameras.plain import PlainCameras
from tests.cameras.plain_clip import load
from tests.cameras.rtp import CLOCK

WARM_S = 4.0  # longer than the clip's GOP: every camera has come to a keyframe


@dataclass(eq=False)
class Drain:
    """One watched camera."""

    socket: socket.socket
    left: bytes = b""
    bytes: int = 0
    frames: list[tuple[int, int]] = field(default_factory=list)  # (arrival ns, RTP time)

    def read(self) -> None:
        data = self.socket.recv(1 << 20)
        if not data:
            raise SystemExit("a camera ended the connection")
        now = time.monotonic_ns()
        self.bytes += len(data)
        data = self.left + data
        at = 0
        while len(data) - at >= 16:
            _, channel, length = struct.unpack_from("!BBH", data, at)
            if len(data) - at < 4 + length:
                break
            if channel == 0 and data[at + 5] & 0x80:
                self.frames.append((now, int.from_bytes(data[at + 8 : at + 12], "big")))
            at += 4 + length
        self.left = data[at:]


def watch(url: str) -> Drain:
    """Asks for a camera as clients do. Raises OSError when it doesn't play."""
    place = urlsplit(url)
    assert place.hostname and place.port
    connection = socket.create_connection((place.hostname, place.port), timeout=10)
    session, rest = "", b""
    requests = (("SETUP", url + "/trackID=0", "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"), ("PLAY", url, ""))
    for number, (method, to, more) in enumerate(requests):
        connection.sendall(f"{method} {to} RTSP/1.0\r\nCSeq: {number}\r\n{more}{session}\r\n".encode())
        while b"\r\n\r\n" not in rest:
            rest += connection.recv(4096)
        head, _, rest = rest.partition(b"\r\n\r\n")
        if not head.startswith(b"RTSP/1.0 200 "):
            raise OSError(f"{url}: {method} gave {head.splitlines()[0]!r}")
        found = [line for line in head.decode().split("\r\n") if line.startswith("Session:")]
        session = found[0].partition(";")[0] + "\r\n"
    return Drain(connection, rest)


def lateness_ms(frames: list[tuple[int, int]]) -> list[float]:
    """By how much each frame came later than the earliest, as their RTP times would have it."""
    first = frames[0][1]
    offsets = [at / 1e6 - ((ticks - first) & 0xFFFFFFFF) * 1000 / CLOCK for at, ticks in frames]
    return [offset - min(offsets) for offset in offsets]


def measure(clip: Path, count: int, processes: int, seconds: float) -> str:
    """A row of the table."""
    loop = load(clip)
    cameras = PlainCameras(clip, count, processes=processes)
    with cameras as urls:
        selector = selectors.DefaultSelector()
        drains = [watch(url) for url in urls]
        for drain in drains:
            selector.register(drain.socket, selectors.EVENT_READ, drain)

        def read_until(end: float) -> None:
            while (left := end - time.monotonic()) > 0:
                for key, _ in selector.select(left):
                    key.data.read()

        read_until(time.monotonic() + WARM_S)
        for drain in drains:
            drain.frames.clear()
            drain.bytes = 0
        began, cpu, own = time.monotonic(), cameras.cpu_seconds(), resource.getrusage(resource.RUSAGE_SELF)
        read_until(began + seconds)
        took, cpu = time.monotonic() - began, cameras.cpu_seconds() - cpu
        used = resource.getrusage(resource.RUSAGE_SELF)
        own_cpu = used.ru_utime + used.ru_stime - own.ru_utime - own.ru_stime
        for drain in drains:
            drain.socket.close()
    late = sorted(ms for drain in drains for ms in lateness_ms(drain.frames))
    frames, rate = sum(len(drain.frames) for drain in drains), sum(drain.bytes for drain in drains) * 8e-6 / took
    return (
        f"| {count} | {processes} | {frames / took:.0f} of {float(loop.fps) * count:.0f} | {rate:.0f} Mbit/s | "
        f"{cpu / took:.2f} | {own_cpu / took:.2f} | {late[len(late) // 2]:.1f} / {late[len(late) * 99 // 100]:.1f} ms |"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cameras.plain_drain", description=__doc__.split("\n")[0])
    parser.add_argument("--clip", type=Path, help="1080p25 at 4 Mbit/s is made when not given")
    parser.add_argument("--cameras", default="20,40", help="how many, as 20,40")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=15)
    options = parser.parse_args()
    clip = options.clip
    if clip is None:
        from tests.cameras import encode, make_scene

        clip = encode(make_scene(1920, 1080, faces=3)).path
    print("| cameras | processes | frames/s | rate | server's cores | client's cores | late p50 / p99 |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for count in options.cameras.split(","):
        print(measure(clip, int(count), options.processes, options.seconds), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
