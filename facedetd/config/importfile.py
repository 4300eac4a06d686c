"""Stream lists for ``facedetctl import``: TOML (``[[stream]]``), JSON (a list of objects) or CSV (a header row).

Unlike the daemon's TOML they may hold passwords, as ``password`` or inside the URLs; then nobody but the owner, and
at most the group, may read the file.
"""

from __future__ import annotations

import csv
import io
import json
import re
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facedetd.config.convert import Bad, field_types, kind_of, show
from facedetd.config.files import TextFile, read_text
from facedetd.config.issues import ConfigErrors, ConfigIssue, KeyPath, key_text
from facedetd.config.lines import line_of
from facedetd.config.load import parse_document
from facedetd.config.streamtable import near_miss, require_no_duplicates, spec_fields, stream_from_table
from facedetd.types import Secret, StreamSpec

MAX_BYTES = 16 << 20  # 10,000 streams with regions

_CSV_FORMS = {"labels": "name=value; name=value", "rois": "x,y x,y x,y; x,y ... in fractions of the picture"}

_TRUE, _FALSE = {"true", "yes", "1"}, {"false", "no", "0"}


@dataclass(frozen=True, slots=True)
class ImportFile:
    """The streams of a list with their passwords, and what the operator should know though it was taken."""

    entries: tuple[tuple[StreamSpec, Secret | None], ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True, repr=False)
class _Row:
    """One entry as written: its key path for messages, a line for each of its keys, its table.
    No repr: the table may hold a password."""

    path: KeyPath
    line: Callable[[KeyPath], int]
    table: dict[str, object]


def read_import(path: Path | str, *, allow_file_sources: bool = True) -> ImportFile:
    """Read a stream list by its extension: ``.toml``, ``.json`` or ``.csv``.

    CSV cells: ``rois`` as ``x,y x,y x,y; x,y ...``, ``labels`` as ``name=value; name=value``, booleans as true or
    false; an empty cell is the default. Whether file sources are allowed is known to the daemon only, so a client
    leaves that to it.

    Raises:
        ConfigErrors: every error of the file; no password is shown."""
    path = Path(path)
    readers = {".toml": _read_toml, ".json": _read_json, ".csv": _read_csv}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ConfigErrors([ConfigIssue(str(path), 0, "", "found another kind of file; allowed: .toml, .json or .csv")])
    file = read_text(path, max_bytes=MAX_BYTES, allow_bom=path.suffix.lower() == ".csv")
    issues: list[ConfigIssue] = []
    rows = reader(path, file, issues)
    entries: list[tuple[StreamSpec, Secret | None]] = []
    ids: list[tuple[str, str]] = []
    homes: list[_Row] = []
    secret_found = False
    for row in rows:
        result = stream_from_table(row.table, allow_file_sources=allow_file_sources, passwords=True)
        secret_found |= result.secret is not None
        for bad in result.bad:
            message = _in_csv(bad, row.table) if reader is _read_csv else bad.message
            issues.append(ConfigIssue(str(path), row.line(bad.path), key_text((*row.path, *bad.path)), message))
        if isinstance(row.table.get("id"), str):
            ids.append((str(row.table["id"]), f"{path}:{row.line(('id',))}"))
            homes.append(row)
        if result.spec is not None:
            entries.append((result.spec, result.secret))
    for i, message in require_no_duplicates(ids):
        row = homes[i]
        issues.append(ConfigIssue(str(path), row.line(("id",)), key_text((*row.path, "id")), message))
    warnings = _check_mode(path, file.mode, issues) if secret_found else ()
    if issues:
        raise ConfigErrors(sorted(issues, key=lambda issue: issue.line))
    return ImportFile(tuple(entries), warnings)


def _in_csv(bad: Bad, table: dict[str, object]) -> str:
    """A cell that is still text was none of a table or array; CSV has another way to write them."""
    name = str(bad.path[0]) if bad.path else ""
    cell = table.get(name)
    if name in _CSV_FORMS and isinstance(cell, str):
        return f"found {show(cell)}; allowed: {_CSV_FORMS[name]}"
    return bad.message


def _check_mode(path: Path, mode: int, issues: list[ConfigIssue]) -> tuple[str, ...]:
    if mode & 0o004:
        message = f"holds passwords and everyone may read it (mode {mode:04o}); allowed: mode 0600 (chmod 600)"
        issues.append(ConfigIssue(str(path), 0, "", message))
    elif mode & 0o040:
        return (f"{path}: holds passwords and its group may read it (mode {mode:04o}); mode 0600 is safer",)
    return ()


