"""reload and version."""

from __future__ import annotations

import facedetd
from facedetctl.commands import Call, Subparsers, add_command
from facedetctl.exits import CtlError, Exit
from facedetctl.model_activate import model_text
from facedetctl.output import plain, safe


def register(subparsers: Subparsers) -> None:
    parser = add_command(subparsers, "reload", reload, "make the daemon read its config anew")
    parser.add_argument("--dry-run", action="store_true", help="check only, and tell what would change")
    add_command(subparsers, "version", version, "show the versions of facedetctl and of the daemon")


def reload(call: Call) -> Exit:
    from facedetd.v1 import daemon_pb2

    with call.connect() as client:
        answer = client.daemon.Reload(daemon_pb2.ReloadRequest(dry_run=call.args.dry_run), timeout=client.timeout)
    if call.out.json:
        call.out.data(plain(answer))
        return Exit.OK
    if not answer.changes and not answer.restart_needed:
        call.out.line("nothing changed")
    call.out.lines([safe(change) for change in answer.changes])
    for key in answer.restart_needed:
        call.out.line(f"{safe(key)}: needs a restart")
    return Exit.OK


def version(call: Call) -> Exit:
    from facedetd.v1 import daemon_pb2

    problem = None
    answer = None
    try:
        with call.connect() as client:
            answer = client.daemon.GetVersion(daemon_pb2.GetVersionRequest(), timeout=client.timeout)
    except CtlError as error:
        problem = error
    if call.out.json:
        call.out.data({"client": facedetd.__version__, "daemon": plain(answer) if answer else None})
    else:
        call.out.line(f"facedetctl {facedetd.__version__}")
        if answer:
            libraries = ", ".join(f"{name} {answer.libraries[name]}" for name in sorted(answer.libraries))
            about = f"facedetd {answer.version} (API {answer.api_version}, Python {answer.python_version})"
            call.out.lines([safe(about), f"with {safe(libraries)}"])
            if answer.HasField("model"):
                call.out.line(f"runs {model_text(answer.model)}")
    if problem:
        raise problem
    return Exit.OK
