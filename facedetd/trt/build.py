"""From an ONNX model to a plan."""

from __future__ import annotations

import datetime
import hashlib
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from facedetd.files import write_whole
from facedetd.trt.compat import Api, Messages, Progress
from facedetd.trt.device import Gpu
from facedetd.trt.errors import PlanError
from facedetd.trt.plan import PRECISIONS, Manifest, Output, Recipe, Shapes
from facedetd.trt.ranges import Table, wider

_TICK_S = 0.2
_NO_KERNEL = "Could not find any implementation"


class _NoKernel(PlanError):
    """``tensors``: what the layer takes and gives for which TensorRT has no kernel. ``timing_cache``: what was measured
    until then."""

    def __init__(self, said: str, tensors: frozenset[str], timing_cache: bytes):
        super().__init__(said)
        self.tensors, self.timing_cache = tensors, timing_cache


@dataclass(frozen=True, slots=True)
class Model:
    """An ONNX file, looked into. ``fixed_batch``, ``width`` and ``height``: what it is fixed to, 0 where it is free.
    ``qdq``: its types are in Q/DQ nodes."""

    data: bytes
    sha256: str
    qdq: bool
    input: str
    fixed_batch: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Built:
    """``timing_cache``: for the next build. ``without_range``: tensors that stayed float for want of a range.
    ``remarks``: what was asked for and couldn't be had, in sentences."""

    plan: bytes
    manifest: Manifest
    timing_cache: bytes
    without_range: tuple[str, ...]
    remarks: tuple[str, ...] = ()


def read_model(path: Path) -> Model:
    """Raises PlanError: not there, not ONNX, or not one picture tensor (batch, 3, height, width) in."""
    import onnx

    try:
        data = path.read_bytes()
    except OSError as error:
        raise PlanError(f"{path}: {error.strerror or error}") from None
    try:
        graph = onnx.load_from_string(data).graph
    except Exception as error:  # protobuf's errors have no common base
        raise PlanError(f"{path}: no ONNX model ({str(error)[:100]})") from None
    weights = {w.name for w in graph.initializer}
    inputs = [i for i in graph.input if i.name not in weights]
    shapes = [[d.dim_value for d in i.type.tensor_type.shape.dim] for i in inputs]
    if len(inputs) != 1 or len(shapes[0]) != 4 or shapes[0][1] not in (0, 3):
        found = dict(zip([i.name for i in inputs], shapes, strict=True))
        raise PlanError(f"{path}: its inputs are {found}; allowed is one, [batch, 3, height, width]")
    batch, _, height, width = shapes[0]
    qdq = any(node.op_type == "DequantizeLinear" for node in graph.node)
    return Model(data, hashlib.sha256(data).hexdigest(), qdq, inputs[0].name, batch, width, height)


def shapes_for(model: Model, shapes: Shapes) -> Shapes:
    """The shapes a model can have: what it is fixed to counts. Raises PlanError where that is another size."""
    if (model.width or shapes.width, model.height or shapes.height) != (shapes.width, shapes.height):
        raise PlanError(
            f"the model takes only {model.width or 'any'}x{model.height or 'any'} (width x height), "
            f"but {shapes.width}x{shapes.height} is wanted"
        )
    one = model.fixed_batch
    if one and not shapes.min_batch == shapes.opt_batch == shapes.max_batch == one:
        raise PlanError(
            f"the model takes only batches of {one}: --min-batch, --opt-batch and --max-batch must be {one}"
        )
    return shapes


