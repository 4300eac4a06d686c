"""Which line of a TOML text each key stands on.

``tomllib`` gives values without lines, and tomlkit, which keeps the text, doesn't say them either, so this walks the
text once more. It runs only on text that ``tomllib`` has accepted, so it needn't check anything: only where strings,
arrays and inline tables end matters. On anything else it gives what it found so far and never raises.
"""

from __future__ import annotations

import contextlib
import re
import sys

from facedetd.config.issues import KeyPath

if sys.version_info >= (3, 11):
    import tomllib
else:  # the same parser under its old name
    import tomli as tomllib

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}#\n]*")
_BASIC = re.compile(r'"(?:[^"\\]|\\.)*"')
_LITERAL = re.compile(r"'[^']*'")
# a multi-line string may end with up to two quotes of its own before the closing three
_MULTI_BASIC = re.compile(r'"""(?:[^\\]|\\.)*?"""(?:""|"(?!"))?', re.DOTALL)
_MULTI_LITERAL = re.compile(r"'''.*?'''(?:''|'(?!'))?", re.DOTALL)


def locate(text: str) -> dict[KeyPath, int]:
    """Map every key path of a valid TOML text to its 1-based line.

    Elements of arrays have a path too, ``("stream", 0, "rois", 1)``. A table that only stands as a part of a longer
    header or dotted key has the line where it was first named.
    """
    scanner = _Scanner(text)
    # Lost: not valid TOML, or nested beyond reason; callers fall back to the nearest known parent
    with contextlib.suppress(_Lost, RecursionError):
        scanner.document()
    return scanner.found


def line_of(lines: dict[KeyPath, int], path: KeyPath) -> int:
    """The line of ``path``, else of its nearest parent that has one, else 1."""
    for end in range(len(path), 0, -1):
        if path[:end] in lines:
            return lines[path[:end]]
    return 1


class _Lost(Exception):
    pass


class _Scanner:
    def __init__(self, text: str):
        self.text = text.replace("\r\n", "\n")
        self.at = 0
        self.line = 1
        self.found: dict[KeyPath, int] = {}
        self.array_lengths: dict[KeyPath, int] = {}

    def document(self) -> None:
        table: KeyPath = ()
        self.blank()
        while self.at < len(self.text):
            if self.text.startswith("[[", self.at):
                table = self.header(2)
            elif self.text[self.at] == "[":
                table = self.header(1)
            else:
                self.pair(table)
            self.blank()

    def header(self, brackets: int) -> KeyPath:
        line = self.line
        self.move(brackets)
        keys = self.dotted_key()
        self.move(brackets)
        path: KeyPath = ()
        for key in keys[:-1]:
            path = self.inside((*path, key), line)
        path = (*path, keys[-1])
        if brackets == 1:
            return self.note(path, line)
        index = self.array_lengths.get(path, 0)
        self.array_lengths[path] = index + 1
        self.note(path, line)
        return self.note((*path, index), line)

    def inside(self, path: KeyPath, line: int) -> KeyPath:
        """A header that goes through an array of tables means its last element."""
        self.note(path, line)
        length = self.array_lengths.get(path)
        return path if length is None else (*path, length - 1)

    def pair(self, table: KeyPath) -> None:
        line = self.line
        path = table
        for key in self.dotted_key():
            path = self.note((*path, key), line)
        self.expect("=")
        self.spaces()
        self.value(path)

    def value(self, path: KeyPath) -> None:
        char = self.text[self.at : self.at + 1]
        if char == "[":
            self.array(path)
        elif char == "{":
            self.inline_table(path)
        elif char in {'"', "'"}:
            self.string()
        else:
            self.take(_SCALAR)

    def array(self, path: KeyPath) -> None:
        self.move(1)
        index = 0
        self.blank()
        while self.text[self.at : self.at + 1] != "]":
            self.value(self.note((*path, index), self.line))
            index += 1
            self.separator("]")
        self.move(1)

    def inline_table(self, path: KeyPath) -> None:
        self.move(1)
        self.blank()
        while self.text[self.at : self.at + 1] != "}":
            self.pair(path)
            self.separator("}")
        self.move(1)

    def separator(self, end: str) -> None:
        self.blank()
        if self.text[self.at : self.at + 1] == ",":
            self.move(1)
            self.blank()
        elif self.text[self.at : self.at + 1] != end:
            raise _Lost

    def dotted_key(self) -> list[str]:
        keys = []
        while True:
            self.spaces()
            if self.text[self.at : self.at + 1] in {'"', "'"}:
                keys.append(self.quoted_key())
            else:
                keys.append(self.take(_BARE_KEY))
            self.spaces()
            if self.text[self.at : self.at + 1] != ".":
                return keys
            self.move(1)

    def quoted_key(self) -> str:
        token = self.string()
        try:
            return str(tomllib.loads(f"k = {token}")["k"])
        except tomllib.TOMLDecodeError:
            raise _Lost from None

    def string(self) -> str:
        for opening, pattern in (('"""', _MULTI_BASIC), ("'''", _MULTI_LITERAL), ('"', _BASIC)):
            if self.text.startswith(opening, self.at):
                return self.take(pattern)
        return self.take(_LITERAL)

    def take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        if match is None:
            raise _Lost
        self.move(len(match.group()))
        return match.group()

    def expect(self, char: str) -> None:
        if self.text[self.at : self.at + 1] != char:
            raise _Lost
        self.move(1)

    def spaces(self) -> None:
        while self.text[self.at : self.at + 1] in {" ", "\t"}:
            self.at += 1

    def blank(self) -> None:
        """Skip white space, line ends and comments."""
        while self.at < len(self.text):
            if self.text[self.at] == "#":
                end = self.text.find("\n", self.at)
                self.at = len(self.text) if end < 0 else end
            elif self.text[self.at] in " \t\r\n":
                self.move(1)
            else:
                return

    def move(self, count: int) -> None:
        self.line += self.text.count("\n", self.at, self.at + count)
        self.at += count

    def note(self, path: KeyPath, line: int) -> KeyPath:
        self.found.setdefault(path, line)
        return path
