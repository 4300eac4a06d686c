"""What `model evaluate` and `model test` share: which model is meant, at which size it runs, and their progress."""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

from facedetctl.commands import Call
from facedetctl.exits import CtlError, Exit, UsageError
from facedetctl.output import Output

if TYPE_CHECKING:
    from facedetd.workshop.detector import Detector

MAX_SIDE = 8192


def add_options(parser: argparse.ArgumentParser) -> None:
    for side in ("width", "height"):
        parser.add_argument(
            f"--{side}", type=_side, metavar="PX", help=f"{side} of the model's picture (its own, or 640 if it is free)"
        )
    parser.add_argument("--threads", type=_threads, default=0, metavar="N", help="of the engine; 0: the cores (0)")


def whole(text: str, low: int, high: int) -> int:
    """Raises argparse.ArgumentTypeError."""
    if not re.fullmatch(r"\d{1,9}", text) or not low <= int(text) <= high:
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed is a whole number from {low} to {high}")
    return int(text)


def _side(text: str) -> int:
    return whole(text, 32, MAX_SIDE)


def _threads(text: str) -> int:
    return whole(text, 0, 256)


def model_path(text: str, models: Path) -> Path:
    """The file of a model that is named as a file (a suffix or a folder in it, or no name of the store) or as in the
    store below ``models``. Raises CtlError."""
    from facedetd.models import ModelError, ModelStore

    path = Path(text)
    if path.suffix in (".onnx", ".plan", ".engine", ".trt") or "/" in text:
        if not path.is_file():
            raise UsageError(f"{text}: no such model file")
        return path
    store = ModelStore(models)
    try:
        if not any(entry.name == text for entry in store.list()):
            names = ", ".join(sorted({entry.name for entry in store.list()})) or "none"
            raise CtlError(
                Exit.NOT_FOUND, f"no model {text!r} in {models}; there: {names}",
                ["a file is named by its path, such as ./model.onnx; another store with --state-dir"],
            )  # fmt: skip
        return store.get(text).path
    except ModelError as error:
        raise CtlError(Exit.FAILED, str(error)) from None


def load(call: Call, path: Path, *, max_batch: int = 1, plain: bool = False) -> Detector:
    """Load it with the command's options. Raises CtlError."""
    from facedetd.inference.types import DeviceError
    from facedetd.models import ModelError
    from facedetd.workshop.detector import load_detector

    args = call.args
    try:
        return load_detector(path, args.width, args.height, args.threads, max_batch=max_batch, plain=plain)
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