def check_precision(api: Api, model: Model, precision: str, ranges: Table | None) -> None:
    """Raises PlanError where this TensorRT can't have this model at this precision."""
    if precision not in PRECISIONS:
        raise PlanError(f"precision {precision!r}; allowed are {', '.join(PRECISIONS)}")
    if precision != "int8":
        if ranges is not None:
            raise PlanError(f"ranges are for int8, and {precision} is asked for")
        if model.qdq:
            raise PlanError(f"the model has Q/DQ nodes, so it is int8, and {precision} is asked for")
        return
    if model.qdq:
        if ranges is not None:
            raise PlanError("the model has Q/DQ nodes, which hold its ranges: leave --ranges out")
        if not api.takes_qdq:
            raise PlanError(
                f"TensorRT {api.version} can't build these Q/DQ nodes (10 and newer can): "
                "give the float model it was made from, with --ranges FILE"
            )
    elif not api.takes_ranges:
        raise PlanError(
            f"TensorRT {api.version} makes int8 only of models with Q/DQ nodes: "
            "give the one that `facedetctl model quantize` wrote"
        )
    elif ranges is not None and ranges.model_sha256 not in ("", model.sha256):
        raise PlanError(
            f"the ranges are of another model (sha256 {ranges.model_sha256[:12]}…, this one is {model.sha256[:12]}…): "
            "give the float model that `facedetctl model quantize` was given"
        )
    elif ranges is None:
        raise PlanError("int8 of a float model needs the ranges of its tensors: --ranges FILE, as written by "
                        "`facedetctl model quantize`, or --calibration-cache FILE")  # fmt: skip


def build_plan(
    api: Api,
    gpu: Gpu,
    model: Model,
    recipe: Recipe,
    ranges: Table | None,
    *,
    name: str,
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    timing_cache: bytes = b"",
    progress: Progress | None = None,
    now: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.timezone.utc),
) -> Built:
    """Build; takes minutes. ``name`` is what the manifest calls the model; ``context`` makes the GPU current in the
    thread that enters it (:func:`facedetd.trt.device.context`). ``progress`` is told, from another thread,
    of phases where this TensorRT names them, else ("", 0, 0) a few times a second; where it returns False the
    build ends as soon as this TensorRT can. Raises PlanError and GpuError.

    It builds again where TensorRT 8.6 stumbles over what is in the timing cache, as it did over what another model's
    build had left there; and where it has no kernel for a layer of an int8 network whose tensors have no range, as on
    an H100: then these get one, and after LAYER_BY_LAYER such layers all."""
    check_precision(api, model, recipe.precision, ranges)
    remarks: list[str] = []
    given, failures = ranges, 0
    while True:
        try:
            built = _build(api, gpu, model, recipe, ranges, name, context, timing_cache, progress, now)
            return replace(built, remarks=tuple(remarks))
        except _NoKernel as error:
            timing_cache, failures = error.timing_cache, failures + 1
            more = wider(given, ranges, error.tensors, failures) if given and ranges else None
            if more is None:
                raise
            ranges, said = more
            remarks.append(f"{said}, which may cost accuracy: without {error}")
        except PlanError as error:
            if not timing_cache or "cache" not in str(error).lower():
                raise
            timing_cache = b""
            remarks.append(f"the timing cache was left out: with it {error}")


