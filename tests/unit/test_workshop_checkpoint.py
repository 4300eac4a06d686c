"""Checkpoints are read as data: all that torch.save writes; lies and damage are refused with a reason."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facedetd.workshop.checkpoint import Checkpoint, CheckpointError, Limits, load
from facedetd.workshop.inert import Name, PickleError, read
from tests.unit.checkpoint_kit import ORDERED, Call, Writer, dump, module, watched

DEFAULT = Limits()


def saved(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "model.pt"
    path.write_bytes(data)
    return path


def refused(tmp_path: Path, data: bytes, limits: Limits = DEFAULT) -> str:
    path = saved(tmp_path, data)
    with pytest.raises(CheckpointError) as caught:
        load(path, limits)
    assert str(path) in str(caught.value)
    return str(caught.value)


# What torch.save writes


def small_model(writer: Writer) -> Call:
    conv = module(
        "torch.nn.modules.conv.Conv2d",
        parameters={"weight": writer.parameter(np.arange(6, dtype=np.float16).reshape(2, 3)), "bias": None},
        stride=(2, 2),
    )
    norm = module(
        "torch.nn.modules.batchnorm.BatchNorm2d",
        buffers={"running_var": writer.tensor(np.array([1.5, 2.5])), "num_batches_tracked": writer.tensor(np.int64(7))},
        eps=1e-3,
    )
    return module("models.yolo.Model", modules=Call(ORDERED, ([("conv", conv), ("bn", norm)],)), names=["face"])


@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_a_pickled_module_gives_its_tensors_by_name(tmp_path: Path, layout: str) -> None:
    writer = Writer()
    value = {"epoch": 3, "model": small_model(writer), "optimizer": None}
    data = writer.zip(value, extra={"version": b"3\n", "byteorder": b"little"}) if layout == "zip" else None
    data = data or writer.legacy(value)
    found = load(saved(tmp_path, data))
    assert set(found.tensors) == {"conv.weight", "bn.running_var", "bn.num_batches_tracked"}
    assert found.tensors["conv.weight"].dtype == np.float32
    assert found.tensors["conv.weight"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found.tensors["bn.running_var"].tolist() == [1.5, 2.5]
    assert found.tensors["bn.num_batches_tracked"] == 7
    assert found.modules["conv"].kind == "torch.nn.modules.conv.Conv2d"
    assert found.modules["conv"].settings["stride"] == (2, 2)
    assert found.modules["bn"].settings["eps"] == 1e-3
    assert (found.names, found.layout, found.size) == (("face",), layout, len(data))
    assert found.sha256 == hashlib.sha256(data).hexdigest()


def test_the_averaged_weights_go_before_the_last_ones(tmp_path: Path) -> None:
    writer = Writer()
    last, mean = ({"w": writer.tensor(np.full(2, v, np.float32))} for v in (1, 2))
    assert load(saved(tmp_path, writer.zip({"model": last, "ema": mean}))).tensors["w"].tolist() == [2, 2]
    assert load(saved(tmp_path, writer.zip({"model": last, "ema": None}))).tensors["w"].tolist() == [1, 1]
    assert load(saved(tmp_path, writer.zip(last))).tensors["w"].tolist() == [1, 1]
    wrapped = {"state_dict": {"module.w": last["w"]}}
    assert load(saved(tmp_path, writer.zip(wrapped))).tensors["w"].tolist() == [1, 1]


def test_strides_offsets_and_kinds(tmp_path: Path) -> None:
    writer, whole = Writer(), np.arange(12, dtype=np.float32)
    halves = np.array([1.5, -2.0], np.float32).view(np.uint32) >> 16
    value = {
        "turned": writer.tensor(whole, shape=(4, 3), strides=(1, 4)),
        "part": writer.tensor(whole, key="0", shape=(2, 2), strides=(4, 1), offset=5),
        "bfloat": writer.tensor(halves.astype(np.uint16), kind="BFloat16Storage"),
        "flags": writer.tensor(np.array([True, False]), kind="BoolStorage"),
        "none": writer.tensor(np.zeros((0, 3), np.float32)),
    }
    found = load(saved(tmp_path, writer.zip(value))).tensors
    assert np.array_equal(found["turned"], whole.reshape(3, 4).T)
    assert found["part"].tolist() == [[5, 6], [9, 10]]
    assert found["bfloat"].tolist() == [1.5, -2.0]
    assert found["flags"].tolist() == [True, False]
    assert found["none"].shape == (0, 3)


def test_what_pytorch_itself_writes(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch isn't installed: pip install 'facedetd[model]'")
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, bias=False), torch.nn.BatchNorm2d(4, eps=0.25)).half()
    wanted = {name: tensor.float().numpy() for name, tensor in network.state_dict().items()}
    for new in (True, False):
        for value in (network, {"model": network}, network.state_dict(), {"state_dict": network.state_dict()}):
            path = tmp_path / "torch.pt"
            torch.save(value, path, _use_new_zipfile_serialization=new)
            found = load(path)
            assert found.layout == ("zip" if new else "legacy")
            assert set(found.tensors) == set(wanted)
            assert all(np.array_equal(found.tensors[name], wanted[name]) for name in wanted)
            if found.modules:
                assert found.modules["1"].settings["eps"] == 0.25


def test_the_public_checkpoint() -> None:
    folder = os.environ.get("FACEDETD_TEST_MODELS")
    if not folder or not (path := Path(folder) / "yolov5n-0.5-face.pt").is_file():
        pytest.skip("FACEDETD_TEST_MODELS names no folder with yolov5n-0.5-face.pt")
    with watched() as seen:
        found = load(path)
    assert not seen
    assert found.names == ("face",)
    assert len(found.tensors) == 500
    assert sum(t.size for n, t in found.tensors.items() if n.endswith((".weight", ".bias"))) == 447_456


# Broken and lying files


@pytest.mark.parametrize(
    ("lies", "said"),
    [
        ({"count": 5}, "16 bytes; 5 values of FloatStorage are 20"),
        ({"count": 1 << 39, "shape": (1 << 39,), "strides": (1,)}, "limit"),
        ({"kind": "DoubleStorage"}, "16 bytes; 4 values of DoubleStorage are 32"),
        ({"kind": "QInt8Storage"}, "torch.QInt8Storage"),
        ({"shape": (5,)}, "beyond its storage of 4"),
        ({"shape": (2, 2), "strides": (3, 1)}, "beyond its storage"),
        ({"shape": (2, 2), "strides": (0, 0), "count": 1}, "beyond its storage"),
        ({"offset": 1}, "beyond its storage"),
        ({"offset": -1}, "impossible shape"),
        ({"strides": (-1,)}, "impossible shape"),
        ({"shape": (1 << 30, 1 << 30), "strides": (0, 0)}, "beyond its storage"),
        ({"shape": (True,)}, "impossible shape"),
        ({"shape": ("4",)}, "impossible shape"),
        ({"shape": (4, 1)}, "impossible shape"),
        ({"shape": (1,) * 9, "strides": (1,) * 9}, "impossible shape"),
        ({"key": "../../etc/passwd", "count": 9}, "of FloatStorage"),
    ],
)
def test_a_tensor_that_lies_is_refused(tmp_path: Path, lies: dict[str, Any], said: str) -> None:
    writer = Writer()
    assert said in refused(tmp_path, writer.zip({"model": {"w": writer.tensor(np.ones(4, np.float32), **lies)}}))


def test_a_legacy_file_that_lies_is_refused(tmp_path: Path) -> None:
    writer = Writer()
    data = writer.legacy({"model": {"w": writer.tensor(np.ones(4, np.float32))}})
    assert "4 in the pickle" in refused(tmp_path, data[:-1])
    assert "9 values in the file" in refused(tmp_path, data[:-24] + (9).to_bytes(8, "little") + data[-16:])


def test_zip_bombs_are_refused(tmp_path: Path) -> None:
    writer = Writer()
    value = {"model": {"w": writer.tensor(np.zeros(1 << 20, np.float32))}}
    packed = writer.zip(value, zipfile.ZIP_DEFLATED)
    assert len(packed) < 20_000
    assert "compressed" in refused(tmp_path, packed)
    assert "more than the limit" in refused(tmp_path, writer.zip(value), Limits(weights=1000))
    assert "data.pkl" in refused(tmp_path, writer.zip(value), Limits(pickle=150))
    assert "bytes; at most 1000" in refused(tmp_path, writer.zip(value), Limits(file=1000))
    many = writer.zip(value, extra={f"x{i}": b"" for i in range(100)})
    assert "entries" in refused(tmp_path, many, Limits(entries=50))
    assert "directory" in refused(tmp_path, many, Limits(pickle=1000))


def test_a_storage_counts_for_each_tensor_in_it(tmp_path: Path) -> None:
    writer = Writer()
    value = {"model": {f"w{i}": writer.tensor(np.ones(100, np.float32), key="0") for i in range(10)}}
    data = writer.zip(value)
    assert len(load(saved(tmp_path, data), Limits(weights=4000)).tensors) == 10
    assert "more than the limit" in refused(tmp_path, data, Limits(weights=3999))
    assert "more than 9 tensors" in refused(tmp_path, data, Limits(tensors=9))


def test_modules_in_circles_end(tmp_path: Path) -> None:
    circle = b"\x80\x02cm\nM\n)Rq\x00}(V_modules\n}V0\nh\x00sub."  # its own child, by way of the memo
    assert "nested too deep" in refused(tmp_path, Writer().zip(circle))
    twins: Any = module("m.Leaf", parameters={"w": None})
    for _ in range(30):
        shared = twins
        twins = module("m.Twins", modules={"a": shared, "b": shared})
    stream = io.BytesIO()
    _Sharing(stream, 2).dump(twins)
    assert len(stream.getvalue()) < 10_000  # and 2^30 modules, to who walks it
    assert "nested too deep" in refused(tmp_path, Writer().zip(stream.getvalue()))


class _Sharing(pickle._Pickler):  # type: ignore[name-defined,misc]
    """Writes a Call once, and refers to it afterwards."""

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, Name):
            self.write(f"c{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, Call) and id(obj) in self.memo:
            self.write(self.get(self.memo[id(obj)][0]))
        elif isinstance(obj, Call):
            self.save(obj.by)
            self.save(obj.arguments)
            self.write(pickle.REDUCE)
            self.memoize(obj)
            self.save(obj.state)
            self.write(pickle.BUILD)
        else:
            super().save(obj, save_persistent_id)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not a checkpoint"),
        (b"PK\x03\x04", "damaged zip"),
        (b"\x00" * 5000, "not a checkpoint"),
        (Writer().zip(b""), "damaged pickle"),
        (Writer().zip(b"."), "damaged pickle"),
        (Writer().zip(dump({"epoch": 1})), "no model in it"),
        (Writer().zip(dump([1, 2])), "no model in it"),
        (Writer().zip(dump({}), extra={"byteorder": b"big"}), "byte order"),
        (Writer().zip(dump({"model": module("m.M")})), "without tensors"),
        (Writer().zip(dump({"model": module("m.M", modules=[1])})), "_modules that are a list"),
        (Writer().zip(dump({"model": module("m.M", modules={"a": 1})})), "'a' is damaged"),
        (Writer().zip(dump({"model": module("m.M", parameters={"w": 1})})), "w is a int"),
        (Writer().zip(dump({"model": module("m.M", parameters={"w": module("x.Y")})})), "made by x.Y"),
    ],
)
def test_other_files_are_refused_with_a_reason(tmp_path: Path, data: bytes, said: str) -> None:
    assert said in refused(tmp_path, data)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path, said in ((tmp_path / "none.pt", "no such file"), (tmp_path, "not a regular"), (fifo, "not a regular")):
        with pytest.raises(CheckpointError, match=said):
            load(path)


# Properties

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=20,
)


@given(plain, st.integers(0, 5))
@settings(deadline=None)
def test_plain_values_are_what_pickle_makes_of_them(value: Any, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    assert read(data + b"rest") == (value, len(data))


def whole_checkpoint() -> bytes:
    writer = Writer()
    return writer.zip({"model": small_model(writer)})


WHOLE = whole_checkpoint()
PICKLE = zipfile.ZipFile(io.BytesIO(WHOLE)).read("archive/data.pkl")


@given(st.lists(st.tuples(st.integers(0, len(PICKLE) - 1), st.integers(0, 255)), min_size=1, max_size=8))
@settings(deadline=None, max_examples=300)
def test_a_damaged_pickle_is_a_value_or_an_error(changes: list[tuple[int, int]]) -> None:
    data = bytearray(PICKLE)
    for place, byte in changes:
        data[place] = byte
    with watched() as seen, suppress(PickleError):
        read(bytes(data))
    assert not seen


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_any_bytes_are_a_value_or_an_error(data: bytes) -> None:
    with suppress(PickleError):
        read(data)


@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=8))
@settings(deadline=None, max_examples=200)
def test_a_damaged_file_is_a_checkpoint_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(WHOLE)
    for place, byte in changes:
        data[place] = byte
    path = tmp_path_factory.getbasetemp() / "damaged.pt"
    path.write_bytes(bytes(data))
    with suppress(CheckpointError):
        assert isinstance(load(path), Checkpoint)
