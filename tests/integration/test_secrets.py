"""A camera's password works whatever is in it, and is to be found in the state file and nowhere else.

The daemon runs at log level debug, once with each format, with cameras that let it in, refuse it, are away, and whose
certificate isn't valid. Then everything that anyone could read is searched for the password in every shape."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from facedetctl.local import LocalDaemon
from facedetd.config.urls import url_with_credentials
from facedetd.v1 import daemon_pb2, stream_pb2, stream_pb2_grpc
from tests.cameras import Account, CameraServer, Coding, encode, make_scene
from tests.fuzz.api import METHODS
from tests.integration import daemon_kit as kit
from tests.integration.secret_kit import PASSWORD, USER, WRONG, Seen, found_in
from tests.ports import free_port

pytestmark = pytest.mark.integration

GOOD = ("basic", "stdin", "file", "toml", "import", "import-url", "tls-good")
BAD = {
    "wrong": "username or password refused",
    "down": "connection refused",
    "tls-bad": "certificate",
    "gone": "404",
}


@dataclass
class World:
    daemon: LocalDaemon
    seen: Seen
    metrics_port: int
    folder: Path
    urls: dict[str, str]

    def ctl(self, *words: str, stdin: str = "", read_only: bool = False, code: int | None = 0) -> str:
        """Run facedetctl; what it says is kept, and what /proc shows while it waits for the password."""
        sock = self.daemon.read_only_socket if read_only else self.daemon.socket
        process = subprocess.Popen(
            [sys.executable, "-m", "facedetctl", "--socket", str(sock), *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "TMPDIR": str(self.folder)},
        )  # fmt: skip
        if stdin:  # it waits for what stands there: look before and after
            self.seen.processes([process.pid])
        assert process.stdin
        process.stdin.write(stdin.encode())
        process.stdin.flush()
        if not any(found_in(word) for word in words):
            self.seen.processes([process.pid])
        out, err = process.communicate(timeout=60)
        shown = " ".join(words) if not found_in(" ".join(words)) else words[0]
        self.seen.add(f"stdout of facedetctl {shown}", out)
        self.seen.add(f"stderr of facedetctl {shown}", err)
        assert code is None or process.returncode == code, (shown, out, err)
        return out.decode() + err.decode()


@pytest.fixture(scope="module")
def cameras(cameras_possible: None, camera_server: Callable[..., CameraServer]) -> dict[str, CameraServer]:
    """By name: one with each kind of login, and one with TLS."""
    clip = encode(make_scene(640, 360, faces=2, frames=100, seed=0), coding=Coding(bitrate=800_000, gop=25))
    return {
        "digest": camera_server([clip] * 5, account=Account(USER, PASSWORD)),
        "basic": camera_server([clip], account=Account(USER, PASSWORD, "basic")),
        "tls": camera_server([clip] * 2, account=Account(USER, PASSWORD), tls=True),
    }


@pytest.fixture(scope="module", params=["text", "json"])
def world(
    request: pytest.FixtureRequest, cameras: dict[str, CameraServer], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """A daemon at log level debug with all streams on it, each doing what it should."""
    folder = tmp_path_factory.mktemp("secrets")
    loaded = folder / "loaded"
    loaded.mkdir(0o700)
    (loaded / "toml-camera").write_text(PASSWORD)
    temporary = folder / "tmp"
    temporary.mkdir()
    digest, port = cameras["digest"], free_port()
    settings = kit.SMALL_MODEL.replace(
        "[daemon]\n", f'[daemon]\nlog_level = "debug"\nlog_format = "{request.param}"\n', 1
    )
    settings += f"""
