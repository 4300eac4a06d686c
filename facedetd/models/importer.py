"""Takes a model file into the store, once it has shown that it runs and that a head understands it."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from facedetd.inference.types import BatchFrame, Head, ModelError
from facedetd.models.calibration import read_calibration
from facedetd.models.known import KNOWN
from facedetd.models.store import ModelEntry, ModelStore
from facedetd.ring.header import Geometry, SlotHeader

MAX_FILE_BYTES = 1 << 30
MANIFEST = ".json"
"""What the name of a model's manifest adds to the model's."""
MAX_MANIFEST_BYTES = 4 << 20
DEFAULT_SIZE = (640, 384)


def import_model(
    file: Path,
    store: ModelStore,
    name: str | None = None,
    *,
    size: tuple[int, int] | None = None,
    licence: str = "",
    source: str = "",
) -> ModelEntry:
    """Check an ONNX file, run it once, and store it.

    ``name`` is by default the file's own, or that of a known model when the file is one. ``size`` (width, height) in
    px is what the model must run at; without it 640x384, or the model's own where it is fixed and can't be freed.
    A manifest beside the file (its name and MANIFEST, as the workshop writes it) is stored with it. Raises ModelError
    with the reason when model or manifest can't be used; then nothing is stored.
    """
    data = _read(file, MAX_FILE_BYTES)
    artefact = read_manifest(file.with_name(file.name + MANIFEST), hashlib.sha256(data).hexdigest())
    return import_bytes(
        data, store, str(file), name or None, file.stem, size=size, licence=licence, source=source, artefact=artefact
    )


def read_manifest(path: Path, sha256: str) -> dict[str, Any]:
    """The manifest of a model with this hash; empty where there is none. Raises ModelError: not a manifest, or another
    model's, or with a calibration that isn't whole."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(_read(path, MAX_MANIFEST_BYTES))
        if not isinstance(found, dict):
            raise ValueError("no JSON object")
        read_calibration(found)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not a model's manifest: {error}; allowed: remove it, or make it anew") from None
    if found.get("sha256", sha256) != sha256:
        raise ModelError(
            f"{path}: is of a model with sha256 {found['sha256']}, the file's is {sha256}; allowed: its own, or none"
        )
    return found


def _told(artefact: Mapping[str, Any], key: str) -> str:
    """What a manifest says of licence or source, in words."""
    value = artefact.get(key, "")
    if isinstance(value, Mapping):  # export tells more of its source: kind, file, sha256
        value = " ".join(str(value[k]) for k in ("kind", "file", "seed") if value.get(k) is not None)
    return value if isinstance(value, str) else ""


def import_bytes(
    data: bytes,
    store: ModelStore,
    what: str,
    name: str | None,
    stem: str,
    *,
    size: tuple[int, int] | None = None,
    licence: str = "",
    source: str = "",
    artefact: Mapping[str, Any] | None = None,
) -> ModelEntry:
    """As :func:`import_model`, from memory. ``what`` stands for the file in errors, ``stem`` is the fallback name,
    ``artefact`` is the manifest."""
    artefact = artefact or {}
    source_sha256 = hashlib.sha256(data).hexdigest()
    known = next((k for k in KNOWN.values() if k.sha256 == source_sha256), None)
    model = _parse(data, what)
    try:
        model_bytes, width, height = _settle_sizes(model, what)
        head = _try(model_bytes, what, size or (width or DEFAULT_SIZE[0], height or DEFAULT_SIZE[1]))
    except MemoryError:
        raise ModelError(f"{what}: takes more memory to run than there is") from None
    except OSError as error:
        raise ModelError(f"{what}: can't be tried out in a temporary folder: {error.strerror or error}") from error
    return store.put(
        name or (known.name if known else _name_of(stem)),
        model_bytes,
        head=head,
        licence=licence or (known.licence if known else _told(artefact, "licence") or "unknown"),
        source=source or (known.source if known else _told(artefact, "source") or Path(what).name),
        source_sha256=source_sha256,
        width=width,
        height=height,
        artefact=artefact,
    )


