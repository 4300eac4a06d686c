"""Which model of the store is to run when it was chosen through the API, kept over restarts in the state directory.

The choice goes before ``model.name`` of the configuration until it is taken back.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from facedetd.control import FieldViolation, InvalidError, NotFoundError, StorageError, UnavailableError
from facedetd.models import ModelError, ModelStore
from facedetd.models.store import NAME_PATTERN, VERSION_PATTERN

FILE = "active-model.json"
FORMAT = 1
MAX_BYTES = 4096


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """One version of a model: what is imported later under the same name doesn't take its place unasked."""

    name: str
    version: str


def resolve(store: ModelStore, name: str, version: str) -> ModelChoice:
    """The model of this name and version (empty: the one stored last), checked to be there and whole. Blocks.

    Raises InvalidError, NotFoundError, and UnavailableError for a damaged one."""
    for field, value, pattern in (("name", name, NAME_PATTERN), ("version", version, VERSION_PATTERN)):
        if not re.fullmatch(pattern, value) and (value or field == "name"):
            raise InvalidError(
                [FieldViolation(field, f"found {value[:80]!r}; allowed: what `facedetctl model list` shows")]
            )
    try:
        entry = store.get(name, version or None)
    except ModelError as error:
        try:
            there = any(e.name == name and version in ("", e.version) for e in store.list())
        except ModelError:
            there = True
        raise (UnavailableError if there else NotFoundError)(str(error)) from None
    return ModelChoice(entry.name, entry.version)


class ChoiceFile:
    """The choice on disk. Calls block for as long as the disk takes."""

    def __init__(self, state_dir: Path):
        self._path = state_dir / FILE

    def load(self) -> tuple[ModelChoice | None, str]:
        """The choice, None where there is none, and what is wrong with the file (then there is none either)."""
        try:
            with self._path.open("rb") as file:
                data: dict[str, Any] = json.loads(file.read(MAX_BYTES))
            choice = ModelChoice(str(data["name"]), str(data["version"]))
            good = re.fullmatch(NAME_PATTERN, choice.name) and re.fullmatch(VERSION_PATTERN, choice.version)
            if data["format"] != FORMAT or not good:
                raise ValueError("it names no model")
        except FileNotFoundError:
            return None, ""
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            return None, (
                f"{self._path} can't be used ({type(error).__name__}), so the configuration's model runs; "
                "`facedetctl model activate` writes it anew"
            )
        return choice, ""

    def save(self, choice: ModelChoice | None) -> None:
        """When this returns it survives a power cut. Raises StorageError, and the file is as it was."""
        part = self._path.with_name(FILE + ".tmp")
        try:
            if choice is None:
                self._path.unlink(missing_ok=True)
            else:
                part.unlink(missing_ok=True)
                handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
                with os.fdopen(handle, "wb") as file:
                    file.write((json.dumps({"format": FORMAT, **asdict(choice)}) + "\n").encode())
                    file.flush()
                    os.fsync(handle)
                part.replace(self._path)
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise StorageError(f"can't write {self._path}: {error.strerror or error}") from None
