"""RTSP cameras for machines without GStreamer: little CPU, and only Python packages that the daemon needs too.

    python -m tests.cameras.plain --clip FILE --cameras 70 --processes 2

prints a JSON line when they are ready: {"urls": [..], "pids": [..], "clock": [monotonic ns, UTC ns]}. Ends with its
stdin, or on SIGTERM or Ctrl-C. From Python:

    cameras = PlainCameras(clip.path, 70, processes=2)
    with cameras as urls:
        ...
        clip.truth(cameras.frame_at(3, detection.capture_utc_ns))

Every camera plays the same clip, each from another moment of it, over and over with times that go on rising. TCP only,
no accounts, no faults: ``CameraServer`` and ``RogueCamera`` have those. ``plain_drain`` measures what it costs.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import resource
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from time import monotonic_ns, time_ns
from types import TracebackType
from typing import Any

from tests.cameras.plain_clip import Loop, load
from tests.cameras.plain_server import Clock, Server, frame_at

_ROOT = Path(__file__).resolve().parents[2]
_HOST = "127.0.0.1"


class PlainCamerasError(Exception):
    """The cameras could not start; why."""


class PlainCameras:
    """``cameras`` of them, shared by ``processes``; a context manager that gives their URLs. ``fps`` None: the clip's.

    ``port`` 0 takes free ones; else process k listens on ``port`` + k. Raises PlainCamerasError when they can't start.
    """

    def __init__(
        self, clip: Path, cameras: int, *, processes: int = 1, fps: Fraction | float | None = None, port: int = 0
    ):
        self._clip = clip.resolve()
        self._fps = None if fps is None else Fraction(fps).limit_denominator(1001)
        self._command = [sys.executable, "-m", "tests.cameras.plain", "--clip", str(self._clip)]
        self._command += ["--cameras", str(cameras), "--processes", str(processes), "--port", str(port)]
        self._command += [] if self._fps is None else ["--fps", str(self._fps)]
        self._process: subprocess.Popen[str] | None = None
        self._clock = Clock(0, 0)
        self.pids: list[int] = []  # of the processes that serve

    def __enter__(self) -> list[str]:
        self._process = subprocess.Popen(
            self._command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            said = self._process.communicate()[1].strip()
            raise PlainCamerasError(f"the cameras ended at start: {said[-2000:]}")
        ready = json.loads(line)
        self.pids, self._clock = ready["pids"], Clock(*ready["clock"])
        return list(ready["urls"])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        try:
            self._process.communicate(timeout=10)  # closes its stdin
        except subprocess.TimeoutExpired:
            self._process.kill()  # its workers end with their pipes
            self._process.communicate()

    @functools.cached_property
    def _loop(self) -> Loop:
        return load(self._clip, self._fps)

    def frame_at(self, camera: int, utc_ns: int) -> int:
        """Which of the clip's frames (display order, counted on over loops) ``camera`` took at ``utc_ns``, a capture
        time as the daemon tells it. Exact while the way takes between -10 and +30 ms at 25 fps."""
        period = self._loop.at_ns(1)
        # The way takes time, so a capture time is late rather than early: a quarter of a frame of slack before.
        mono_ns = utc_ns + period // 4 - self._clock.utc_ns + self._clock.mono_ns
        return frame_at(self._loop, camera, self._clock, mono_ns) + self._loop.lead

    def cpu_seconds(self) -> float:
        """CPU time, user and system, that the processes which serve have used so far; while they run."""
        ticks = 0
        for pid in self.pids:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # proc(5): utime, stime
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


def _positive(text: str) -> int:
    if not (text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _rate(text: str) -> Fraction:
    with contextlib.suppress(ValueError, ZeroDivisionError):
        rate = Fraction(text)
        if rate > 0:
            return rate
    raise argparse.ArgumentTypeError(f"{text!r} is no frame rate above 0, like 25 or 30000/1001")


def _serve(options: argparse.Namespace) -> int:
    """A worker: every ``processes``-th camera, until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends us in order
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    mono_ns, utc_ns = options.clock
    loop = load(options.clip, options.fps)
    port = options.port + options.worker if options.port else 0
    try:
        listener = socket.create_server((_HOST, port), backlog=1024)
    except OSError as error:
        print(f"can't listen on {_HOST} port {port}: {error.strerror}", file=sys.stderr)
        return 1
    with listener:
        numbers = range(options.worker, options.cameras, options.processes)
        server = Server(loop, numbers, listener, Clock(mono_ns, utc_ns))
        print(listener.getsockname()[1], flush=True)
        server.run(sys.stdin.fileno())
    return 0


@contextlib.contextmanager
def _workers(arguments: list[str], processes: int, clock: Clock) -> Iterator[list[subprocess.Popen[str]]]:
    command = [sys.executable, "-m", "tests.cameras.plain", *arguments, "--clock", str(clock.mono_ns)]
    command += [str(clock.utc_ns), "--worker"]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    workers: list[subprocess.Popen[str]] = []
    pipe: Any = subprocess.PIPE
    try:
        for k in range(processes):
            one = subprocess.Popen([*command, str(k)], stdin=pipe, stdout=pipe, text=True, env=environment)
            workers.append(one)
        yield workers
    finally:
        for worker in workers:
            assert worker.stdin
            worker.stdin.close()
        for worker in workers:
            try:
                worker.wait(5)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()


def _lead(options: argparse.Namespace, arguments: list[str]) -> int:
    """The parent: starts the workers, says where the cameras are, and waits for the end of its stdin or of a worker."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    clock = Clock(monotonic_ns(), time_ns())
    with _workers(arguments, options.processes, clock) as workers:
        ports = [(worker.stdout.readline() if worker.stdout else "").strip() for worker in workers]
        if not all(ports):
            return 1  # it said why
        urls = [f"rtsp://{_HOST}:{ports[i % options.processes]}/cam{i}" for i in range(options.cameras)]
        said = {"urls": urls, "pids": [worker.pid for worker in workers], "clock": [clock.mono_ns, clock.utc_ns]}
        print(json.dumps(said), flush=True)
        selector = selectors.DefaultSelector()
        selector.register(sys.stdin, selectors.EVENT_READ, None)
        for worker in workers:
            assert worker.stdout
            selector.register(worker.stdout, selectors.EVENT_READ, worker)
        while True:
            for key, _ in selector.select():
                if key.data is not None:
                    print(f"the cameras' process {key.data.pid} ended", file=sys.stderr)
                    return 1
                if not os.read(sys.stdin.fileno(), 4096):
                    return 0


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="python -m tests.cameras.plain", description=__doc__.split("\n")[0])
    parser.add_argument("--clip", type=Path, required=True, help="H.264 or H.265 in mp4, mkv, ts or Annex B")
    parser.add_argument("--cameras", type=_positive, default=1, help="how many (default 1)")
    parser.add_argument("--processes", type=_positive, default=1, help="that serve them (default 1)")
    parser.add_argument("--fps", type=_rate, help="frames a second (default: the clip's)")
    parser.add_argument("--port", type=int, default=0, help="of the first process, counting on; 0 takes free ones")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--clock", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker is not None:
        return _serve(options)
    try:
        load(options.clip, options.fps)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return _lead(options, arguments)


if __name__ == "__main__":
    sys.exit(main())
