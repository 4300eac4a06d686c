"""What every command gets, and the words that several of them share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from facedetctl.exits import Exit, UsageError
from facedetctl.output import Output
from facedetctl.target import Target, target_of

if TYPE_CHECKING:
    from facedetctl.client import Client

Subparsers = Any  # argparse's own type is private


@dataclass(frozen=True, slots=True)
class Call:
    """One run of a command."""

    args: argparse.Namespace
    out: Output

    @property
    def target(self) -> Target:
        """Raises UsageError."""
        return target_of(self.args)

    def connect(self) -> AbstractContextManager[Client]:
        # gRPC takes a fifth of a second to load: not for --help and `model`.
        from facedetctl.client import connected

        return connected(self.target, self.args.timeout)


Command = Callable[[Call], Exit]


def add_command(subparsers: Subparsers, name: str, run: Command, help: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name, help=help, description=help[0].upper() + help[1:] + ".", allow_abbrev=False
    )
    parser.set_defaults(run=run)
    return parser


def label(text: str) -> tuple[str, str]:
    """``name=value``. Raises argparse.ArgumentTypeError."""
    name, found, value = text.partition("=")
    if not found or not name:
        raise argparse.ArgumentTypeError(f"found {text!r}; write name=value")
    return name, value


def polygon(text: str) -> tuple[tuple[float, float], ...]:
    """``x,y x,y x,y`` in fractions of the picture. Raises argparse.ArgumentTypeError."""
    try:
        points = tuple((float(x), float(y)) for x, y in (point.split(",") for point in text.split()))
    except ValueError:
        points = ()
    if len(points) < 3 or not all(0 <= v <= 1 for point in points for v in point):
        raise argparse.ArgumentTypeError(
            f"found {text!r}; write at least three points x,y from 0 to 1, as '0,0 1,0 1,1'"
        )
    return points


def positive(text: str) -> float:
    """A number above 0 and below 1e9. Raises argparse.ArgumentTypeError."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < 1e9:
        limit = " and below 1e9" if number >= 1e9 else ""
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed is a number above 0{limit}")
    return number


def fraction(text: str) -> float:
    """A number from 0 to 1. Raises argparse.ArgumentTypeError."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed is a number from 0 to 1")
    return number


def labels_of(pairs: list[tuple[str, str]] | None) -> dict[str, str]:
    """Raises UsageError for a name given twice."""
    found: dict[str, str] = {}
    for name, value in pairs or ():
        if name in found:
            raise UsageError(f"label {name!r} is given twice")
        found[name] = value
    return found
