"""A real daemon and the clients it must survive: strangers on TCP, floods, connections that do nothing."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from facedetctl.local import LocalDaemon
from facedetd.api.server import CONNECTIONS
from facedetd.config.model import ApiConfig
from facedetd.v1 import daemon_pb2, daemon_pb2_grpc, detection_pb2, detection_pb2_grpc
from tests.cameras import CameraServer
from tests.certificates import Authority, Pair
from tests.integration.daemon_kit import SMALL_MODEL, add, model_store, stats, until, until_inferred, watching

ADMIN, READER = "admin-" + "a" * 32, "reader-" + "r" * 32


@dataclass(frozen=True)
class Room:
    folder: Path
    authority: Authority
    server: Pair
    ops: Pair
    port: int

    @property
    def tokens(self) -> Path:
        return self.folder / "tokens"

    def api(self, *ways: str) -> str:
        lines = [f'listen = "127.0.0.1:{self.port}"', f'tls_cert_file = "{self.server.cert}"']
        lines += [f'tls_key_file = "{self.server.key}"', *ways]
        return "\n[api]\n" + "\n".join(lines) + "\n"

    @property
    def by_token(self) -> str:
        return f'token_file = "{self.tokens}"'


@pytest.fixture
def room(tmp_path: Path) -> Room:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    authority = Authority(tmp_path)
    found = Room(tmp_path, authority, authority.sign("server"), authority.sign("ops"), port)
    write_secret(found.tokens, f"admin:{ADMIN}\nread-only:{READER}\n")
    return found


def write_secret(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def ctl(room: Room, *argv: str, token: str = "", pair: Pair | None = None, ca: Path | None = None) -> tuple[int, str]:
    """facedetctl over TCP: its exit code, and all it said."""
    environ = {**os.environ, "FACEDETCTL_ADDRESS": f"127.0.0.1:{room.port}"}
    environ["FACEDETCTL_TLS_CA"] = str(ca or room.authority.ca)
    if token:
        environ["FACEDETCTL_TOKEN_FILE"] = str(write_secret(room.folder / "my-token", token + "\n"))
    if pair:
        environ |= {"FACEDETCTL_TLS_CERT": str(pair.cert), "FACEDETCTL_TLS_KEY": str(pair.key)}
    command = [sys.executable, "-m", "facedetctl", *argv]
    done = subprocess.run(command, check=False, env=environ, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def run_daemon(config: Path, *argv: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "facedetd", "--config", str(config), *argv]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


# --- what refuses to start ---


def refused(case: str, room: Room) -> tuple[str, str]:
    """The [api] table of a bad listener, and what is said of it."""
    if case == "no tls":
        return f'\n[api]\nlisten = "127.0.0.1:{room.port}"\n{room.by_token}\n', "without tls_cert_file, tls_key_file"
    if case == "nobody proves anything":
        return room.api(), "without client_ca_file or token_file"
    if case == "open token file":
        room.tokens.chmod(0o644)
        return room.api(room.by_token), "api.token_file: found mode 0644, open to others"
    if case == "empty token file":
        write_secret(room.tokens, "\n# none\n")
        return room.api(room.by_token), "api.token_file: found no token"
    if case == "no token file":
        room.tokens.unlink()
        return room.api(room.by_token), "api.token_file: there is no such file"
    if case == "key of another":
        room.server.key.write_bytes(room.ops.key.read_bytes())
        return room.api(room.by_token), "api.tls_key_file: found the key of another certificate"
    assert case == "no group"
    return '\n[api]\ngroup = "no-such-group"\n', 'api.group: found no group "no-such-group"'


CASES = ("no tls", "nobody proves anything", "open token file", "empty token file", "no token file", "key of another")


@pytest.mark.parametrize("case", [*CASES, "no group"])
def test_half_a_listener_refuses_to_start_and_check_says_so(room: Room, case: str) -> None:
    text, message = refused(case, room)
    config, state = room.folder / "facedetd.toml", room.folder / "state"
    paths = f'socket = "{room.folder}/s"\nread_only_socket = "{room.folder}/s-ro"\n'
    text = text.replace("[api]\n", "[api]\n" + paths)
    config.write_text(f'[daemon]\nstate_dir = "{state}"\n[metrics]\nlisten = ""\n{text}')
    for argv in (("--check",), ()):
        code, said = run_daemon(config, *argv)
        assert code == 78
        assert message in said and "Traceback" not in said
        assert ADMIN not in said
    assert not (room.folder / "s").exists()


def test_an_expired_certificate_is_told_and_faces_are_still_detected(room: Room) -> None:
    late = room.authority.sign("late", days=-1)
    for part in ("cert", "key"):
        getattr(room.server, part).write_bytes(getattr(late, part).read_bytes())
    with LocalDaemon(SMALL_MODEL + room.api(room.by_token), models=model_store()) as daemon:
        code, said = run_daemon(daemon.config, "--check")
        assert code == 0 and "api.tls_cert_file) expired on" in said
        problems = daemon.daemon.GetHealth(daemon_pb2.GetHealthRequest(), timeout=10).problems
        assert [p.subject for p in problems if "expired on" in p.message] == ["api"]
        code, said = ctl(room, "stats", token=READER)
        assert code == 8 and "certificate has expired" in said


# --- over TCP ---


@pytest.fixture
def served(room: Room) -> Iterator[LocalDaemon]:
    with LocalDaemon(SMALL_MODEL + room.api(room.by_token), models=model_store()) as daemon:
        yield daemon
        assert ADMIN not in daemon.log_text() and READER not in daemon.log_text()
        print(daemon.log_text())


def test_facedetctl_gets_in_with_a_token_and_is_told_why_not(room: Room, served: LocalDaemon, tmp_path: Path) -> None:
    assert ctl(room, "add-stream", "cam", "rtsp://127.0.0.1:9/x", token=ADMIN)[0] == 0
    code, said = ctl(room, "list-streams", "--json", token=READER)
    assert code == 0 and [s["spec"]["id"] for s in json.loads(said)["streams"]] == ["cam"]
    refusals = {
        "not allowed with the read-only token of line 2": ctl(room, "remove-stream", "cam", token=READER),
        "no token was given": ctl(room, "stats"),
        "the token is not one of api.token_file": ctl(room, "stats", token="x" * 40),
    }
    (tmp_path / "other").mkdir()
    stranger = Authority(tmp_path / "other", "stranger")
    refusals["its certificate is not good"] = ctl(room, "stats", token=ADMIN, ca=stranger.ca)
    for message, (code, said) in refusals.items():
        assert (code, message in said) == (8, True), said
    assert [s.spec.id for s in stats(served).streams] == ["cam"]
    assert ctl(room, "remove-stream", "cam", token=ADMIN)[0] == 0
    for pid in served.pids():
        said = Path(f"/proc/{pid}/cmdline").read_text() + Path(f"/proc/{pid}/environ").read_text()
        assert ADMIN not in said and READER not in said


def test_facedetctl_gets_in_with_a_certificate(room: Room, tmp_path: Path) -> None:
    ways = (f'client_ca_file = "{room.authority.ca}"', 'admin_clients = ["ops"]')
    with LocalDaemon(SMALL_MODEL + room.api(*ways), models=model_store()) as daemon:
        assert ctl(room, "reload", pair=room.ops)[0] == 0
        code, said = ctl(room, "stats")
        assert code == 8 and "wants a client certificate" in said
        (tmp_path / "other").mkdir()
        stranger = Authority(tmp_path / "other").sign("ops")
        code, said = ctl(room, "stats", pair=stranger)
        assert code == 8 and "refuses the client certificate" in said
        code, said = ctl(room, "stats", pair=room.authority.sign("guest"))
        assert code == 8 and "has no role" in said
        daemon.write_config(SMALL_MODEL + room.api(*ways, 'read_only_clients = ["guest"]'))
        assert ctl(room, "reload", pair=room.ops)[0] == 0
        assert ctl(room, "stats", pair=room.authority.sign("guest"))[0] == 0


def test_a_reload_reads_the_tokens_anew(room: Room, served: LocalDaemon) -> None:
    newer = "newer-" + "n" * 32
    write_secret(room.tokens, f"admin:{newer}\n")
    assert ctl(room, "stats", token=newer)[0] == 8
    code, said = ctl(room, "reload", token=ADMIN)
    assert code == 0 and "api: new tokens" in said
    assert ctl(room, "stats", token=newer)[0] == 0
    assert ctl(room, "stats", token=ADMIN)[0] == 8
    write_secret(room.tokens, "")
    code, said = ctl(room, "reload", token=newer)
    assert code == 1 and "found no token" in said
    assert ctl(room, "stats", token=newer)[0] == 0


def test_strangers_do_not_fill_the_log(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRPC_VERBOSITY", raising=False)  # facedetctl's modules set it, and the daemon would inherit it
    (room.folder / "other").mkdir()
    stranger = Authority(room.folder / "other", "stranger")
    with LocalDaemon(SMALL_MODEL + room.api(room.by_token), models=model_store()) as daemon:
        assert ctl(room, "stats", token=READER)[0] == 0
        before = daemon.log_text().count("\n")
        for _ in range(40):
            with socket.create_connection(("127.0.0.1", room.port), timeout=30) as one, contextlib.suppress(OSError):
                one.sendall(b"hello\r\n" * 50)
                while one.recv(4096):
                    pass
        assert ctl(room, "stats", ca=stranger.ca)[0] == 8
        assert ctl(room, "stats", token=READER)[0] == 0
        more = daemon.log_text().splitlines()[before:]
        assert len(more) < 10, more


def test_a_second_daemon_on_the_port_is_refused(room: Room, served: LocalDaemon) -> None:
    config, state = room.folder / "second.toml", room.folder / "second"
    paths = f'socket = "{room.folder}/s"\nread_only_socket = "{room.folder}/s-ro"\n'
    api = room.api(room.by_token).replace("[api]\n", "[api]\n" + paths)
    config.write_text(f'[daemon]\nstate_dir = "{state}"\n[metrics]\nlisten = ""\n{api}')
    code, said = run_daemon(config)
    assert code == 1
    assert f"can't listen on 127.0.0.1 port {room.port}: Address already in use; stop what listens there" in said
    assert not (room.folder / "s").exists() and not (room.folder / "s-ro").exists()
    assert ctl(room, "stats", token=READER)[0] == 0


# --- clients that mean harm ---


@pytest.fixture
def busy(cameras: CameraServer, room: Room) -> Iterator[LocalDaemon]:
    settings = SMALL_MODEL + room.api(room.by_token, "max_calls_per_s = 50")
    with LocalDaemon(settings, models=model_store()) as daemon:
        add(daemon, "a", cameras.url(0))
        until_inferred(daemon, ["a"])
        yield daemon
        print(daemon.log_text())


def read_only_channel(daemon: LocalDaemon) -> grpc.Channel:
    options = [("grpc.use_local_subchannel_pool", 1)]
    return grpc.insecure_channel(f"unix:{daemon.read_only_socket}", options=options)


class Flood(threading.Thread):
    """Calls on the read-only socket without a pause, 50 at once, until told to stop."""

    def __init__(self, daemon: LocalDaemon) -> None:
        super().__init__(daemon=True)
        self._daemon = daemon
        self.codes: dict[grpc.StatusCode, int] = {}
        self.stop = threading.Event()

    def run(self) -> None:
        with read_only_channel(self._daemon) as channel:
            stub = daemon_pb2_grpc.DaemonServiceStub(channel)
            while not self.stop.is_set():
                calls = [stub.GetStats.future(daemon_pb2.GetStatsRequest(), timeout=60) for _ in range(50)]
                for call in calls:
                    code = call.code()
                    self.codes[code] = self.codes.get(code, 0) + 1


def test_a_flood_on_one_socket_harms_nobody_else(busy: LocalDaemon, room: Room) -> None:
    lazy = read_only_channel(busy)
    never_read = detection_pb2_grpc.DetectionServiceStub(lazy).WatchDetections(
        detection_pb2.WatchDetectionsRequest(include_empty=True)
    )
    floods = [Flood(busy) for _ in range(2)]
    with watching(busy) as watch:
        for flood in floods:
            flood.start()
        until(lambda: all(f.codes.get(grpc.StatusCode.RESOURCE_EXHAUSTED) for f in floods), "the flood to be refused")
        before = len(watch.of("a"))
        for _ in range(20):  # every one of them is answered
            assert stats(busy).state == daemon_pb2.DAEMON_STATE_RUNNING
        assert ctl(room, "stats", token=READER)[0] == 0
        until_inferred(busy, ["a"], 10)
        until(lambda: len(watch.of("a")) >= before + 10, "detections to go on")
        for flood in floods:
            flood.stop.set()
        for flood in floods:
            flood.join(60)
            assert flood.codes[grpc.StatusCode.OK] > 0
    never_read.cancel()
    lazy.close()

    def answered() -> bool:
        with read_only_channel(busy) as channel:
            try:
                daemon_pb2_grpc.DaemonServiceStub(channel).GetStats(daemon_pb2.GetStatsRequest(), timeout=10)
            except grpc.RpcError:
                return False
        return True

    until(answered, "the read-only socket to answer again")


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\0\0\0\4\0\0\0\0\0"
GREETINGS = {
    "silent": b"",
    "http1": b"GET / HTTP/1.1\r\n\r\n",
    "noise": bytes(range(256)) * 8,
    "half a preface": PREFACE[:10],
    "no settings": PREFACE,
    "idle": PREFACE + SETTINGS,
    "half a header": PREFACE + SETTINGS + b"\0\0\x10\1\0\0\0\0\1\x82",
    "a huge frame": PREFACE + SETTINGS + b"\xff\xff\xff\1\4\0\0\0\1",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00",
}


@contextlib.contextmanager
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 4096), hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_thousand_connections_that_do_nothing_are_bounded(busy: LocalDaemon, room: Room) -> None:
    assert busy.process
    descriptors = Path(f"/proc/{busy.process.pid}/fd")
    before = len(list(descriptors.iterdir()))
    targets = [(socket.AF_INET, ("127.0.0.1", room.port)), (socket.AF_UNIX, str(busy.read_only_socket))]
    with many_descriptors(), contextlib.ExitStack() as held:
        for number in range(1000):
            family, address = targets[number % 10 < 7]
            one = held.enter_context(socket.socket(family))
            one.settimeout(30)
            with contextlib.suppress(OSError):  # over the bound it is closed at once
                one.connect(address)
                one.sendall(GREETINGS["idle"] if family is socket.AF_UNIX else b"")
        bound = 2 * (CONNECTIONS + ApiConfig().max_watchers) + 40
        until(lambda: len(list(descriptors.iterdir())) - before <= bound, "the rest to be closed")
        assert stats(busy).state == daemon_pb2.DAEMON_STATE_RUNNING
        until_inferred(busy, ["a"], 5)
    until(lambda: ctl(room, "stats", token=READER)[0] == 0, "TCP to answer again")
    until(lambda: len(list(descriptors.iterdir())) - before <= 40, "all to be closed")


def test_connections_that_never_get_anywhere_are_closed(busy: LocalDaemon, room: Room) -> None:
    """After 10 s without TLS or HTTP/2's own greeting. One that is well-behaved but idle may stay five minutes, as may
    one that holds its headers back."""
    targets = [(socket.AF_UNIX, str(busy.read_only_socket)), (socket.AF_INET, ("127.0.0.1", room.port))]
    with contextlib.ExitStack() as held:
        waiting = []
        for family, address in targets:
            for greeting, data in GREETINGS.items():
                if family is socket.AF_INET or greeting not in ("idle", "half a header"):
                    one = held.enter_context(socket.socket(family))
                    one.settimeout(60)
                    one.connect(address)
                    one.sendall(data)
                    waiting.append(one)
        for one in waiting:
            with contextlib.suppress(ConnectionError):
                while one.recv(4096):
                    pass
    assert stats(busy).state == daemon_pb2.DAEMON_STATE_RUNNING
