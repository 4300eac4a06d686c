"""Two passwords full of nasty characters, all the shapes in which they might stand in a text, and the search."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import secrets
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from facedetd.config.urls import url_with_credentials

USER = "viewer@site"
REALM = "GStreamer RTSP Server"
MARK, WRONG_MARK = (f"Mk{secrets.token_hex(6)}" for _ in range(2))
PASSWORD = f"p@ss:w/ö rd%2F\"'\\$#?&{MARK}"
WRONG = f"%41 @:/{WRONG_MARK}"


def shapes(user: str, password: str) -> dict[str, bytes]:
    """Every way in which a password may stand in a text."""
    both = f"{user}:{password}"
    found = {
        "raw": password,
        "percent-encoded": quote(password, safe=""),
        "percent-encoded in lower case": quote(password, safe="").lower(),
        "percent-encoded but for slashes": quote(password),
        "as in the URL": url_with_credentials("rtsp://h", user, password).partition("//")[2].rpartition("@")[0],
        "base64": base64.b64encode(both.encode()).decode().rstrip("="),
        "base64 of the password": base64.b64encode(password.encode()).decode().rstrip("="),
        "base64 for URLs": base64.urlsafe_b64encode(both.encode()).decode().rstrip("="),
        "JSON": json.dumps(password)[1:-1],
        "JSON, not only ASCII": json.dumps(password, ensure_ascii=False)[1:-1],
        "repr": repr(password)[1:-1],
        "for a shell": shlex.quote(password),
        "digest's HA1": hashlib.md5(f"{user}:{REALM}:{password}".encode()).hexdigest(),
        "SHA-256": hashlib.sha256(password.encode()).hexdigest(),
        "the marker in it": next(m for m in (MARK, WRONG_MARK) if m in password),
    }
    return {name: text.encode() for name, text in found.items()}


NEEDLES = [(f"{which} password, {name}", needle) for which, password in (("right", PASSWORD), ("wrong", WRONG))
           for name, needle in shapes(USER, password).items()]  # fmt: skip


def found_in(data: bytes | str) -> list[str]:
    text = data.encode(errors="surrogateescape") if isinstance(data, str) else data
    lower = text.lower()
    return [name for name, needle in NEEDLES if needle in text or ("lower case" in name and needle in lower)]


@dataclass
class Seen:
    """All that anyone could read, with where it stood."""

    texts: list[tuple[str, bytes]] = field(default_factory=list)

    def add(self, where: str, text: bytes | str) -> None:
        self.texts.append((where, text if isinstance(text, bytes) else text.encode(errors="surrogateescape")))

    def check(self) -> None:
        assert self.texts
        leaks = {where: names for where, text in self.texts if (names := found_in(text))}
        assert not leaks

    def processes(self, pids: list[int]) -> None:
        for pid in pids:
            for name in ("cmdline", "environ", "comm"):
                with contextlib.suppress(OSError):  # it has ended
                    self.add(f"{name} of {pid}", Path(f"/proc/{pid}/{name}").read_bytes())