def _read_toml(path: Path, file: TextFile, issues: list[ConfigIssue]) -> list[_Row]:
    document = parse_document(path, file.text)
    for key in document.data:
        if key != "stream":
            issues.append(document.issue((key,), "unknown key" + near_miss(key, ["stream"])))
    tables = document.data.get("stream", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        issues.append(document.issue(("stream",), f"found {kind_of(tables)}; allowed: tables, each under [[stream]]"))
        return []

    def line_finder(prefix: KeyPath) -> Callable[[KeyPath], int]:
        return lambda below: line_of(document.lines, (*prefix, *below))

    return [_Row(("stream", i), line_finder(("stream", i)), table) for i, table in enumerate(tables)]


def _read_json(path: Path, file: TextFile, issues: list[ConfigIssue]) -> list[_Row]:
    """Entries are decoded one by one, so that each has a line."""
    text = file.text
    decoder = json.JSONDecoder(object_pairs_hook=_unique_keys)
    rows: list[_Row] = []

    line_ends = [match.start() for match in re.finditer("\n", text)]

    def line_at(position: int) -> int:
        return bisect_left(line_ends, position) + 1

    def issue(position: int, message: str, key: str = "") -> None:
        issues.append(ConfigIssue(str(path), line_at(position), key, message))

    at = _skip_space(text, 0)
    if not text.startswith("[", at):
        issue(at, "found something else; allowed: a list of objects, [{...}, ...]")
        return []
    at = _skip_space(text, at + 1)
    while not text.startswith("]", at):
        try:
            value, end = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            issue(error.pos, f"is not JSON: {error.msg}")
            return []
        except RecursionError:
            issue(at, "is nested too deeply")
            return []
        except ValueError as error:
            issue(
                at,
                str(error) if isinstance(error, _DuplicateKeyError) else "is not JSON: a number is too long",
                f"[{len(rows)}]",
            )
            return []
        line = line_at(at)
        if isinstance(value, dict):
            rows.append(_Row((len(rows),), lambda _, line=line: line, value))  # type: ignore[misc]
        else:
            issue(at, f"found {kind_of(value)}; allowed: an object", f"[{len(rows)}]")
            return rows
        at = _skip_space(text, end)
        if text.startswith(",", at):
            at = _skip_space(text, at + 1)
            if text.startswith("]", at):
                issue(at, "is not JSON: found ']' after ','")
                return rows
        elif not text.startswith("]", at):
            issue(at, "is not JSON: expected ',' or ']'")
            return rows
    end = _skip_space(text, at + 1)
    if end != len(text):
        issue(end, "is not JSON: found more after the list")
    return rows


class _DuplicateKeyError(ValueError):
    pass


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _DuplicateKeyError(f"found the key {key_text((name,))} twice; allowed: each key once")
        found[name] = value
    return found


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _read_csv(path: Path, file: TextFile, issues: list[ConfigIssue]) -> list[_Row]:
    first = file.text.split("\n", 1)[0]
    # spreadsheets of many countries write ';'
    delimiter = ";" if ";" in first and "," not in first else ","
    reader = csv.reader(io.StringIO(file.text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    rows: list[_Row] = []
    end = 0
    while True:
        start = end + 1
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            # A quote that isn't closed takes in lines up to the next quote, or all that are left
            upto = f" in line {reader.line_num}, of the row that begins here" if reader.line_num > start else ""
            issues.append(ConfigIssue(str(path), start, "", f"is not CSV: {error}{upto}"))
            break
        end = reader.line_num
        if not any(cell.strip() for cell in cells):
            continue
        if header is None:
            header = [cell.strip() for cell in cells]
            if not _header_is_good(path, header, start, issues):
                return []
        elif len(cells) != len(header):
            message = f"found {len(cells)} cells; allowed: {len(header)}, as in the header"
            issues.append(ConfigIssue(str(path), start, "", message))
        else:
            table = {name: _cell(name, text) for name, text in zip(header, cells, strict=True) if text.strip()}
            rows.append(_Row((), lambda _, line=start: line, table))  # type: ignore[misc]
    if header is None and not issues:
        issues.append(ConfigIssue(str(path), 1, "", "found no header; allowed: a first row that names the columns"))
    return rows


def _header_is_good(path: Path, header: list[str], line: int, issues: list[ConfigIssue]) -> bool:
    known = [name for name in spec_fields() if name != "credential"] + ["password"]
    before = len(issues)
    for i, name in enumerate(header):
        if name not in known:
            issues.append(ConfigIssue(str(path), line, key_text((name,)), "unknown column" + near_miss(name, known)))
        elif name in header[:i]:
            issues.append(ConfigIssue(str(path), line, name, "found this column twice; allowed: each once"))
    return len(issues) == before


def _cell(name: str, text: str) -> object:
    """A cell as the value that TOML would give; left as text where it isn't one, for the one place that complains."""
    if name == "password":
        return text  # spaces belong to it
    text = text.strip()
    hint = field_types(StreamSpec)[name]
    try:
        if hint is bool:
            return True if text.lower() in _TRUE else False if text.lower() in _FALSE else text
        if hint is int:
            return int(text)
        if hint is float:
            return float(text)
        if name == "rois":
            polygons = [polygon.split() for polygon in text.split(";") if polygon.strip()]
            return [[[float(v) for v in point.split(",")] for point in points] for points in polygons]
        if name == "labels":
            pairs = [pair.split("=", 1) for pair in text.split(";") if pair.strip()]
            return {label.strip(): value.strip() for label, value in pairs}
    except ValueError:
        return text
    return text
