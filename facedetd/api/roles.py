"""Who may call what, and the interceptor that enforces it and turns exceptions into statuses.

gRPC shows no peer credentials on a Unix socket, so the socket is the role: who may open the file has it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NoReturn, cast

import grpc
from grpc_status import rpc_status

from facedetd.api.errors import DeniedError, status_of
from facedetd.control import ControlError


class Role(IntEnum):
    READ_ONLY = 0
    ADMIN = 1


def _methods(service: str, needed: dict[str, Role]) -> dict[str, Role]:
    return {f"/{service}/{method}": role for method, role in needed.items()}


ROLES: dict[str, Role] = {
    **_methods(
        "facedetd.v1.StreamService",
        {
            "CreateStream": Role.ADMIN,
            "GetStream": Role.READ_ONLY,
            "ListStreams": Role.READ_ONLY,
            "UpdateStream": Role.ADMIN,
            "DeleteStream": Role.ADMIN,
            "PauseStream": Role.ADMIN,
            "ResumeStream": Role.ADMIN,
            "ImportStreams": Role.ADMIN,
            # A picture shows who was there; boxes don't.
            "GetSnapshot": Role.ADMIN,
        },
    ),
    **_methods("facedetd.v1.DetectionService", {"WatchDetections": Role.READ_ONLY}),
    **_methods(
        "facedetd.v1.DaemonService",
        {
            "GetStats": Role.READ_ONLY,
            "WatchStats": Role.READ_ONLY,
            "GetHealth": Role.READ_ONLY,
            "Reload": Role.ADMIN,
            "GetVersion": Role.READ_ONLY,
        },
    ),
    **_methods("grpc.health.v1.Health", {"Check": Role.READ_ONLY, "Watch": Role.READ_ONLY, "List": Role.READ_ONLY}),
    **_methods("grpc.reflection.v1alpha.ServerReflection", {"ServerReflectionInfo": Role.READ_ONLY}),
}

if TYPE_CHECKING:  # generic in the stubs only
    Handler = grpc.RpcMethodHandler[Any, Any]
    Context = grpc.aio.ServicerContext[Any, Any]
    Behaviour = Callable[[Any, Context], Awaitable[Any]]


def resource_of(request: Any) -> str:
    """The id of the stream a request is about, or nothing."""
    found = getattr(request, "id", "") or getattr(getattr(request, "spec", None), "id", "")
    return found if isinstance(found, str) else ""


async def _abort(context: Context, error: Exception, resource: str) -> NoReturn:
    status = rpc_status.to_status(status_of(error, resource))
    await context.abort(status.code, status.details, status.trailing_metadata)


def _guard(inner: Behaviour) -> Behaviour:
    async def call(request: Any, context: Context) -> Any:
        try:
            return await inner(request, context)
        except grpc.aio.AbortError:
            raise
        except Exception as error:
            await _abort(context, error, resource_of(request))

    return call


def _refusal(error: ControlError) -> Behaviour:
    async def call(request: Any, context: Context) -> Any:
        await _abort(context, error, "")

    return call


def _with(handler: Handler, change: Callable[[Behaviour], Behaviour]) -> Handler:
    """The same method with its behaviour changed. Behaviours are coroutines, also those that stream (they write
    into the context): a generator would sleep outside of its own try blocks while gRPC writes for it."""
    make: Any
    inner: Any
    if handler.response_streaming and handler.request_streaming:
        make, inner = grpc.stream_stream_rpc_method_handler, handler.stream_stream
    elif handler.response_streaming:
        make, inner = grpc.unary_stream_rpc_method_handler, handler.unary_stream
    elif handler.request_streaming:
        make, inner = grpc.stream_unary_rpc_method_handler, handler.stream_unary
    else:
        make, inner = grpc.unary_unary_rpc_method_handler, handler.unary_unary
    return cast(
        "Handler",
        make(
            change(inner),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        ),
    )


class Gate(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # not generic when running
    """Stands before every method of one socket. A method that isn't in :data:`ROLES` needs the admin socket."""

    def __init__(self, role: Role) -> None:
        self._role = role

    async def intercept_service(  # type: ignore[override]
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        if handler is None:  # gRPC answers UNIMPLEMENTED
            return None
        method = handler_call_details.method
        if ROLES.get(method, Role.ADMIN) > self._role:
            name = method.rpartition("/")[2]
            refusal = DeniedError(f"{name} is not allowed on the read-only socket; use the admin socket")
            return _with(handler, lambda _: _refusal(refusal))
        return _with(handler, _guard) if method.startswith("/facedetd.") else handler
