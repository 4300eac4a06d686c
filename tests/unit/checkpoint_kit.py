"""Checkpoints as torch.save writes them, made without PyTorch, whole and broken."""

from __future__ import annotations

import io
import pickle
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from facedetd.workshop.inert import Name
from facedetd.workshop.yolov5face import Conv, Pool, plan, shapes

DANGEROUS = ("os.", "subprocess.", "pickle.", "exec", "compile", "socket.", "shutil.", "ctypes.", "import")
_watchers: list[list[str]] = []


def _hook(event: str, arguments: Any) -> None:
    harmless = event in ("os.listdir", "os.scandir") or (event == "import" and "encodings" in str(arguments))
    if _watchers and event.startswith(DANGEROUS) and not harmless:
        _watchers[-1].append(f"{event} {arguments!r}")


"".encode("raw_unicode_escape")  # loads a codec, which would be seen when first used
sys.addaudithook(_hook)  # can't be taken away again; quiet outside of watched()


@contextmanager
def watched() -> Iterator[list[str]]:
    """What Python's own audit sees of code being looked up or run."""
    _watchers.append([])
    try:
        yield _watchers[-1]
    finally:
        _watchers.pop()


KINDS = {"float32": "FloatStorage", "float16": "HalfStorage", "float64": "DoubleStorage", "int64": "LongStorage"}


@dataclass(eq=False)
class Call:
    """Pickled as a call of ``by`` with ``arguments``, and a state."""

    by: Any
    arguments: tuple[Any, ...] = ()
    state: Any = None


@dataclass(eq=False)
class Stored:
    """Pickled as a persistent id."""

    id: Any


