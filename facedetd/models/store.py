"""The model store: ``ROOT/NAME/VERSION/model.onnx`` with ``manifest.json`` beside it, and ``ROOT/NAME/current``.

An entry appears whole or not at all: it is written and synced under a hidden name, then renamed. VERSION is the
beginning of the model's SHA-256, so the same model is stored once and an entry never changes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from facedetd.files import staged
from facedetd.inference.types import ModelError
from facedetd.models.calibration import Calibration, read_calibration
from facedetd.models.known import KNOWN

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
VERSION_LENGTH = 12
_FORMAT = 1
VERSION_PATTERN = rf"[0-9a-f]{{{VERSION_LENGTH}}}"
_VERSION = re.compile(VERSION_PATTERN)
_Stamp = tuple[int, int, int, int, int]
"""Device, inode, size, mtime and ctime of a file: its contents don't change without one of them."""
_SETTLED_NS = 2_000_000_000
"""Two changes within one tick of the file system's clock have the same time."""
_HIDDEN, _ABANDONED_S = ".new-", 86_400.0
"""Nobody stores a model for a day."""
_MODEL, _MANIFEST, _CURRENT = "model.onnx", "manifest.json", "current"


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One stored model. ``path`` is the ONNX file and ``sha256`` its hash; ``source_sha256`` is of the file it was
    made from. ``width`` and ``height`` are px the model is fixed to, 0 where any size will do. ``artefact``: the
    manifest that came beside that file, as it was; ``calibration``: what it says of one, None for a float model."""

    name: str
    version: str
    path: Path
    sha256: str
    head: str
    licence: str
    source: str
    source_sha256: str = ""
    stored_utc: str = ""
    width: int = 0
    height: int = 0
    artefact: Mapping[str, Any] = field(default_factory=dict, hash=False)
    calibration: Calibration | None = None


class ModelStore:
    """Models under one folder. Several processes may read and write it at the same time."""

    def __init__(self, root: Path, now: Callable[[], datetime] = lambda: datetime.now(timezone.utc)) -> None:
        self.root = root
        self._now = now
        self._hashes: dict[Path, tuple[_Stamp, str]] = {}

    def list(self) -> tuple[ModelEntry, ...]:
        """All sound entries, by name and version. Reads manifests only; see :meth:`check` for the bad ones."""
        return tuple(e for e in self._scan() if isinstance(e, ModelEntry))

    def check(self) -> tuple[str, ...]:
        """One message for each entry that can't be used; every model's hash is checked."""
        problems = []
        for found in self._scan():
            try:
                if isinstance(found, ModelError):
                    raise found
                _verify(found, _sha256(found.path))
            except ModelError as error:
                problems.append(str(error))
        return tuple(problems)

    def get(self, name: str, version: str | None = None) -> ModelEntry:
        """The entry of this name, the one stored or chosen last unless ``version`` says which. Its hash is checked;
        a file that has not changed since is not read again, for the daemon asks every few seconds while it waits.

        Raises ModelError: no such model (and what there is), or a damaged entry (what is wrong, and what to do).
        """
        _check_name(name)
        versions = self._versions(name)
        if not versions:
            have = ", ".join(sorted({e.name for e in self.list()})) or "none"
            pull = f"`facedetctl model pull {name}` or " if name in KNOWN else ""
            raise ModelError(
                f"no model {name!r} in {self.root} (there: {have}); "
                f"run {pull}`facedetctl model import FILE --name {name}`"
            )
        if version is None:
            version = self._current(name, versions)
        elif version not in versions:
            raise ModelError(f"no version {version!r} of model {name!r} in {self.root}; there: {', '.join(versions)}")
        entry = _read(self.root / name / version, name, version)
        _verify(entry, self._hash(entry.path))
        return entry

    def _hash(self, path: Path) -> str:
        stamp = _stamp(path)
        known = self._hashes.get(path)
        if known and known[0] == stamp:
            return known[1]
        found = _sha256(path)
        if time.time_ns() - stamp[-1] > _SETTLED_NS and _stamp(path) == stamp:
            self._hashes = {path: (stamp, found)}  # the one that is asked for again and again
        return found

    def put(
        self,
        name: str,
        model: bytes,
        *,
        head: str,
        licence: str,
        source: str,
        source_sha256: str,
        width: int = 0,
        height: int = 0,
        artefact: Mapping[str, Any] | None = None,
    ) -> ModelEntry:
        """Store a model and make it the current one of its name. Returns once it is on disk. Of a model that is there
        already, a manifest (``artefact``) that is new takes the place of the one it was stored with.

        Raises ModelError for a bad name, or when the store can't be written (nothing is left behind).
        """
        _check_name(name)
        sha256 = hashlib.sha256(model).hexdigest()
        version = sha256[:VERSION_LENGTH]
        manifest = {
            "format": _FORMAT,
            "name": name,
            "sha256": sha256,
            "head": head,
            "licence": licence,
            "source": source,
            "source_sha256": source_sha256,
            "stored_utc": self._now().strftime("%Y-%m-%dT%H:%M:%SZ"),
            "width": width,
            "height": height,
        }
        if artefact:
            manifest["artefact"] = dict(artefact)
            if "calibration" in artefact:
                manifest["calibration"] = artefact["calibration"]
        home = self.root / name
        try:
            for folder in (self.root, home):
                _readable_folder(folder)
            with _hidden_folder(home) as folder:
                _write(folder / _MODEL, model)
                _write(folder / _MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())
                _sync(folder)
                self._take_in(folder, name, version)
        except OSError as error:
            raise ModelError(f"can't store model {name!r} in {self.root}: {error.strerror or error}") from error
        return _read(home / version, name, version)

    def _take_in(self, folder: Path, name: str, version: str) -> None:
        """Make a whole folder the current entry; where that fails it is not there."""
        home = self.root / name
        place = home / version
        known = place.exists()
        try:
            with staged({home / _CURRENT: version.encode() + b"\n"}):  # the disk has room for both, or gets neither
                self._move_in(folder, name, version)
            _sync(home)
            _sync(self.root)
        except OSError:
            if not known:
                with suppress(OSError):
                    place.rename(folder)
            raise

    def _move_in(self, folder: Path, name: str, version: str) -> None:
        place = self.root / name / version
        if place.exists():
            try:
                found = _read(place, name, version)
                _verify(found, _sha256(place / _MODEL))
                told = _read(folder, name, version).artefact
                if told and told != found.artefact:
                    (folder / _MANIFEST).replace(place / _MANIFEST)
                    _sync(place)
                return  # the same model, whole: nothing else to do
            except ModelError:
                place.rename(folder / "damaged")  # goes with the hidden folder; the good files move out first
                fresh = folder / "fresh"
                fresh.mkdir(mode=0o755)
                for part in (_MODEL, _MANIFEST):
                    (folder / part).rename(fresh / part)
                _sync(fresh)
                folder = fresh
        try:
            folder.rename(place)
        except OSError:
            if not place.is_dir():  # else another process has just stored the same model
                raise
        _sync(place.parent)

    def _versions(self, name: str) -> tuple[str, ...]:
        try:
            return tuple(sorted(p.name for p in (self.root / name).iterdir() if _VERSION.fullmatch(p.name)))
        except (FileNotFoundError, NotADirectoryError):
            return ()
        except OSError as error:
            raise ModelError(f"can't read the model store {self.root / name}: {error.strerror or error}") from error

    def _current(self, name: str, versions: tuple[str, ...]) -> str:
        try:
            chosen = (self.root / name / _CURRENT).read_text(errors="replace").strip()
        except OSError:
            chosen = ""
        if chosen in versions:
            return chosen
        # A power cut between the entry and its choice: the newest sound one, else name the damaged one.
        sound = [e for e in self._scan(name) if isinstance(e, ModelEntry)]
        return max(sound, key=lambda e: e.stored_utc).version if sound else versions[-1]

    def _scan(self, only: str | None = None) -> Iterator[ModelEntry | ModelError]:
        try:
            there = [only] if only else sorted(p.name for p in self.root.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise ModelError(f"can't read the model store {self.root}: {error.strerror or error}") from error
        for name in (n for n in there if re.fullmatch(NAME_PATTERN, n)):
            for version in self._versions(name):
                try:
                    yield _read(self.root / name / version, name, version)
                except ModelError as error:
                    yield error


def _check_name(name: str) -> None:
    if not re.fullmatch(NAME_PATTERN, name):
        raise ModelError(
            f"model name {name!r}: allowed are letters, digits, '.', '_' and '-', at most 63, a letter or digit first"
        )


def _read(folder: Path, name: str, version: str) -> ModelEntry:
    """An entry by its manifest. Raises ModelError when that is missing, torn, or not this entry's."""
    path = folder / _MANIFEST
    try:
        data: dict[str, Any] = json.loads(path.read_bytes())
        if data["format"] != _FORMAT:
            raise ModelError(f"{path}: format {data['format']!r}, this build reads {_FORMAT}: {_advice(folder)}")
        entry = ModelEntry(
            name=name,
            version=version,
            path=folder / _MODEL,
            sha256=str(data["sha256"]),
            head=str(data["head"]),
            licence=str(data["licence"]),
            source=str(data["source"]),
            source_sha256=str(data["source_sha256"]),
            stored_utc=str(data["stored_utc"]),
            width=int(data["width"]),
            height=int(data["height"]),
            artefact=dict(data.get("artefact", {})),
            calibration=read_calibration(data),
        )
        if data["name"] != name or entry.sha256[:VERSION_LENGTH] != version:
            raise ModelError(f"{path}: is of {data['name']!r} {entry.sha256[:VERSION_LENGTH]}: {_advice(folder)}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"no key {error}" if isinstance(error, KeyError) else str(error)
        raise ModelError(f"{path}: damaged manifest ({what}): {_advice(folder)}") from error
    if not entry.path.is_file():
        raise ModelError(f"{entry.path}: the model file is missing: {_advice(folder)}")
    return entry


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ModelError(f"{path}: can't be read: {error.strerror or error}") from error


def _stamp(path: Path) -> _Stamp:
    try:
        found = path.stat()
    except OSError as error:
        raise ModelError(f"{path}: can't be read: {error.strerror or error}") from error
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _verify(entry: ModelEntry, found: str) -> None:
    if found != entry.sha256:
        raise ModelError(
            f"{entry.path}: damaged: its sha256 is {found}, the manifest says {entry.sha256}: "
            f"{_advice(entry.path.parent)}"
        )


def _advice(folder: Path) -> str:
    return f"pull or import model {folder.parent.name!r} again"


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fchmod(file.fileno(), 0o644)  # the daemon runs as another user than the one who pulls
        os.fsync(file.fileno())


def _readable_folder(folder: Path) -> None:
    """Make a folder, if it isn't there, that the daemon's user may read whatever the caller's umask is."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _hidden_folder(home: Path) -> Iterator[Path]:
    """A new folder that no reader looks at; what is left of it at the end is removed, and what a kill left earlier."""
    for old in home.glob(f"{_HIDDEN}*"):
        with suppress(OSError):
            if time.time() - old.lstat().st_mtime > _ABANDONED_S:
                shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
    folder = Path(tempfile.mkdtemp(prefix=_HIDDEN, dir=home))
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
