"""The streams that should run, in memory. Pure: every change gives a new :class:`Registry` or raises, so a failed
or dry-run change leaves nothing behind."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from facedetd.config.convert import describe, field_types, kind_of, show
from facedetd.config.streamcheck import check_login, check_spec
from facedetd.control import (
    CapacityError,
    ConflictError,
    FieldViolation,
    InvalidError,
    NotFoundError,
    ReadOnlyError,
)
from facedetd.types import Origin, Secret, StreamSpec


@dataclass(frozen=True, slots=True)
class Entry:
    """A stream that should be. ``secret`` is None for streams of the TOML: their password is a systemd credential."""

    spec: StreamSpec
    origin: Origin
    secret: Secret | None = None


@dataclass(frozen=True, slots=True)
class ImportOutcome:
    registry: Registry
    created: tuple[str, ...]
    unchanged: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Registry:
    """All streams by id. ``max_streams`` 0: no cap. Field names in violations begin with ``spec.``, in an import
    with ``streams[i].spec.``; what follows is the name in :class:`StreamSpec`."""

    by_id: Mapping[str, Entry] = field(default_factory=dict)
    max_streams: int = 0
    allow_file_sources: bool = False

    @classmethod
    def build(
        cls,
        config_streams: Iterable[StreamSpec],
        stored: Iterable[tuple[StreamSpec, Secret | None]],
        *,
        max_streams: int = 0,
        allow_file_sources: bool = False,
    ) -> Registry:
        """The state at start: the TOML's streams and those of the state file.

        Streams of the state file are kept even where they break a rule or the cap by now: see :meth:`blocked`.

        Raises:
            ConflictError: an id stands in both."""
        entries = {spec.id: Entry(spec, Origin.API, secret) for spec, secret in stored}
        registry = cls(entries, max_streams, allow_file_sources)
        return registry.with_config(config_streams, max_streams=max_streams, allow_file_sources=allow_file_sources)

    def with_config(
        self, config_streams: Iterable[StreamSpec], *, max_streams: int, allow_file_sources: bool
    ) -> Registry:
        """The state after a reload: the API's streams as they are, the TOML's replaced.

        Raises:
            ConflictError: an id stands in both."""
        entries = {stream_id: entry for stream_id, entry in self.by_id.items() if entry.origin is Origin.API}
        config = {spec.id: Entry(spec, Origin.CONFIG) for spec in config_streams}
        both = sorted(entries.keys() & config.keys())
        if both:
            raise ConflictError(
                f"{_ids(both)} in the configuration and was also added through the API: rename or remove it in the "
                "configuration, or remove it with `facedetctl remove-stream` before it is put there"
            )
        return Registry(entries | config, max_streams, allow_file_sources)

    def entries(self) -> tuple[Entry, ...]:
        """All streams in order of their ids."""
        return tuple(self.by_id[stream_id] for stream_id in sorted(self.by_id))

    def stored(self) -> tuple[tuple[StreamSpec, Secret | None], ...]:
        """What the state file holds: the API's streams with their passwords, in order of their ids."""
        return tuple((entry.spec, entry.secret) for entry in self.entries() if entry.origin is Origin.API)

    def blocked(self) -> dict[str, tuple[FieldViolation, ...]]:
        """Streams that must not run though they stand, and why: the rules were tightened since they were added,
        such as ``allow_file_sources`` turned off."""
        checked = {e.spec.id: _violations(e.spec, e.secret, self.allow_file_sources) for e in self.entries()}
        return {stream_id: tuple(found) for stream_id, found in checked.items() if found}

    def get(self, stream_id: str) -> Entry:
        """
        Raises:
            NotFoundError: there is no such stream."""
        entry = self.by_id.get(stream_id)
        if entry is None:
            raise NotFoundError(f"there is no stream {show(stream_id)}")
        return entry

    def add(self, spec: StreamSpec, secret: Secret | None) -> Registry:
        """One more stream. An empty secret is none.

        Raises:
            InvalidError: the definition breaks a rule.
            ConflictError: the id is taken.
            CapacityError: the cap is reached."""
        found = _violations(spec, secret, self.allow_file_sources) + _api_only(spec)
        if found:
            raise InvalidError(found)
        if spec.id in self.by_id:
            where = " in the configuration" if self.by_id[spec.id].origin is Origin.CONFIG else ""
            raise ConflictError(f"a stream {show(spec.id)} stands already{where}")
        self._require_room(1)
        return self._with({spec.id: Entry(spec, Origin.API, _or_none(secret))})

    def update(self, stream_id: str, changes: Mapping[str, object], secret: Secret | None) -> Registry:
        """Change fields: ``changes`` maps names of :class:`StreamSpec` to values of their types. ``secret`` replaces
        the password, an empty one removes it, None keeps it.

        Raises:
            NotFoundError: there is no such stream.
            ReadOnlyError: it stands in the TOML.
            InvalidError: an unknown field, a value of another type, or the result breaks a rule."""
        entry = self._changeable(stream_id)
        found = _check_changes(stream_id, changes)
        if found:
            raise InvalidError(found)
        spec = replace(entry.spec, **changes)  # type: ignore[arg-type]
        kept = entry.secret if secret is None else _or_none(secret)
        found = _violations(spec, kept, self.allow_file_sources) + _api_only(spec)
        if found:
            raise InvalidError(found)
        return self._with({stream_id: Entry(spec, Origin.API, kept)})

    def remove(self, stream_id: str) -> Registry:
        """
        Raises:
            NotFoundError: there is no such stream.
            ReadOnlyError: it stands in the TOML."""
        self._changeable(stream_id)
        rest = {other: entry for other, entry in self.by_id.items() if other != stream_id}
        return replace(self, by_id=rest)

    def import_all(self, entries: Sequence[tuple[StreamSpec, Secret | None]]) -> ImportOutcome:
        """All of a list or none. An entry equal to the API's stream of that id, password included, is left as it is.

        Raises:
            InvalidError: any entry breaks a rule, or an id comes twice.
            ConflictError: ids are taken by other definitions.
            CapacityError: there isn't room for all."""
        self._require_valid(entries)
        created: dict[str, Entry] = {}
        unchanged: list[str] = []
        taken: list[str] = []
        for spec, secret in entries:
            wanted = Entry(spec, Origin.API, _or_none(secret))
            standing = self.by_id.get(spec.id)
            if standing is None:
                created[spec.id] = wanted
            elif standing == wanted:
                unchanged.append(spec.id)
            else:
                taken.append(spec.id)
        if taken:
            raise ConflictError(f"{_ids(sorted(taken))} already, with another definition; nothing was imported")
        self._require_room(len(created))
        return ImportOutcome(self._with(created), tuple(created), tuple(unchanged))

    def _require_valid(self, entries: Sequence[tuple[StreamSpec, Secret | None]]) -> None:
        found: list[FieldViolation] = []
        first: dict[str, int] = {}
        for i, (spec, secret) in enumerate(entries):
            for item in _violations(spec, secret, self.allow_file_sources) + _api_only(spec):
                found.append(FieldViolation(f"streams[{i}].{item.field}", item.message))
            if first.setdefault(spec.id, i) != i:
                message = f"found {show(spec.id)}, as in streams[{first[spec.id]}]; allowed: each id once"
                found.append(FieldViolation(f"streams[{i}].spec.id", message))
        if found:
            raise InvalidError(found)

    def _require_room(self, count: int) -> None:
        if count and self.max_streams and len(self.by_id) + count > self.max_streams:
            raise CapacityError(
                f"no room for {count} more: {len(self.by_id)} streams stand, daemon.max_streams is {self.max_streams}"
            )

    def _changeable(self, stream_id: str) -> Entry:
        entry = self.get(stream_id)
        if entry.origin is Origin.CONFIG:
            raise ReadOnlyError(
                f"the stream {show(stream_id)} stands in the configuration: change it there, then reload"
            )
        return entry

    def _with(self, changed: Mapping[str, Entry]) -> Registry:
        return replace(self, by_id={**self.by_id, **changed})


