"""Who gets in over TCP and over the sockets, how far and how often: the whole server, over a fake control plane."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import grp
import logging
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from api_harness import Served, serving
from google.rpc import error_details_pb2 as rich
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from test_api_server import start_only, until

from facedetd.api import gate, sockets
from facedetd.api.server import READ_ONLY_REQUEST_BYTES
from facedetd.api.sockets import SocketError
from facedetd.config.issues import ConfigErrors
from facedetd.config.model import ApiConfig
from facedetd.v1 import daemon_pb2, daemon_pb2_grpc, detection_pb2, detection_pb2_grpc, stream_pb2, stream_pb2_grpc
from tests.certificates import Authority, Pair
from tests.ports import free_port

ADMIN, READER = "admin-" + "a" * 32, "reader-" + "r" * 32


@dataclasses.dataclass
class Room:
    """Certificates and tokens in a folder, and the keys of [api] that use them."""

    folder: Path
    authority: Authority
    server: Pair
    ops: Pair
    wall: Pair

    def settings(self, *, certificates: bool = False, tokens: bool = False) -> dict[str, Any]:
        found: dict[str, Any] = {
            "listen": f"127.0.0.1:{free_port()}",
            "tls_cert_file": str(self.server.cert),
            "tls_key_file": str(self.server.key),
        }
        if certificates:
            found |= {"client_ca_file": str(self.authority.ca), "admin_clients": ("ops",)}
            found |= {"read_only_clients": ("wall.example",)}
        if tokens:
            found["token_file"] = str(self.write_tokens(f"admin:{ADMIN}\nread-only:{READER}\n"))
        return found

    def write_tokens(self, text: str) -> Path:
        path = self.folder / "tokens"
        path.write_text(text)
        path.chmod(0o600)
        return path


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Room:
    folder = tmp_path_factory.mktemp("tls")
    authority = Authority(folder)
    return Room(
        folder, authority, authority.sign("server"), authority.sign("ops"), authority.sign("x", "DNS:wall.example")
    )


def channel(served: Served, room: Room, pair: Pair | None = None, token: str | None = None) -> grpc.Channel:
    key, cert = (pair.key.read_bytes(), pair.cert.read_bytes()) if pair else (None, None)
    credentials = grpc.ssl_channel_credentials(room.authority.ca.read_bytes(), key, cert)
    if token is not None:
        credentials = grpc.composite_channel_credentials(credentials, grpc.access_token_call_credentials(token))
    return grpc.secure_channel(served.config.listen, credentials, options=[("grpc.use_local_subchannel_pool", 1)])


def ask(found: grpc.Channel, *, change: bool = False) -> tuple[grpc.StatusCode, str]:
    """The status of a call that reads, or that changes something."""
    with found:
        try:
            if change:
                daemon_pb2_grpc.DaemonServiceStub(found).Reload(daemon_pb2.ReloadRequest(), timeout=20)
            else:
                daemon_pb2_grpc.DaemonServiceStub(found).GetVersion(daemon_pb2.GetVersionRequest(), timeout=20)
        except grpc.RpcError as error:
            return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""


OK, DENIED = grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED
UNKNOWN_CALLER, UNREACHABLE = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


# --- certificates ---


@pytest.fixture(scope="module")
def by_certificate(room: Room) -> Iterator[Served]:
    with serving(**room.settings(certificates=True)) as served:
        yield served


def test_the_certificates_name_is_the_role(by_certificate: Served, room: Room) -> None:
    assert ask(channel(by_certificate, room, room.ops), change=True)[0] is OK
    assert ask(channel(by_certificate, room, room.wall))[0] is OK
    code, message = ask(channel(by_certificate, room, room.wall), change=True)
    assert code is DENIED
    assert message == "Reload is not allowed with the certificate of wall.example; it needs the role admin"


def test_a_certificate_without_a_role_is_told_its_names(by_certificate: Served, room: Room) -> None:
    code, message = ask(channel(by_certificate, room, room.authority.sign("guest", "DNS:guest.example")))
    assert code is DENIED
    assert "the certificate is valid, but has no role: it holds 'guest', 'guest.example'" in message


def test_tls_itself_refuses_what_it_can(by_certificate: Served, room: Room, tmp_path: Path) -> None:
    assert ask(channel(by_certificate, room))[0] is UNREACHABLE
    stranger = Authority(tmp_path, "other").sign("ops")
    assert ask(channel(by_certificate, room, stranger))[0] is UNREACHABLE
    assert ask(channel(by_certificate, room, room.authority.sign("valid", "DNS:ops")))[0] is OK
    assert ask(channel(by_certificate, room, room.authority.sign("late", "DNS:ops", days=-1)))[0] is UNREACHABLE
    options = [("grpc.use_local_subchannel_pool", 1)]
    assert ask(grpc.insecure_channel(by_certificate.config.listen, options=options))[0] is UNREACHABLE
    assert ask(channel(by_certificate, room, room.ops))[0] is OK  # and the listener lives


def test_a_client_does_not_take_another_server_for_ours(by_certificate: Served, room: Room, tmp_path: Path) -> None:
    other = dataclasses.replace(room, authority=Authority(tmp_path, "mine"))
    assert ask(channel(by_certificate, other, room.ops))[0] is UNREACHABLE


def unknown_method(found: grpc.Channel) -> grpc.StatusCode:
    with found, pytest.raises(grpc.RpcError) as caught:
        found.unary_unary("/facedetd.v1.StreamService/Fly")(b"", timeout=10)
    return caught.value.code()


def test_who_has_no_role_learns_nothing_of_methods(by_certificate: Served, room: Room) -> None:
    assert unknown_method(channel(by_certificate, room, room.authority.sign("guest"))) is DENIED
    assert unknown_method(channel(by_certificate, room, room.wall)) is grpc.StatusCode.UNIMPLEMENTED


# --- tokens ---


@pytest.fixture(scope="module")
def by_token(room: Room) -> Iterator[Served]:
    with serving(**room.settings(tokens=True)) as served:
        yield served


def test_the_token_is_the_role(by_token: Served, room: Room) -> None:
    assert ask(channel(by_token, room, token=ADMIN), change=True)[0] is OK
    assert ask(channel(by_token, room, token=READER))[0] is OK
    code, message = ask(channel(by_token, room, token=READER), change=True)
    assert code is DENIED
    assert message == "Reload is not allowed with the read-only token of line 2; it needs the role admin"


def test_no_token_and_a_wrong_one_are_refused_and_logged_without_the_token(
    by_token: Served, room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = "wrong-" + "w" * 32
    with caplog.at_level(logging.WARNING):
        code, message = ask(channel(by_token, room))
        assert (code, message) == (
            UNKNOWN_CALLER,
            "no token was given; send the metadata `authorization: Bearer TOKEN`",
        )
        code, message = ask(channel(by_token, room, token=wrong))
        assert (code, message) == (UNKNOWN_CALLER, "the token is not one of api.token_file")
    assert "without a good token, the last from ipv4:127.0.0.1" in caplog.text
    assert wrong not in caplog.text + message
    assert unknown_method(channel(by_token, room)) is UNKNOWN_CALLER
    assert unknown_method(channel(by_token, room, token=READER)) is grpc.StatusCode.UNIMPLEMENTED
    with channel(by_token, room) as found, pytest.raises(grpc.RpcError) as caught:
        health_pb2_grpc.HealthStub(found).Check(health_pb2.HealthCheckRequest(), timeout=20)
    assert caught.value.code() is UNKNOWN_CALLER


def test_both_are_needed_where_both_are_set(room: Room) -> None:
    with serving(**room.settings(certificates=True, tokens=True)) as served:
        assert ask(channel(served, room, room.ops, ADMIN), change=True)[0] is OK
        assert ask(channel(served, room, room.ops))[0] is UNKNOWN_CALLER
        assert ask(channel(served, room, None, ADMIN))[0] is UNREACHABLE
        assert ask(channel(served, room, room.ops, READER), change=True)[0] is DENIED
        assert ask(channel(served, room, room.wall, ADMIN), change=True)[0] is DENIED
        assert ask(channel(served, room, room.wall, ADMIN))[0] is OK


# --- what a reload brings ---


def test_a_reload_takes_new_tokens_and_ends_the_watchers_of_old_ones(room: Room) -> None:
    with serving(**room.settings(tokens=True)) as served:
        watches = []
        for token in (ADMIN, READER):
            found = channel(served, room, token=token)
            watches.append(daemon_pb2_grpc.DaemonServiceStub(found).WatchStats(daemon_pb2.WatchStatsRequest()))
            next(watches[-1])
        newer = "newer-" + "n" * 32
        room.write_tokens(f"admin:{ADMIN}\nread-only:{newer}\n")
        changes, take = served.server.prepare(served.config)
        assert changes == ("api: new tokens",)
        assert ask(channel(served, room, token=newer))[0] is UNKNOWN_CALLER
        served.call(take)
        assert ask(channel(served, room, token=newer))[0] is OK
        assert ask(channel(served, room, token=READER))[0] is UNKNOWN_CALLER
        with pytest.raises(grpc.RpcError) as caught:
            list(watches[1])
        assert caught.value.code() is UNKNOWN_CALLER
        next(watches[0])
        watches[0].cancel()
        room.write_tokens("admin:x\n")
        with pytest.raises(ConfigErrors, match="that are no token"):
            served.server.prepare(served.config)
        assert ask(channel(served, room, token=newer))[0] is OK


def test_a_reload_takes_new_certificates_and_roles(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    room = Room(tmp_path, authority, authority.sign("server"), authority.sign("ops"), authority.sign("x"))
    with serving(**room.settings(certificates=True)) as served:
        assert ask(channel(served, room, room.ops), change=True)[0] is OK
        moved = Authority(tmp_path, "ca2")
        fresh = moved.sign("server")
        room.server.cert.write_bytes(fresh.cert.read_bytes())
        room.server.key.write_bytes(fresh.key.read_bytes())
        changed = dataclasses.replace(served.config, admin_clients=(), read_only_clients=("ops",))
        changes, take = served.server.prepare(changed)
        assert changes == ("api: new certificates",)
        served.call(take)
        assert ask(channel(served, room, room.ops))[0] is UNREACHABLE  # a client that trusts the old authority only
        newer = dataclasses.replace(room, authority=moved)
        assert ask(channel(served, newer, room.ops))[0] is OK
        assert ask(channel(served, newer, room.ops), change=True)[0] is DENIED
        assert served.server.problems()[0][:2] == ("warning", "api")  # 10 days are few


# --- what can't start ---


def test_a_taken_port_is_told_and_leaves_no_socket(room: Room) -> None:
    with serving(**room.settings(tokens=True)) as first:
        folder = first.config.socket.parent
        config = dataclasses.replace(first.config, socket=folder / "b.sock", read_only_socket=folder / "b-ro.sock")
        with pytest.raises(SocketError, match=r"can't listen on 127\.0\.0\.1 port \d+: Address already in use"):
            start_only(config)
        assert not config.socket.exists() and not config.read_only_socket.exists()
        assert ask(channel(first, room, token=ADMIN))[0] is OK


def test_an_address_of_another_host_is_told(room: Room) -> None:
    config = ApiConfig(room.folder / "s", room.folder / "s-ro", **room.settings(tokens=True))
    with pytest.raises(SocketError, match=r"can't listen on 192\.0\.2\.1 port 9465: Cannot assign"):
        start_only(dataclasses.replace(config, listen="192.0.2.1:9465"))


# --- rates ---


def flood(served: Served, calls: int) -> dict[grpc.StatusCode, int]:
    """Calls on the read-only socket, many at once."""
    codes: dict[grpc.StatusCode, int] = {}
    with served.channel(read_only=True) as found:
        stub = daemon_pb2_grpc.DaemonServiceStub(found)
        futures = [stub.GetVersion.future(daemon_pb2.GetVersionRequest(), timeout=60) for _ in range(calls)]
        for future in futures:
            code = future.code()
            codes[code] = codes.get(code, 0) + 1
    return codes


def test_too_many_calls_on_one_socket_are_refused_there_and_nowhere_else() -> None:
    with serving(max_calls_per_s=10) as served:
        codes = flood(served, 100)
        assert codes[OK] >= 50 and codes[EXHAUSTED] >= 1 and sum(codes.values()) == 100
        with served.channel(read_only=True) as found:
            stub = daemon_pb2_grpc.DaemonServiceStub(found)

            def refused() -> Any:
                try:
                    stub.GetVersion(daemon_pb2.GetVersionRequest(), timeout=20)
                except grpc.RpcError as error:
                    return error
                return None

            errors: list[Any] = []
            until(lambda: errors.append(refused()) or errors[-1])
        status = rpc_status.from_call(errors[-1])
        assert (
            status.message == "too many calls through the read-only socket: at most 10 a second (api.max_calls_per_s)"
        )
        assert any(detail.Is(rich.RetryInfo.DESCRIPTOR) for detail in status.details)
        for _ in range(40):
            assert ask(served.channel())[0] is OK


def test_a_refusal_is_held_back_so_a_loop_of_calls_slows_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "REFUSAL_HELD_S", 3600.0)
    monkeypatch.setattr(gate, "MAX_HELD", 2)
    with serving(max_calls_per_s=1) as served, served.channel(read_only=True) as found:
        stub = daemon_pb2_grpc.DaemonServiceStub(found)
        for _ in range(5):
            stub.GetVersion(daemon_pb2.GetVersionRequest(), timeout=20)
        futures = [stub.GetVersion.future(daemon_pb2.GetVersionRequest(), timeout=60) for _ in range(40)]
        until(lambda: sum(future.done() for future in futures) >= 38 - 30)
        until(lambda: sum(not future.done() for future in futures) == 2)  # the others were told at once
        for future in futures:
            future.cancel()


def test_a_request_that_is_refused_is_not_read(room: Room) -> None:
    """The bytes are no message: who is let in hears of that, others of their rights only."""
    method = "/facedetd.v1.StreamService/ImportStreams"

    def send(found: grpc.Channel) -> grpc.StatusCode:
        with found, pytest.raises(grpc.RpcError) as caught:
            found.unary_unary(method)(b"\xff" * 3_000_000, timeout=20)
        return caught.value.code()

    with serving(**room.settings(tokens=True)) as served:
        assert send(served.channel(read_only=True)) is DENIED
        assert send(channel(served, room)) is UNKNOWN_CALLER
        assert send(channel(served, room, token=READER)) is DENIED
        assert send(served.channel()) not in (DENIED, UNKNOWN_CALLER)


def test_large_requests_are_for_admins() -> None:
    request = detection_pb2.WatchDetectionsRequest(stream_ids=["x" * 63] * (READ_ONLY_REQUEST_BYTES // 60))
    with serving() as served, served.channel(read_only=True) as found:
        with pytest.raises(grpc.RpcError) as caught:
            next(detection_pb2_grpc.DetectionServiceStub(found).WatchDetections(request, timeout=20))
        assert caught.value.code() is EXHAUSTED
    streams = stream_pb2.ImportStreamsRequest()
    for number in range(10_000):
        streams.streams.add().spec.MergeFrom(
            stream_pb2.StreamSpec(
                id=f"site-north-hall-{number}",
                url=f"rtsp://camera-{number}.cameras.example.com:554/Streaming/Channels/101?transportmode=unicast",
                sub_url=f"rtsp://camera-{number}.cameras.example.com:554/Streaming/Channels/102?transportmode=unicast",
                labels={"site": "north", "floor": "1"},
            )
        )
    with serving() as served, served.channel() as found:
        answer = stream_pb2_grpc.StreamServiceStub(found).ImportStreams(streams, timeout=60)
        assert len(answer.created) == 10_000


# --- open calls ---


def test_readers_can_not_take_the_admins_places() -> None:
    with serving(max_watchers=8) as served, contextlib.ExitStack() as stack:
        reading = stack.enter_context(served.channel(read_only=True))
        calls = [
            daemon_pb2_grpc.DaemonServiceStub(reading).WatchStats(daemon_pb2.WatchStatsRequest()) for _ in range(7)
        ]
        for call in calls:
            next(call)
        with pytest.raises(grpc.RpcError) as caught:
            next(daemon_pb2_grpc.DaemonServiceStub(reading).WatchStats(daemon_pb2.WatchStatsRequest(), timeout=20))
        assert caught.value.code() is EXHAUSTED
        admins = stack.enter_context(served.channel())
        call = daemon_pb2_grpc.DaemonServiceStub(admins).WatchStats(daemon_pb2.WatchStatsRequest())
        next(call)
        for one in (*calls, call):
            one.cancel()


def test_open_calls_of_health_are_bounded() -> None:
    with serving() as served, served.channel(read_only=True) as found:
        stub = health_pb2_grpc.HealthStub(found)
        calls = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(gate.MAX_OTHER_STREAMS)]
        for call in calls:
            next(call)
        with pytest.raises(grpc.RpcError) as caught:
            next(stub.Watch(health_pb2.HealthCheckRequest(), timeout=20))
        assert caught.value.code() is EXHAUSTED
        for call in calls:
            call.cancel()

        def free() -> bool:
            call = stub.Watch(health_pb2.HealthCheckRequest(), timeout=20)
            try:
                next(call)
            except grpc.RpcError:
                return False
            call.cancel()
            return True

        until(free)


def test_floods_and_watchers_that_vanish_leave_nothing_open() -> None:
    with serving(max_calls_per_s=20) as served:
        threads = [threading.Thread(target=flood, args=(served, 60)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert ask(served.channel())[0] is OK
        assert served.call(lambda: served.server.watchers) == 0


# --- groups of the sockets ---


def test_each_socket_belongs_to_its_group(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[str, int, int]] = []
    monkeypatch.setattr(sockets.os, "chown", lambda path, user, group: given.append((path.name, user, group)))
    own = grp.getgrgid(os.getegid()).gr_name
    with serving(group=own, read_only_group="nogroup") as served:
        for path in (served.config.socket, served.config.read_only_socket):
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert given == [
        ("facedetd.sock", -1, os.getegid()),
        ("facedetd-ro.sock", -1, grp.getgrnam("nogroup").gr_gid),
    ]


def test_a_group_that_can_not_be_given_is_told_and_leaves_no_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(sockets.os, "chown", refuse)
    config = ApiConfig(tmp_path / "s", tmp_path / "s-ro", read_only_group="nogroup")
    with pytest.raises(SocketError, match=r"to the group nogroup: .*; the daemon's user must be a member of it"):
        start_only(config)
    assert list(tmp_path.iterdir()) == []
