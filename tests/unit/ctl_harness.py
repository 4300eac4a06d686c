"""Runs facedetctl's commands in this process against a real ApiServer over a fake control plane."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import dataclass
from typing import Any

from facedetctl.main import run


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Bytes(io.TextIOWrapper):
    """Text stream over bytes, as sys.stdout is."""

    def __init__(self, data: bytes = b"") -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8", newline="")

    def bytes(self) -> bytes:
        self.flush()
        return self.buffer.getvalue()


class Ctl:
    def __init__(self, monkeypatch, served=None) -> None:
        self.monkeypatch = monkeypatch
        self.served = served
        self.raw = b""
        monkeypatch.delenv("COLUMNS", raising=False)

    def __call__(self, *argv: str, stdin: str = "") -> Done:
        before = ["--socket", str(self.served.socket)] if self.served else []
        out, err = Bytes(), io.StringIO()
        with self.monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", Bytes(stdin.encode()))
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            try:
                code = int(run([*before, *argv]))
            except SystemExit as error:  # --help and --version
                code = int(error.code or 0)
        self.raw = out.bytes()
        return Done(code, self.raw.decode(errors="replace"), err.getvalue())
