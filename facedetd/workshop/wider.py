"""Readers of labelled pictures: WIDER FACE's own files, and a JSON list with the same content.

WIDER FACE: Yang, Luo, Loy, Tang, "WIDER FACE: A Face Detection Benchmark" (CVPR 2016); the layout of its text file is
in the readme.txt beside it: name, number of boxes, then a line ``x y w h blur expression illumination invalid
occlusion pose`` a box. Which boxes count at a level stands in wider_{easy,medium,hard}_val.mat of its eval_tools.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from facedetd.types import MAX_SIDE

LEVELS = ("easy", "medium", "hard")
MAX_FILE_BYTES = 1 << 28
_KEYS = ("file", "orig_wh", "boxes_xywh_orig", *LEVELS)
_INVALID = 7  # the eighth number of a box's line
_MATS = {level: f"wider_{level}_val.mat" for level in LEVELS}


class LabelError(Exception):
    """Labels can't be used; the message says what was found, in which file and where, and what is allowed."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelledPicture:
    """One picture. ``size`` (width, height in px) is what it must be resized to before use, None: as it is stored.
    ``boxes`` is (n, 4) float64 as x y w h in px of that size; ``counted`` is (3, n) bool, a row for each of LEVELS:
    which boxes count there, the others are ignored. ``where`` names its place in the labels, for errors."""

    path: Path
    size: tuple[int, int] | None
    boxes: npt.NDArray[np.float64]
    counted: npt.NDArray[np.bool_]
    where: str


@dataclass(frozen=True, slots=True)
class Labels:
    """All pictures of a file. ``levels`` is False where there is no easy, medium and hard: then every box that isn't
    marked invalid counts at each."""

    pictures: tuple[LabelledPicture, ...]
    levels: bool = True


