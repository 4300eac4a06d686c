"""Runs a float model on a folder of pictures, as the daemon would feed it, and counts how far its tensors reach.

What has been counted is kept in one file beside the output (tables of numbers, no pictures), so that an interrupted run
goes on where it was, and another method or other float layers need no new run.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from facedetd.files import write_whole
from facedetd.inference.convert import Nv12Converter
from facedetd.inference.engines.onnxruntime import open_session, run
from facedetd.inference.types import BatchFrame, InputSpec, ModelError
from facedetd.models.calibration import LUMA_BINS, luma_counts
from facedetd.types import FloatArray
from facedetd.workshop.pictures import PictureError, nv12_frame, read_picture
from facedetd.workshop.qdq import Network, with_outputs
from facedetd.workshop.ranges import BINS, Counts, Spread, merge, spread

FEWEST, WANTED = 8, 200
"""Pictures: fewer than these aren't taken, and fewer than those draw a warning."""
LIST = "calibration.json"
SUFFIXES = frozenset([".jpg", ".jpeg", ".png"])
_FORMAT = 1
_SAVE_S = 10.0


class CalibrationError(Exception):
    """There is no calibration; the message says what was found and what is wanted."""


@dataclass(frozen=True, slots=True)
class PictureSet:
    """``files`` in order. ``sha256`` is of their list: a line "HASH NAME" each, names below the folder, sorted."""

    files: tuple[Path, ...]
    hashes: frozenset[str]
    sha256: str


def read_set(folder: Path) -> PictureSet:
    """The pictures that LIST in the folder names, each as it was when listed; without that file all pictures found at
    any depth. Raises CalibrationError."""
    if not folder.is_dir():
        raise CalibrationError(f"{folder}: {'not a folder' if folder.exists() else 'no such folder'}")
    try:
        listed = _listed(folder) if (folder / LIST).exists() else None
        names = (
            sorted(listed)
            if listed is not None
            else sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
        )
        found = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    except OSError as error:
        raise CalibrationError(f"{error.filename or folder}: {error.strerror or error}") from None
    changed = [name for name, one in found.items() if listed is not None and listed[name] != one]
    if changed:
        raise CalibrationError(f"{folder / changed[0]}: not the picture that {LIST} lists ({len(changed)} such)")
    if len(found) < FEWEST:
        raise CalibrationError(
            f"{folder}: {len(found) or 'no'} picture{'' if len(found) == 1 else 's'}; "
            f"at least {FEWEST} are needed and {WANTED} or more are wanted, such as the cameras "
            "see them by day and by night (.jpg or .png at any depth, or as model collect makes it)"
        )
    text = "".join(f"{one} {name}\n" for name, one in found.items())
    return PictureSet(
        tuple(folder / name for name in names), frozenset(found.values()), hashlib.sha256(text.encode()).hexdigest()
    )


def _listed(folder: Path) -> dict[str, str]:
    """Hashes by name. Raises CalibrationError, OSError."""
    path = folder / LIST
    try:
        frames = json.loads(path.read_bytes())["frames"]
        found = {str(frame["file"]): str(frame["sha256"]) for frame in frames}
    except (ValueError, KeyError, TypeError) as error:
        raise CalibrationError(f"{path}: not a list of a calibration set ({type(error).__name__}: {error})") from None
    outside = [name for name in found if Path(name).is_absolute() or ".." in Path(name).parts]
    if outside:
        raise CalibrationError(f"{path}: names {outside[0]!r}; allowed are pictures in its folder")
    return found


@dataclass(frozen=True, slots=True)
class Counted:
    """What calibration has counted over the first ``frames`` pictures: a Spread a tensor, and (LUMA_BINS,) of luma.
    ``key`` says of what."""

    key: str
    frames: int = 0
    spreads: Mapping[str, Spread] = field(default_factory=dict)
    luma: Counts = field(default_factory=lambda: np.zeros(LUMA_BINS, np.int64))


def key_of(model_sha256: str, pictures: PictureSet, width: int, height: int) -> str:
    """Of all that decides what is counted."""
    return hashlib.sha256(f"{_FORMAT} {model_sha256} {pictures.sha256} {width}x{height} {BINS}".encode()).hexdigest()


