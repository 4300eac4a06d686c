"""From what a control call raises to a gRPC status with rich details (google.rpc.error_details).

Pure, but for the log line of an unexpected exception.
"""

from __future__ import annotations

import logging
import re
import secrets
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from facedetd.config.urls import redact_url
from facedetd.control import (
    CapacityError,
    ConflictError,
    ControlError,
    FieldViolation,
    InvalidError,
    NotFoundError,
    ReadOnlyError,
    StorageError,
    UnavailableError,
)

log = logging.getLogger(__name__)

DOMAIN = "facedetd.v1"
STREAM_TYPE = "facedetd.v1.Stream"

MAX_MESSAGE = 800
"""Bytes of a status message; each may take three on the wire."""
MAX_VIOLATIONS_BYTES = 2500
"""gRPC refuses trailers over 8 KiB by default, and the details travel as base64 beside the message,
so a long list is cut rather than lost whole."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How one kind of error is told: its status code and its stable reason (google.rpc.ErrorInfo)."""

    code: grpc.StatusCode
    reason: str


class AuthError(ControlError):
    """The caller didn't prove who it is."""


class DeniedError(ControlError):
    """The caller's role doesn't allow the call."""


class RateError(ControlError):
    """The caller calls too often."""


class UnknownMethodError(ControlError):
    """There is no such method."""


RULES: dict[type[ControlError], Rule] = {
    InvalidError: Rule(grpc.StatusCode.INVALID_ARGUMENT, "INVALID"),
    NotFoundError: Rule(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"),
    ConflictError: Rule(grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS"),
    ReadOnlyError: Rule(grpc.StatusCode.FAILED_PRECONDITION, "STREAM_READ_ONLY"),
    CapacityError: Rule(grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_REACHED"),
    UnavailableError: Rule(grpc.StatusCode.UNAVAILABLE, "NOT_NOW"),
    # Not UNAVAILABLE: repeating the call doesn't help until someone has mended the disk.
    StorageError: Rule(grpc.StatusCode.FAILED_PRECONDITION, "STORAGE_FAILED"),
    AuthError: Rule(grpc.StatusCode.UNAUTHENTICATED, "NOT_AUTHENTICATED"),
    DeniedError: Rule(grpc.StatusCode.PERMISSION_DENIED, "ROLE_TOO_LOW"),
    RateError: Rule(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS"),
    UnknownMethodError: Rule(grpc.StatusCode.UNIMPLEMENTED, "UNKNOWN_METHOD"),
    ControlError: Rule(grpc.StatusCode.FAILED_PRECONDITION, "REFUSED"),
}

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")


def redacted(text: str) -> str:
    """The text with the passwords of all URLs in it hidden."""
    return _URL.sub(lambda found: redact_url(found[0]), text)


def rule_of(error: ControlError) -> Rule:
    """The rule of the nearest class of the error that has one."""
    return next(RULES[cls] for cls in type(error).__mro__ if cls in RULES)


def status_of(error: Exception, resource: str = "") -> status_pb2.Status:
    """The status to send. ``resource`` is the stream the call was about, if one.

    What is not a ControlError becomes INTERNAL with an id; the log has the traceback under that id.
    """
    if not isinstance(error, ControlError):
        return _internal(error)
    rule = rule_of(error)
    info = error_details_pb2.ErrorInfo(reason=rule.reason, domain=DOMAIN)
    if resource:
        info.metadata["stream"] = _cut(resource, 63)
    details: list[Message] = [info, *_details(error, _cut(resource, 63))]
    return _status(rule.code, str(error) or rule.reason, details)


def _details(error: ControlError, resource: str) -> Sequence[Message]:
    text = _cut(str(error), 200)
    if isinstance(error, InvalidError):
        return [_bad_request(error.violations)]
    if isinstance(error, NotFoundError | ConflictError) and resource:
        return [error_details_pb2.ResourceInfo(resource_type=STREAM_TYPE, resource_name=resource, description=text)]
    if isinstance(error, ReadOnlyError | StorageError):
        violation = error_details_pb2.PreconditionFailure.Violation(
            type=rule_of(error).reason, subject=resource, description=text
        )
        return [error_details_pb2.PreconditionFailure(violations=[violation])]
    if isinstance(error, CapacityError):
        quota = error_details_pb2.QuotaFailure.Violation(subject="facedetd", description=text)
        return [error_details_pb2.QuotaFailure(violations=[quota])]
    if isinstance(error, UnavailableError | RateError):
        return [error_details_pb2.RetryInfo(retry_delay=Duration(seconds=1))]
    return []


def _bad_request(violations: Sequence[FieldViolation]) -> error_details_pb2.BadRequest:
    request = error_details_pb2.BadRequest()
    for done, violation in enumerate(violations):
        field, text = _cut(violation.field, 120), _cut(violation.message, 600)
        if request.ByteSize() + len(field) + len(text) > MAX_VIOLATIONS_BYTES:
            request.field_violations.add(field="", description=f"and {len(violations) - done} more")
            break
        request.field_violations.add(field=field, description=text)
    return request


def _internal(error: Exception) -> status_pb2.Status:
    incident = secrets.token_hex(4)
    trace = redacted("".join(traceback.format_exception(error)))
    log.error("internal error %s in an API call\n%s", incident, trace)
    info = error_details_pb2.ErrorInfo(reason="INTERNAL", domain=DOMAIN, metadata={"incident": incident})
    return _status(
        grpc.StatusCode.INTERNAL, f"internal error {incident}; the daemon's log tells more under this id", [info]
    )


def _status(code: grpc.StatusCode, message: str, details: Sequence[Message]) -> status_pb2.Status:
    number: int = code.value[0]
    status = status_pb2.Status(code=number, message=_cut(message, MAX_MESSAGE))
    for detail in details:
        packed = Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def _cut(text: str, length: int) -> str:
    """At most ``length`` bytes of UTF-8; what can't be said in that (a byte of a file's name) is a question mark."""
    coded = text.encode(errors="replace")
    return coded.decode() if len(coded) <= length else coded[: length - 3].decode(errors="ignore") + "…"