class Pickler(pickle._Pickler):  # type: ignore[name-defined,misc]
    """The slow one, whose ``save`` can be changed: names need not exist to be written."""

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, Name):
            self.write(f"c{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, Call):
            self.save(obj.by)
            self.save(obj.arguments)
            self.write(pickle.REDUCE)
            if obj.state is not None:
                self.save(obj.state)
                self.write(pickle.BUILD)
        else:
            super().save(obj, save_persistent_id)

    def persistent_id(self, obj: Any) -> Any:
        return obj.id if isinstance(obj, Stored) else None


def dump(value: Any, protocol: int = 2) -> bytes:
    stream = io.BytesIO()
    Pickler(stream, protocol).dump(value)
    return stream.getvalue()


class Writer:
    """Collects tensors' bytes beside the value that refers to them."""

    def __init__(self) -> None:
        self.data: dict[str, tuple[int, bytes]] = {}

    def tensor(self, array: Any, **lies: Any) -> Call:
        """``lies``: other values of kind, key, count, offset, shape or strides than the true ones."""
        array = np.asarray(array)
        key = lies.get("key", str(len(self.data)))
        self.data.setdefault(key, (array.size, np.ascontiguousarray(array).tobytes()))
        kind = lies.get("kind", KINDS.get(str(array.dtype), "FloatStorage"))
        stored = Stored(("storage", Name("torch", kind), key, "cpu", lies.get("count", array.size)))
        strides = tuple(s // array.itemsize for s in array.copy("C").strides)
        shape = lies.get("shape", array.shape)
        arguments = (stored, lies.get("offset", 0), shape, lies.get("strides", strides), False, Call(ORDERED))
        return Call(Name("torch._utils", "_rebuild_tensor_v2"), arguments)

    def parameter(self, array: Any) -> Call:
        return Call(Name("torch._utils", "_rebuild_parameter"), (self.tensor(array), True, Call(ORDERED)))

    def zip(self, value: Any, method: int = zipfile.ZIP_STORED, extra: dict[str, bytes] | None = None) -> bytes:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", method) as archive:
            archive.writestr("archive/data.pkl", value if isinstance(value, bytes) else dump(value))
            for key, (_, data) in self.data.items():
                archive.writestr(f"archive/data/{key}", data)
            for name, data in (extra or {}).items():
                archive.writestr(f"archive/{name}", data)
        return stream.getvalue()

    def legacy(self, value: Any) -> bytes:
        """The layout before PyTorch 1.6."""
        system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
        head = [dump(0x1950A86A20F9469CFC6C), dump(1001), dump(system)]
        body = [count.to_bytes(8, "little") + data for count, data in self.data.values()]
        # torch writes the view of a storage as a sixth part of its reference
        return b"".join([*head, dump(_with_views(value)), dump(list(self.data)), *body])


def _with_views(value: Any) -> Any:
    if isinstance(value, Stored):
        return Stored((*value.id, None))
    if isinstance(value, Call):
        return Call(value.by, _with_views(value.arguments), _with_views(value.state))
    if isinstance(value, dict):
        return {k: _with_views(v) for k, v in value.items()}
    return tuple(map(_with_views, value)) if isinstance(value, tuple) else value


ORDERED = Name("collections", "OrderedDict")


def module(kind: str, *, parameters: Any = None, buffers: Any = None, modules: Any = None, **more: Any) -> Call:
    state = {"training": False, "_parameters": parameters or {}, "_buffers": buffers or {}, "_modules": modules or {}}
    return Call(Name(*kind.rsplit(".", 1)), (), {**state, **more})


def random_tensors(size: str, seed: int = 0) -> dict[str, Any]:
    """All tensors of a YOLOv5-face, none of them idle, and none so wild that values grow from layer to layer."""
    random = np.random.default_rng(seed)
    found = {}
    for name, shape in shapes(plan(size)).items():
        values = random.standard_normal(shape).astype(np.float32)
        if len(shape) == 4:
            values *= np.sqrt(2 / np.prod(shape[1:]), dtype=np.float32)
        elif name.endswith("running_var"):
            values = np.float32(0.8) + np.float32(0.1) * np.abs(values)
        else:
            values = np.float32(name.endswith("weight")) + np.float32(0.1) * values
        found[name] = values
    return found


def whole_module(writer: Writer, size: str, tensors: dict[str, Any], epsilon: float = 1e-3, **changes: Any) -> Call:
    """A YOLOv5-face as torch.save writes a Module. ``changes``: other attributes of its first convolution."""
    nodes = plan(size)
    tree: dict[str, Any] = {}
    classes: dict[str, tuple[str, dict[str, Any]]] = {}
    for node in nodes:
        if isinstance(node, Conv):
            pair, edge = (node.stride,) * 2, (node.kernel // 2,) * 2
            more = {"stride": pair, "padding": edge, "groups": node.groups, "dilation": (1, 1)}
            if not classes:
                more.update(changes)
            classes[node.weight] = ("torch.nn.modules.conv.Conv2d", more)
            if node.norm:
                classes[node.norm] = ("torch.nn.modules.batchnorm.BatchNorm2d", {"eps": epsilon})
        elif isinstance(node, Pool):
            classes[node.out] = (
                "torch.nn.modules.pooling.MaxPool2d",
                {"kernel_size": node.kernel, "stride": node.stride},
            )

    def place(path: list[str]) -> dict[str, Any]:
        found = tree
        for part in path:
            found = found.setdefault(part, {})
        return found

    for path in classes:
        place(path.split("."))
    for name, tensor in tensors.items():
        *above, leaf = name.split(".")
        place(above)[leaf] = tensor

    def build(path: str, place: dict[str, Any]) -> Call:
        kind, more = classes.get(path, ("torch.nn.modules.container.Sequential", {}))
        arrays = {k: v for k, v in place.items() if not isinstance(v, dict)}
        below = {k: build(f"{path}.{k}".lstrip("."), v) for k, v in place.items() if isinstance(v, dict)}
        buffers = {k: writer.tensor(v) for k, v in arrays.items() if k.startswith("running")}
        parameters = {k: writer.parameter(v) for k, v in arrays.items() if k not in buffers}
        return module(kind, parameters=parameters, buffers=buffers, modules=below, **more)

    return build("", tree)