class Feeder:
    """Pictures as the model gets them in the daemon: letterboxed into NV12, converted. Used by one thread."""

    def __init__(self, width: int, height: int, spec: InputSpec) -> None:
        self._size = width, height
        self._converter = Nv12Converter(width, height, spec)

    def frame(self, path: Path) -> BatchFrame:
        """Raises CalibrationError that names the picture."""
        try:
            return nv12_frame(read_picture(path, upright=True), *self._size)
        except PictureError as error:
            raise CalibrationError(str(error)) from None

    def planes(self, frame: BatchFrame) -> FloatArray:
        """(1, 3, height, width)"""
        planes = np.zeros((1, 3, self._size[1], self._size[0]), np.float32)
        self._converter.convert(frame.nv12, frame.header.matrix, frame.header.range, planes[0])
        return planes


def calibrate(
    network: Network,
    pictures: Sequence[Path],
    feeder: Feeder,
    threads: int,
    counted: Counted,
    save: Callable[[Counted], None],
    progress: Callable[[int, int], None],
) -> Counted:
    """Count on, from picture ``counted.frames`` on. ``save`` is called every few seconds and at the end, also when
    interrupted. Raises CalibrationError, ModelError."""
    rest = [tensor for tensor in network.tensors if tensor != network.input]
    session = open_session(with_outputs(network, rest), threads)
    saved = time.monotonic()
    try:
        for path in pictures[counted.frames :]:
            progress(counted.frames, len(pictures))
            frame = feeder.frame(path)
            planes = feeder.planes(frame)
            tensors = {network.input: planes, **dict(zip(rest, run(session, network.input, planes), strict=True))}
            counted = _with(counted, tensors, frame, path)
            if time.monotonic() - saved > _SAVE_S:
                save(counted)
                saved = time.monotonic()
    finally:
        save(counted)
    progress(len(pictures), len(pictures))
    return counted


def _with(counted: Counted, tensors: Mapping[str, FloatArray], frame: BatchFrame, path: Path) -> Counted:
    """With one picture more. A new object, so that an interrupt can't leave half a picture counted."""
    try:
        found = {name: spread(values) for name, values in tensors.items()}
    except ValueError as error:
        raise ModelError(f"the model gives {error} for {path}") from None
    place, known = frame.header.geometry, counted.spreads
    luma = luma_counts(frame.nv12[place.pad_y :, place.pad_x :][: place.height, : place.width])
    return Counted(
        counted.key,
        counted.frames + 1,
        {name: merge(known[name], one) if name in known else one for name, one in found.items()},
        counted.luma + luma,
    )


# --- the file that is kept ---


def load_counted(path: Path, key: str) -> Counted | None:
    """What a run left; None where there is nothing, or of something else, or broken."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if str(file["key"]) != key:
                return None
            names = [str(name) for name in file["names"]]
            low, high, exponents, counts = (file[n] for n in ("low", "high", "exponents", "counts"))
            if counts.shape != (len(names), BINS) or not (len(low) == len(high) == len(exponents) == len(names)):
                return None
            spreads = {
                name: Spread(float(low[i]), float(high[i]), int(exponents[i]), counts[i])
                for i, name in enumerate(names)
            }
            return Counted(key, int(file["frames"]), spreads, file["luma"].astype(np.int64))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def save_counted(path: Path, counted: Counted) -> None:
    """Whole or not at all. Raises OSError."""
    spreads = list(counted.spreads.values())
    packed = io.BytesIO()
    np.savez_compressed(
        packed,
        key=np.array(counted.key),
        frames=np.array(counted.frames),
        names=np.array(list(counted.spreads), dtype=np.str_),
        low=np.array([s.low for s in spreads]),
        high=np.array([s.high for s in spreads]),
        exponents=np.array([s.exponent for s in spreads], np.int64),
        counts=np.array([s.counts for s in spreads], np.int64).reshape(-1, BINS),
        luma=counted.luma,
    )
    write_whole({path: packed.getvalue()})
