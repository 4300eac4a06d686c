"""Ranges of a float model's tensors, from a calibration run: what INT8 needs in TensorRT 8.6 to 10.

Two files are read. FILE.ranges.json, as `facedetctl model quantize` writes it: ``{"format": 2, "ranges": {TENSOR:
MAX_ABS}}``, of those tensors that TensorRT may hold in INT8, and maybe ``"float_layers": [NODE]``, which are computed
in float16, ``"half_tensors": [TENSOR]``, which are float16 though they have a range, ``"other_ranges": {TENSOR:
MAX_ABS}``, for where TensorRT can't do without, and ``"model_sha256"``, of the float model. Format 1, written before,
had no half_tensors and the ranges of all tensors; it still works as it did. And TensorRT's own calibration cache, whose
first line is "TRT-VERSION-ALGORITHM" and whose others are "TENSOR: SCALE", the scale as a big-endian float in
hexadecimal, 127 of which make the greatest value.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from facedetd.trt.errors import PlanError

FORMAT, BEFORE = 2, 1
SUFFIX = ".ranges.json"
LAYER_BY_LAYER = 6
"""So many builds give a range to what one layer takes and gives, before all tensors get one."""
_STEPS = 127
_MAX_BYTES = 1 << 26
_LINE = re.compile(r"(.*): ([0-9a-f]{8})")


@dataclass(frozen=True, slots=True)
class Table:
    """``ranges``: the greatest absolute value of each tensor that may be INT8, by name. ``model_sha256``: "" where it
    isn't known. ``of_all``: it is of the format that gave TensorRT the ranges of all tensors. ``other_ranges``: of
    those that shall not be INT8."""

    ranges: Mapping[str, float]
    float_layers: tuple[str, ...] = ()
    model_sha256: str = ""
    half_tensors: tuple[str, ...] = ()
    of_all: bool = False
    other_ranges: Mapping[str, float] = field(default_factory=dict)

    def with_those_of(self, tensors: Collection[str]) -> Table:
        """The same with the ranges of these as well, as far as it has them; they are to be float16 nevertheless."""
        more = {name: greatest for name, greatest in self.other_ranges.items() if name in tensors}
        left = {name: greatest for name, greatest in self.other_ranges.items() if name not in tensors}
        return replace(
            self, ranges={**more, **self.ranges}, half_tensors=(*self.half_tensors, *more), other_ranges=left
        )

    def with_all(self) -> Table:
        """The same with the ranges of all tensors, of which it says of the others nothing else."""
        return replace(self, ranges={**self.other_ranges, **self.ranges}, other_ranges={})


def wider(table: Table, tried: Table, tensors: frozenset[str], failures: int) -> tuple[Table, str] | None:
    """What to try after ``tried``, which came of ``table`` in so many failures, and what it is in words. ``tensors``:
    what the layer that has no kernel takes and gives. None where nothing is left. Pure.

    TensorRT is still asked to have what gets a range in float16, and does so where it can
    (PREFER_PRECISION_CONSTRAINTS); last of all, it isn't."""
    narrow = tried.with_those_of(tensors)
    if failures <= LAYER_BY_LAYER and narrow != tried:
        return narrow, "the tensors of a layer got a range"
    if tried.other_ranges:
        return tried.with_those_of(tried.other_ranges), "all tensors got a range"
    last = table.with_all()
    return None if tried == last else (last, "all tensors got a range, and may be INT8")


def read_ranges(path: Path) -> tuple[Table, bytes]:
    """What a file says, and its bytes. Raises PlanError."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise PlanError(f"{path}: {path.stat().st_size} bytes; at most {_MAX_BYTES} are allowed")
        data = path.read_bytes()
    except OSError as error:
        raise PlanError(f"{path}: {error.strerror or error}") from None
    try:
        text = data.decode()
        found = Table(_cache(text)) if text.startswith("TRT-") else _table(text)
        bad = [f"{name} is {value!r}" for name, value in found.with_all().ranges.items() if not 0 < value < math.inf]
        if bad or not found.ranges:
            raise ValueError(f"a range must be above 0 and finite: {bad[0]}" if bad else "holds no range")
    except (ValueError, KeyError, TypeError) as error:
        what = f"no key {error}" if isinstance(error, KeyError) else str(error)
        raise PlanError(
            f"{path}: no range table ({what}); allowed are {SUFFIX} files and TensorRT's calibration caches"
        ) from None
    return found, data


def _table(text: str) -> Table:
    data = json.loads(text)
    if not isinstance(data, dict) or data["format"] not in (FORMAT, BEFORE):
        raise ValueError(
            f"format {data['format']!r}, this build reads {BEFORE} and {FORMAT}"
            if isinstance(data, dict)
            else "no object"
        )
    ranges, others = _numbers(data["ranges"], "ranges"), _numbers(data.get("other_ranges", {}), "other_ranges")
    layers, half, sha256 = data.get("float_layers", []), data.get("half_tensors", []), data.get("model_sha256", "")
    lists = isinstance(layers, list) and isinstance(half, list)
    if not lists or not all(isinstance(name, str) for name in (*layers, *half, sha256)):
        raise ValueError("float_layers and half_tensors must be lists of names, and model_sha256 text")
    return Table(ranges, tuple(layers), sha256, tuple(half), data["format"] == BEFORE, others)


def _numbers(found: object, key: str) -> dict[str, float]:
    """Raises ValueError."""
    if not isinstance(found, dict) or not all(
        isinstance(v, (int, float)) and not isinstance(v, bool) for v in found.values()
    ):
        raise ValueError(f"{key} must be an object of numbers")
    return {str(name): float(value) for name, value in found.items()}


def _cache(text: str) -> dict[str, float]:
    found = {}
    for number, line in enumerate(text.splitlines()[1:], 2):
        if not line:
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"line {number} is {line[:60]!r}, not 'TENSOR: 8 hexadecimal digits'")
        found[match[1]] = struct.unpack(">f", bytes.fromhex(match[2]))[0] * _STEPS
    return found


def to_json(table: Table) -> str:
    """As FORMAT has it."""
    data = {
        "format": FORMAT,
        "model_sha256": table.model_sha256,
        "float_layers": list(table.float_layers),
        "half_tensors": list(table.half_tensors),
        "ranges": dict(table.ranges),
        "other_ranges": dict(table.other_ranges),
    }
    return json.dumps(data, indent=1) + "\n"


def beside(model: Path) -> Path:
    """Where the table of a model lies: MODEL.ranges.json, ``.onnx`` taken off."""
    return model.with_name(model.name.removesuffix(".onnx") + SUFFIX)
