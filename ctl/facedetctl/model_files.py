"""What the model commands share: which model is meant, at which size it runs, and their progress."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from facedetctl.commands import Call
from facedetctl.exits import CtlError, Exit, UsageError
from facedetctl.output import Output, safe

if TYPE_CHECKING:
    from facedetd.models import ModelEntry, ModelStore
    from facedetd.workshop.detector import Detector

MAX_SIDE = 8192
STORED = "NAME[@VERSION] in the store"
"""How help calls it; without a version it is the one stored last."""


def add_options(parser: argparse.ArgumentParser) -> None:
    for side in ("width", "height"):
        parser.add_argument(
            f"--{side}", type=_side, metavar="PX", help=f"{side} of the model's picture (its own, or 640 if it is free)"
        )
    parser.add_argument("--threads", type=_threads, default=0, metavar="N", help="of the engine; 0: the cores (0)")


ENGINES = ("onnxruntime", "openvino")


def add_engine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--engine", choices=ENGINES, help="what runs an ONNX model here (onnxruntime); a plan is TensorRT's"
    )


def whole(text: str, low: int, high: int) -> int:
    """Raises argparse.ArgumentTypeError."""
    if not re.fullmatch(r"\d{1,9}", text) or not low <= int(text) <= high:
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed is a whole number from {low} to {high}")
    return int(text)


def _side(text: str) -> int:
    return whole(text, 32, MAX_SIDE)


def _threads(text: str) -> int:
    return whole(text, 0, 256)


def split_name(text: str) -> tuple[str, str]:
    """``NAME[@VERSION]`` as both, the version empty where there is none. Raises UsageError."""
    name, at, version = text.partition("@")
    if not name or (at and not version):
        raise UsageError(f"found {safe(text)!r}; write NAME or NAME@VERSION")
    return name, version


def stored(text: str, models: Path, below: Sequence[str] = ()) -> ModelEntry:
    """The model that is named ``NAME[@VERSION]`` in the store below ``models``; its hash is checked. Raises CtlError,
    with the lines ``below``, where none has that name or version; or it is damaged."""
    from facedetd.models import ModelError, ModelStore

    name, version = split_name(text)
    store = ModelStore(models)
    try:
        return store.get(name, version or None)
    except ModelError as error:
        missing = _missing(store, name, version)
        raise CtlError(Exit.NOT_FOUND if missing else Exit.FAILED, str(error), below if missing else ()) from None


def _missing(store: ModelStore, name: str, version: str) -> bool:
    from facedetd.models import ModelError

    try:
        return not any(entry.name == name and version in ("", entry.version) for entry in store.list())
    except ModelError:  # the store can't be read: who knows
        return False


def model_path(text: str, models: Path) -> Path:
    """The file of a model that is named as a file (by its suffix, or a folder in it) or as in the store below
    ``models``. Raises CtlError."""
    path = Path(text)
    if path.suffix in (".onnx", ".plan", ".engine", ".trt") or "/" in text:
        if not path.is_file():
            raise UsageError(f"{text}: no such model file")
        return path
    return stored(
        text, models, ["a file is named by its path, such as ./model.onnx; another store with --state-dir"]
    ).path


def load(call: Call, path: Path, *, engine: str | None = None, max_batch: int = 1, plain: bool = False) -> Detector:
    """Load it with the command's options; ``engine``: one of ENGINES, for models that aren't plans. Raises CtlError."""
    from facedetd.inference.types import DeviceError
    from facedetd.models import ModelError
    from facedetd.workshop.detector import load_detector

    args = call.args
    try:
        return load_detector(
            path, args.width, args.height, args.threads, engine=engine or "", max_batch=max_batch, plain=plain
        )
    except ModelError as error:
        raise CtlError(Exit.FAILED, str(error)) from None
    except DeviceError as error:
        raise CtlError(Exit.UNAVAILABLE, str(error)) from None


class Steps:
    """One line on stderr, on a terminal only: how many of how many, and how long the rest may take."""

    def __init__(self, out: Output, noun: str) -> None:
        self._out, self._noun = out, noun
        self._start = self._next = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if not self._out.err.isatty() or (now < self._next and done < total):
            return
        self._next = now + 0.2
        left = f", {(now - self._start) / done * (total - done):.0f} s left" if done else ""
        self.note(f"{self._noun} {done} of {total}{left}" if done < total else "")

    def note(self, text: str) -> None:
        """In the line's place, where there is a terminal; '' clears it."""
        if self._out.err.isatty():
            self._out.err.write(f"\r{text}\x1b[K")
            self._out.err.flush()
