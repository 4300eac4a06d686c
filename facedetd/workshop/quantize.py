"""A float model to INT8: calibration, which layers stay in float, the model with Q/DQ, the range table for older
TensorRT, and a manifest that says what was measured."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import os
import platform
import struct
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

import facedetd
from facedetd.files import write_whole
from facedetd.inference.engines.cpu import thread_count
from facedetd.inference.types import BatchFrame, Head, ModelError
from facedetd.models.calibration import Calibration, luma_shares
from facedetd.models.known import KNOWN
from facedetd.trt.ranges import Table, to_json
from facedetd.workshop import qdq
from facedetd.workshop.calibrate import (
    CalibrationError,
    Counted,
    Feeder,
    PictureSet,
    calibrate,
    key_of,
    load_counted,
    save_counted,
)
from facedetd.workshop.evaluate import MIN_SCORE
from facedetd.workshop.harder import HarderFrames
from facedetd.workshop.ranges import LEVELS, limit
from facedetd.workshop.rangetable import range_table
from facedetd.workshop.trials import FAINT, Asked, Pictures, Runner, Verdict, distance, fewest, verdict
from facedetd.workshop.wider import LabelledPicture, Labels

MANIFEST = ".json"
CHECKED = 100
"""Calibration pictures that candidates are tried on, evenly spread: half as they are, half as harder versions."""
LABELLED = 500
"""Labelled pictures that --auto tries candidates on, evenly spread; the result is measured on all."""
SENSED = 32
"""Of these, what a single layer's loss is measured on."""
SENSED_SCORE = 0.2
LOSSES = 2
"""Part of what kept losses are of: raise it when what they are measured on, or how, changes."""
MOST_TRIES = 12
"""Layers that --auto tries to do without, once it has enough."""

Progress = Callable[[int, int], None]


class QuantizeError(Exception):
    """There is no INT8 model; the message says what was found and what is allowed."""


@dataclass(frozen=True, slots=True)
class Source:
    """The float model. ``manifest`` is what stood beside it, or nothing."""

    path: Path
    data: bytes
    network: qdq.Network
    head: Head
    width: int
    height: int
    manifest: Mapping[str, Any]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True, slots=True)
class Paths:
    """What belongs to an output FILE.onnx."""

    output: Path

    def _beside(self, suffix: str) -> Path:
        return self.output.with_name(self.output.name.removesuffix(".onnx") + suffix)

    @property
    def manifest(self) -> Path:
        return self.output.with_name(self.output.name + MANIFEST)

    @property
    def ranges(self) -> Path:
        return self._beside(".ranges.json")

    @property
    def cache(self) -> Path:
        return self._beside(".calibration.cache")

    @property
    def counted(self) -> Path:
        return self._beside(".counted.npz")

    @property
    def losses(self) -> Path:
        return self._beside(".losses.json")


def read_source(path: Path, head: Head, width: int, height: int) -> Source:
    """Raises ModelError, OSError."""
    data = path.read_bytes()
    manifest: dict[str, Any] = {}
    for beside in (path.with_name(path.name + MANIFEST), path.with_name("manifest.json")):
        with contextlib.suppress(OSError, ValueError):
            found = json.loads(beside.read_bytes())
            if isinstance(found, dict) and found.get("sha256") == hashlib.sha256(data).hexdigest():
                manifest = found
                break
    return Source(path, data, qdq.read_network(data, str(path)), head, width, height, manifest)


def kept(network: qdq.Network, wanted: Sequence[str]) -> frozenset[str]:
    """Layers named by ``first:N``, ``last:N``, ``heads`` (those that make the outputs) or their own names. Raises
    QuantizeError."""
    names = [layer.name for layer in network.layers]
    found: set[str] = set()
    for word in wanted:
        which, _, number = word.partition(":")
        if word in names:
            found.add(word)
        elif word == "heads":
            found |= qdq.nodes_before(network, network.outputs)
        elif which in ("first", "last") and number.isdigit() and 0 < int(number) <= len(names):
            found.update(names[: int(number)] if which == "first" else names[-int(number) :])
        else:
            near = difflib.get_close_matches(word, names, 3)
            raise QuantizeError(
                f"--keep-float {word!r}: allowed are first:N, last:N (N from 1 to {len(names)}), heads, and layers' "
                f"names, such as {', '.join(near or names[:3])}"
            )
    return frozenset(found)


