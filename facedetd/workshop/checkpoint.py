"""Weights out of a PyTorch checkpoint, without PyTorch and without running anything that the file says.

A checkpoint is a zip with a pickle and the tensors' raw bytes (torch.save since 1.6), or five pickles and the bytes one
after the other (before). The pickle is read by :mod:`facedetd.workshop.inert`. Layout: PyTorch's documentation,
"Serialization semantics", and what its releases write.
"""

from __future__ import annotations

import hashlib
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from facedetd.workshop.inert import Name, PickleError, Record, Reference, read


class CheckpointError(Exception):
    """The file can't be used as a checkpoint; the message names the file, what was found and what is allowed."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes, except ``tensors`` and ``entries``, which count. The largest YOLOv5-face with its optimizer is 750 MB."""

    file: int = 4 << 30
    pickle: int = 16 << 20
    weights: int = 2 << 30
    tensors: int = 10_000
    entries: int = 50_000


@dataclass(frozen=True, slots=True)
class Module:
    """Its class ("torch.nn.modules.activation.SiLU") and those of its attributes that are numbers, or tuples of them
    ("eps", "stride"...)."""

    kind: str
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """``tensors`` by their name in the model, floats as float32. ``modules`` by their path ("model.0.stem_1.act") and
    ``names``, those of the classes, are empty where the file holds tensors only."""

    tensors: Mapping[str, NDArray[Any]]
    modules: Mapping[str, Module] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    sha256: str = ""
    size: int = 0
    layout: str = ""


_KINDS = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": "<u2",  # the upper half of a float32: see _floats
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the layout before 1.6
_DEPTH = 32
_WALK = 1_000_000  # attributes; modules may share their parts, so a small file can be a large tree
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class _Storage:
    """``count`` values of a kind (a name in _KINDS)."""

    key: str
    kind: str
    count: int

    @property
    def bytes(self) -> int:
        return self.count * np.dtype(_KINDS[self.kind]).itemsize


_Fetch = Callable[[_Storage], bytes]


def load(path: Path, limits: Limits = Limits()) -> Checkpoint:
    """The weights of the model that a checkpoint holds: of ``ema`` if there is one, else of ``model`` or
    ``state_dict``, or the file's own. Raises CheckpointError."""
    try:
        if not path.is_file():
            raise CheckpointError(f"{path}: {'not a regular file' if path.exists() else 'no such file'}")
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size > limits.file:
                raise CheckpointError(f"{path}: {size} bytes; at most {limits.file} are taken")
            file.seek(0)
            start = file.read(4)
            layout = "zip" if start == b"PK\x03\x04" else "legacy"
            root, fetch = _open_zip(file, limits) if layout == "zip" else _open_legacy(file, size, limits)
            model, names = _choose(root)
            tensors: dict[str, NDArray[Any]] = {}
            modules: dict[str, Module] = {}
            budget = limits.weights
            for name, value in _walk(model, modules):
                if len(tensors) >= limits.tensors:
                    raise CheckpointError(f"more than {limits.tensors} tensors")
                tensors[name], taken = _tensor(name, value, fetch, budget)
                budget -= taken
            if not tensors:
                raise CheckpointError("a model without tensors")
            return Checkpoint(tensors, modules, names, _sha256(file), size, layout)
    except CheckpointError as error:
        raise CheckpointError(str(error) if str(error).startswith(f"{path}:") else f"{path}: {error}") from None
    except PickleError as error:
        raise CheckpointError(f"{path}: its pickle: {error}") from None
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from None
    except MemoryError:
        raise CheckpointError(f"{path}: takes more memory than there is") from None


def _sha256(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    file.seek(0)
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


class _Bounded:
    """A file of which no more than ``most`` bytes are read at once: zipfile reads a directory whole, and makes an
    object of each entry before it can be asked how many there are."""

    def __init__(self, file: IO[bytes], most: int) -> None:
        self._file, self.most = file, most
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, count: int = -1) -> bytes:
        data = self._file.read(min(count, self.most + 1) if count >= 0 else self.most + 1)
        if len(data) > self.most:
            raise CheckpointError(f"more than {self.most} bytes of directory in the zip file")
        return data


