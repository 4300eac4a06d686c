"""ONNX bytes through ``facedetctl model import``: taken or refused with one ModelError."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

from facedetd.models import ModelError, ModelStore
from facedetd.models.importer import import_model
from tests.fuzz.mutate import NUMBERS
from tests.fuzz.target import Fed, Target, expect

sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))
import model_kit


class _Models:
    def __init__(self, folder: Path):
        self._file, self._store = folder / "model.onnx", folder / "models"

    def feed(self, data: bytes) -> None:
        self._import(data)

    def _import(self, data: bytes) -> bool:
        self._file.write_bytes(data)
        shutil.rmtree(self._store, ignore_errors=True)
        store = ModelStore(self._store)
        try:
            entry = import_model(self._file, store, "m", size=(64, 96))
        except ModelError as error:
            expect(str(error).startswith(str(self._file)) and len(str(error)) < 5000, f"an error such as: {error}")
            left = list(self._store.rglob("*.onnx")) if self._store.exists() else []
            expect(not left, f"a refused model left {left}")
            return False
        expect(store.get("m").sha256 == entry.sha256, "the model that was taken isn't in the store")
        return True

    def good(self) -> None:
        expect(self._import(_seeds()[0]), "a good model is refused")


@contextmanager
def _models(folder: Path) -> Iterator[Fed]:
    yield _Models(folder)


def _seeds() -> Sequence[bytes]:
    made = (model_kit.centerface(), model_kit.yunet(), model_kit.yolo_raw())
    return [model.SerializeToString() for model in made]


def _make(rng: Random, seeds: Sequence[bytes]) -> bytes:
    """A graph that still parses: other sizes, operators, attributes, wires."""
    import onnx

    model: Any = onnx.load_model_from_string(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 2, 4))):
        node = rng.choice(model.graph.node)
        kind = rng.randrange(6)
        if kind == 0:
            node.op_type = rng.choice(("Conv", "Resize", "Loop", "If", "Reshape", "Concat", "Gather", "NoSuchOp", ""))
        elif kind == 1 and node.attribute:
            attribute = rng.choice(node.attribute)
            for i in range(len(attribute.ints)):
                attribute.ints[i] = rng.choice(NUMBERS) % 2**63
        elif kind == 2:
            tensor = rng.choice(model.graph.initializer)
            if tensor.dims:
                tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(NUMBERS) % 2**63
        elif kind == 3:
            dims = rng.choice((*model.graph.input, *model.graph.output)).type.tensor_type.shape.dim
            rng.choice(dims).dim_value = rng.choice(NUMBERS) % 2**63
        elif kind == 4 and node.input:
            node.input[rng.randrange(len(node.input))] = rng.choice((*node.output, "picture", "nobody", ""))
        else:
            tensor = rng.choice(model.graph.initializer)
            tensor.raw_data = rng.randbytes(len(tensor.raw_data))
    data: bytes = model.SerializeToString()
    return data


TARGETS = {"model": Target(_models, _seeds, make=_make, memory=4 << 30, growth=256 << 20, good_every=50)}