def _read(file: Path, limit: int) -> bytes:
    try:
        if not file.is_file():
            raise ModelError(f"{file}: {'not a regular file' if file.exists() else 'no such file'}")
        if file.stat().st_size > limit:
            raise ModelError(f"{file}: {file.stat().st_size} bytes; at most {limit} are allowed")
        return file.read_bytes()
    except OSError as error:
        raise ModelError(f"{file}: {error.strerror or error}") from error


def _parse(data: bytes, what: str) -> Any:
    """The model's protobuf. Raises ModelError when it is no ONNX model, or keeps weights in other files."""
    try:
        import onnx
    except ImportError:
        raise ModelError(
            f"{what}: to import a model the Python package onnx is needed, which the Debian package leaves out: import "
            "it where facedetd is installed with pip, and copy the model's folder from that store to this one"
        ) from None
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's DecodeError differs between its implementations
        raise ModelError(f"{what}: not an ONNX model ({len(data)} bytes that don't parse)") from error
    if not model.graph.node or not model.opset_import:
        raise ModelError(f"{what}: not an ONNX model (no graph in its {len(data)} bytes)")
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            where = next((e.value for e in tensor.external_data if e.key == "location"), "another file")
            raise ModelError(f"{what}: keeps its weights in {where!r}: save the model as one file, then import that")
    return model


def _settle_sizes(model: Any, what: str) -> tuple[bytes, int, int]:
    """The model's bytes, with free sizes where that can be, and the width and height it stays fixed to (or 0)."""
    from facedetd.inference.engines.onnxruntime import model_input, open_session
    from facedetd.models.dynamic import free_sizes, weights_to_constants

    weights_to_constants(model)
    plain: bytes = model.SerializeToString()
    found = model_input(_named(what, open_session, plain, 1), what)
    if not (found.batch or found.width or found.height):
        return plain, 0, 0
    freed = free_sizes(model)
    return (freed, 0, 0) if freed is not None else (plain, found.width, found.height)


def _try(model: bytes, what: str, size: tuple[int, int]) -> str:
    """Run a picture through the whole chain as the daemon will. Returns the head's name."""
    from facedetd.inference.engines import detect_head, make_engine

    width, height = size
    with tempfile.TemporaryDirectory(prefix="facedetd-model-") as folder:
        path = Path(folder) / Path(what).name
        path.write_bytes(model)
        head: Head = _named(what, detect_head, path, width, height)
        engine = _named(what, make_engine, "onnxruntime", path, width, height, head.input, 0, 2)
        try:
            engine.load()
            noise = np.random.default_rng(0).integers(16, 236, (height * 3 // 2, width), np.uint8)
            whole = Geometry(width, height, width, height, 0, 0)
            frame = BatchFrame(SlotHeader("import", 0, 0, 0, 0, 0, 0, 0, 0, 0, whole), noise)
            outputs = _named(what, engine.infer, [frame, frame])
        finally:
            engine.close()
    for name, output in outputs.items():
        bad = int(np.size(output) - np.count_nonzero(np.isfinite(output)))
        if bad:
            raise ModelError(f"{what}: output {name} holds {bad} values that are not finite, at {width}x{height}")
    if len(head.decode(outputs, width, height, 0.5)) != 2:
        raise ModelError(f"{what}: its outputs don't have the batch as their first axis")
    return head.name


def _named(what: str, call: Any, *args: Any) -> Any:
    """Call, and let a ModelError name the user's file, not a temporary one."""
    try:
        return call(*args)
    except ModelError as error:
        text = str(error)
        for arg in args:
            if isinstance(arg, Path):
                text = text.replace(f"{arg}: ", "")
        raise ModelError(f"{what}: {text.removeprefix('model: ')}") from error


def _name_of(stem: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:63] or "model"
