"""The interceptor before every method of every listener: who calls, may they, and how often; and from exceptions to
statuses.

gRPC shows no peer credentials on a Unix socket, so the socket is the role: who may open the file has it. Over TCP a
token is looked at before anything of the request is read, a certificate as soon as the call can be asked for it.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, cast

import grpc
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from facedetd.api.access import Access, bearer, certificate_names
from facedetd.api.errors import AuthError, DeniedError, RateError, UnknownMethodError, status_of
from facedetd.api.limits import Limits
from facedetd.api.roles import SESSION, Caller, Session, needed
from facedetd.control import CapacityError, ControlError, FieldViolation, InvalidError

log = logging.getLogger(__name__)

REFUSAL_HELD_S = 0.25
MAX_HELD = 32
"""So many refused calls wait for REFUSAL_HELD_S before they are told: a loop of calls slows down by itself."""
MAX_OTHER_STREAMS = 16
"""Open calls of health's Watch and of reflection on a listener; those of ours are counted as watchers."""
LOG_EVERY_S = 10.0
_GARBLED = object()
STRANGERS = "callers of the TCP listener that aren't let in"

if TYPE_CHECKING:  # generic in the stubs only
    Handler = grpc.RpcMethodHandler[Any, Any]
    Context = grpc.aio.ServicerContext[Any, Any]
    Behaviour = Callable[[Any, Context], Awaitable[Any]]


class Door(Protocol):
    """One listener's way to tell who calls."""

    by: str
    hint: str
    """What someone without the role can do."""

    @property
    def by_certificate(self) -> bool:
        """Whether who calls is known for certain only when the certificate has been looked at."""

    def caller(self, token: str | None, names: list[str] | None) -> Caller:
        """As :meth:`Access.caller`."""


class SocketDoor:
    """Who could open the socket's file is let in."""

    by = "on"
    hint = "use the admin socket"
    by_certificate = False

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def caller(self, token: str | None, names: list[str] | None) -> Caller:
        return self._caller


class TcpDoor:
    """``access`` may be replaced while it is open."""

    by = "with"
    hint = "it needs the role admin"

    def __init__(self, access: Access) -> None:
        self.access = access

    @property
    def by_certificate(self) -> bool:
        return self.access.clients is not None

    def caller(self, token: str | None, names: list[str] | None) -> Caller:
        return self.access.caller(token, names)


def resource_of(request: Any) -> str:
    """The id of the stream a request is about, or nothing."""
    found = getattr(request, "id", "") or getattr(getattr(request, "spec", None), "id", "")
    return found if isinstance(found, str) else ""


async def _abort(context: Context, error: Exception, resource: str) -> NoReturn:
    status = rpc_status.to_status(status_of(error, resource))
    await context.abort(status.code, status.details, status.trailing_metadata)


def _read(deserializer: Callable[[bytes], Any] | None, data: bytes) -> Any:
    """The request, or _GARBLED: gRPC would answer UNKNOWN to an exception here."""
    try:
        return deserializer(data) if deserializer else data
    except DecodeError:
        return _GARBLED


def _garbled() -> InvalidError:
    return InvalidError([FieldViolation("request", "its bytes are no message that this method takes")])


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
            request_deserializer=handler.request_deserializer
            if handler.request_streaming
            else functools.partial(_read, handler.request_deserializer),
            response_serializer=handler.response_serializer,
        ),
    )


