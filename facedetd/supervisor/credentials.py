"""Passwords of the TOML's streams, read when the configuration is: no file is read while streams come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from facedetd.config.credentials import CredentialError, read_credential
from facedetd.registry.registry import Entry
from facedetd.types import Secret


class Credentials:
    def __init__(self) -> None:
        self._known: dict[str, Secret | CredentialError] = {}

    async def read(self, entries: Iterable[Entry]) -> None:
        """Read anew all that these name."""
        names = {entry.spec.credential for entry in entries if entry.spec.credential}
        self._known = await asyncio.to_thread(lambda: {name: _read(name) for name in names})

    def secret_of(self, entry: Entry) -> tuple[Secret | None, str]:
        """A stream's password, and why it can't be had (empty: it can, or there is none)."""
        if not entry.spec.credential:
            return entry.secret, ""
        found = self._known[entry.spec.credential]
        return (None, str(found)) if isinstance(found, CredentialError) else (found, "")


def _read(name: str) -> Secret | CredentialError:
    try:
        return read_credential(name)
    except CredentialError as error:
        return error