def _build(
    api: Api, gpu: Gpu, model: Model, recipe: Recipe, ranges: Table | None, name: str,
    context: Callable[[], AbstractContextManager[Any]], timing_cache: bytes, progress: Progress | None,
    now: Callable[[], datetime.datetime],
) -> Built:  # fmt: skip
    began = time.monotonic()
    messages = Messages()
    logger = api.logger(messages)
    builder = api.builder(logger, messages)
    typed = model.qdq or not api.says_types
    network = api.network(builder, typed)
    s = recipe.shapes
    api.parse(network, logger, _prepared(model.data, s, as_fp16=typed and recipe.precision == "fp16"))
    config = api.config(
        builder,
        workspace_bytes=recipe.workspace_mib << 20,
        precision=recipe.precision,
        strongly_typed=typed,
        level=recipe.level,
        hardware_compatible=recipe.hardware_compatible,
        version_compatible=recipe.version_compatible,
    )
    edges = (s.min_batch, s.opt_batch, s.max_batch)
    least, best, most = ((batch, 3, s.height, s.width) for batch in edges)
    api.profile(builder, config, model.input, (least, best, most))
    without = []
    if ranges is not None:
        without = api.set_ranges(network, ranges.ranges)
        api.keep_half(network, config, ranges.float_layers, ranges.half_tensors)
    api.load_timing_cache(config, timing_cache)

    def work() -> bytes:
        with context():
            return api.build(builder, network, config, messages)

    try:
        plan = _run(work, partial(api.watch, config), progress)
    except PlanError as error:
        said = str(error)
        if _NO_KERNEL in said:
            raise _NoKernel(said, api.tensors_around(network, said), api.timing_cache(config)) from None
        raise
    outputs = [network.get_output(i) for i in range(network.num_outputs)]
    manifest = Manifest(
        recipe=recipe,
        model=name,
        gpu=gpu.name,
        input=model.input,
        outputs=tuple(Output(o.name, tuple(int(d) for d in tuple(o.shape)[1:])) for o in outputs),
        sha256=hashlib.sha256(plan).hexdigest(),
        bytes=len(plan),
        created_utc=now().strftime("%Y-%m-%dT%H:%M:%SZ"),
        build_s=round(time.monotonic() - began, 1),
        float_tensors=len(without),
    )
    return Built(plan, manifest, api.timing_cache(config), tuple(without))


def _run(work: Callable[[], bytes], watch: Callable[[Progress], bool], progress: Progress | None) -> bytes:
    """In a thread of its own, so that Ctrl-C is heard while TensorRT works."""
    result: list[bytes | BaseException] = []
    going = [True]

    def step(phase: str, done: int, total: int) -> bool:
        return going[0] and (progress is None or progress(phase, done, total))

    def run() -> None:
        try:
            result.append(work())
        except BaseException as error:
            result.append(error)

    tells = watch(step)
    thread = threading.Thread(target=run, name="build", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(_TICK_S)
            if not tells:
                step("", 0, 0)
    except BaseException:
        going[0] = False
        raise
    if isinstance(result[0], BaseException):
        raise result[0]
    return result[0]


def _prepared(data: bytes, shapes: Shapes, *, as_fp16: bool) -> bytes:
    """The model fixed to its plan's width and height, which gives TensorRT more to choose from than a profile with one
    size does; and, where it takes types from the model, with float16 inside (by onnxruntime's own converter) and
    float32 at its ends."""
    import onnx

    model = onnx.load_from_string(data)
    weights = {w.name for w in model.graph.initializer}
    for value in model.graph.input:
        if value.name not in weights:
            _, _, height, width = value.type.tensor_type.shape.dim
            height.dim_value, width.dim_value = shapes.height, shapes.width
    if as_fp16:
        from onnxruntime.transformers.float16 import convert_float_to_float16

        model = convert_float_to_float16(model, keep_io_types=True)
    return bytes(model.SerializeToString())


def recipe_for(api: Api, gpu: Gpu, model: Model, precision: str, shapes: Shapes, ranges: bytes | None) -> Recipe:
    """With TensorRT's defaults for the rest; see :func:`dataclasses.replace`."""
    digest = hashlib.sha256(ranges).hexdigest() if ranges is not None else ""
    return Recipe(model.sha256, api.version, api.flavour, gpu.sm, precision, shapes_for(model, shapes), digest)


class TimingCache:
    """What builds measured, in a file beside the plans: one for each TensorRT and kind of GPU."""

    def __init__(self, folder: Path, api: Api, gpu: Gpu):
        self.path = folder / f"timing-{api.flavour}-{api.version}-sm{gpu.sm}-{gpu.name.replace(' ', '_')}.cache"

    def read(self) -> bytes:
        try:
            return self.path.read_bytes()
        except OSError:
            return b""

    def write(self, data: bytes) -> None:
        """Raises OSError."""
        if data:
            write_whole({self.path: data})
