"""The bytes of the state file: versioned JSON with a checksum over its streams."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any

from facedetd.config.convert import Bad, convert, field_types
from facedetd.config.issues import key_text
from facedetd.types import Secret, StreamSpec

FORMAT = "facedetd-streams"
VERSION = 1

Stored = tuple[tuple[StreamSpec, Secret | None], ...]


class StateFileError(Exception):
    """The bytes aren't a state file of this version; ``str()`` says why and holds nothing of their contents."""


def encode(streams: Stored) -> bytes:
    """The state file of ``streams``: definitions and passwords."""
    listed = [_to_table(spec, secret) for spec, secret in streams]
    whole = {"format": FORMAT, "version": VERSION, "sha256": _checksum(listed), "streams": listed}
    return json.dumps(whole, indent=1).encode() + b"\n"


def decode(data: bytes) -> Stored:
    """
    Raises:
        StateFileError: torn, corrupt, or of another version."""
    try:
        whole = json.loads(data)
    except (ValueError, RecursionError):
        raise StateFileError("it is not whole JSON") from None
    if not isinstance(whole, dict) or whole.get("format") != FORMAT:
        raise StateFileError("it is not a list of facedetd's streams")
    if whole.get("version") != VERSION:
        raise StateFileError(f"it is of another version of the format; this facedetd reads version {VERSION}")
    listed = whole.get("streams")
    if not isinstance(listed, list) or whole.get("sha256") != _checksum(listed):
        raise StateFileError("its checksum does not fit its contents")
    streams = tuple(_from_table(table, i) for i, table in enumerate(listed))
    if len({spec.id for spec, _ in streams}) != len(streams):
        raise StateFileError("an id stands in it twice")
    return streams


def _checksum(listed: Sequence[Any]) -> str:
    canonical = json.dumps(listed, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _to_table(spec: StreamSpec, secret: Secret | None) -> dict[str, Any]:
    table = dataclasses.asdict(spec)
    table["labels"] = dict(spec.labels)
    if secret is not None:
        table["password"] = secret.value
    return table


def _from_table(table: object, index: int) -> tuple[StreamSpec, Secret | None]:
    """A spec as it was saved. Rules that may have changed since aren't applied here: the registry does that."""
    types = field_types(StreamSpec)
    if not isinstance(table, dict) or not {"id", "url"} <= table.keys() <= {*types, "password"}:
        raise StateFileError(f"its stream {index} lacks a field or has an unknown one")
    bad: list[Bad] = []
    values = {
        name: convert(value, types[name], (name,), bad, sensitive=True)
        for name, value in table.items()
        if name != "password"
    }
    password = convert(table["password"], str, ("password",), bad, sensitive=True) if "password" in table else None
    if bad:
        raise StateFileError(f"its stream {index} has a field of the wrong type: {key_text(bad[0].path)}")
    return StreamSpec(**values), None if password is None else Secret(password)
