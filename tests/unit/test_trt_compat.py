"""One path over TensorRT 8.6, 10 and 11: what each is told."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from facedetd.cuda import ordinal
from facedetd.trt import compat, device
from facedetd.trt.compat import Messages, release
from facedetd.trt.errors import GpuError, PlanError
from tests.unit.trt_fakes import fake

SETTINGS = {"workspace_bytes": 1 << 30, "level": None, "hardware_compatible": False, "version_compatible": False}


def config_of(version: str, precision: str, typed: bool = False, **changes):
    api = fake(version)
    builder = api.builder(api.logger(Messages()), Messages())
    return api.config(builder, precision=precision, strongly_typed=typed, **{**SETTINGS, **changes})


@pytest.mark.parametrize(
    ("version", "types", "ranges", "qdq"),
    [("8.6.0", True, True, False), ("10.3.0", True, True, True), ("11.0.0", False, False, True)],
)
def test_what_each_version_can(version: str, types: bool, ranges: bool, qdq: bool) -> None:
    api = fake(version)
    assert (api.says_types, api.takes_ranges, api.takes_qdq) == (types, ranges, qdq)


@pytest.mark.parametrize(
    ("version", "typed", "names"),
    [
        ("8.6.0", False, {"EXPLICIT_BATCH"}),
        ("8.6.0", True, {"EXPLICIT_BATCH"}),  # it has no other
        ("10.3.0", False, {"EXPLICIT_BATCH"}),
        ("10.3.0", True, {"EXPLICIT_BATCH", "STRONGLY_TYPED"}),
        ("11.0.0", True, {"STRONGLY_TYPED"}),
    ],
)
def test_flags_of_a_network(version: str, typed: bool, names: set[str]) -> None:
    api = fake(version)
    network = api.network(api.builder(api.logger(Messages()), Messages()), typed)
    flags = api.module.NetworkDefinitionCreationFlag
    assert network.bits == sum(1 << int(flags[name]) for name in names)


def test_precision_is_a_flag_where_there_are_such_flags() -> None:
    assert config_of("8.6.0", "fp32").flags == set()  # no TF32 either
    assert config_of("8.6.0", "fp16").flags == {"TF32", "FP16"}
    assert config_of("10.3.0", "int8").flags == {"TF32", "FP16", "INT8"}
    assert config_of("10.3.0", "int8", typed=True).flags == {"TF32"}
    assert config_of("11.0.0", "int8", typed=True).flags == {"TF32"}
    assert config_of("11.0.0", "fp32", typed=True).flags == set()


def test_the_other_settings() -> None:
    plain = config_of("8.6.0", "fp16")
    assert plain.limits == {"WORKSPACE": 1 << 30}
    assert plain.builder_optimization_level == 3
    assert plain.hardware_compatibility_level is None
    assert plain.features == {"PROFILE_SHARING_0806"}  # the engine has a context for each size of batch
    far = config_of("10.3.0", "fp16", level=1, hardware_compatible=True, version_compatible=True)
    assert far.builder_optimization_level == 1
    assert far.features == set()
    assert far.hardware_compatibility_level.name == "AMPERE_PLUS"
    assert "VERSION_COMPATIBLE" in far.flags


def test_a_timing_cache_of_another_gpu_or_version_is_left_out() -> None:
    api = fake("8.6.0")
    for data, used in ((b"mine", True), (b"", True), (b"other GPU", False), (b"rotten", False)):
        config = config_of("8.6.0", "fp16")
        assert api.load_timing_cache(config, data) is used
        assert api.timing_cache(config) == (data if used else b"") + b"+"


def test_ranges_go_to_the_tensors_of_their_names() -> None:
    api = fake("8.6.0")
    network = api.network(api.builder(api.logger(Messages()), Messages()), False)
    assert api.set_ranges(network, {"data": 1.0, "out": 2.5, "elsewhere": 9.0}) == ["hidden"]
    assert network.get_input(0).range == (-1.0, 1.0)
    assert network.get_output(0).range == (-2.5, 2.5)
    with pytest.raises(PlanError, match="none of the 1 ranges is of a tensor of this model, which has data, out"):
        api.set_ranges(network, {"elsewhere": 9.0})


class Engine86:
    device_memory_size = 100

    def create_execution_context_without_device_memory(self):
        return SimpleNamespace(device_memory=None, made="without memory")


class Engine11:
    device_memory_size_v2 = 200

    def create_execution_context(self, strategy):
        assert strategy.name == "USER_MANAGED"
        given = []
        return SimpleNamespace(set_device_memory=lambda address, size: given.append((address, size)), given=given)


def test_contexts_share_the_memory_they_are_lent() -> None:
    old, new = fake("8.6.0"), fake("11.0.0")
    assert (old.scratch_bytes(Engine86()), new.scratch_bytes(Engine11())) == (100, 200)
    assert old.context(Engine86(), 0x1000, 100).device_memory == 0x1000
    assert new.context(Engine11(), 0x1000, 200).given == [(0x1000, 200)]


def test_without_a_gpu_there_is_one_clear_error() -> None:
    api, messages = fake("8.6.0", gpu=False), Messages()
    with pytest.raises(GpuError, match=r"TensorRT 8.6.0 can't start: CUDA initialization failure with error: 35"):
        api.builder(api.logger(messages), messages)


def test_without_tensorrt_or_pycuda_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    for ask in (compat.installed, lambda: device.find(0)):
        with pytest.raises(GpuError, match=r"pip install 'facedetd\[gpu\]'"):
            ask()


@pytest.mark.parametrize(
    "found", [SimpleNamespace(__version__="8.5.3", Builder=object, __name__="tensorrt"), SimpleNamespace()]
)
def test_what_is_no_tensorrt_of_use_is_refused(monkeypatch: pytest.MonkeyPatch, found: object) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", found)
    with pytest.raises(GpuError, match=r"8\.5\.3 is too old|isn't TensorRT"):
        compat.installed()


def test_a_driver_that_fails_and_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise RuntimeError("cuInit failed: no CUDA-capable device is detected\nmore")

    monkeypatch.setitem(sys.modules, "pycuda", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "pycuda.driver", SimpleNamespace(init=fails))
    with pytest.raises(GpuError, match=r"no CUDA-capable device is detected; `nvidia-smi`"):
        device.find(0)
    monkeypatch.setitem(sys.modules, "pycuda.driver", SimpleNamespace(init=lambda: None, Device=Device))
    monkeypatch.setattr(ordinal, "place_of", lambda index: (2, (0, 0x3B + index, 0) if index < 2 else None))
    with pytest.raises(GpuError, match="there is no GPU 2: 2 found, counted from 0"):
        device.find(2)


class Device:
    """PyCUDA's, of a machine that shows its two GPUs the other way round."""

    entered: ClassVar[list[str]] = []

    def __init__(self, number: int):
        self.place = ("0000:3C:00.0", "0000:3b:00.0")[number]

    @staticmethod
    def count() -> int:
        return 2

    def pci_bus_id(self) -> str:
        return self.place

    def name(self) -> str:
        return f"the one at {self.place}"

    def compute_capability(self) -> tuple[int, int]:
        return 9, 0

    def total_memory(self) -> int:
        return 80 << 30

    def retain_primary_context(self) -> Any:
        return SimpleNamespace(push=lambda: self.entered.append(self.place), pop=lambda: None, detach=self.entered.pop)


def test_the_gpu_is_the_one_that_nvidia_smi_numbers_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", SimpleNamespace())
    fake = SimpleNamespace(init=lambda: None, Device=Device, LogicError=RuntimeError)
    monkeypatch.setitem(sys.modules, "pycuda.driver", fake)
    monkeypatch.setattr(ordinal, "place_of", lambda index: (2, (0, 0x3B + index, 0)))
    for index, place in enumerate(("0000:3b:00.0", "0000:3C:00.0")):
        assert device.find(index) == device.Gpu(index, f"the one at {place}", "9.0", 80 << 30)
        with device.context(index):
            assert Device.entered == [place]
        assert not Device.entered


def test_releases() -> None:
    assert [release(v) for v in ("8.6.0", "10.3.0.post1", "11", "x")] == [(8, 6, 0), (10, 3, 0), (11,), ()]
