"""One table that an operator wrote (TOML, JSON or CSV) as a :class:`StreamSpec`."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from facedetd.config.convert import Bad, convert, field_types, show
from facedetd.config.issues import KeyPath
from facedetd.config.schema import KEYS
from facedetd.config.streamcheck import check_login, check_spec, lift_userinfo
from facedetd.control import FieldViolation
from facedetd.types import Secret, StreamSpec

_REQUIRED = ("id", "url")
_PASSWORD_NAMES = {"password", "passwd", "pass", "pwd", "secret"}


@dataclass(frozen=True, slots=True)
class StreamTable:
    """What became of a table. ``spec`` is None, and ``bad`` says why, where it can't be taken."""

    spec: StreamSpec | None
    secret: Secret | None
    bad: tuple[Bad, ...]


def stream_from_table(table: Mapping[str, object], *, allow_file_sources: bool, passwords: bool) -> StreamTable:
    """Check a whole table. ``passwords``: an import file, where ``password`` and userinfo in URLs are allowed and
    ``credential`` isn't; without it the daemon's TOML, where it is the other way round."""
    types, keys = field_types(StreamSpec), KEYS["stream"]
    bad: list[Bad] = []
    values: dict[str, object] = {}
    password: str | None = None
    for name, value in table.items():
        if passwords and name == "password":
            password = convert(value, str, (name,), bad, sensitive=True)
        elif name in types and not (passwords and name == "credential"):
            values[name] = convert(value, types[name], (name,), bad, sensitive=keys[name].sensitive)
        else:
            bad.append(Bad((name,), _unknown(name, types, passwords)))
    bad += [Bad((name,), "found nothing; it is required") for name in _REQUIRED if name not in table]

    # What could be read is checked too, so that all errors show at once; what couldn't has its error already.
    spoiled = {str(item.path[0]) for item in bad}
    good = {name: value for name, value in values.items() if name not in spoiled}
    spec = StreamSpec(**{"id": "", "url": "", **good})  # type: ignore[arg-type]
    if "min_fps" not in table:  # a slow stream needs no second key
        spec = dataclasses.replace(spec, min_fps=min(spec.min_fps, spec.target_fps))
    spec, secret, violations = _lift(spec, passwords)
    if passwords and password is not None:
        if secret is not None and secret.value != password:
            bad.append(Bad(("password",), "found another password in the URL; allowed: one for a stream"))
        secret = Secret(password)
    violations += check_spec(spec, allow_file_sources=allow_file_sources)
    violations += check_login(spec.username, secret)
    ignored = spoiled | ({"min_fps"} if "target_fps" in spoiled else set())
    for violation in violations:
        path = _path(violation.field)
        if path[0] not in ignored:
            bad.append(Bad(path, violation.message))
    return StreamTable(None if bad else spec, None if bad else secret, tuple(bad))


def _lift(spec: StreamSpec, passwords: bool) -> tuple[StreamSpec, Secret | None, list[FieldViolation]]:
    bare, secret, violations = lift_userinfo(spec)
    if secret is not None and not passwords:
        # leave the URL as it is: check_spec refuses it and says what to do instead
        return spec, None, []
    return bare, secret, violations


def _path(field: str) -> KeyPath:
    """``rois[0][2]`` as ("rois", 0, 2), ``labels.site`` as ("labels", "site")."""
    return tuple(int(index) if index else name for name, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", field))


def _unknown(name: str, types: Iterable[str], passwords: bool) -> str:
    known = [key for key in types if not (passwords and key == "credential")] + (["password"] if passwords else [])
    if name in _PASSWORD_NAMES and not passwords:
        return 'unknown key; a password does not belong in this file: use credential = "NAME", which systemd loads'
    if name == "credential":
        return "unknown key; credentials are for streams in the daemon's TOML: use password here"
    return "unknown key" + near_miss(name, known)


def near_miss(name: str, known: Iterable[str]) -> str:
    """``; did you mean X?`` where a known name is close, else the list of the known ones."""
    known = list(known)
    close = difflib.get_close_matches(name[:100].lower(), known, n=1)
    return f'; did you mean "{close[0]}"?' if close else "; allowed: " + ", ".join(known)


def require_no_duplicates(ids: Iterable[tuple[str, str]]) -> list[tuple[int, str]]:
    """(index, message) of every id, given with its place, that stood before."""
    first: dict[str, str] = {}
    found = []
    for i, (stream_id, place) in enumerate(ids):
        if stream_id in first:
            found.append(
                (i, f"found {show(stream_id)}, which already stands at {first[stream_id]}; allowed: each id once")
            )
        else:
            first[stream_id] = place
    return found


def spec_fields() -> tuple[str, ...]:
    """The names of a stream's keys, in order."""
    return tuple(field.name for field in dataclasses.fields(StreamSpec))
