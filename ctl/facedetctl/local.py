"""A daemon of one's own, in a folder of its own: for bench, the demo and the tests."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import grpc

from facedetd.config.urls import grpc_unix
from facedetd.trt import PLANS
from facedetd.v1 import daemon_pb2, daemon_pb2_grpc, detection_pb2_grpc, stream_pb2_grpc

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
# So that it doesn't outlive whoever started it, who may be killed: PR_SET_PDEATHSIG, prctl(2)
_TIED = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() != int(sys.argv.pop(1)):
    sys.exit(1)
from facedetd.main import main
sys.exit(main())
"""


class LocalDaemonError(Exception):
    """The daemon could not be started; the message holds its last log lines."""


class LocalDaemon:
    """Runs ``facedetd`` with a config that is ``settings`` (TOML text) plus sockets and a state directory in a fresh
    folder. A context manager; leaving it stops the daemon (SIGTERM, after STOP_TIMEOUT_S SIGKILL) and removes
    the folder.

    ``models``: a model store to use instead of an empty one; ``plans``: a folder of TensorRT plans. The log goes to
    ``log``, or to stderr where ``verbose``.
    """

    def __init__(
        self, settings: str = "", *, models: Path | None = None, plans: Path | None = None, verbose: bool = False
    ):
        self._settings, self._verbose = settings, verbose
        self._lent = {"models": models, PLANS: plans}
        self.folder = Path(tempfile.mkdtemp(prefix="facedetd-"))
        self.socket = self.folder / "facedetd.sock"
        self.read_only_socket = self.folder / "facedetd-ro.sock"
        self.state_dir = self.folder / "state"
        self.config = self.folder / "facedetd.toml"
        self.log = self.folder / "log"
        self.process: subprocess.Popen[bytes] | None = None
        self._channel: grpc.Channel | None = None

    def __enter__(self) -> LocalDaemon:
        try:
            self.state_dir.mkdir()
            for name, folder in self._lent.items():
                if folder:
                    (self.state_dir / name).symlink_to(folder.resolve())
            self.write_config(self._settings)
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(Exception):
            self.stop()
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def write_config(self, settings: str) -> None:
        """``settings`` may hold any section; keys of [daemon] and [api] that it sets must not be the paths."""
        own = {
            "daemon": f'state_dir = "{self.state_dir}"\n',
            "api": f'socket = "{self.socket}"\nread_only_socket = "{self.read_only_socket}"\n',
            "metrics": 'listen = ""\n',
        }
        for section, lines in own.items():
            header = f"[{section}]\n"
            if section == "metrics" and header in settings:
                continue
            settings = (
                settings.replace(header, header + lines) if header in settings else f"{header}{lines}\n{settings}"
            )
        self.config.write_text(settings)

    def start(self) -> None:
        """Start it and wait until it answers. It ends with the thread that calls this. Raises LocalDaemonError."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-c", _TIED, str(os.getpid()), "--config", str(self.config)],
                stderr=None if self._verbose else log,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL if self._verbose else log,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self.is_up():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise LocalDaemonError(f"facedetd did not start:\n{self.log_text()[-2000:]}")
            time.sleep(0.05)

    def is_up(self) -> bool:
        """Whether it answers and knows whether it has a model."""
        if not self.socket.exists():
            return False
        try:
            answer = self.daemon.GetHealth(daemon_pb2.GetHealthRequest(), timeout=5)
        except grpc.RpcError:
            return False
        return bool(answer.state != daemon_pb2.DAEMON_STATE_STARTING)

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        if self._channel:
            self._channel.close()
            self._channel = None
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait()

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    @property
    def channel(self) -> grpc.Channel:
        if self._channel is None:
            self._channel = grpc.insecure_channel(grpc_unix(self.socket))
        return self._channel

    @property
    def streams(self) -> stream_pb2_grpc.StreamServiceStub:
        return stream_pb2_grpc.StreamServiceStub(self.channel)

    @property
    def daemon(self) -> daemon_pb2_grpc.DaemonServiceStub:
        return daemon_pb2_grpc.DaemonServiceStub(self.channel)

    @property
    def detections(self) -> detection_pb2_grpc.DetectionServiceStub:
        return detection_pb2_grpc.DetectionServiceStub(self.channel)

    def pids(self) -> list[int]:
        """The daemon's process and all below it."""
        assert self.process
        return [self.process.pid, *_descendants(self.process.pid)]


def _descendants(pid: int) -> Iterator[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    try:
        found = [int(word) for word in children.read_text().split()]
    except OSError:
        return
    for child in found:
        yield child
        yield from _descendants(child)


def default_model_store() -> Path:
    """Where models for local daemons are kept between runs: FACEDETD_MODEL_STORE, or a folder of the user's cache.
    Raises LocalDaemonError for a user who has no home."""
    named = os.environ.get("FACEDETD_MODEL_STORE")
    try:
        return Path(named) if named else Path.home() / ".cache" / "facedetd" / "models"
    except RuntimeError:
        raise LocalDaemonError("no home directory to keep models in; name a folder in FACEDETD_MODEL_STORE") from None
