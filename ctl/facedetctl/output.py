"""How things are shown: colour, units, tables, JSON. Pure, but for :class:`Output`, which writes."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TextIO

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

RESET = "\x1b[0m"
COLOURS = {"green": "\x1b[32m", "yellow": "\x1b[33m", "red": "\x1b[31m", "dim": "\x1b[2m", "bold": "\x1b[1m"}

STATE_COLOURS = {
    "streaming": "green",
    "running": "green",
    "waiting": "dim",
    "paused": "dim",
    "ended": "red",
    "failed": "red",
}
"""Every other state is yellow: something is on its way up or down."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A text and its colour ('' for none)."""

    text: str
    colour: str = ""


def state_colour(state: str) -> str:
    return STATE_COLOURS.get(state, "yellow")


def safe(text: str) -> str:
    """Text from elsewhere (cameras, files) with control characters shown, so that it can't drive the terminal."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def paint(cell: Cell, colour: bool) -> str:
    return f"{COLOURS[cell.colour]}{cell.text}{RESET}" if colour and cell.colour and cell.text else cell.text


def cut(text: str, width: int | None) -> str:
    """At most ``width`` characters, the last one an ellipsis where something is missing."""
    if width is None or len(text) <= width:
        return text
    return text[: width - 1] + "…" if width > 0 else ""


def table(
    heads: Sequence[str], rows: Sequence[Sequence[Cell]], right: frozenset[str], width: int | None, colour: bool
) -> list[str]:
    """Aligned lines, two spaces between columns; columns in ``right`` are flush right. The last column gives way
    when the width is short, then the first."""
    gap = 2
    widths = [max([len(head), *(len(row[i].text) for row in rows)]) for i, head in enumerate(heads)]
    if width is not None:
        over = sum(widths) + gap * (len(widths) - 1) - width
        for i in (len(widths) - 1, 0):
            give = min(max(over, 0), max(widths[i] - max(len(heads[i]), 8), 0))
            widths[i] -= give
            over -= give
    lines = []
    for row in ([Cell(head, "dim") for head in heads], *rows):
        parts = []
        for i, cell in enumerate(row):
            shown = cut(cell.text, widths[i])
            # Padding stays outside of the colour, and the last column has none: no trailing spaces.
            pad = " " * (widths[i] - len(shown))
            painted = paint(Cell(shown, cell.colour), colour)
            parts.append(pad + painted if heads[i] in right else painted + (pad if i < len(row) - 1 else ""))
        lines.append((" " * gap).join(parts).rstrip())
    return lines


def percent(fraction: float) -> str:
    return f"{fraction * 100:.1f} %"


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 10 else f"{seconds:.1f} s"


def count(number: int) -> str:
    """1234 as 1234, 12345 as 12.3k, and so on."""
    if number < 10_000:
        return str(number)
    value = float(number)
    for unit in ("k", "M", "G"):
        value /= 1000
        if value < 999.95:
            return f"{value:.1f}{unit}"
    return f"{value / 1000:.1f}T"


def several(number: int, noun: str) -> str:
    """1 camera, 2 cameras."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def size(number: int) -> str:
    """Bytes in binary units."""
    value = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1023.5:
            return f"{value:.0f} {unit}" if unit in ("B", "KiB", "MiB") else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def span(seconds: float) -> str:
    """A length of time in its two largest units."""
    whole = int(seconds)
    for unit, length, lower, below in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= length:
            return f"{whole // length} {unit} {whole % length // below} {lower}"
    return f"{whole} s"


def word(message: Message, field: str) -> str:
    """An enum field in words: STREAM_STATE_BACKING_OFF as backing-off."""
    return _word(message.DESCRIPTOR.fields_by_name[field], getattr(message, field))


def _word(field: Any, number: int) -> str:
    values = field.enum_type.values_by_number
    if number not in values:
        return f"unknown-{number}"
    index: int = values[number].index
    return enum_words(field.enum_type)[index]


def enum_words(enum: Any) -> list[str]:
    """The words of an enum's values, in their order; the first is that of the unspecified value."""
    prefix = enum.values[0].name.removesuffix("UNSPECIFIED")
    return [value.name.removeprefix(prefix).lower().replace("_", "-") for value in enum.values]


