"""Passwords of the TOML's streams: systemd puts each into a file that only the daemon can read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from facedetd.config.files import read_text
from facedetd.config.issues import ConfigErrors
from facedetd.types import Secret

MAX_PASSWORD_BYTES = 4096


class CredentialError(Exception):
    """A credential can't be had; ``str()`` says which, why and what to do."""


def read_credential(name: str, environment: Mapping[str, str] = os.environ) -> Secret:
    """The password that ``LoadCredential=name:FILE`` put into ``$CREDENTIALS_DIRECTORY``, less one final line end.

    Raises:
        CredentialError: there is no such directory or file, or it isn't text."""
    folder = environment.get("CREDENTIALS_DIRECTORY")
    advice = f"put LoadCredential={name}:FILE into the unit of facedetd"
    if not folder:
        raise CredentialError(f'credential "{name}": systemd loaded none for this process; {advice}')
    try:
        text = read_text(Path(folder) / name, max_bytes=MAX_PASSWORD_BYTES).text
    except ConfigErrors as errors:
        raise CredentialError(f'credential "{name}" {errors.issues[0].message}; {advice}') from None
    return Secret(text.removesuffix("\n").removesuffix("\r"))
