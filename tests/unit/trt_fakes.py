"""TensorRT's surface as versions 8.6, 10 and 11 have it: the names that facedetd uses, as `dir()` shows them in the
real 8.6.0 and TensorRT-RTX 1.7 (which follows 11); 10's are those of NVIDIA's documentation. They take notes and build
nothing.
"""

from __future__ import annotations

import enum
from types import SimpleNamespace
from typing import Any

from facedetd.trt.compat import Api
from facedetd.trt.device import Gpu

H100 = Gpu(0, "NVIDIA H100", "9.0", 80 << 30)


class Tensor:
    def __init__(self, name: str, shape: tuple[int, ...] = (-1, 3, 64, 64)):
        self.name, self.shape, self.range = name, shape, None


class RangedTensor(Tensor):
    def set_dynamic_range(self, low: float, high: float) -> bool:
        self.range = low, high
        return True


class Layer:
    def __init__(self, name: str, inputs: list[Tensor], outputs: list[Tensor]):
        self.name, self.precision = name, None
        self._inputs, self.num_inputs = inputs, len(inputs)
        self._outputs, self.num_outputs = outputs, len(outputs)
        self.output_types: dict[int, Any] = {}

    def get_input(self, i: int) -> Tensor:
        return self._inputs[i]

    def get_output(self, i: int) -> Tensor:
        return self._outputs[i]

    def set_output_type(self, i: int, kind: Any) -> None:
        self.output_types[i] = kind


class Network:
    def __init__(self, bits: int, tensor: type[Tensor]):
        self.bits = bits
        self._in, self._out = tensor("data"), tensor("out", (-1, 4))
        hidden = tensor("hidden")
        self._layers = [Layer("first", [self._in], [hidden]), Layer("second", [hidden], [self._out])]
        self.num_inputs, self.num_layers, self.num_outputs = 1, 2, 1

    def get_input(self, i: int) -> Tensor:
        return self._in

    def get_layer(self, i: int) -> Layer:
        return self._layers[i]

    def get_output(self, i: int) -> Tensor:
        return self._out


class Cache:
    def __init__(self, data: bytes):
        self._data = data

    def serialize(self) -> bytes:
        return self._data + b"+"


class Config:
    def __init__(self) -> None:
        self.flags: set[str] = {"TF32"}
        self.features: set[str] = set()
        self.limits: dict[str, int] = {}
        self.profiles: list[Any] = []
        self.builder_optimization_level = 3
        self.hardware_compatibility_level = None
        self.cache: Cache | None = None

    def set_preview_feature(self, feature: enum.Enum, enable: bool) -> None:
        assert enable
        self.features.add(feature.name)

    def set_flag(self, flag: enum.Enum) -> None:
        self.flags.add(flag.name)

    def clear_flag(self, flag: enum.Enum) -> None:
        self.flags.discard(flag.name)

    def set_memory_pool_limit(self, pool: enum.Enum, size: int) -> None:
        self.limits[pool.name] = size

    def add_optimization_profile(self, profile: Any) -> int:
        self.profiles.append(profile)
        return 0

    def create_timing_cache(self, data: bytes) -> Cache | None:
        return None if data == b"rotten" else Cache(data)

    def set_timing_cache(self, cache: Cache, ignore_mismatch: bool) -> bool:
        if cache._data == b"other GPU":
            return False
        self.cache = cache
        return True

    def get_timing_cache(self) -> Cache | None:
        return self.cache


class Profile:
    def set_shape(self, name: str, least: Any, best: Any, most: Any) -> None:
        self.shapes = name, least, best, most


class ILogger:
    Severity = enum.Enum("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE")


class IProgressMonitor:
    pass


def _builder(module: SimpleNamespace, tensor: type[Tensor], fails: str, gpu: bool) -> type:
    class Builder:
        def __init__(self, logger: Any):
            self.logger = logger
            if not gpu:
                logger.log(ILogger.Severity.WARNING, "CUDA initialization failure with error: 35.")
                raise TypeError("pybind11::init(): factory function returned nullptr")

        def create_network(self, bits: int) -> Network:
            module.network = Network(bits, tensor)
            return module.network

        def create_builder_config(self) -> Config:
            module.config = Config()
            return module.config

        def create_optimization_profile(self) -> Profile:
            return Profile()

        def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
            monitor = getattr(config, "progress_monitor", None)
            if monitor is not None:
                monitor.phase_start("Tactics", None, 2)
                if not monitor.step_complete("Tactics", 0):
                    return None
                monitor.phase_finish("Tactics")
            if fails:
                self.logger.log(ILogger.Severity.ERROR, fails)
                self.logger.log(ILogger.Severity.ERROR, "what follows from it")
                return None
            return b"a plan"

    return Builder


class OnnxParser:
    num_errors = 1

    def __init__(self, network: Network, logger: Any): ...

    def parse(self, model: bytes) -> bool:
        self.__class__.given = model
        return b"NoSuchOperator" not in model

    def get_error(self, i: int) -> Any:
        return SimpleNamespace(desc=lambda: "no importer for NoSuchOperator", node=lambda: 7)


def _flags(*names: str) -> Any:
    return enum.IntEnum("Flag", {name: i for i, name in enumerate(names)})


def fake(version: str, *, fails: str = "", gpu: bool = True) -> Api:
    """TensorRT 8.6, 10 or 11."""
    major = int(version.partition(".")[0])
    module = SimpleNamespace(__version__=version, __name__="tensorrt", ILogger=ILogger, OnnxParser=OnnxParser)
    precision = ("FP16", "INT8", "PREFER_PRECISION_CONSTRAINTS") if major < 11 else ()
    module.DataType = _flags("FLOAT", "HALF", "INT8")
    module.BuilderFlag = _flags("DEBUG", "TF32", "VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME", *precision)
    creation = {
        8: ("EXPLICIT_BATCH", "EXPLICIT_PRECISION"),
        10: ("EXPLICIT_BATCH", "STRONGLY_TYPED"),
        11: ("STRONGLY_TYPED",),
    }
    module.NetworkDefinitionCreationFlag = _flags(*creation[major])
    module.MemoryPoolType = _flags("WORKSPACE", "TACTIC_DRAM")
    module.HardwareCompatibilityLevel = _flags("NONE", "AMPERE_PLUS")
    module.ITensor = RangedTensor if major < 11 else Tensor
    module.PreviewFeature = _flags("PROFILE_SHARING_0806") if major == 8 else _flags("ALIASED_PLUGIN_IO_10_03")
    if major > 8:
        module.IProgressMonitor = IProgressMonitor
        module.ExecutionContextAllocationStrategy = _flags("STATIC", "ON_PROFILE_CHANGE", "USER_MANAGED")
    module.TensorIOMode = _flags("NONE", "INPUT", "OUTPUT")
    module.Builder = _builder(module, module.ITensor, fails, gpu)
    return Api(module)
