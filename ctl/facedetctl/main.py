"""facedetctl: reads the command line, runs a command, turns what it raises into a line and an exit code."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, TextIO

import facedetd
from facedetctl import completion, daemon, doctor, health, model, output, stats, streams, watch
from facedetctl.bench import cli as bench
from facedetctl.commands import Call, positive
from facedetctl.exits import CtlError, Exit, UsageError
from facedetctl.target import OPTIONS, SOCKET

TIMEOUT_S = 10.0


class Parser(argparse.ArgumentParser):
    """Raises instead of exiting, and shows nothing that may hold a password."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", lambda prog: argparse.HelpFormatter(prog, max_help_position=28))
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        hidden = re.sub(r"://.*@", "://***@", message, flags=re.DOTALL)
        # As in --password-stdin=WORD, --passwd WORD
        hidden = re.sub(r"(--?pass[^\s=:]*(?:=|\s+|: ignored explicit argument )).*", r"\1***", hidden, flags=re.DOTALL)
        raise UsageError(hidden, [f"see: {self.prog} --help"])


def _shared(parser: argparse.ArgumentParser, *, top: bool) -> None:
    """Options that may stand before and after the command. After it they have no default, which would undo what
    stood before it."""

    def default(value: object) -> object:
        return value if top else argparse.SUPPRESS

    parser.add_argument(
        "--socket", type=Path, metavar="PATH", default=default(None),
        help=f"the daemon's socket ($FACEDETD_SOCKET, {SOCKET})",
    )  # fmt: skip
    for option, metavar, text in OPTIONS:
        parser.add_argument(option, metavar=metavar, default=default(""), help=text)
    parser.add_argument("--json", action="store_true", default=default(False), help="JSON on stdout")
    parser.add_argument(
        "--timeout", type=positive, metavar="S", default=default(TIMEOUT_S), help="seconds an answer may take (10)"
    )


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="facedetctl", description="Controls facedetd.", allow_abbrev=False)
    parser.add_argument(
        "--version", action="version", version=f"facedetctl {facedetd.__version__}",
        help="show facedetctl's version and exit; without a command",
    )  # fmt: skip
    _shared(parser, top=True)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for noun in (streams, stats, watch, health, doctor, daemon, model, bench, completion):
        noun.register(commands)
    _share_below(parser)
    return parser


def _share_below(parser: argparse.ArgumentParser) -> None:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                _share_below(inner)
                if inner.get_default("run"):
                    _shared(inner, top=False)
                    inner.set_defaults(parser=inner)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Raises UsageError. A wrong option is told with the command it was given to, where argparse names the program."""
    parser = make_parser()
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        args.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return args


def run(argv: Sequence[str]) -> Exit:
    """One command, with what goes wrong told on stderr."""
    out = output.standard(as_json=False)
    try:
        args = parse(argv)
        out = output.standard(as_json=args.json)
        code: Exit = args.run(Call(args, out))
        out.flush()
        return code
    except BrokenPipeError:
        _silence(sys.stdout)
        return Exit.OK
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except OSError as error:  # a full disk behind stdout, say
        _silence(sys.stdout)
        with suppress(OSError):
            out.say(str(error))
        return Exit.FAILED
    except CtlError as error:
        with suppress(OSError):  # stderr is full or gone: the exit code is right all the same
            out.say(str(error))
            for line in error.below:
                sys.stderr.write(f"  {output.safe(line)}\n")
        return error.code


def _silence(stream: TextIO) -> None:
    """The reader is gone; keep Python's flush at exit from complaining about it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _settle_streams() -> None:
    """All three are there, and no text is too foreign for the terminal's encoding."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by the caller; a socket must not take its number
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 (till the end)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def main() -> NoReturn:
    _settle_streams()
    code = run(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            _silence(stream)
    sys.exit(int(code))


if __name__ == "__main__":
    main()
