"""A calibration set on disk: a folder of pictures that only its owner may read, with ``calibration.json``.

The list is replaced in one step, after the pictures it names are there and before those it no longer names go: whenever
the process ends, what the list says is there. One process at a time writes to a folder (flock on it).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

from facedetd.models.calibration import LUMA_BINS
from facedetd.workshop.choice import HASH_BITS, Candidate

LIST, SHEET = "calibration.json", "contact-sheet.jpg"
FORMAT = 1
_PICTURE = re.compile(r"\d{8}T\d{9}Z-[A-Za-z0-9][A-Za-z0-9._-]{0,62}\.jpg")
_UTC = "%Y-%m-%dT%H:%M:%S.%f"


class SetError(Exception):
    """A calibration set can't be read or written; the message names the file and says why."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A picture of the set. ``utc``: of capture, ISO 8601 with milliseconds. ``width``, ``height`` and ``*_px`` (of the
    faces' heights, None without) are px of the picture, ``smallest_model_px`` of the model's. ``luma``: shares of
    LUMA_BINS ranges of Y as the model gets it, padding excluded. ``boxes``: x1, y1, x2, y2, score of each face from the
    threshold on; ``score_min``: their lowest. ``hardness``: see choice."""

    file: str
    sha256: str
    stream: str
    utc: str
    width: int
    height: int
    luma_mean: float
    luma: tuple[float, ...]
    dhash: str
    faces: int
    smallest_px: float | None
    largest_px: float | None
    smallest_model_px: float | None
    score_min: float | None
    hardness: float
    boxes: tuple[tuple[float, ...], ...] = ()

    @property
    def candidate(self) -> Candidate:
        return Candidate(
            self.file,
            self.stream,
            datetime.strptime(self.utc, _UTC + "Z").replace(tzinfo=timezone.utc).timestamp(),
            self.luma_mean,
            int(self.dhash, 16),
            self.faces,
            self.smallest_model_px or 0.0,
            self.hardness,
        )


def utc_text(utc_ns: int) -> str:
    """ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(utc_ns // 1_000_000 / 1e3, timezone.utc).strftime(_UTC)[:-3] + "Z"


def picture_name(stream: str, utc_ns: int) -> str:
    """A file's name; two pictures of a stream differ by a millisecond at least."""
    moment = datetime.fromtimestamp(utc_ns // 1_000_000 / 1e3, timezone.utc)
    return f"{moment:%Y%m%dT%H%M%S}{moment.microsecond // 1000:03}Z-{stream}.jpg"


def set_sha256(frames: Iterable[Frame]) -> str:
    """Of the lines ``SHA-256 FILE``, sorted by file: what ``quantize`` writes into the model's manifest."""
    lines = [f"{frame.sha256} {frame.file}\n" for frame in sorted(frames, key=lambda f: f.file)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


class CalibrationSet:
    """A folder, made where it isn't there, and locked until closed; a context manager.

    ``settings`` must be those it was begun with. Raises SetError: not ours, in use, begun with others, damaged.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        self.folder, self.settings = folder, dict(settings)
        self.frames: tuple[Frame, ...] = ()
        self.about: dict[str, Any] = {}
        """What was written beside the frames and the settings; as read, or last replaced."""
        self.lost: tuple[str, ...] = ()
        """Pictures of the list that are missing or changed; they are no longer in ``frames``."""
        self._lock = _locked_folder(folder)
        try:
            self._read()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> CalibrationSet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _read(self) -> None:
        path = self.folder / LIST
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            others = [p.name for p in self.folder.iterdir() if not _is_ours(p.name)]
            if others:
                message = f"{self.folder}: holds {sorted(others)[0]!r} but no {LIST}; allowed: a new or empty folder"
                raise SetError(f"{message}, or a calibration set to go on with") from None
            self._remove_strays(())
            return
        except OSError as error:
            raise SetError(f"{path}: {error.strerror or error}") from None
        frames, settings, self.about = read_list(text, path)
        for name in self.settings.keys() | settings.keys():
            if self.settings.get(name) != settings.get(name):
                raise SetError(
                    f"{path}: was begun with {name} {_shown(settings.get(name))}, now it is "
                    f"{_shown(self.settings.get(name))}; allowed: the same, or another folder"
                )
        kept, lost = [], []
        for frame in frames:
            with suppress(OSError):
                if hashlib.sha256((self.folder / frame.file).read_bytes()).hexdigest() == frame.sha256:
                    kept.append(frame)
                    continue
            lost.append(frame.file)
        self.frames, self.lost = tuple(kept), tuple(lost)
        self._remove_strays(f.file for f in self.frames)

    def replace(self, frames: Sequence[Frame], pictures: Mapping[str, bytes], about: Mapping[str, Any]) -> None:
        """Make ``frames`` the set, in their order. ``pictures``: the contents of those files that are new; ``about``:
        what else is to stand in the list. Raises SetError, and the set is what it was."""
        document = {
            "format": FORMAT,
            "set_sha256": set_sha256(frames),
            "settings": self.settings,
            **about,
            "frames": [asdict(frame) for frame in frames],
        }
        try:
            for frame in frames:
                if frame.file in pictures:
                    self._write(frame.file, pictures[frame.file])
            self._write(LIST, (json.dumps(document, indent=1) + "\n").encode())
        except OSError as error:
            raise SetError(f"{self.folder}: {error.strerror or error}; the set is as it was before") from None
        self.frames, self.about = tuple(frames), dict(about)
        self._remove_strays(frame.file for frame in frames)

    def write_sheet(self, jpeg: bytes) -> None:
        """Raises SetError."""
        try:
            self._write(SHEET, jpeg)
        except OSError as error:
            raise SetError(f"{self.folder / SHEET}: {error.strerror or error}") from None

    def _write(self, name: str, data: bytes) -> None:
        part = self.folder / f".part-{name}"
        try:
            part.unlink(missing_ok=True)
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.folder / name)
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    def _remove_strays(self, wanted: Iterable[str]) -> None:
        """Pictures that the list doesn't name: dropped ones, and those of a process that was killed in between."""
        keep = {*wanted, LIST, SHEET}
        for path in self.folder.iterdir():
            if _is_ours(path.name) and path.name not in keep:
                with suppress(OSError):
                    path.unlink()


def _is_ours(name: str) -> bool:
    return name in (LIST, SHEET) or bool(_PICTURE.fullmatch(name.removeprefix(".part-"))) or name == f".part-{LIST}"


def _locked_folder(folder: Path) -> int:
    """A descriptor of the folder that holds its lock. Raises SetError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise SetError(f"{folder}: {error.strerror or error}") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found = os.fstat(handle)
        if stat.S_IMODE(found.st_mode) != 0o700:
            if found.st_uid != os.geteuid() or (any(folder.iterdir()) and not (folder / LIST).exists()):
                raise SetError(
                    f"{folder}: its mode is {stat.S_IMODE(found.st_mode):04o}, and it is no calibration set of yours; "
                    "allowed: a new folder, or one that only its owner may read (chmod 700)"
                )
            os.fchmod(handle, 0o700)
        return handle
    except BlockingIOError:
        os.close(handle)
        raise SetError(f"{folder}: another process collects into it") from None
    except OSError as error:
        os.close(handle)
        raise SetError(f"{folder}: {error.strerror or error}") from None
    except BaseException:
        os.close(handle)
        raise


def read_list(text: bytes, path: Path) -> tuple[tuple[Frame, ...], dict[str, Any], dict[str, Any]]:
    """Frames, settings, and the rest of a ``calibration.json``. Raises SetError."""
    try:
        data = json.loads(text)
        if data["format"] != FORMAT:
            raise SetError(f"{path}: format {data['format']!r}; this build reads {FORMAT}")
        frames = tuple(_frame(row) for row in data["frames"])
        settings = dict(data["settings"])
        if len({f.file for f in frames}) != len(frames):
            raise ValueError("a file stands in it twice")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        what = f"no key {error}" if isinstance(error, KeyError) else str(error)
        raise SetError(f"{path}: is damaged: {what}") from None
    rest = {k: v for k, v in data.items() if k not in ("format", "set_sha256", "settings", "frames")}
    return frames, settings, rest


def _frame(row: Mapping[str, Any]) -> Frame:
    """Raises KeyError, TypeError or ValueError."""
    values = {field.name: row[field.name] for field in fields(Frame)}
    values["luma"] = tuple(float(v) for v in values["luma"])
    values["boxes"] = tuple(tuple(float(v) for v in box) for box in values["boxes"])
    frame = Frame(**values)
    if not _PICTURE.fullmatch(frame.file):
        raise ValueError(f"{frame.file!r} is no picture's name")
    if len(frame.luma) != LUMA_BINS or any(len(box) != 5 for box in frame.boxes):
        raise ValueError(f"{frame.file}: luma or boxes are of another length")
    if not 0 <= frame.candidate.hash < 1 << HASH_BITS:
        raise ValueError(f"{frame.file}: dhash is not of {HASH_BITS} bits")
    if not all(isinstance(v, (int, float)) for v in (frame.faces, frame.hardness, frame.luma_mean)):
        raise TypeError(f"{frame.file}: faces, hardness and luma_mean are no numbers")
    return frame


def _shown(value: object) -> str:
    return json.dumps(value)[:200]