[metrics]
listen = "127.0.0.1:{port}"
[[stream]]
id = "toml"
url = "{digest.url(0)}"
username = "{USER}"
credential = "toml-camera"
target_fps = 1
"""
    urls = {
        "stdin": digest.url(1), "file": digest.url(2), "import": digest.url(3), "import-url": digest.url(4),
        "basic": cameras["basic"].url(0), "tls-good": cameras["tls"].url(0), "tls-bad": cameras["tls"].url(1),
        "wrong": digest.url(0), "down": f"rtsp://127.0.0.1:{free_port()}/cam0", "gone": digest.url(77),
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CREDENTIALS_DIRECTORY", str(loaded))
        patch.setenv("TMPDIR", str(temporary))
        with LocalDaemon(settings, models=kit.model_store()) as daemon:
            made = World(daemon, Seen(), port, temporary, urls)
            _add_all(made, folder, cameras)
            yield made


def _add_all(world: World, folder: Path, cameras: dict[str, CameraServer]) -> None:
    """Each way to give a password, and each thing that can go wrong with one."""
    urls = world.urls
    for name in ("stdin", "basic", "down", "gone", "tls-bad"):
        words = ["add-stream", name, urls[name], "--username", USER, "--password-stdin", "--target-fps", "1"]
        world.ctl(*words, stdin=PASSWORD + "\n")
    world.ctl("add-stream", "wrong", urls["wrong"], "--username", USER, "--password-stdin", stdin=WRONG)
    ca = ("--ca-file", str(cameras["tls"].ca_file))
    tls = ("add-stream", "tls-good", urls["tls-good"], *ca, "--target-fps", "1", "--json")
    world.ctl(*tls, "--username", USER, "--password-stdin", stdin=PASSWORD)

    login = folder / "login"
    login.touch(0o600)
    login.write_text(f"{USER}\n{PASSWORD}\n")
    world.ctl("add-stream", "file", urls["file"], "--credentials-file", str(login), "--target-fps", "1")

    listed = folder / "cameras.json"
    listed.touch(0o600)
    entries = [
        {"id": "import", "url": urls["import"], "username": USER, "password": PASSWORD, "target_fps": 1},
        {"id": "import-url", "url": url_with_credentials(urls["import-url"], USER, PASSWORD), "target_fps": 1},
    ]
    listed.write_text(json.dumps(entries))
    world.ctl("import", str(listed), "--dry-run", "--json")
    world.ctl("import", str(listed))


def test_a_password_of_any_characters_lets_the_daemon_in_by_every_way_of_giving_it(world: World) -> None:
    kit.until_inferred(world.daemon, GOOD, more=1, timeout_s=90)
    assert all(kit.stream(world.daemon, name).has_password for name in GOOD)


@pytest.mark.parametrize("name", BAD)
def test_what_goes_wrong_is_said(world: World, name: str) -> None:
    def said() -> bool:
        status = kit.stream(world.daemon, name).status
        return status.state == stream_pb2.STREAM_STATE_BACKING_OFF and BAD[name] in status.detail

    kit.until(said, f"{name}: {BAD[name]}", 60)


def test_no_process_shows_it(world: World) -> None:
    pids = world.daemon.pids()
    assert len(pids) >= 4  # supervisor, two groups or more, inference
    world.seen.processes(pids)
    assert any("cmdline" in where for where, _ in world.seen.texts)
    world.seen.check()


def test_no_answer_of_the_api_shows_it(world: World) -> None:
    """Every method that a reader may call, by both sockets; with each stream's id where one is wanted."""
    seen = Seen()
    for path in (world.daemon.socket, world.daemon.read_only_socket):
        with grpc.insecure_channel(f"unix:{path}") as channel:
            for method in METHODS:
                for request in _requests(method.request):
                    _call(channel, method, request, seen)
    answered = {where for where, text in seen.texts if text}
    assert {"GetStream", "ListStreams", "GetStats", "GetHealth"} <= {w.rpartition("/")[2] for w in answered}
    assert any(world.urls["stdin"].encode() in text for _, text in seen.texts)  # the search would find something
    seen.check()


def _requests(cls: type[Any]) -> list[bytes]:
    names = {f.name for f in cls.DESCRIPTOR.fields}
    if cls.__name__ in ("DeleteStreamRequest", "PauseStreamRequest", "ResumeStreamRequest", "ReloadRequest"):
        return []
    if "id" in names:
        return [cls(id=name).SerializeToString() for name in (*GOOD, *BAD)]
    return [b""]