def count(
    source: Source, pictures: PictureSet, paths: Paths, threads: int, say: Callable[[str], None], progress: Progress
) -> Counted:
    """Calibrate, or go on with what an interrupted run has counted. Raises CalibrationError, ModelError, OSError."""
    key = key_of(source.sha256, pictures, source.width, source.height)
    there = load_counted(paths.counted, key)
    if there is not None and there.frames:
        say(f"{there.frames} of {len(pictures.files)} pictures were counted before ({paths.counted.name})")
    feeder = Feeder(source.width, source.height, source.head.input)
    return calibrate(
        source.network, pictures.files, feeder, thread_count(threads), there or Counted(key),
        lambda counted: save_counted(paths.counted, counted), progress,
    )  # fmt: skip


def spread_evenly(items: Sequence[Any], most: int) -> list[Any]:
    """At most ``most`` of them, from the first to the last."""
    if len(items) <= most:
        return list(items)
    return [items[i * (len(items) - 1) // (most - 1)] for i in range(most)]


def frames_to_try(pictures: PictureSet, feeder: Feeder, width: int, height: int) -> list[BatchFrame]:
    """In turn a picture as it is and a harder version of another (of the same where there are few), CHECKED at most.
    Raises CalibrationError."""
    some = spread_evenly(pictures.files, CHECKED)
    few = spread_evenly(pictures.files, CHECKED // 2)
    plain, harder = (some[::2], some[1::2]) if len(some) == CHECKED else (few, few)
    frames = zip((feeder.frame(path) for path in plain), HarderFrames(harder, width, height), strict=True)
    return [frame for both in frames for frame in both]


class Quantizer:
    """Makes INT8 candidates of one source, and tries them."""

    def __init__(self, source: Source, ranges: Mapping[str, float], threads: int) -> None:
        self.source, self.ranges = source, ranges
        feeder = Feeder(source.width, source.height, source.head.input)
        self._runner = Runner(source.head, feeder, source.width, source.height, thread_count(threads))

    def model(self, keep: frozenset[str]) -> bytes:
        about = {"facedetd.quantized": "int8", "facedetd.source_sha256": self.source.sha256}
        return qdq.quantized(self.source.network, self.ranges, keep, about)

    def pictures(self, frames: Iterable[BatchFrame], labels: Sequence[LabelledPicture] = ()) -> Pictures:
        """Raises ModelError."""
        return Pictures(frames, self._runner.faces(self.source.data, frames, _lowest(labels)), labels)

    def judge(self, model: bytes, pictures: Pictures, asked: Asked) -> Verdict:
        """Raises ModelError."""
        lowest = _lowest(pictures.labels) if pictures.labels else FAINT / 4  # what fell below FAINT isn't gone
        found = self._runner.faces(model, pictures.frames, lowest)
        return verdict(pictures.reference, found, pictures.labels, asked)

    def losses(self, frames: Sequence[BatchFrame], path: Path, key: str, progress: Progress) -> dict[str, float]:
        """How far faces move when one layer alone is INT8, by layer. Kept in ``path`` as they come. Raises ModelError,
        OSError; ModelError where the float model finds no face to move."""
        names = [layer.name for layer in self.source.network.layers]
        losses = _read_losses(path, key)
        reference = self._runner.faces(self.source.data, frames, SENSED_SCORE)
        if not any(reference):
            raise ModelError(
                f"{self.source.path}: finds no face in {len(frames)} of the pictures; --auto needs some with faces"
            )
        saved = time.monotonic()
        try:
            for done, name in enumerate(names):
                progress(done, len(names))
                if name in losses:
                    continue
                model = self.model(frozenset(names) - {name})
                losses[name] = distance(reference, self._runner.faces(model, frames, SENSED_SCORE / 4))
                if time.monotonic() - saved > 10:
                    _write_losses(path, key, losses)
                    saved = time.monotonic()
        finally:
            _write_losses(path, key, losses)
        progress(len(names), len(names))
        return losses

    def choose(
        self,
        losses: Mapping[str, float],
        always: frozenset[str],
        pictures: Pictures,
        asked: Asked,
        progress: Callable[[int], None],
    ) -> frozenset[str]:
        """The fewest layers found, ``always`` among them, that hold what is asked. Raises QuantizeError."""
        order = [name for name in sorted(losses, key=lambda n: -losses[n]) if name not in always]
        last: list[Verdict] = []

        def holds(keep: frozenset[str]) -> bool:
            last[:] = [self.judge(self.model(always | keep), pictures, asked)]
            return last[0].holds

        found = fewest(order, holds, progress, MOST_TRIES)
        if found is None:
            raise QuantizeError(f"not even with all layers in float: {'; '.join(last[0].wrong)}")
        return always | found


def _lowest(labels: Sequence[LabelledPicture]) -> float:
    """The score from which faces are wanted: AP needs the lowest."""
    return MIN_SCORE if labels else FAINT


# --- files ---


def _read_losses(path: Path, key: str) -> dict[str, float]:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        found = json.loads(path.read_bytes())
        if found["key"] == key:
            return {str(name): float(value) for name, value in found["losses"].items()}
    return {}


def _write_losses(path: Path, key: str, losses: Mapping[str, float]) -> None:
    write_whole({path: json.dumps({"format": 1, "key": key, "losses": losses}, indent=1).encode()})


def calibration_cache(table: Table) -> str:
    """The table as TensorRT's calibrator keeps it: a line a tensor, its scale (range / 127) as a big-endian float in
    hexadecimal. The head names TensorRT 8.6.0. It can't say float16, so what shall be isn't in it."""
    ranges = {name: value for name, value in table.ranges.items() if name not in table.half_tensors}
    lines = [f"{name}: {struct.pack('>f', value / LEVELS).hex()}" for name, value in ranges.items()]
    return "\n".join(["TRT-8600-EntropyCalibration2", *lines]) + "\n"


def ranges_of(counted: Counted, method: str) -> dict[str, float]:
    return {name: limit(one, method) for name, one in counted.spreads.items()}


def calibration_of(counted: Counted, pictures: PictureSet, method: str) -> Calibration:
    return Calibration(datetime.now(timezone.utc), counted.frames, pictures.sha256, method, luma_shares(counted.luma))


def check_apart(labels: Labels, pictures: PictureSet) -> None:
    """Raises CalibrationError where a labelled picture is in the calibration set too."""
    both = [one.path for one in labels.pictures if hashlib.sha256(one.path.read_bytes()).hexdigest() in pictures.hashes]
    if both:
        raise CalibrationError(
            f"{both[0]}: is labelled and in the calibration set ({len(both)} such): a model isn't measured on the "
            "pictures it was fitted to"
        )


def write(
    source: Source,
    paths: Paths,
    model: bytes,
    ranges: Mapping[str, float],
    keep: frozenset[str],
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """The model, its manifest and the range tables, each whole; the manifest, which is returned, last. ``about`` are
    the parts of the manifest that were measured or set. Raises OSError."""
    told = range_table(source.network, ranges, keep, source.sha256)
    table, cache = to_json(told), calibration_cache(told)
    known = next((model for model in KNOWN.values() if model.sha256 == source.sha256), None)
    licence = source.manifest.get("licence") or (known.licence if known else "")
    origin = source.manifest.get("source") or (known.source if known else "")
    manifest = {
        "format": 1,
        "kind": "quantize",
        "created_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "file": paths.output.name,
        "sha256": hashlib.sha256(model).hexdigest(),
        "bytes": len(model),
        "precision": "int8",
        **({"licence": licence} if licence else {}),
        "source": {
            "kind": "float model", "file": source.path.name, "sha256": source.sha256, "bytes": len(source.data),
            **({"source": origin} if origin else {}),
        },
        "head": {"name": source.head.name},
        "layers": {
            "int8": len(source.network.layers) - len(keep),
            "float": [layer.name for layer in source.network.layers if layer.name in keep],
        },
        **about,
        "tables": {
            path.name: hashlib.sha256(text.encode()).hexdigest()
            for path, text in ((paths.ranges, table), (paths.cache, cache))
        },
        "versions": {
            "facedetd": facedetd.__version__, "python": platform.python_version(), "numpy": np.__version__,
            "onnx": qdq.VERSION, "onnxruntime": _onnxruntime(),
        },
    }  # fmt: skip
    text = json.dumps(manifest, indent=2) + "\n"
    files = {paths.ranges: table, paths.cache: cache, paths.manifest: text}
    write_whole({paths.output: model, **{path: content.encode() for path, content in files.items()}})
    return manifest


def _onnxruntime() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)


def cpu_name() -> str:
    """This machine's processor, as /proc/cpuinfo names it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()}, {os.cpu_count()} cores"
    return platform.machine()
