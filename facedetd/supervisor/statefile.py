"""Small files of the state directory that aren't worth a backup: replaced whole, 0644, nothing secret in them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from facedetd.control import StorageError

MAX_BYTES = 1 << 20


def read_json(path: Path) -> Any:
    """What the file holds. Raises FileNotFoundError, OSError or ValueError."""
    with path.open("rb") as file:
        try:
            return json.loads(file.read(MAX_BYTES))
        except RecursionError:
            raise ValueError("nested too deeply") from None


def replace_json(path: Path, data: Mapping[str, Any] | None) -> None:
    """Make the file hold this, or be gone (None). When this returns that survives a power cut. Blocks. Raises
    StorageError, and the file is as it was."""
    part = path.with_name(path.name + ".tmp")
    try:
        if data is None:
            path.unlink(missing_ok=True)
        else:
            part.unlink(missing_ok=True)
            handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            with os.fdopen(handle, "wb") as file:
                file.write((json.dumps(data) + "\n").encode())
                file.flush()
                os.fsync(handle)
            part.replace(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise StorageError(f"can't write {path}: {error.strerror or error}") from None
