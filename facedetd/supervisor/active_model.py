"""Which model of the store is to run when it was chosen through the API, kept over restarts in the state directory.

The choice goes before ``model.name`` of the configuration until it is taken back.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from facedetd.control import FieldViolation, InvalidError, NotFoundError, UnavailableError
from facedetd.models import ModelError, ModelStore
from facedetd.models.store import NAME_PATTERN, VERSION_PATTERN
from facedetd.supervisor.statefile import read_json, replace_json

FILE = "active-model.json"
FORMAT = 1


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
            data: dict[str, Any] = read_json(self._path)
            choice = ModelChoice(str(data["name"]), str(data["version"]))
            good = re.fullmatch(NAME_PATTERN, choice.name) and re.fullmatch(VERSION_PATTERN, choice.version)
            if data["format"] != FORMAT or not good:
                raise ValueError("it names no model")
        except FileNotFoundError:
            return None, ""
        except (OSError, ValueError, KeyError, TypeError) as error:
            return None, (
                f"{self._path} can't be used ({type(error).__name__}), so the configuration's model runs; "
                "`facedetctl model activate` writes it anew"
            )
        return choice, ""

    def save(self, choice: ModelChoice | None) -> None:
        """When this returns it survives a power cut. Raises StorageError, and the file is as it was."""
        replace_json(self._path, None if choice is None else {"format": FORMAT, **asdict(choice)})
