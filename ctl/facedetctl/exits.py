"""Exit codes, and from errors to them. docs/cli.md lists the same table."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum


class Exit(IntEnum):
    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    NOT_FOUND = 4
    CONFLICT = 5
    UNHEALTHY = 6
    UNAVAILABLE = 7
    DENIED = 8
    LIMIT = 9
    INTERRUPTED = 130


MEANING: dict[Exit, str] = {
    Exit.OK: "done; also when the reader of stdout went away",
    Exit.FAILED: "refused or failed: bad values, a stream that stands in the TOML, a full disk, an internal error",
    Exit.USAGE: "the command line is wrong, or a file it names can't be used",
    Exit.UNREACHABLE: "no daemon answers on the socket or address",
    Exit.NOT_FOUND: "no such stream or model",
    Exit.CONFLICT: "the id is taken",
    Exit.UNHEALTHY: "`health` found that no faces are being detected, or an error; `doctor` found an error",
    Exit.UNAVAILABLE: "can't be done now, or took longer than --timeout; trying later may help",
    Exit.DENIED: "not allowed: on this socket, or with this token or certificate",
    Exit.LIMIT: "over a configured limit (streams, watchers, calls a second)",
    Exit.INTERRUPTED: "ended by Ctrl-C",
}


class CtlError(Exception):
    """Ends a command: one line for stderr, further lines below it, and the exit code. Never holds a secret."""

    def __init__(self, code: Exit, message: str, below: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.below = tuple(below)


class UsageError(CtlError):
    def __init__(self, message: str, below: Sequence[str] = ()) -> None:
        super().__init__(Exit.USAGE, message, below)