def read_labels(file: Path, pictures: Path | None = None) -> Labels:
    """Read a JSON list or WIDER FACE's text file; which one it is shows in its first character.

    ``pictures`` is the folder to find pictures in; without it the file's own, or for WIDER FACE's layout
    ``WIDER_val/images`` beside the file's folder. Raises LabelError, also when a picture isn't there.
    """
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise LabelError(f"{file}: {file.stat().st_size} bytes; at most {MAX_FILE_BYTES} are allowed")
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise LabelError(f"{file}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise LabelError(f"{file}: is not text; wanted is JSON or WIDER FACE's wider_face_val_bbx_gt.txt") from None
    labels = _read_json(text, file, pictures) if text.lstrip()[:1] in ("[", "{") else _read_wider(text, file, pictures)
    if not labels.pictures:
        raise LabelError(f"{file}: holds no pictures")
    return labels


def check_boxes(picture: LabelledPicture, width: int, height: int) -> None:
    """Raises LabelError for a box that lies wholly outside of a picture of width x height px."""
    x, y, w, h = picture.boxes.T
    outside = np.flatnonzero((x > width) | (y > height) | (x + w < 0) | (y + h < 0))
    if len(outside):
        box = [float(v) for v in picture.boxes[outside[0]]]
        raise LabelError(
            f"{picture.where}: box {outside[0]} is {box} (x y w h), outside of its {width}x{height} picture"
        )


# --- JSON ---


def _read_json(text: str, file: Path, folder: Path | None) -> Labels:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LabelError(f"{file}: not JSON: {error}") from None
    if not isinstance(data, list):
        raise LabelError(f"{file}: found an object; wanted is a list of pictures with the keys {', '.join(_KEYS)}")
    return Labels(tuple(_json_picture(entry, i, file, folder or file.parent) for i, entry in enumerate(data)))


def _json_picture(entry: Any, index: int, file: Path, folder: Path) -> LabelledPicture:
    where = f"{file}: picture {index}"
    if not isinstance(entry, dict):
        raise LabelError(f"{where}: found {_short(entry)}; wanted is an object with the keys {', '.join(_KEYS)}")
    missing = [key for key in _KEYS if key not in entry]
    if missing:
        raise LabelError(f"{where}: no key {', '.join(missing)}; wanted are {', '.join(_KEYS)}")
    name = entry["file"]
    if not isinstance(name, str) or not name or "\0" in name:
        raise LabelError(f"{where}: file is {_short(name)}; wanted is a path below the pictures' folder")
    where += f" ({name})"
    size = entry["orig_wh"]
    if not (isinstance(size, list) and len(size) == 2 and all(_whole(v) and 0 < v <= MAX_SIDE for v in size)):
        raise LabelError(f"{where}: orig_wh is {_short(size)}; wanted are width and height, 1 to {MAX_SIDE}")
    boxes = _boxes(entry["boxes_xywh_orig"], where)
    counted = np.stack([_counted(entry[level], len(boxes), f"{where}: {level}") for level in LEVELS])
    path = _find((folder / name, folder / Path(name).name), where)
    picture = LabelledPicture(path, (int(size[0]), int(size[1])), boxes, counted, where)
    check_boxes(picture, *(int(v) for v in size))
    return picture


def _boxes(found: Any, where: str) -> npt.NDArray[np.float64]:
    if not isinstance(found, list):
        raise LabelError(f"{where}: boxes_xywh_orig is {_short(found)}; wanted is a list of [x, y, w, h]")
    for i, box in enumerate(found):
        numbers = isinstance(box, list) and len(box) == 4 and all(_number(v) for v in box)
        if not numbers or box[2] < 0 or box[3] < 0:
            raise LabelError(f"{where}: box {i} is {_short(box)}; wanted is [x, y, w, h] in px, w and h from 0")
    return np.array(found, np.float64).reshape(-1, 4)


def _counted(indices: Any, boxes: int, where: str) -> npt.NDArray[np.bool_]:
    if not isinstance(indices, list):
        raise LabelError(f"{where} is {_short(indices)}; wanted is a list of indices into the boxes, from 0")
    counted = np.zeros(boxes, np.bool_)
    for index in indices:
        if not _whole(index) or not 0 <= index < boxes:
            raise LabelError(f"{where} holds {_short(index)}; the picture has {boxes} boxes, counted from 0")
        counted[index] = True
    return counted


# --- WIDER FACE's own files ---


def _read_wider(text: str, file: Path, folder: Path | None) -> Labels:
    entries = _wider_entries(text.splitlines(), file)
    levels = _mat_levels(file.parent)
    base, near = folder or file.parent, file.parent.parent
    roots = [base, base / "images", base / "WIDER_val" / "images"]
    if folder is None:
        roots.append(near / "WIDER_val" / "images")
    pictures = []
    for line, name, rows in entries:
        where = f"{file}:{line} ({name})"
        boxes = np.array([row[:4] for row in rows], np.float64).reshape(-1, 4)
        if levels is None:
            valid = np.array([len(row) <= _INVALID or not row[_INVALID] for row in rows], np.bool_)
            counted = np.stack([valid] * len(LEVELS))
        else:
            counted = np.stack([_mat_counted(levels[level], level, name, len(boxes), where) for level in LEVELS])
        pictures.append(LabelledPicture(_find([root / name for root in roots], where), None, boxes, counted, where))
    return Labels(tuple(pictures), levels is not None)


def _wider_entries(lines: Sequence[str], file: Path) -> list[tuple[int, str, list[list[float]]]]:
    """(line, name, a row of numbers a box) for each picture."""
    entries: list[tuple[int, str, list[list[float]]]] = []
    at = 0
    while at < len(lines):
        name = lines[at].strip()
        if not name:
            at += 1
            continue
        start = at + 1
        if not Path(name).suffix or _row(name) is not None:
            raise LabelError(f"{file}:{start}: found {_short(name)}; wanted is the name of a picture")
        count_text = lines[at + 1].strip() if at + 1 < len(lines) else ""
        if not count_text.isdecimal() or len(count_text) > 6:
            raise LabelError(f"{file}:{start + 1}: found {_short(count_text)}; wanted is how many boxes {name} has")
        count = int(count_text)
        rows = []
        for number in range(at + 2, at + 2 + count):
            line = lines[number].strip() if number < len(lines) else ""
            row = _row(line)
            if row is None or row[2] < 0 or row[3] < 0:
                raise LabelError(f"{file}:{number + 1}: found {_short(line)}; wanted is x y w h …, w and h from 0")
            rows.append(row)
        entries.append((start, name, rows))
        at += 2 + count
        if count == 0 and at < len(lines) and _row(lines[at]) is not None:
            at += 1  # WIDER FACE has a line of zeros for no box
    return entries


def _row(line: str) -> list[float] | None:
    try:
        row = [float(word) for word in line.split()]
    except ValueError:
        return None
    return row if len(row) >= 4 and all(math.isfinite(v) for v in row) else None


def _mat_levels(folder: Path) -> Mapping[str, Mapping[str, npt.NDArray[np.int64]]] | None:
    """For each level, the 0-based indices of the boxes that count, by ``event/picture`` without its suffix; None where
    the folder has no such files."""
    there = [folder / name for name in _MATS.values() if (folder / name).exists()]
    if not there:
        return None
    if len(there) < len(_MATS):
        raise LabelError(f"{folder}: has {there[0].name}, but not all of {', '.join(_MATS.values())}")
    try:
        from scipy.io import loadmat
    except ImportError:
        raise LabelError(f"{there[0]}: reading it needs scipy, which isn't installed: pip install scipy") from None
    levels = {}
    for level, name in _MATS.items():
        found: dict[str, npt.NDArray[np.int64]] = {}
        try:
            mat = loadmat(folder / name)
            events = zip(mat["event_list"].ravel(), mat["file_list"].ravel(), mat["gt_list"].ravel(), strict=True)
            for event, files, lists in events:
                for picture, indices in zip(files.ravel(), lists.ravel(), strict=True):
                    found[f"{event.item()}/{picture.item()}"] = np.asarray(indices, np.int64).ravel() - 1
        except Exception as error:  # scipy raises many kinds for a file that isn't MATLAB's
            raise LabelError(f"{folder / name}: not as WIDER FACE's eval_tools have it: {error!r:.200}") from None
        levels[level] = found
    return levels


def _mat_counted(
    level: Mapping[str, npt.NDArray[np.int64]], name: str, picture: str, boxes: int, where: str
) -> npt.NDArray[np.bool_]:
    indices = level.get(picture.rpartition(".")[0])
    if indices is None:
        raise LabelError(f"{where}: is not in {_MATS[name]}")
    return _counted([int(i) for i in indices], boxes, f"{where}: {_MATS[name]} (less 1)")


# --- small things ---


def _find(places: Sequence[Path], where: str) -> Path:
    for place in places:
        with suppress(OSError):  # too long a name
            if place.is_file():
                return place
    raise LabelError(f"{where}: no picture {places[0]} (--pictures says where they are)")


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= 1e9


def _short(value: Any) -> str:
    return f"{value!r:.80}"
