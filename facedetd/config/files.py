"""Read a small text file that an operator wrote, with one clear reason where that fails."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from facedetd.config.issues import ConfigErrors, ConfigIssue

MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class TextFile:
    text: str
    mode: int  # permission bits of the very file that was read


def read_text(path: Path, *, max_bytes: int = MAX_BYTES, allow_bom: bool = False) -> TextFile:
    """The text of a regular UTF-8 file of at most ``max_bytes``.

    Raises:
        ConfigErrors: with one issue that says why not."""

    def fail(message: str, line: int = 0) -> ConfigErrors:
        return ConfigErrors([ConfigIssue(str(path), line, "", message)])

    try:
        # O_NONBLOCK: opening a FIFO must not hang
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError:
        raise fail("there is no such file") from None
    except (OSError, ValueError) as error:
        raise fail(f"can't be read: {_reason(error)}") from None
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            what = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise fail(f"is {what}; allowed: a text file")
        data = _read(handle, max_bytes + 1)
    except OSError as error:
        raise fail(f"can't be read: {_reason(error)}") from None
    finally:
        os.close(handle)
    if len(data) > max_bytes:
        raise fail(f"is too large: more than {max_bytes} bytes; allowed: up to {max_bytes} bytes")
    if data.startswith(b"\xef\xbb\xbf"):
        if not allow_bom:
            raise fail("begins with a byte order mark; allowed: UTF-8 without one", 1)
        data = data[3:]
    try:
        return TextFile(data.decode(), stat.S_IMODE(status.st_mode))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise fail(f"is not UTF-8: found the byte 0x{data[error.start]:02x}; allowed: UTF-8 text", line) from None


def _read(handle: int, size: int) -> bytes:
    parts: list[bytes] = []
    while size > 0 and (part := os.read(handle, size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or "the path is not valid"