def _open_zip(file: IO[bytes], limits: Limits) -> tuple[object, _Fetch]:
    bounded = _Bounded(file, limits.pickle)
    try:
        archive = zipfile.ZipFile(bounded)
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise CheckpointError(f"a damaged zip file ({error})") from None
    entries: dict[str, zipfile.ZipInfo] = {}
    bounded.most = limits.weights
    infos = archive.infolist()
    if len(infos) > limits.entries:
        raise CheckpointError(f"{len(infos)} entries in the zip file; at most {limits.entries} are taken")
    for info in infos:
        # torch.save never compresses: so no entry can be larger than the file
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size or info.flag_bits & 1:
            raise CheckpointError(f"its entry {info.filename!r} is compressed or encrypted; torch.save does neither")
        name = info.filename.partition("/")[2]  # below one folder of any name
        if name in entries:
            raise CheckpointError(f"two entries {name!r} in the zip file")
        entries[name] = info

    def entry(name: str, most: int) -> bytes:
        if name not in entries:
            raise CheckpointError(f"no {name} in the zip file: not a checkpoint of torch.save")
        if entries[name].file_size > most:
            raise CheckpointError(f"{name}: {entries[name].file_size} bytes; at most {most} are taken")
        try:
            return archive.read(entries[name])
        except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"its entry {name!r} is damaged ({error})") from None

    def fetch(storage: _Storage) -> bytes:
        data = entry(f"data/{storage.key}", limits.weights)
        if len(data) != storage.bytes:
            raise CheckpointError(
                f"data/{storage.key}: {len(data)} bytes; {storage.count} values of {storage.kind} are {storage.bytes}"
            )
        return data

    if "byteorder" in entries and (order := entry("byteorder", 16)) != b"little":
        raise CheckpointError(f"byte order {order!r}; only b'little' is read")
    return read(entry("data.pkl", limits.pickle))[0], fetch


def _open_legacy(file: IO[bytes], size: int, limits: Limits) -> tuple[object, _Fetch]:
    place = 0

    def next_value() -> Any:
        nonlocal place
        file.seek(place)
        value, taken = read(file.read(limits.pickle))
        place += taken
        return value

    try:
        head = next_value(), next_value()
    except PickleError:
        head = None, None
    if head != (_MAGIC, _PROTOCOL):
        raise CheckpointError("not a checkpoint of torch.save: neither a zip file nor the layout before PyTorch 1.6")
    system = next_value()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise CheckpointError("written on a machine with another byte order than little-endian")
    root, keys = next_value(), next_value()
    if not isinstance(keys, list) or not all(isinstance(k, str) for k in keys):
        raise CheckpointError("its list of storages is damaged")
    offsets: dict[str, int] = {}

    def fetch(storage: _Storage) -> bytes:
        if storage.key not in offsets:
            raise CheckpointError(f"no storage {storage.key!r} in the file")
        file.seek(offsets[storage.key])
        count = int.from_bytes(file.read(8), "little")
        data = file.read(storage.bytes) if storage.bytes <= size else b""
        if count != storage.count or len(data) != storage.bytes:
            raise CheckpointError(f"storage {storage.key!r}: {count} values in the file, {storage.count} in the pickle")
        return data

    known, start = {s.key: s for s in _storages(root)}, place
    for key in keys:  # the file doesn't say how wide the values are, the references in the pickle do
        offsets[key] = start
        if key not in known:
            raise CheckpointError(f"storage {key!r} is in the file and not in the pickle")
        start += 8 + known[key].bytes
    return root, fetch


def _storages(root: object) -> Iterator[_Storage]:
    """All that a value refers to, each part looked at once."""
    seen: set[int] = set()
    waiting: list[object] = [root]
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Reference):
            yield _storage(value)
        elif isinstance(value, Record):
            waiting += [value.arguments, value.state]
        elif isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, (list, tuple)):
            waiting += value


def _choose(root: object) -> tuple[object, tuple[str, ...]]:
    """The model or state dict in a file's value, and the names of its classes."""
    candidates = [root.get(key) for key in ("ema", "model", "state_dict")] if isinstance(root, dict) else []
    for found in [*candidates, root]:
        if isinstance(found, Record) and isinstance(found.state, dict) and "_modules" in found.state:
            names = found.state.get("names")
            texts = tuple(n[:100] for n in names[:100] if isinstance(n, str)) if isinstance(names, list) else ()
            return found, texts
        if isinstance(found, dict) and any(_is_tensor(v) for v in found.values()):
            return found, ()
    raise CheckpointError("no model in it: neither 'ema', 'model' nor 'state_dict' holds a module or tensors")


