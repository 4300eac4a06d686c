"""Who may call what: the role that each method needs, and what is known of a caller. Pure."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from enum import IntEnum


class Role(IntEnum):
    READ_ONLY = 0
    ADMIN = 1


ROLE_WORDS = {"read-only": Role.READ_ONLY, "admin": Role.ADMIN}


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
            "ActivateModel": Role.ADMIN,
            "GetVersion": Role.READ_ONLY,
        },
    ),
    **_methods("grpc.health.v1.Health", {"Check": Role.READ_ONLY, "Watch": Role.READ_ONLY, "List": Role.READ_ONLY}),
    **_methods("grpc.reflection.v1alpha.ServerReflection", {"ServerReflectionInfo": Role.READ_ONLY}),
}


def needed(method: str) -> Role:
    """The role a method needs; one that isn't in the table needs all rights."""
    return ROLES.get(method, Role.ADMIN)


@dataclass(frozen=True, slots=True)
class Caller:
    """``name`` is fit for logs; calls of one name share a rate."""

    name: str
    role: Role


@dataclass(frozen=True, slots=True)
class Session:
    """A call that was let in. ``check`` raises the error it would be refused with now."""

    caller: Caller
    check: Callable[[], object]


SESSION: ContextVar[Session] = ContextVar("session")
"""Of the call that runs in this task."""
