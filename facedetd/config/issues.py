"""What is wrong with a configuration or stream list, said in one line each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class ConfigIssue:
    """One error. ``line`` is 1-based, 0 where there is none (the file can't be read); ``key`` is a path such as
    ``capture.slots_per_stream`` or ``stream[2].url`` (counted from 0 within the file), empty where there is none.
    ``message`` says what was found and what is allowed, and never holds a password."""

    file: str
    line: int
    key: str
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.key}: {self.message}" if self.key else f"{where}: {self.message}"


class ConfigErrors(Exception):
    """All errors of a configuration at once; ``str()`` is one line each."""

    def __init__(self, issues: Sequence[ConfigIssue]):
        self.issues = tuple(issues)
        super().__init__("\n".join(str(issue) for issue in self.issues))


def key_text(path: KeyPath) -> str:
    """``("stream", 2, "url")`` as ``stream[2].url``. A part that isn't a plain name is quoted."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
            continue
        plain = part.isascii() and part.replace("_", "a").replace("-", "a").isalnum()
        text += ("." if text else "") + (part if plain else _quoted(part))
    return text


def _quoted(part: str) -> str:
    short = part if len(part) <= 40 else part[:40] + "..."
    return '"' + "".join(c if c.isprintable() and c not in '"\\' else f"\\u{ord(c):04x}" for c in short) + '"'
