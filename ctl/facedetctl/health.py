"""health: whether faces are being detected, and what an operator should look at."""

from __future__ import annotations

from facedetctl.commands import Call, Subparsers, add_command
from facedetctl.exits import Exit
from facedetctl.model_activate import model_text
from facedetctl.output import Cell, paint, plain, safe, state_colour, word


def register(subparsers: Subparsers) -> None:
    parser = add_command(subparsers, "health", health, "tell whether faces are being detected; exit code 6 if not")
    parser.add_argument("-q", "--quiet", action="store_true", help="only the exit code")


def health(call: Call) -> Exit:
    from facedetd.v1 import daemon_pb2

    with call.connect() as client:
        answer = client.daemon.GetHealth(daemon_pb2.GetHealthRequest(), timeout=client.timeout)
    bad = any(problem.severity == daemon_pb2.SEVERITY_ERROR for problem in answer.problems)
    code = Exit.OK if answer.serving and not bad else Exit.UNHEALTHY
    if call.args.quiet:
        return code
    out = call.out
    if out.json:
        out.data({"healthy": code is Exit.OK, **plain(answer)})
        return code
    state = word(answer, "state")
    serving = "detecting faces" if answer.serving else "not detecting faces"
    model = f" with {model_text(answer.model)}" if answer.HasField("model") else ""
    out.line(f"facedetd {paint(Cell(state, state_colour(state)), out.colour)} · {serving}{model}")
    for problem in answer.problems:
        severity = word(problem, "severity")
        shown = paint(Cell(severity, "red" if severity == "error" else "yellow"), out.colour)
        out.line(f"{shown}: {safe(problem.subject)}: {safe(problem.message)}")
    return code