def _call(channel: grpc.Channel, method: Any, request: bytes, seen: Seen) -> None:
    same = lambda data: data  # noqa: E731
    kind = ("stream" if method.client_streams else "unary") + "_" + ("stream" if method.server_streams else "unary")
    call = getattr(channel, kind)(method.path, request_serializer=same, response_deserializer=same)
    sent = iter([request]) if method.client_streams else request
    try:
        if method.server_streams:
            for _, answer in zip(range(3), call(sent, timeout=5), strict=False):
                seen.add(method.path, answer)
        else:
            seen.add(method.path, call(sent, timeout=30))
    except grpc.RpcError as error:
        _keep_error(seen, method.path, error)


def _keep_error(seen: Seen, where: str, error: Any) -> None:
    seen.add(f"details of {where}", str(error.details()))
    seen.add(f"error of {where}", str(error) + repr(error))
    seen.add(f"debug of {where}", str(error.debug_error_string()))
    for key, value in error.trailing_metadata() or ():
        seen.add(f"{key} of {where}", value)


def test_no_refused_call_shows_it(world: World) -> None:
    streams, seen = world.daemon.streams, Seen()
    login = stream_pb2.Credentials(username=USER, password=PASSWORD)
    spec = stream_pb2.StreamSpec
    raw = f"rtsp://{USER}:{PASSWORD}@127.0.0.1/x"
    coded = url_with_credentials("rtsp://127.0.0.1/x", USER, PASSWORD)
    create, update = stream_pb2.CreateStreamRequest, stream_pb2.UpdateStreamRequest
    entry = stream_pb2.StreamImport
    calls: list[tuple[str, Callable[[Any], Any], Any]] = [
        ("a taken id", streams.CreateStream, create(spec=spec(id="stdin", url="rtsp://h/1"), credentials=login)),
        ("a bad id", streams.CreateStream, create(spec=spec(id="/", url="rtsp://h/1"), credentials=login)),
        ("in the URL", streams.CreateStream, create(spec=spec(id="new", url=raw), credentials=login)),
        ("in the URL, encoded", streams.CreateStream, create(spec=spec(id="new", url=coded))),
        ("in the sub URL", streams.CreateStream, create(spec=spec(id="new", url="rtsp://h/1", sub_url=coded))),
        ("as a user name", streams.CreateStream, create(spec=spec(id="n", url="rtsp://h", username=PASSWORD + "\n"))),
        ("two names", streams.CreateStream, create(spec=spec(id="n", url="rtsp://h", username="x"), credentials=login)),
        ("too long", streams.CreateStream,
         create(spec=spec(id="n", url="rtsp://h"), credentials=stream_pb2.Credentials(password=PASSWORD * 9))),
        ("a NUL", streams.CreateStream,
         create(spec=spec(id="n", url="rtsp://h"), credentials=stream_pb2.Credentials(password=PASSWORD + "\0"))),
        ("no mask", streams.UpdateStream, update(spec=spec(id="stdin"), credentials=login)),
        ("nobody", streams.UpdateStream, _update(id="nobody", credentials=login)),
        ("of the TOML", streams.UpdateStream, _update(id="toml", credentials=login)),
        ("imported", streams.ImportStreams,
         stream_pb2.ImportStreamsRequest(streams=[entry(spec=spec(id="stdin", url=coded), credentials=login)])),
    ]  # fmt: skip
    for name, call, request in calls:
        with pytest.raises(grpc.RpcError) as caught:
            call(request, timeout=30)
        assert caught.value.code() not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN), name
        _keep_error(seen, name, caught.value)
    with grpc.insecure_channel(f"unix:{world.daemon.read_only_socket}") as channel:
        reader = stream_pb2_grpc.StreamServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            reader.CreateStream(create(spec=spec(id="n", url="rtsp://h"), credentials=login), timeout=30)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    _keep_error(seen, "read only", caught.value)
    seen.check()


def _update(id: str, credentials: stream_pb2.Credentials) -> stream_pb2.UpdateStreamRequest:
    request = stream_pb2.UpdateStreamRequest(spec=stream_pb2.StreamSpec(id=id), credentials=credentials)
    request.update_mask.paths.append("credentials.password")
    return request


