"""The role table is complete, and each socket enforces it."""

import grpc
import pytest
from api_harness import serving
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from facedetd.api.roles import ROLES, Role
from facedetd.api.server import SERVICE_NAMES
from facedetd.v1 import daemon_pb2, detection_pb2, stream_pb2

FILES = (stream_pb2, detection_pb2, daemon_pb2, health_pb2, reflection_pb2)
METHODS = {
    f"/{service.full_name}/{method.name}": (service.full_name, method)
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
OURS = sorted(name for name in METHODS if name.startswith("/facedetd."))


@pytest.fixture(scope="module")
def served():
    with serving() as running:
        yield running


def test_every_method_of_every_service_stands_in_the_table():
    assert set(METHODS) <= set(ROLES)
    assert {service for service, _ in METHODS.values()} == set(SERVICE_NAMES)
    # health's List is younger than the oldest health package that is allowed
    assert set(ROLES) - set(METHODS) <= {"/grpc.health.v1.Health/List"}


@pytest.mark.parametrize("name", OURS)
def test_reading_is_all_the_read_only_role_may(name):
    verb = name.rpartition("/")[2]
    reads = verb.startswith(("Get", "List", "Watch")) and verb != "GetSnapshot"
    assert ROLES[name] is (Role.READ_ONLY if reads else Role.ADMIN)


def outcome(served, name, read_only):
    """The status of a call with an empty request; a stream's first message is enough."""
    _, method = METHODS[name]
    with served.channel(read_only=read_only) as channel:
        make = channel.unary_stream if method.server_streaming else channel.unary_unary
        call = make(name, response_deserializer=None, request_serializer=None)
        try:
            answer = call(b"", timeout=10)
            if method.server_streaming:
                next(iter(answer))
        except grpc.RpcError as error:
            return error.code(), error.details()
    return grpc.StatusCode.OK, ""


@pytest.mark.parametrize("name", OURS)
def test_the_read_only_socket_lets_only_readers_in(served, name):
    from fakes_control import result_of

    served.control.watch_ready = [result_of("cam1", 1)]  # so that a watcher has something to read
    code, message = outcome(served, name, read_only=True)
    if ROLES[name] is Role.ADMIN:
        verb = name.rpartition("/")[2]
        assert code is grpc.StatusCode.PERMISSION_DENIED
        assert message == f"{verb} is not allowed on the read-only socket; use the admin socket"
    else:
        assert code is not grpc.StatusCode.PERMISSION_DENIED
    code, _ = outcome(served, name, read_only=False)
    assert code in (grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT)


def test_unknown_methods_are_unimplemented(served):
    for read_only in (True, False):
        with served.channel(read_only=read_only) as channel, pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/facedetd.v1.StreamService/Fly")(b"", timeout=10)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_an_unlisted_method_needs_the_admin_socket(served, monkeypatch):
    name = "/facedetd.v1.DaemonService/GetVersion"
    monkeypatch.delitem(ROLES, name)
    assert outcome(served, name, read_only=True)[0] is grpc.StatusCode.PERMISSION_DENIED
    assert outcome(served, name, read_only=False)[0] is grpc.StatusCode.OK