class Gate(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # not generic when running
    """Stands before every method of one listener. Used on the event loop only."""

    def __init__(self, door: Door, limits: Limits) -> None:
        self._door = door
        self._limits = limits
        self._held = 0
        self._others = 0
        self._refused = 0
        self._log_at = 0.0

    async def intercept_service(  # type: ignore[override]
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        method = handler_call_details.method
        token = bearer(handler_call_details.invocation_metadata)
        handler = await continuation(handler_call_details)
        try:
            caller = self._let_in(method, token, None, known=handler is not None)
        except ControlError as error:
            return self._refusal(error)
        if handler is None:  # and the certificate is still to be looked at
            return self._refusal(_unknown(method), token)
        return _with(handler, functools.partial(self._guard, handler, method, token, caller))

    def _let_in(self, method: str, token: str | None, names: list[str] | None, *, known: bool = True) -> Caller:
        """Raises the error that the call is refused with."""
        try:
            caller = self._door.caller(token, names)
        except (AuthError, DeniedError):
            self._limits.take(STRANGERS)
            raise
        if names is not None or not self._door.by_certificate:
            self._limits.take(caller.name)
            if not known:
                raise _unknown(method)
        if known and needed(method) > caller.role:
            name = method.rpartition("/")[2]
            raise DeniedError(f"{name} is not allowed {self._door.by} {caller.name}; {self._door.hint}")
        return caller

    def _refusal(self, error: ControlError, token: str | None = None) -> Handler:
        """A method of its own: one that streams both ways reads nothing of the request."""

        async def refuse(_: Any, context: Context) -> None:
            told = error
            if isinstance(error, UnknownMethodError) and self._door.by_certificate:
                try:
                    self._door.caller(token, certificate_names(context.auth_context()))
                    self._limits.take(STRANGERS)
                except ControlError as better:
                    told = better
            await self._tell(context, told)

        return grpc.stream_stream_rpc_method_handler(refuse)

    async def _tell(self, context: Context, error: ControlError) -> NoReturn:
        if isinstance(error, AuthError):
            self._log_refusal(context.peer())
        if isinstance(error, RateError | AuthError) and self._held < MAX_HELD:
            self._held += 1
            try:
                await asyncio.sleep(REFUSAL_HELD_S)
            finally:
                self._held -= 1
        await _abort(context, error, "")

    def _log_refusal(self, peer: str) -> None:
        """Someone who guesses can't fill the log."""
        self._refused += 1
        now = asyncio.get_running_loop().time()
        if now >= self._log_at:
            log.warning("refused %d calls over TCP without a good token, the last from %s", self._refused, peer)
            self._refused, self._log_at = 0, now + LOG_EVERY_S

    def _guard(self, handler: Handler, method: str, token: str | None, caller: Caller, inner: Behaviour) -> Behaviour:
        ours = method.startswith("/facedetd.")

        async def call(request: Any, context: Context) -> Any:
            final, check = caller, functools.partial(self._door.caller, token, None)
            if self._door.by_certificate:
                names = certificate_names(context.auth_context())
                check = functools.partial(self._door.caller, token, names)
                try:
                    final = self._let_in(method, token, names)
                except ControlError as error:
                    await self._tell(context, error)
            if request is _GARBLED:
                await self._tell(context, _garbled())
            SESSION.set(Session(final, functools.partial(_still, check, method)))
            if ours:
                return await _guarded(inner, request, context)
            if not handler.response_streaming:
                return await inner(request, context)
            async with self._other_stream(context):
                return await _streamed(inner, request, context)

        return call

    @asynccontextmanager
    async def _other_stream(self, context: Context) -> AsyncIterator[None]:
        if self._others >= MAX_OTHER_STREAMS:
            text = f"all {MAX_OTHER_STREAMS} places for open calls of health and reflection are taken"
            await _abort(context, CapacityError(text), "")
        self._others += 1
        try:
            yield
        finally:
            self._others -= 1


def _unknown(method: str) -> UnknownMethodError:
    return UnknownMethodError(f"there is no method {method[:200]}")


def _still(check: Callable[[], Caller], method: str) -> None:
    """Raises when a call that was let in wouldn't be any more."""
    caller = check()
    if needed(method) > caller.role:
        raise DeniedError(f"{caller.name} lost the role that this call needs")


async def _guarded(inner: Behaviour, request: Any, context: Context) -> Any:
    try:
        return await inner(request, context)
    except grpc.aio.AbortError:
        raise
    except Exception as error:
        await _abort(context, error, resource_of(request))


async def _streamed(inner: Any, request: Any, context: Context) -> Any:
    """Runs a method that isn't ours; reflection's is a generator."""
    answers = inner(request, context)
    try:
        if hasattr(answers, "__aiter__"):
            async for answer in answers:
                await context.write(answer)
            return None
        return await answers
    except DecodeError:  # of a request that came while it ran
        await _abort(context, _garbled(), "")
