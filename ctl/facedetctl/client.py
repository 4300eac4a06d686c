"""The connection to the daemon, and from gRPC errors to exit codes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# gRPC's own lines on stderr would stand between ours; it reads this once, when it is loaded.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from facedetctl.exits import CtlError, Exit
from facedetctl.target import Local, Target
from facedetd.config.urls import grpc_unix
from facedetd.v1 import daemon_pb2_grpc, detection_pb2_grpc, stream_pb2_grpc

CODES: dict[grpc.StatusCode, Exit] = {
    grpc.StatusCode.NOT_FOUND: Exit.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS: Exit.CONFLICT,
    grpc.StatusCode.UNAVAILABLE: Exit.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: Exit.UNAVAILABLE,
    grpc.StatusCode.PERMISSION_DENIED: Exit.DENIED,
    grpc.StatusCode.UNAUTHENTICATED: Exit.DENIED,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Exit.LIMIT,
    grpc.StatusCode.CANCELLED: Exit.INTERRUPTED,
}
"""All other codes are FAILED."""

# A little over what the daemon sends at most, so that its own error comes through rather than ours.
MAX_RECEIVE = (16 << 20) + 65536


class Client:
    """The stubs of one connection. ``timeout`` (seconds) bounds each call that isn't a stream."""

    def __init__(self, channel: grpc.Channel, timeout: float) -> None:
        self.timeout = timeout
        self.streams = stream_pb2_grpc.StreamServiceStub(channel)
        self.detections = detection_pb2_grpc.DetectionServiceStub(channel)
        self.daemon = daemon_pb2_grpc.DaemonServiceStub(channel)


@contextmanager
def connected(target: Target, timeout: float) -> Iterator[Client]:
    """A client for the body. gRPC errors of the body come out as CtlError."""
    target.probe(timeout)
    with _channel(target) as channel:
        try:
            yield Client(channel, timeout)
        except grpc.RpcError as error:
            raise error_of(error, target, timeout) from None


def _channel(target: Target) -> grpc.Channel:
    options = [("grpc.max_receive_message_length", MAX_RECEIVE), ("grpc.enable_http_proxy", 0)]
    if isinstance(target, Local):
        return grpc.insecure_channel(grpc_unix(target.path), options=options)
    files = [Path(name).read_bytes() if name else None for name in (target.ca_file, target.key_file, target.cert_file)]
    credentials = grpc.ssl_channel_credentials(*files)
    if target.token:
        token = grpc.access_token_call_credentials(target.token)
        credentials = grpc.composite_channel_credentials(credentials, token)
    return grpc.secure_channel(str(target), credentials, options=options)


def error_of(error: Any, target: Target, timeout: float) -> CtlError:
    """A call's error as one line, with bad fields below. ``error`` is a grpc.RpcError that is also a grpc.Call."""
    code = error.code()
    try:
        status = rpc_status.from_call(error)
    except ValueError:
        status = None
    if status is None and code is grpc.StatusCode.UNAVAILABLE:
        return CtlError(Exit.UNREACHABLE, f"lost the daemon on {target}")
    if status is None and code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return CtlError(Exit.UNAVAILABLE, f"no answer within {timeout:g} s (--timeout)")
    exit_code = CODES.get(code, Exit.FAILED)
    message, below = status.message if status is not None else error.details() or code.name, []
    for detail in status.details if status is not None else ():
        request = error_details_pb2.BadRequest()
        if detail.Unpack(request):
            found = request.field_violations
            below = [f"{v.field}: {v.description}" if v.field else v.description for v in found]
            message = "refused: a bad value" if len(found) == 1 else f"refused: {len(found)} bad values"
    return CtlError(exit_code, message.replace("\n", " "), below)