def plain(message: Message) -> dict[str, Any]:
    """A message as JSON data, by fixed rules: field names as in the proto; all fields present, null for an absent
    message; enums as words (:func:`word`); 64-bit numbers as numbers; a timestamp as RFC 3339 in UTC with ns;
    a duration as seconds under its name plus ``_s``."""
    return {json_name(field): _field(message, field) for field in message.DESCRIPTOR.fields}


def json_name(field: Any) -> str:
    """A field's key in JSON."""
    timed = field.message_type is not None and field.message_type.full_name == Duration.DESCRIPTOR.full_name
    return f"{field.name}_s" if timed else str(field.name)


def _field(message: Message, field: Any) -> Any:
    value: Any = getattr(message, field.name)
    if field.message_type and field.message_type.GetOptions().map_entry:
        return {key: value[key] for key in sorted(value)}
    if repeated(field):
        return [_value(field, one) for one in value]
    if field.has_presence and not message.HasField(field.name):
        return None
    return _value(field, value)


def repeated(field: Any) -> bool:
    # `label` is gone from the newest protobuf, `is_repeated` is missing in the oldest.
    found = getattr(field, "is_repeated", None)
    return bool(found) if found is not None else field.label == FieldDescriptor.LABEL_REPEATED


def _value(field: Any, value: Any) -> Any:
    if isinstance(value, Timestamp):
        try:
            return value.ToJsonString()
        except ValueError:  # before year 1 or after 9999: there is no such time
            return None
    if isinstance(value, Duration):
        return value.ToNanoseconds() / 1e9
    if isinstance(value, Message):
        return plain(value)
    if field.enum_type is not None:
        return _word(field, value)
    if field.type == FieldDescriptor.TYPE_FLOAT:
        return round(value, 4)
    return value


def _finite(value: Any) -> Any:
    """JSON data with null for each number that isn't one."""
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _printable(text: str) -> str:
    """A JSON document with all that isn't printable escaped: JSON itself lets DEL and U+0080 to U+009F through, with
    which a terminal can be driven, and what turns the direction of writing."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1].replace("\x7f", "\\u007f") for c in text)


class Output:
    """Where a command writes. ``colour`` and ``width`` (None: no limit) fit the stdout that there is."""

    def __init__(self, out: TextIO, err: TextIO, *, as_json: bool, environ: Mapping[str, str]) -> None:
        self.out = out
        self.err = err
        self.json = as_json
        self.tty = out.isatty()
        self.colour = self.tty and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"

    def size(self) -> tuple[int | None, int | None]:
        """Columns and lines, each None where there is no limit."""
        if not self.tty:
            columns = os.environ.get("COLUMNS", "")[:5]  # a longer number is as good as no limit
            return (int(columns) if columns.isdecimal() and int(columns) else None), None
        found = shutil.get_terminal_size((100, 40))
        return found.columns, found.lines

    def line(self, text: str = "") -> None:
        self.out.write(text + "\n")

    def lines(self, texts: Sequence[str]) -> None:
        for text in texts:
            self.line(text)

    def data(self, value: Any) -> None:
        """One JSON document on one line: fit for jq, and for reading line by line where there are many."""
        ascii_only = (self.out.encoding or "utf-8").lower() not in ("utf-8", "utf8")
        try:
            text = json.dumps(value, ensure_ascii=ascii_only, separators=(", ", ": "), allow_nan=False)
        except ValueError:  # JSON has neither NaN nor infinity
            text = json.dumps(_finite(value), ensure_ascii=ascii_only, separators=(", ", ": "))
        self.line(_printable(text))

    def flush(self) -> None:
        self.out.flush()

    def say(self, message: str) -> None:
        """A message for the operator, on stderr; what it quotes can't drive the terminal."""
        with suppress(OSError):  # told when the command ends
            self.out.flush()
        self.err.write(f"facedetctl: {safe(message)}\n")
        self.err.flush()


def standard(as_json: bool) -> Output:
    return Output(sys.stdout, sys.stderr, as_json=as_json, environ=os.environ)