def _or_none(secret: Secret | None) -> Secret | None:
    return secret if secret is not None and secret.value else None


def _violations(spec: StreamSpec, secret: Secret | None, allow_file_sources: bool) -> list[FieldViolation]:
    found = check_spec(spec, allow_file_sources=allow_file_sources)
    login = check_login(spec.username, secret)
    return [FieldViolation(f"spec.{item.field}", item.message) for item in found] + [
        FieldViolation(f"credentials.{item.field}", item.message) for item in login
    ]


def _api_only(spec: StreamSpec) -> list[FieldViolation]:
    if spec.credential:
        return [FieldViolation("spec.credential", "found a name; allowed: none, only streams of the TOML have one")]
    return []


def _check_changes(stream_id: str, changes: Mapping[str, object]) -> list[FieldViolation]:
    """Types are checked here, because Python callers can pass anything through the mapping."""
    found: list[FieldViolation] = []
    types = field_types(StreamSpec)
    for name, value in changes.items():
        if name not in types:
            found.append(FieldViolation(f"spec.{name}", "unknown field; allowed: " + ", ".join(types)))
        elif name == "id" and value != stream_id:
            found.append(FieldViolation("spec.id", "found another id; allowed: none, an id can't be changed"))
        elif not _fits(value, types[name]):
            found.append(FieldViolation(f"spec.{name}", f"found {kind_of(value)}; allowed: {describe(types[name])}"))
    return found


def _fits(value: object, hint: Any) -> bool:
    """Whether ``value`` has the type of a field. Tuples were made by our own code, so their parts aren't looked at."""
    if hint is float or hint is int:
        return isinstance(value, (int, float) if hint is float else int) and not isinstance(value, bool)
    return isinstance(value, hint if isinstance(hint, type) and typing.get_origin(hint) is None else tuple)


def _ids(ids: Sequence[str]) -> str:
    shown = ", ".join(show(stream_id) for stream_id in ids[:10])
    more = f" and {len(ids) - 10} more" if len(ids) > 10 else ""
    return f"the stream {shown} stands" if len(ids) == 1 else f"the streams {shown}{more} stand"


def changes(old: Registry, new: Registry) -> tuple[str, ...]:
    """What differs, in words for the log: ids only, no definition and no secret."""
    before, after = old.by_id, new.by_id
    named = (
        ("added", sorted(after.keys() - before.keys())),
        ("removed", sorted(before.keys() - after.keys())),
        ("changed", sorted(i for i in after.keys() & before.keys() if after[i] != before[i])),
    )
    return tuple(f"{what} {', '.join(ids) if len(ids) <= 10 else f'{len(ids)} streams'}" for what, ids in named if ids)
