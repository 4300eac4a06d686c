"""Camera passwords: read from stdin or from a file, never from the command line."""

from __future__ import annotations

import getpass
import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from facedetctl.exits import UsageError

MAX_BYTES = 65536

STDIN_HINT = "give it with --password-stdin or --credentials-file: other users can read the command line"


@dataclass(frozen=True, slots=True, repr=False)
class Login:
    """A user name ('' where none is given) and a password."""

    username: str
    password: str


def from_stdin(stream: TextIO) -> str:
    """The password on stdin, without its final newline; asked for when stdin is a terminal. Raises UsageError."""
    if stream.isatty():
        try:
            password = getpass.getpass("Camera password: ")
        except EOFError:
            password = ""
    else:
        raw = sys.stdin.buffer.read(MAX_BYTES + 1) if stream is sys.stdin else stream.read().encode()
        password = _text(raw, "the password on stdin").removesuffix("\n").removesuffix("\r")
    if not password:
        raise UsageError("the password on stdin is empty")
    return password


def from_file(path: Path) -> Login:
    """A file that holds ``user:password``, or two lines, or TOML with ``username`` and ``password``.

    Raises UsageError for a file that others may read, and for one in none of these forms.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if stat.S_ISREG(mode) and mode & (stat.S_IROTH | stat.S_IWOTH):
                raise UsageError(f"{path} is open to everyone; run: chmod 600 {path}")
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"can't read {path}: {error.strerror}") from None
    return parse(_text(raw, str(path)), str(path))


def parse(text: str, where: str) -> Login:
    """Raises UsageError; what the text holds is never in it."""
    found = _toml(text)
    if found is not None:
        return found
    if where.endswith(".toml"):
        raise UsageError(f'{where} must hold username = "…" and password = "…"')
    lines = text.removesuffix("\n").split("\n")
    lines = [line.removesuffix("\r") for line in lines]
    if len(lines) == 2 and lines[1]:
        return Login(lines[0], lines[1])
    user, colon, password = lines[0].partition(":")
    if len(lines) == 1 and colon and password:
        return Login(user, password)
    raise UsageError(f"{where}: write user:password, or the user on one line and the password on the next, or TOML")


def _toml(text: str) -> Login | None:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        found: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None
    if not set(found) <= {"username", "password"} or not found.get("password"):
        return None
    if not all(isinstance(value, str) for value in found.values()):
        return None
    return Login(found.get("username", ""), found["password"])


def _text(raw: bytes, what: str) -> str:
    if len(raw) > MAX_BYTES:
        raise UsageError(f"{what} is longer than {MAX_BYTES} bytes")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise UsageError(f"{what} is not UTF-8") from None
