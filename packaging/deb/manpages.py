"""The manual pages, from the parsers, the schema and the exit codes: ``python packaging/deb/manpages.py DIR`` writes
facedetd(8), facedetctl(1), facedetd.toml(5) and facedetd-gpu-setup(8). The packages make them when they are built; none
is in the repository.

The macros are those of groff_man(7).
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "gpu"))

from facedetd_gpu_setup.main import parser as gpu_parser

import facedetd
from facedetctl.exits import MEANING
from facedetctl.main import make_parser
from facedetctl.target import OPTIONS
from facedetd.config.convert import field_types
from facedetd.config.reference import toml_value
from facedetd.config.schema import KEYS, SECTIONS
from facedetd.main import DEFAULT_CONFIG, EXIT_CONFIG, EXIT_REFUSED
from facedetd.main import parser as daemon_parser
from facedetd.types import StreamSpec

SHARED = frozenset(("--socket", "--json", "--timeout", "--help", *(option for option, _, _ in OPTIONS)))

CREDENTIALS = "/etc/facedetd/credentials"

FILES = (
    (str(DEFAULT_CONFIG), "The configuration, facedetd.toml(5)."),
    (f"{DEFAULT_CONFIG.parent}/conf.d/*.toml", "Read after it, in order of their names."),
    (
        f"{CREDENTIALS}/NAME",
        "Passwords of cameras that stand in the configuration, readable by root only. systemd hands each to the daemon "
        "as the credential camera_NAME.",
    ),
    ("/var/lib/facedetd", "Streams that were added with facedetctl(1), and the models."),
    ("/run/facedetd", "The sockets. Members of the group facedetd may use both."),
)


def pages() -> dict[str, str]:
    """File name to text."""
    return {"facedetd.8": _daemon(), "facedetctl.1": _ctl(), "facedetd.toml.5": _toml(), "facedetd-gpu-setup.8": _gpu()}


def _daemon() -> str:
    parser = daemon_parser()
    lines = [
        *_head("facedetd", 8, "face detection on the streams of many IP cameras"),
        *_synopsis(parser),
        ".SH DESCRIPTION",
        *_text(
            "facedetd takes the RTSP streams of IP cameras and gives face detections: boxes, scores and five landmarks "
            "in the camera's own pixels, with the time of capture. systemd starts it as facedetd.service. Streams are "
            "added with facedetctl(1) or stand in facedetd.toml(5)."
        ),
        *_text(
            "When not everything fits, it lowers frame rates or decodes less, the lowest priority first, and says so "
            "in facedetctl stats and facedetctl health."
        ),
        ".SH OPTIONS",
        *_options(parser),
        ".SH SIGNALS",
        *_items(
            (
                ("SIGTERM, SIGINT", "Stop."),
                ("SIGHUP", "Read the configuration anew. A bad one changes nothing."),
            )
        ),
        ".SH EXIT STATUS",
        *_items(
            (
                ("0", "Stopped as asked."),
                (str(EXIT_REFUSED), "It can't run: another daemon holds the state directory, or an address is in use."),
                ("2", "The command line is wrong."),
                (str(EXIT_CONFIG), "The configuration is bad, or needs more memory than there is."),
            )
        ),
        ".SH FILES",
        *_items(FILES),
        *_see_also("facedetctl(1), facedetd.toml(5), systemd.exec(5)"),
    ]
    return _page(lines)


def _ctl() -> str:
    parser = make_parser()
    lines = [
        *_head("facedetctl", 1, "control facedetd"),
        ".SH SYNOPSIS",
        ".B facedetctl",
        "[\\fIOPTIONS\\fR] \\fICOMMAND\\fR [\\fIARGUMENTS\\fR]",
        ".SH DESCRIPTION",
        *_text(
            "Data goes to stdout, messages to stderr. A camera's password never stands on the command line: "
            "--password-stdin reads it from stdin, --credentials-file from a file that not everyone may read."
        ),
        ".SH OPTIONS",
        *_options(parser),
        ".SH COMMANDS",
        *_commands(parser),
        ".SH EXIT STATUS",
        *_items((str(int(code)), text[0].upper() + text[1:] + ".") for code, text in MEANING.items()),
        ".SH EXAMPLES",
        ".EX",
        *(
            _escape(line)
            for line in (
                "facedetctl add-stream door rtsp://192.0.2.10/stream1 --username viewer --password-stdin < password",
                "facedetctl stats --watch",
                "facedetctl watch door --min-score 0.7 --json",
            )
        ),
        ".EE",
        *_see_also("facedetd(8), facedetd.toml(5)"),
    ]
    return _page(lines)


def _gpu() -> str:
    parser = gpu_parser()
    lines = [
        *_head(parser.prog, 8, "libraries for facedetd on an NVIDIA GPU"),
        ".SH SYNOPSIS",
        f".B {_escape(parser.prog)}",
        "\\fICOMMAND\\fR [\\fIARGUMENTS\\fR]",
        ".SH DESCRIPTION",
        *_text(parser.description or ""),
        *_text(
            "Debian has none of them. install fetches what /usr/share/facedetd-gpu/facedetd.lock names, checks its "
            "hashes, builds PyCUDA, which takes g++ and python3.11-dev, and tries whether the daemon's Python can load "
            "it all; only then does it take the place of what was there. pip's settings and a proxy's variables count."
        ),
        ".SH COMMANDS",
        *_commands(parser),
        ".SH EXIT STATUS",
        *_items((("0", "Done, or all is well."), ("1", "Something is wrong."), ("2", "The command line is."))),
        ".SH FILES",
        *_items((("/var/lib/facedetd-gpu", "What was installed. It goes with the package."),)),
        *_see_also("facedetd(8), facedetd.toml(5)"),
    ]
    return _page(lines)


def _toml() -> str:
    lines = [
        *_head("facedetd.toml", 5, "configuration of facedetd"),
        ".SH DESCRIPTION",
        *_text(
            f"{DEFAULT_CONFIG} is a TOML file. After it conf.d/*.toml beside it are read in order of their names: a "
            "later file's key takes the place of an earlier one's, streams add up. Every key has a default, so an "
            "empty file is a configuration. facedetd --check tells every error at once; systemctl reload facedetd, or "
            "facedetctl reload, makes the daemon read the files anew, and a bad configuration changes nothing."
        ),
    ]
    for section, cls in SECTIONS.items():
        types = field_types(cls)
        lines.append(f".SH {_escape(f'[{section}]')}")
        for field in dataclasses.fields(cls):
            key = KEYS[section][field.name]
            note = f"Allowed: {key.allowed(types[field.name])}. Default: {toml_value(field.default)}."
            lines += _items([(field.name, f"{key.doc} {note}")])
    lines += [
        f".SH {_escape('[[stream]]')}",
        *_text(
            "Streams that stand in the configuration are read-only through the API. id and url are required. A "
            'password never stands here: with credential = "camera_door" it is what the file '
            f"{CREDENTIALS}/door holds, readable by root only."
        ),
        *_items((field.name, KEYS["stream"][field.name].doc) for field in dataclasses.fields(StreamSpec)),
        *_see_also("facedetd(8), facedetctl(1)"),
    ]
    return _page(lines)


def _commands(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                if inner.get_default("run"):
                    yield f".SS {_escape(_usage(inner))}"
                    yield from _text(inner.description or "")
                    yield from _options(inner, skip=SHARED)
                yield from _commands(inner)


def _usage(parser: argparse.ArgumentParser) -> str:
    words = [parser.prog.partition(" ")[2]]
    for action in parser._actions:
        if not action.option_strings:
            name = str(action.metavar or "|".join(action.choices or ()))
            words.append({"*": f"[{name}...]", "+": f"{name}...", "?": f"[{name}]"}.get(str(action.nargs), name))
    return " ".join(words)


def _synopsis(parser: argparse.ArgumentParser) -> Iterator[str]:
    yield ".SH SYNOPSIS"
    yield f".B {_escape(parser.prog)}"
    yield " ".join(
        "[\\fB"
        + _escape(action.option_strings[-1])
        + "\\fR"
        + ("" if action.nargs == 0 else f" {_value(action)}")
        + "]"
        for action in parser._actions
        if action.option_strings
    )


def _options(parser: argparse.ArgumentParser, skip: Iterable[str] = ()) -> Iterator[str]:
    for action in parser._actions:
        if action.help == argparse.SUPPRESS or isinstance(action, argparse._SubParsersAction):
            continue
        if set(skip) & set(action.option_strings) or not (action.option_strings or action.help):
            continue
        names = ", ".join(f"\\fB{_escape(name)}\\fR" for name in action.option_strings)
        value = "" if action.nargs == 0 else _value(action)
        text = (action.help or "").replace("%(default)s", str(action.default))
        yield from (".TP", f"{names} {value}".strip(), _escape(text))


def _value(action: argparse.Action) -> str:
    return "\\fI" + _escape(str(action.metavar or "|".join(str(choice) for choice in action.choices or ()))) + "\\fR"


def _items(items: Iterable[tuple[str, str]]) -> list[str]:
    return [line for name, text in items for line in (".TP", f"\\fB{_escape(name)}\\fR", _escape(text))]


def _head(name: str, section: int, what: str) -> list[str]:
    title = f'.TH {_escape(name.upper())} {section} "" "facedetd {facedetd.__version__}" "facedetd"'
    return ['.\\" Made by packaging/deb/manpages.py', title, ".SH NAME", f"{_escape(name)} \\- {_escape(what)}"]


def _see_also(names: str) -> list[str]:
    return [".SH SEE ALSO", *_text(names)]


def _text(text: str) -> list[str]:
    return [".PP", _escape(text)] if text else []


def _escape(text: str) -> str:
    """Text that holds no control line, no escape, and hyphens that can be copied into a shell."""
    plain = " ".join(text.split()).replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + plain if plain[:1] in (".", "'") else plain


def _page(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    for name, text in pages().items():
        Path(sys.argv[1], name).write_text(text)
