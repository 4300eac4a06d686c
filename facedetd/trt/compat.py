"""One way to use TensorRT 8.6, 9, 10 and 11 (and TensorRT-RTX, which follows 11). The only module that knows where they
differ.

What differs is found by looking for the attribute, not by the version, which is only compared between plans:

| | 8.6 | 10 | 11 |
|---|---|---|---|
| flag EXPLICIT_BATCH at a network's creation | wanted | ignored | gone |
| flag STRONGLY_TYPED | none | there | there, and the only way |
| BuilderFlag.FP16, BuilderFlag.INT8, dynamic ranges | there | there | gone: the model says its own types |
| IProgressMonitor | none | there | there |
| several execution contexts of one optimization profile | if built with a preview feature | yes | yes |
| tensors by name (set_tensor_address, execute_async_v3) | there | there | there |
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from facedetd.trt.errors import GpuError, PlanError

INSTALL = (
    "pip install 'facedetd[gpu]' (TensorRT 8.6 or newer, from NVIDIA's or the Python package index), or with the "
    "Debian package facedetd-gpu: facedetd-gpu-setup install"
)
OLDEST = (8, 6)
Progress = Callable[[str, int, int], bool]
"""Phase, steps done, steps in all; returns whether to go on."""


class Messages:
    """What TensorRT says while it works: the last errors and warnings, for the one error that is raised."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []

    def take(self, severity: str, text: str) -> None:
        kept = {"INTERNAL_ERROR": self.errors, "ERROR": self.errors, "WARNING": self.warnings}.get(severity)
        if kept is not None:
            kept.append(text.strip())
            del kept[:-20]

    def why(self) -> str:
        """The first error, which the others follow from; else a word that there was none."""
        return self.errors[0][:600] if self.errors else "it gave no reason"


