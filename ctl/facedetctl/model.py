"""model pull, import, list, show: the model store, without the daemon (list asks it what runs).

Loads onnx and onnxruntime only where a model is pulled or imported.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facedetctl import (
    model_activate,
    model_build,
    model_collect,
    model_evaluate,
    model_export,
    model_quantize,
    model_test,
)
from facedetctl.commands import Call, Subparsers, add_command
from facedetctl.exits import CtlError, Exit, UsageError
from facedetctl.model_files import stored
from facedetctl.output import Cell, Output, safe, size, table

if TYPE_CHECKING:
    from facedetd.models import ModelEntry, ModelStore

STATE_DIR = "/var/lib/facedetd"
MODELS = "models"  # below the state directory


def register(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser("model", help="keep models in the store", description="Keep models in the store.")
    nouns = parser.add_subparsers(dest="model_command", metavar="COMMAND", required=True)
    pull_ = add_command(nouns, "pull", pull, "fetch a known model, check it and store it")
    pull_.add_argument("name", metavar="NAME", help="centerface or yunet")
    take = add_command(nouns, "import", import_file, "check an ONNX file, run it once, and store it")
    take.add_argument("file", metavar="FILE", type=Path)
    take.add_argument("--name", metavar="NAME", help="its name in the store (the file's)")
    list_ = add_command(nouns, "list", list_models, "list the stored models, and which of them the daemon runs")
    show_ = add_command(nouns, "show", show, "show one model and its manifest; its hash is checked")
    show_.add_argument("name", metavar="NAME[@VERSION]", help="without a version the one stored last")
    model_activate.register(nouns)
    model_export.register(nouns)
    tools = [
        model_build.register(nouns),
        model_quantize.register(nouns),
        model_collect.register(nouns),
        model_test.register(nouns),
        model_evaluate.register(nouns),
    ]
    for one in (pull_, take, list_, show_, *tools):
        one.add_argument(
            "--state-dir", type=Path, metavar="DIR", default=Path(os.environ.get("FACEDETD_STATE_DIR") or STATE_DIR),
            help=f"the daemon's state directory ($FACEDETD_STATE_DIR, {STATE_DIR})",
        )  # fmt: skip


def _store(args: argparse.Namespace) -> ModelStore:
    from facedetd.models import ModelStore

    return ModelStore(args.state_dir / MODELS)


def pull(call: Call) -> Exit:
    from facedetd.models import KNOWN, ModelError
    from facedetd.models import pull as fetch

    if call.args.name not in KNOWN:
        raise CtlError(
            Exit.NOT_FOUND, f"no known model {safe(call.args.name)!r}; known are {', '.join(KNOWN)}",
            ["others: facedetctl model import FILE"],
        )  # fmt: skip
    progress = Progress(call.out)
    try:
        entry = fetch(call.args.name, _store(call.args), progress if call.out.err.isatty() else None)
    except ModelError as error:
        raise CtlError(Exit.FAILED, str(error)) from None
    finally:
        progress.done()
    return _stored(call, entry)


def import_file(call: Call) -> Exit:
    from facedetd.models import ModelError, import_model

    with suppress(OSError):  # may not look: import_model says why
        if not call.args.file.is_file():
            raise UsageError(f"{call.args.file}: no such file")
    try:
        entry = import_model(call.args.file, _store(call.args), call.args.name)
    except ModelError as error:
        raise CtlError(Exit.FAILED, str(error)) from None
    return _stored(call, entry)


def _stored(call: Call, entry: ModelEntry) -> Exit:
    if call.out.json:
        call.out.data(about(entry))
    else:
        call.out.line(f"{entry.name} {entry.version} stored ({entry.head}, {_picture(entry)})")
    return Exit.OK


def list_models(call: Call) -> Exit:
    from facedetd.models import ModelError

    try:
        entries = _store(call.args).list()
    except ModelError as error:
        raise CtlError(Exit.FAILED, str(error)) from None
    active = model_activate.running(call) if entries else None
    if call.out.json:
        known = {(e.name, e.version): None if active is None else (e.name, e.version) == active for e in entries}
        call.out.data({"models": [{**about(e), "active": known[e.name, e.version]} for e in entries]})
        return Exit.OK
    if not entries:
        call.out.say(f"no models in {call.args.state_dir}; fetch one with: facedetctl model pull centerface")
        return Exit.OK
    rows = [
        [
            Cell(e.name),
            Cell(e.version),
            Cell("active", "green") if (e.name, e.version) == active else Cell("" if active else "?"),
            Cell("int8" if e.calibration else "float"),
            Cell(e.head),
            Cell(_picture(e)),
            Cell(safe(e.licence)),
            Cell(safe(e.source)),
        ]
        for e in entries
    ]
    heads = ("MODEL", "VERSION", "STATE", "PRECISION", "HEAD", "SIZE", "LICENCE", "SOURCE")
    call.out.lines(table(heads, rows, frozenset(), call.out.size()[0], call.out.colour))
    return Exit.OK


def show(call: Call) -> Exit:
    entry = stored(call.args.name, call.args.state_dir / MODELS)
    if call.out.json:
        call.out.data({**about(entry), "manifest": entry.artefact})
        return Exit.OK
    shown = {**about(entry), "bytes": size(entry.path.stat().st_size), "picture": _picture(entry)}
    del shown["width"], shown["height"]
    width = max(len(name) for name in shown)
    call.out.lines([f"{name:<{width}}  {safe(str(value))}" for name, value in shown.items()])
    if entry.artefact:
        call.out.lines(["manifest", *(f"  {safe(line)}" for line in json.dumps(entry.artefact, indent=2).split("\n"))])
    return Exit.OK


def about(entry: ModelEntry) -> dict[str, Any]:
    """A model as JSON data; ``width`` and ``height`` 0: any size."""
    return {
        "name": entry.name,
        "version": entry.version,
        "head": entry.head,
        "width": entry.width,
        "height": entry.height,
        "licence": entry.licence,
        "source": entry.source,
        "stored": entry.stored_utc,
        "sha256": entry.sha256,
        "source_sha256": entry.source_sha256,
        "path": str(entry.path),
    }


def _picture(entry: ModelEntry) -> str:
    return f"{entry.width}x{entry.height}" if entry.width else "any size"


class Progress:
    """One line on stderr that counts bytes, at most ten times a second."""

    def __init__(self, out: Output) -> None:
        self._err = out.err
        self._next = 0.0
        self._shown = False

    def __call__(self, done: int, total: int | None) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + 0.1
        self._shown = True
        whole = f" of {size(total)}" if total else ""
        self._err.write(f"\r{size(done)}{whole}\x1b[K")
        self._err.flush()

    def done(self) -> None:
        if self._shown:
            self._err.write("\r\x1b[K")
            self._err.flush()
