"""model activate: the running daemon goes over to another model; and which one that is, for `model list`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from facedetctl.commands import Call, Subparsers, add_command
from facedetctl.exits import CtlError, Exit, UsageError
from facedetctl.model_files import split_name
from facedetctl.output import plain, safe

if TYPE_CHECKING:
    from facedetd.v1 import daemon_pb2

LOAD_S = 150.0
"""The daemon gives a model two minutes to load."""
_ASK_S = 2.0


def register(nouns: Subparsers) -> argparse.ArgumentParser:
    parser = add_command(nouns, "activate", activate, "make the running daemon go over to a model of its store")
    parser.add_argument(
        "name",
        metavar="NAME[@VERSION]",
        nargs="?",
        help="as `model list` shows it; without a version the one stored last",
    )
    parser.add_argument("--default", action="store_true", help="back to the model that the configuration names")
    return parser


def activate(call: Call) -> Exit:
    from facedetd.v1 import daemon_pb2

    args = call.args
    if args.default == (args.name is not None):
        raise UsageError("give either NAME[@VERSION] or --default")
    name, version = split_name(args.name) if args.name is not None else ("", "")
    with call.connect() as client:
        request = daemon_pb2.ActivateModelRequest(name=name, version=version)
        answer = client.daemon.ActivateModel(request, timeout=max(client.timeout, LOAD_S))
    if call.out.json:
        call.out.data(plain(answer))
        return Exit.OK
    before = f" (until now {model_text(answer.previous)})" if answer.HasField("previous") else ""
    why = "" if answer.model.activated else ", as the configuration says"
    call.out.line(f"{model_text(answer.model)} is active{why}{before}")
    return Exit.OK


def model_text(model: daemon_pb2.ModelInfo) -> str:
    return f"{safe(model.name)}@{safe(model.version)}"


def running(call: Call) -> tuple[str, str] | None:
    """Name and version of what the daemon runs: ('', '') for nothing, None where no daemon can be asked."""
    from facedetctl.client import connected
    from facedetd.v1 import daemon_pb2

    try:
        with connected(call.target, min(call.args.timeout, _ASK_S)) as client:
            answer = client.daemon.GetHealth(daemon_pb2.GetHealthRequest(), timeout=client.timeout)
    except CtlError:
        return None
    return answer.model.name, answer.model.version