def test_facedetctl_never_says_it(world: World) -> None:
    for read_only in (False, True):
        for words in (["list-streams"], ["stats"], ["health"], ["version"]):
            world.ctl(*words, read_only=read_only, code=None)
            world.ctl(*words, "--json", read_only=read_only, code=None)
    # Mistakes: the shell's history has it then, but facedetctl needn't repeat it
    world.ctl("add-stream", "x", f"rtsp://{USER}:{PASSWORD}@127.0.0.1/x", code=2)
    world.ctl("add-stream", "x", "rtsp://127.0.0.1/x", "--password", PASSWORD, code=2)
    world.ctl("add-stream", "x", "rtsp://127.0.0.1/x", f"--password={PASSWORD}", code=2)
    said = world.ctl("add-stream", "x", "rtsp://h/x", "--username", "u", "--password-stdin", stdin="a" * 200, code=None)
    assert "at most 127" in said
    world.ctl("add-stream", "stdin", "rtsp://h/x", "--username", USER, "--password-stdin", stdin=PASSWORD, code=None)
    for name in ("stdin", "wrong"):
        world.ctl("pause-stream", name)
        world.ctl("resume-stream", name)
    world.ctl("update-stream", "wrong", "--username", USER, "--password-stdin", stdin=WRONG + "x")
    world.seen.check()


def test_metrics_do_not_show_it(world: World) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{world.metrics_port}/metrics", timeout=30) as answer:
        text = answer.read()
    assert b"stdin" in text
    assert not found_in(text)


def test_the_state_file_alone_holds_it_and_nobody_else_may_read_that(world: World) -> None:
    holders = {}
    for path in _files(world.daemon.state_dir):
        with contextlib.suppress(FileNotFoundError):  # what is written whole is another file for a moment
            if found_in(path.read_bytes()):
                holders[path.name] = stat.S_IMODE(path.stat().st_mode)
    assert holders == {"streams.json": 0o600, "streams.json.bak": 0o600}  # and so the search does find it
    assert not stat.S_IMODE(world.daemon.socket.stat().st_mode) & 0o007


def test_no_other_file_holds_it(world: World) -> None:
    """Runtime directory, temporary files, shared memory."""
    seen = Seen()
    for path in _files(world.daemon.folder):
        if not path.name.startswith("streams.json"):
            with contextlib.suppress(FileNotFoundError):
                seen.add(str(path), path.read_bytes())
    assert world.daemon.config in [Path(where) for where, _ in seen.texts]
    for path in _files(world.folder):
        seen.add(str(path), path.read_bytes())
    began = world.daemon.config.stat().st_mtime
    for folder in (Path("/dev/shm"), Path("/tmp"), Path("/var/tmp")):
        for path in folder.iterdir():
            with contextlib.suppress(OSError):  # others come and go here
                status = path.lstat()
                if stat.S_ISREG(status.st_mode) and status.st_mtime >= began - 1 and status.st_size < 1 << 24:
                    seen.add(str(path), path.read_bytes())
    seen.check()


def _files(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()]


def test_no_process_can_write_it_into_a_core_file(world: World) -> None:
    for pid in world.daemon.pids():
        limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
        core = next(line for line in limits if line.startswith("Max core file size"))
        name = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
        assert core.split()[4:6] == ["0", "0"], (core, name)


def test_the_log_does_not_tell_it(world: World) -> None:
    """Last, and after a worker has died and the daemon has stopped: those are told too."""
    daemon = world.daemon
    doomed = next(iter(kit.pids(daemon, daemon_pb2.WORKER_KIND_DECODER).values()))
    os.kill(doomed, 11)  # SIGSEGV, which would write a core
    kit.until(lambda: doomed not in kit.pids(daemon, daemon_pb2.WORKER_KIND_DECODER).values(), "its end to be seen")
    kit.until_inferred(daemon, ["stdin"], more=1, timeout_s=60)
    time.sleep(0.5)
    assert daemon.stop() == 0
    log = daemon.log.read_bytes()
    for name in (*GOOD, *BAD):
        assert name.encode() in log
    assert b"username or password refused" in log and b"died of SIGSEGV" in log
    world.seen.add("log", log)
    world.seen.check()
