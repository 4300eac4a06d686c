"""Read the configuration whole, or say everything that is wrong with it."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facedetd.config.convert import Bad, convert, field_types, kind_of
from facedetd.config.files import read_text
from facedetd.config.issues import ConfigErrors, ConfigIssue, KeyPath, key_text
from facedetd.config.lines import line_of, locate
from facedetd.config.model import Config
from facedetd.config.schema import KEYS, SECTIONS, clashes
from facedetd.config.streamtable import near_miss, require_no_duplicates, stream_from_table
from facedetd.types import StreamSpec

if sys.version_info >= (3, 11):
    import tomllib
else:  # the same parser under its old name
    import tomli as tomllib

_TOML_PLACE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


@dataclass(frozen=True, slots=True, repr=False)
class Document:
    """One parsed TOML file with the lines of its keys. No repr: an import file holds passwords."""

    name: str
    data: Mapping[str, Any]
    lines: dict[KeyPath, int]

    def issue(self, path: KeyPath, message: str) -> ConfigIssue:
        return ConfigIssue(self.name, line_of(self.lines, path), key_text(path), message)

    def place(self, path: KeyPath) -> str:
        return f"{self.name}:{line_of(self.lines, path)}"


def load(path: Path | str, conf_d: Path | str | None = None) -> Config:
    """The configuration of ``path`` and ``conf_d/*.toml`` in order of their names (``conf_d`` beside ``path`` unless
    told; hidden files are left out). A later file's key takes the place of an earlier one's; streams add up.

    Raises:
        ConfigErrors: every error of every file."""
    path = Path(path)
    issues: list[ConfigIssue] = []
    documents: list[Document] = []
    for file in [path, *_extra_files(path, conf_d, issues)]:
        try:
            documents.append(parse_document(file, read_text(file).text))
        except ConfigErrors as errors:
            issues += errors.issues
    settings = _Settings()
    for document in documents:
        _read_sections(document, settings, issues)
    config = _build(settings, issues)
    streams = _read_streams(documents, config, settings, issues)
    if issues:
        order = {document.name: i for i, document in enumerate(documents)}
        raise ConfigErrors(sorted(issues, key=lambda issue: (order.get(issue.file, -1), issue.line)))
    return Config(**{name: getattr(config, name) for name in SECTIONS}, streams=streams)


def parse_document(path: Path, text: str) -> Document:
    """TOML with its lines.

    Raises:
        ConfigErrors: it isn't TOML."""
    try:
        return Document(str(path), tomllib.loads(text), locate(text))
    except RecursionError:
        line, message = 0, "is nested too deeply"
    except ValueError as error:  # TOMLDecodeError, and what int() says of a number of thousands of digits
        message = str(error)
        place = _TOML_PLACE.search(message)
        line = 1 if place is None else int(place[1] or len(text.rstrip().split("\n")))
        message = "is not TOML: " + _TOML_PLACE.sub("", message)
    raise ConfigErrors([ConfigIssue(str(path), line, "", message)])


def _extra_files(path: Path, conf_d: Path | str | None, issues: list[ConfigIssue]) -> list[Path]:
    folder = path.parent / "conf.d" if conf_d is None else Path(conf_d)
    try:
        return sorted(file for file in folder.iterdir() if file.suffix == ".toml" and not file.name.startswith("."))
    except FileNotFoundError:
        if conf_d is not None:
            issues.append(ConfigIssue(str(folder), 0, "", "there is no such directory"))
    except (OSError, ValueError) as error:
        if conf_d is None and not path.parent.is_dir():
            return []  # the main file's own error says it
        reason = getattr(error, "strerror", None) or "the path is not valid"
        issues.append(ConfigIssue(str(folder), 0, "", f"can't be read as a directory: {reason}"))
    return []


class _Settings:
    """What the sections say: the last good value of every key, who set it, and which keys are spoiled."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, str], object] = {}
        self.origin: dict[tuple[str, str], Document] = {}
        self.spoiled: set[tuple[str, str]] = set()


def _read_sections(document: Document, settings: _Settings, issues: list[ConfigIssue]) -> None:
    for section, table in document.data.items():
        if section == "stream":
            continue
        if section not in SECTIONS:
            message = "unknown table" if isinstance(table, (dict, list)) else "unknown key"
            message += _elsewhere(section) or near_miss(section, [*SECTIONS, "stream"])
            issues.append(document.issue((section,), message))
        elif not isinstance(table, dict):
            message = f"found {kind_of(table)}; allowed: a table, written [{section}]"
            issues.append(document.issue((section,), message))
        else:
            _read_section(document, section, table, settings, issues)


def _read_section(
    document: Document, section: str, table: dict[str, object], settings: _Settings, issues: list[ConfigIssue]
) -> None:
    types, keys = field_types(SECTIONS[section]), KEYS[section]
    for name, value in table.items():
        if name not in types:
            message = "unknown key" + (_elsewhere(name) or near_miss(name, types))
            issues.append(document.issue((section, name), message))
            continue
        key, hint = keys[name], types[name]
        bad: list[Bad] = []
        converted = convert(value, hint, (section, name), bad, allowed=key.allowed(hint))
        if not bad and (problem := key.problem(converted, hint)):
            bad.append(Bad((section, name), problem))
        issues += [document.issue(item.path, item.message) for item in bad]
        if bad:
            settings.spoiled.add((section, name))
        else:
            settings.values[section, name] = converted
            settings.origin[section, name] = document


def _elsewhere(name: str) -> str:
    """A key that is known, but in another table."""
    homes = [section for section in SECTIONS if name in KEYS[section]]
    return f"; did you mean {homes[0]}.{name}?" if homes else ""


def _build(settings: _Settings, issues: list[ConfigIssue]) -> Config:
    sections = {
        section: cls(**{name: value for (home, name), value in settings.values.items() if home == section})
        for section, cls in SECTIONS.items()
    }
    config = Config(**sections)
    for clash in clashes(config):
        if not settings.spoiled.intersection(clash.keys):
            # defaults fit together, so at least one of the keys was set
            culprit = next(key for key in clash.keys if key in settings.origin)
            issues.append(settings.origin[culprit].issue(culprit, clash.message))
    return config


def _read_streams(
    documents: list[Document], config: Config, settings: _Settings, issues: list[ConfigIssue]
) -> tuple[StreamSpec, ...]:
    specs: list[StreamSpec] = []
    ids: list[tuple[str, str]] = []
    places: list[tuple[Document, KeyPath]] = []
    for document in documents:
        tables = document.data.get("stream", [])
        if not isinstance(tables, list):
            issues.append(
                document.issue(("stream",), f"found {kind_of(tables)}; allowed: tables, each under [[stream]]")
            )
            continue
        for i, table in enumerate(tables):
            path: KeyPath = ("stream", i)
            if not isinstance(table, dict):
                issues.append(document.issue(path, f"found {kind_of(table)}; allowed: a table under [[stream]]"))
                continue
            result = stream_from_table(table, allow_file_sources=config.daemon.allow_file_sources, passwords=False)
            issues += [document.issue((*path, *bad.path), bad.message) for bad in result.bad]
            if isinstance(table.get("id"), str):
                ids.append((table["id"], document.place((*path, "id"))))
                places.append((document, (*path, "id")))
            if result.spec is not None:
                specs.append(result.spec)
    for i, message in require_no_duplicates(ids):
        document, path = places[i]
        issues.append(document.issue(path, message))
    _check_cap(len(ids), config, settings, issues)
    return tuple(specs)


def _check_cap(count: int, config: Config, settings: _Settings, issues: list[ConfigIssue]) -> None:
    key = ("daemon", "max_streams")
    cap = config.daemon.max_streams
    if cap and count > cap and key not in settings.spoiled:
        message = f"found {cap}, but {count} streams stand in these files; allowed: at least {count}, or 0 for no cap"
        issues.append(settings.origin[key].issue(key, message))
