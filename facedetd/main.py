"""The command `facedetd`. Light to import: every worker process imports the main module too."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from facedetd.config.issues import ConfigErrors

DEFAULT_CONFIG = Path("/etc/facedetd/facedetd.toml")
EXIT_REFUSED, EXIT_CONFIG = 1, 78
"""78 is sysexits.h's EX_CONFIG: systemd needn't try again."""


def parser() -> argparse.ArgumentParser:
    from facedetd import __version__

    p = argparse.ArgumentParser(prog="facedetd", description="Detects faces on the streams of many IP cameras.")
    p.add_argument(
        "--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE",
        help="the configuration, in TOML (%(default)s); conf.d/*.toml beside it is read after it",
    )  # fmt: skip
    p.add_argument("--check", action="store_true", help="check the configuration and exit")
    p.add_argument("--print-config", action="store_true", help="print a configuration with every key and its default")
    p.add_argument("--version", action="version", version=f"facedetd {__version__}")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    from facedetd.config.issues import ConfigErrors
    from facedetd.config.load import load

    if args.print_config:
        from facedetd.config.reference import render_toml

        return _out(render_toml())
    try:
        config = load(args.config)
        if args.check:
            from facedetd.api.access import check_api

            for warning in check_api(config.api):
                print(f"facedetd: warning: {warning}", file=sys.stderr)
    except ConfigErrors as errors:
        return _config_errors(errors)
    if args.check:
        from facedetd.supervisor.limits import look

        verdict = look(config, len(config.streams))
        for subject, warning in verdict.warnings:
            print(f"facedetd: warning: {subject}: {warning}", file=sys.stderr)
        if verdict.refusal:
            print(f"facedetd: {verdict.refusal}", file=sys.stderr)
            return EXIT_CONFIG
        number = len(config.streams)
        return _out(f"{args.config}: good, {number} stream{'' if number == 1 else 's'}\n")

    import asyncio

    from facedetd import logs
    from facedetd.api.sockets import SocketError
    from facedetd.control import ControlError
    from facedetd.metrics.server import MetricsError
    from facedetd.supervisor.app import StartError, serve

    logs.setup(config.daemon.log_level, config.daemon.log_format)
    try:
        asyncio.run(serve(config, lambda: load(args.config)))
    except ConfigErrors as errors:  # a certificate, say
        return _config_errors(errors)
    except StartError as error:
        print(f"facedetd: {error}", file=sys.stderr)
        return EXIT_CONFIG
    except (ControlError, SocketError, MetricsError) as error:
        print(f"facedetd: {error}", file=sys.stderr)
        return EXIT_REFUSED
    except OSError as error:
        print(f"facedetd: {error.filename or ''}: {error.strerror}", file=sys.stderr)
        return EXIT_REFUSED
    return 0


def _out(text: str) -> int:
    """Write to stdout; the exit status. A full disk there and a path that is no text have no traceback."""
    try:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        print(text, end="", flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's own flush at the end
        if not isinstance(error, BrokenPipeError):
            print(f"facedetd: stdout: {error.strerror}", file=sys.stderr)
            return EXIT_REFUSED
    return 0


def _config_errors(errors: ConfigErrors) -> int:
    for issue in errors.issues:
        print(f"facedetd: {issue}", file=sys.stderr)
    return EXIT_CONFIG


if __name__ == "__main__":
    sys.exit(main())