def _walk(model: object, modules: dict[str, Module]) -> Iterator[tuple[str, object]]:
    """The names of parameters and buffers, as Module.state_dict() has them, with their records."""
    if isinstance(model, dict):
        for name, value in model.items():
            if isinstance(name, str) and _is_tensor(value):
                yield name.removeprefix("module."), value
        return
    waiting: list[tuple[str, object, int]] = [("", model, 0)]
    walked = 0
    while waiting:
        path, module, depth = waiting.pop()
        if module is None:
            continue
        state = module.state if isinstance(module, Record) else None
        walked += 1 + len(state) if isinstance(state, dict) else 0
        if not isinstance(module, Record) or not isinstance(state, dict) or depth > _DEPTH or walked > _WALK:
            raise CheckpointError(f"its module {path or '(the whole)'!r} is damaged, or nested too deep")
        dotted = f"{path}." if path else ""
        modules[path] = Module(str(module.by), {k: v for k, v in state.items() if _is_setting(v)})
        for part in ("_parameters", "_buffers"):
            walked += len(_dict(state, part, path))
            for name, value in _dict(state, part, path).items():
                if value is not None:
                    yield f"{dotted}{name}", value
        waiting += [(f"{dotted}{name}", child, depth + 1) for name, child in _dict(state, "_modules", path).items()]


def _is_setting(value: object) -> bool:
    if isinstance(value, tuple):
        return len(value) <= 8 and all(isinstance(v, int) for v in value)
    return isinstance(value, (int, float))


def _dict(state: dict[Any, Any], part: str, path: str) -> dict[Any, Any]:
    found = state.get(part, {})
    if not isinstance(found, dict):
        raise CheckpointError(f"its module {path!r} has {part} that are a {type(found).__name__}, not a dict")
    return found


_TENSORS = frozenset({Name("torch._utils", "_rebuild_tensor_v2"), Name("torch._utils", "_rebuild_tensor")})
_PARAMETERS = frozenset(
    {Name("torch._utils", "_rebuild_parameter"), Name("torch._utils", "_rebuild_parameter_with_state")}
)


def _is_tensor(value: object) -> bool:
    return isinstance(value, Record) and value.by in _TENSORS | _PARAMETERS


def _tensor(name: str, value: object, fetch: _Fetch, budget: int) -> tuple[NDArray[Any], int]:
    """A tensor's values, and the bytes of its storage."""
    record = value
    if isinstance(record, Record) and record.by in _PARAMETERS and isinstance(record.arguments, tuple):
        record = record.arguments[0] if record.arguments else None
    if not isinstance(record, Record) or record.by not in _TENSORS:
        made = f"made by {record.by}" if isinstance(record, Record) else f"a {type(record).__name__}"
        raise CheckpointError(f"{name} is {made}, not a plain tensor")
    match record.arguments:
        case (Reference() as reference, int(offset), tuple(shape), tuple(strides), *_):
            storage = _storage(reference)
        case _:
            raise CheckpointError(f"{name} has other arguments than a tensor's")
    numbers = [offset, *shape, *strides]
    if len(shape) != len(strides) or len(shape) > 8 or not all(type(n) is int and 0 <= n < 1 << 40 for n in numbers):
        raise CheckpointError(f"{name} has an impossible shape")
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if math.prod(shape) > storage.count or (math.prod(shape) and last >= storage.count):
        raise CheckpointError(f"{name} of shape {shape} reaches beyond its storage of {storage.count} values")
    if storage.bytes > budget:
        raise CheckpointError(f"{name}: its weights are more than the limit")
    flat = np.frombuffer(fetch(storage), _KINDS[storage.kind])
    if not math.prod(shape):
        return np.zeros(shape, np.float32), storage.bytes
    steps = [s * flat.itemsize for s in strides]
    view = np.lib.stride_tricks.as_strided(flat[offset:], shape, steps, writeable=False)
    return _floats(view, storage.kind), storage.bytes


def _floats(values: NDArray[Any], kind: str) -> NDArray[Any]:
    if kind == "BFloat16Storage":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return np.array(values, np.float32 if values.dtype.kind == "f" else None, order="C")


def _storage(reference: Reference) -> _Storage:
    match reference.id:
        case ("storage", Name("torch" | "torch.storage", kind), str(key), str(), int(count), *view) if (
            kind in _KINDS and 0 <= count < 1 << 40 and view in ([], [None])
        ):
            return _Storage(key, kind, count)
        case ("storage", Name() as name, *_):
            raise CheckpointError(f"a storage of {name} in a form that is not read; read are {', '.join(_KINDS)}")
        case _:
            raise CheckpointError("a reference to something that is no storage")
