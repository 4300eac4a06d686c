"""Strict conversion of parsed values (TOML, JSON) to the types of a dataclass's annotations."""

from __future__ import annotations

import functools
import json
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from facedetd.config.issues import KeyPath
from facedetd.config.urls import redact_url

_LABELS = tuple[tuple[str, str], ...]
_POINT = "a point [x, y] in fractions of the picture"  # the only tuple of fixed length there is
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Bad:
    """A value that can't be taken: where (below the thing converted), and ``found ...; allowed: ...``."""

    path: KeyPath
    message: str


@functools.cache
def field_types(cls: type) -> Mapping[str, Any]:
    """The fields of a dataclass with their types, in order."""
    return typing.get_type_hints(cls)


def convert(
    value: object, hint: Any, path: KeyPath, bad: list[Bad], *, allowed: str = "", sensitive: bool = False
) -> Any:
    """``value`` as ``hint``; None, with the reasons added to ``bad``, where it isn't one.

    Strict: a bool is no int, an int is a float, a number must be finite, nothing is parsed out of a string but
    enums and paths. ``sensitive`` values aren't shown."""

    def refuse(what: str, at: KeyPath = path) -> None:
        bad.append(Bad(at, f"found {'a value that is not shown' if sensitive else show(value)}; allowed: {what}"))

    def mismatch() -> None:
        found = f"{kind_of(value)}" if sensitive or not shows_itself(value) else f"{show(value)} ({kind_of(value)})"
        bad.append(Bad(path, f"found {found}; allowed: {allowed or describe(hint)}"))

    if hint is bool or hint is str:
        if isinstance(value, hint):
            return value
    elif hint is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    elif hint is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            number = _finite(value)
            if number is None:
                refuse(allowed or describe(hint))
            return number
    elif hint is Path:
        if isinstance(value, str):
            return Path(value)
    elif _is_enum(hint):
        if isinstance(value, str):
            if value in {member.value for member in hint}:
                return hint(value)
            refuse(describe(hint))
            return None
    elif hint == _LABELS:
        if isinstance(value, dict):
            for name, text in value.items():
                convert(text, str, (*path, name), bad, allowed="a string")
            return tuple(value.items())
    elif isinstance(value, list):
        return _convert_tuple(value, typing.get_args(hint), path, bad, allowed)
    mismatch()
    return None


def _convert_tuple(value: list[object], args: tuple[Any, ...], path: KeyPath, bad: list[Bad], allowed: str) -> Any:
    if args[-1] is Ellipsis:
        return tuple(convert(item, args[0], (*path, i), bad, allowed="") for i, item in enumerate(value))
    if len(value) != len(args):
        bad.append(Bad(path, f"found an array of {len(value)}; allowed: {_POINT}"))
        return None
    return tuple(convert(item, args[i], (*path, i), bad) for i, item in enumerate(value))


def _finite(value: int | float) -> float | None:
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _is_enum(hint: Any) -> bool:
    # Python 3.10 takes tuple[...] for a type, which issubclass() then refuses
    return typing.get_origin(hint) is None and issubclass(hint, Enum)


def describe(hint: Any) -> str:
    """A type in an operator's words."""
    if _is_enum(hint):
        return "one of " + ", ".join(f'"{member.value}"' for member in hint)
    names = {bool: "true or false", int: "an integer", float: "a number", str: "a string", Path: "a path (a string)"}
    if hint in names:
        return names[hint]
    if hint == _LABELS:
        return 'a table of strings, such as { site = "north" }'
    args = typing.get_args(hint)
    if args == (float, float):
        return _POINT
    if args[0] in (str, int):
        return "an array of strings" if args[0] is str else "an array of integers"
    if args[0] == tuple[float, float]:
        return "an array of points [x, y] in fractions of the picture"
    return "an array of polygons, each an array of points [x, y] in fractions of the picture"


def kind_of(value: object) -> str:
    kinds: dict[type, str] = {bool: "a boolean", int: "an integer", float: "a number", str: "a string"}
    kinds |= {list: "an array", tuple: "an array", dict: "a table", type(None): "null"}
    return kinds.get(type(value), "a date or time")


def shows_itself(value: object) -> bool:
    return isinstance(value, (bool, int, float, str))


def show(value: object) -> str:
    """A value in an error message: short, printable, no password, no contents of arrays and tables."""
    if isinstance(value, Enum):
        return show(value.value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Path):
        return show(str(value))
    if isinstance(value, str):
        text = redact_url(value)
        text = text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
        text = json.dumps(text, ensure_ascii=False)
        return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)
    if isinstance(value, int):
        return str(value) if abs(value) < 10**_SHOWN else "a huge integer"
    return repr(value) if isinstance(value, float) else kind_of(value)