@dataclass(frozen=True, slots=True)
class Api:
    """TensorRT as it is installed. ``module`` is the imported one."""

    module: Any

    @property
    def version(self) -> str:
        return str(self.module.__version__)

    @property
    def flavour(self) -> str:
        """ "tensorrt", or "tensorrt_rtx", whose plans are others."""
        return str(self.module.__name__).partition(".")[0]

    @property
    def says_types(self) -> bool:
        """Whether FP16 and INT8 are the builder's choice (8.6 to 10). Else the model's own types hold (11)."""
        flags = self.module.BuilderFlag
        return hasattr(flags, "FP16") and hasattr(flags, "INT8")

    @property
    def takes_ranges(self) -> bool:
        """Whether INT8 can come from ranges of tensors (8.6 to 10)."""
        return self.says_types and hasattr(self.module.ITensor, "set_dynamic_range")

    @property
    def takes_qdq(self) -> bool:
        """Whether INT8 can come from the model's Q/DQ nodes, the network being strongly typed (10 and 11)."""
        return hasattr(self.module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")

    def logger(self, messages: Messages) -> Any:
        module = self.module

        class Logger(module.ILogger):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                module.ILogger.__init__(self)

            def log(self, severity: Any, msg: str) -> None:
                messages.take(str(severity).rpartition(".")[2], msg)

        return Logger()

    def builder(self, logger: Any, messages: Messages) -> Any:
        """Raises GpuError: without a GPU there is none (TensorRT-RTX can do without)."""
        try:
            return self.module.Builder(logger)
        except (TypeError, RuntimeError):  # "factory function returned nullptr"
            said = " ".join(messages.warnings[-1:]) or messages.why()
            raise GpuError(f"TensorRT {self.version} can't start: {said}") from None

    def network(self, builder: Any, strongly_typed: bool) -> Any:
        """An empty network with the batch as its first axis."""
        flags, bits = self.module.NetworkDefinitionCreationFlag, 0
        if hasattr(flags, "EXPLICIT_BATCH"):
            bits |= 1 << int(flags.EXPLICIT_BATCH)
        if strongly_typed and hasattr(flags, "STRONGLY_TYPED"):
            bits |= 1 << int(flags.STRONGLY_TYPED)
        return builder.create_network(bits)

    def parse(self, network: Any, logger: Any, model: bytes) -> None:
        """Read an ONNX model into the network. Raises PlanError with the parser's first reason."""
        parser = self.module.OnnxParser(network, logger)
        if not parser.parse(model):
            errors = [parser.get_error(i) for i in range(parser.num_errors)]
            what = f"{errors[0].desc()} (node {errors[0].node()})" if errors else "it gave no reason"
            raise PlanError(f"TensorRT {self.version} can't read the model: {what}")

    def config(
        self,
        builder: Any,
        *,
        workspace_bytes: int,
        precision: str,
        strongly_typed: bool,
        level: int | None,
        hardware_compatible: bool,
        version_compatible: bool,
    ) -> Any:
        """The builder's settings. ``precision`` counts where the network isn't strongly typed: int8 lets layers fall
        back to fp16. fp32 means it: TF32, with its 10 bits of mantissa, is off. Raises PlanError for what this version
        hasn't."""
        config, flags = builder.create_builder_config(), self.module.BuilderFlag
        config.set_memory_pool_limit(self.module.MemoryPoolType.WORKSPACE, workspace_bytes)
        if precision == "fp32":
            config.clear_flag(flags.TF32)
        elif not strongly_typed:
            config.set_flag(flags.FP16)
            if precision == "int8":
                config.set_flag(flags.INT8)
        if level is not None:
            config.builder_optimization_level = level
        features: Any = getattr(self.module, "PreviewFeature", None)
        if hasattr(features, "PROFILE_SHARING_0806"):  # from 9 on it is so
            config.set_preview_feature(features.PROFILE_SHARING_0806, True)
        if hardware_compatible:
            levels = getattr(self.module, "HardwareCompatibilityLevel", None)
            if levels is None:
                raise PlanError(f"TensorRT {self.version} has no plans for other GPUs (8.6 and newer have)")
            config.hardware_compatibility_level = levels.AMPERE_PLUS
        if version_compatible:
            if not hasattr(flags, "VERSION_COMPATIBLE"):
                raise PlanError(f"TensorRT {self.version} has no plans for newer versions (8.6 and newer have)")
            config.set_flag(flags.VERSION_COMPATIBLE)
        return config

    def profile(
        self, builder: Any, config: Any, name: str, shapes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    ) -> None:
        """Which shapes (least, best, greatest) the input ``name`` may have."""
        profile = builder.create_optimization_profile()
        profile.set_shape(name, *shapes)
        config.add_optimization_profile(profile)

    def set_ranges(self, network: Any, ranges: Mapping[str, float]) -> list[str]:
        """Give each tensor its range, -max to max; returns the names of those that have none, which stay float."""
        without, done = [], set()
        inputs = [network.get_input(i) for i in range(network.num_inputs)]
        layers = [network.get_layer(i) for i in range(network.num_layers)]
        outputs = [layer.get_output(i) for layer in layers for i in range(layer.num_outputs)]
        for tensor in (*inputs, *outputs):
            greatest = ranges.get(tensor.name)
            if greatest is not None:
                tensor.set_dynamic_range(-greatest, greatest)
                done.add(tensor.name)
            else:
                without.append(tensor.name)
        if not done:
            raise PlanError(
                f"none of the {len(ranges)} ranges is of a tensor of this model, which has {without[0]}, "
                f"{without[-1]} and others: the ranges are of another model"
            )
        return without

    def keep_half(self, network: Any, config: Any, layers: Sequence[str], tensors: Sequence[str]) -> None:
        """In an int8 network, have these layers, the model's nodes by name, computed in float16, and these tensors
        stored so, but for its inputs and outputs, whose type is the caller's. Raises PlanError."""
        ends = {network.get_input(i).name for i in range(network.num_inputs)}
        ends |= {network.get_output(i).name for i in range(network.num_outputs)}
        tensors = [tensor for tensor in tensors if tensor not in ends]
        if not layers and not tensors:
            return
        half, (computed, stored) = self.module.DataType.HALF, self.named(network, layers, tensors)
        for layer in computed:
            layer.precision = half
        for layer, place in stored:
            layer.set_output_type(place, half)
        # not OBEY: that fails where TensorRT has no such kernel, which nobody can know before
        config.set_flag(self.module.BuilderFlag.PREFER_PRECISION_CONSTRAINTS)

    def named(
        self, network: Any, layers: Sequence[str], tensors: Sequence[str]
    ) -> tuple[list[Any], list[tuple[Any, int]]]:
        """These layers, and of each of these tensors the layer that makes it, as which output. The parser calls a node
        without a name something of its own: as in `model quantize`, it goes by its first output. Raises PlanError."""
        there = [network.get_layer(i) for i in range(network.num_layers)]
        makers = {layer.get_output(i).name: (layer, i) for layer in there for i in range(layer.num_outputs)}
        called = {tensor: layer for tensor, (layer, i) in makers.items() if not i} | {one.name: one for one in there}
        for names, found, what in ((layers, called, "layers"), (tensors, makers, "tensors")):
            missing = [name for name in names if name not in found]
            if missing:
                raise PlanError(
                    f"{len(missing)} of {len(names)} {what} that shall stay float aren't in the model: {missing[0]}"
                )
        return [called[name] for name in layers], [makers[name] for name in tensors]

    def tensors_around(self, network: Any, text: str) -> frozenset[str]:
        """What the layers that ``text`` names take and give, by name."""
        tensors = []
        for layer in (network.get_layer(i) for i in range(network.num_layers)):
            if re.search(rf"(?<![\w./:-]){re.escape(layer.name)}(?![\w/:-]|\.\w)", text):
                tensors += [layer.get_input(i) for i in range(layer.num_inputs)]
                tensors += [layer.get_output(i) for i in range(layer.num_outputs)]
        return frozenset(tensor.name for tensor in tensors if tensor is not None)  # optional inputs are None

    def load_timing_cache(self, config: Any, data: bytes) -> bool:
        """What earlier builds measured. Returns whether it is of use here; one of another version or GPU isn't."""
        cache = config.create_timing_cache(data)
        if cache is not None and config.set_timing_cache(cache, False):
            return True
        config.set_timing_cache(config.create_timing_cache(b""), False)
        return False

    def timing_cache(self, config: Any) -> bytes:
        cache = config.get_timing_cache()
        return bytes(cache.serialize()) if cache is not None else b""

    def watch(self, config: Any, progress: Progress) -> bool:
        """Have ``progress`` told of the build's steps; returns whether this version can (10 and newer)."""
        module = self.module
        if not hasattr(module, "IProgressMonitor"):
            return False

        class Monitor(module.IProgressMonitor):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                module.IProgressMonitor.__init__(self)
                self.steps: dict[str, int] = {}

            def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
                self.steps[phase_name] = num_steps
                progress(phase_name, 0, num_steps)

            def phase_finish(self, phase_name: str) -> None:
                self.steps.pop(phase_name, None)

            def step_complete(self, phase_name: str, step: int) -> bool:
                return progress(phase_name, step + 1, self.steps.get(phase_name, step + 1))

        config.progress_monitor = Monitor()
        return True

    def build(self, builder: Any, network: Any, config: Any, messages: Messages) -> bytes:
        """Minutes. Raises PlanError with TensorRT's first error."""
        found = builder.build_serialized_network(network, config)
        if found is None:
            raise PlanError(f"TensorRT {self.version} can't build the plan: {messages.why()}")
        return bytes(found)

    def engine(self, plan: bytes, logger: Any, messages: Messages, *, version_compatible: bool) -> tuple[Any, Any]:
        """The runtime, which must live as long, and the engine. Raises PlanError, or GpuError where there is no GPU."""
        try:
            runtime = self.module.Runtime(logger)
        except (TypeError, RuntimeError):
            raise GpuError(f"TensorRT {self.version} can't start: {messages.why()}") from None
        if version_compatible:
            runtime.engine_host_code_allowed = True  # such a plan carries its own small runtime
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise PlanError(f"TensorRT {self.version} can't load the plan: {messages.why()}")
        return runtime, engine

    def scratch_bytes(self, engine: Any) -> int:
        """GPU memory that a run needs beside inputs and outputs."""
        newer = hasattr(engine, "device_memory_size_v2")
        return int(engine.device_memory_size_v2 if newer else engine.device_memory_size)

    def context(self, engine: Any, scratch: int, scratch_bytes: int) -> Any:
        """An execution context that uses ``scratch``, an address on the GPU, which contexts that don't run at the same
        time may share. None where TensorRT can't make it."""
        strategies = getattr(self.module, "ExecutionContextAllocationStrategy", None)
        if strategies is not None:
            context = engine.create_execution_context(strategies.USER_MANAGED)
        else:
            context = engine.create_execution_context_without_device_memory()
        if context is None:
            return None
        if hasattr(context, "set_device_memory"):
            context.set_device_memory(scratch, scratch_bytes)
        else:
            context.device_memory = scratch
        return context

    def tensors(self, engine: Any) -> tuple[tuple[str, bool, tuple[int, ...], str], ...]:
        """Name, whether it is an input, shape (-1: free) and type of each tensor that goes in or out."""
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        return tuple(
            (
                name,
                engine.get_tensor_mode(name) == self.module.TensorIOMode.INPUT,
                tuple(engine.get_tensor_shape(name)),
                str(engine.get_tensor_dtype(name)).rpartition(".")[2],
            )
            for name in names
        )


def installed(name: str = "tensorrt") -> Api:
    """TensorRT, imported. Raises GpuError that says what to install."""
    try:
        api = Api(importlib.import_module(name))
    except (ImportError, OSError) as error:  # OSError: a library that doesn't fit
        missing = isinstance(error, ModuleNotFoundError) and error.name == name
        what = "TensorRT isn't installed" if missing else f"TensorRT can't be loaded ({error})"
        raise GpuError(f"{what}: {INSTALL}") from None
    if not hasattr(api.module, "__version__") or not hasattr(api.module, "Builder"):
        raise GpuError(f"the module {name} that Python finds isn't TensorRT: {INSTALL}")
    if api.flavour == "tensorrt" and release(api.version)[:2] < OLDEST:
        raise GpuError(f"TensorRT {api.version} is too old; 8.6 and newer will do: {INSTALL}")
    return api


def release(version: str) -> tuple[int, ...]:
    """The leading numbers of "8.6.0" or "10.3.0.post1"."""
    numbers = []
    for part in version.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)
