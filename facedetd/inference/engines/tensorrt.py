"""TensorRT on an NVIDIA GPU: plans that `facedetctl model build` made, in the inference process.

A frame is uploaded from the slot it lies in, which is page-locked; one kernel converts the whole batch; TensorRT runs
it; a second kernel picks what reaches the score, and only that is copied back. Common sizes of batch are CUDA graphs.
Two batches may be under way: while one is worked on, the next is uploaded.
"""

from __future__ import annotations

import atexit
import hashlib
import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np

from facedetd.inference.convert import fixed_point
from facedetd.inference.engines.cuda import LentMemory, device_errors, free_and_total, keep_stack_small
from facedetd.inference.engines.lane import Lane, Parts, lane_bytes
from facedetd.inference.selection import Group
from facedetd.inference.types import BatchFrame, DeviceError, InputSpec, ModelError, Outputs, PlanMissing
from facedetd.ring.header import ColorMatrix, ColorRange
from facedetd.trt import compat, device
from facedetd.trt.errors import GpuError, PlanError
from facedetd.trt.plan import Manifest, Shapes, find_plan, load_plan
from facedetd.types import ByteArray

log = logging.getLogger(__name__)

FindPlan = Callable[[compat.Api, device.Gpu], tuple[Path, str | None]]
"""The plan's file, and the hash of the model it must be of (None: any), for the TensorRT and the GPU there are."""


def plan_of(model: Path, name: str, plans: Path, precision: str, width: int, height: int, max_batch: int) -> FindPlan:
    """The best plan of a stored model in the folder ``plans``. ``name`` is the model's in the store."""

    def find(api: compat.Api, gpu: device.Gpu) -> tuple[Path, str | None]:
        sha256 = hashlib.sha256(model.read_bytes()).hexdigest()
        shapes = Shapes(width, height, 1, max_batch, max_batch)
        try:
            return find_plan(plans, sha256, api.version, api.flavour, gpu, precision, shapes), sha256
        except PlanError as error:
            ranges = " --ranges FILE" if precision == "int8" and api.takes_ranges else ""
            raise PlanError(
                f"{error}; build one: facedetctl model build {name} --precision {precision}{ranges} --width {width} "
                f"--height {height} --opt-batch {max_batch} --max-batch {max_batch} --device {gpu.index}"
            ) from None

    return find


def plan_in(path: Path) -> FindPlan:
    """A plan by its file, of whichever model."""
    return lambda api, gpu: (path, None)


_PTX = Path(__file__).with_name("kernels.ptx")


class TensorRtEngine:
    """A QueuedEngine. Used by one thread only, which has the GPU's context from ``load`` to ``close``."""

    name = "tensorrt"
    depth = 2

    def __init__(
        self, find: FindPlan, width: int, height: int, spec: InputSpec, max_batch: int, gpu: int = 0,
        groups: tuple[Group, ...] = (),
    ) -> None:  # fmt: skip
        """``groups``: what the head wants of the outputs, for one least score; without, outputs are raw."""
        self._find, self._width, self._height, self._spec = find, width, height, spec
        self._index, self._groups = gpu, groups
        self.max_batch = max_batch
        self.manifest: Manifest | None = None
        self._lanes: list[Lane] = []
        self._free: deque[Lane] = deque()
        self._lent: list[LentMemory] = []
        self._refused = False
        self._cuda: Any = None
        self._keep: tuple[Any, ...] = ()
        self._shared: list[Any] = []  # memory that all lanes use
        self._stack = ExitStack()

    def load(self) -> None:
        """See Engine.load."""
        try:
            api, gpu = compat.installed(), device.find(self._index)
            path, model_sha256 = self._find(api, gpu)
            data, manifest = load_plan(path, api.version, api.flavour, gpu, model_sha256)
            s = manifest.recipe.shapes
            if (s.width, s.height) != (self._width, self._height):
                raise PlanError(f"{path}: takes {s.width}x{s.height}, but {self._width}x{self._height} is wanted")
            self._stack.enter_context(device.context(self._index))
            keep_stack_small()
            atexit.register(self.close)  # PyCUDA aborts where a context is left at the end
            self._cuda = device.driver()
            messages = compat.Messages()
            logger = api.logger(messages)
            version_compatible = manifest.recipe.version_compatible
            runtime, engine = api.engine(data, logger, messages, version_compatible=version_compatible)
        except PlanError as error:
            raise PlanMissing(str(error)) from None  # building it anew needs no other model
        except GpuError as error:
            raise DeviceError(str(error)) from None
        self.manifest = manifest
        self._keep = (logger, runtime, engine)
        shapes = self._check(api, engine, manifest, path)
        with device_errors(self._cuda, "loading"):
            parts = self._parts(api, messages, engine, manifest, shapes)
            self._make_lanes(parts, min(self.max_batch, s.max_batch))

    def _check(self, api: compat.Api, engine: Any, manifest: Manifest, path: Path) -> dict[str, tuple[int, ...]]:
        """Each output's shape without the batch, in the model's order. Raises ModelError for what isn't float32."""
        found = {name: (shape, kind) for name, is_input, shape, kind in api.tensors(engine) if not is_input}
        other = [f"{name} is {kind}" for name, _, _, kind in api.tensors(engine) if kind != "FLOAT"]
        if other or set(found) != {output.name for output in manifest.outputs}:
            raise ModelError(f"{path}: {'; '.join(other) or 'its outputs are ' + ', '.join(found)}; not what was built")
        return {output.name: found[output.name][0][1:] for output in manifest.outputs}

    def _parts(
        self,
        api: compat.Api,
        messages: compat.Messages,
        engine: Any,
        manifest: Manifest,
        shapes: dict[str, tuple[int, ...]],
    ) -> Parts:
        cuda = self._cuda
        module = cuda.module_from_buffer(_PTX.read_bytes())
        maps = np.array([fixed_point(m, r, self._spec.channels) for m in ColorMatrix for r in ColorRange], np.int32)
        scale = np.array(self._spec.scale, np.float32)
        shift = (-np.array(self._spec.mean) * np.array(self._spec.scale)).astype(np.float32)
        scratch_bytes = max(1, api.scratch_bytes(engine))
        try:
            scratch = cuda.mem_alloc(scratch_bytes)
        except cuda.MemoryError:
            raise self._no_memory(scratch_bytes) from None
        on_gpu = [cuda.to_device(maps), cuda.to_device(np.concatenate([scale, shift]))]
        self._shared = [scratch, *on_gpu]
        return Parts(
            cuda=cuda, api=api, messages=messages, engine=engine, compute=cuda.Stream(), upload=cuda.Stream(),
            convert=module.get_function("nv12_to_planar"), select=module.get_function("select_rows"),
            maps=on_gpu[0], scale=on_gpu[1],
            input=manifest.input, shapes=shapes, groups=self._groups, width=self._width, height=self._height,
            scratch=scratch, scratch_bytes=scratch_bytes,
        )  # fmt: skip

    def _make_lanes(self, parts: Parts, batch: int) -> None:
        """Lanes for batches as large as fit, at most ``batch``. Raises DeviceError where not even one picture does."""
        wanted = batch
        while True:
            try:
                for _ in range(self.depth):
                    self._lanes.append(Lane(parts, batch))
                break
            except self._cuda.MemoryError:
                for lane in self._lanes:
                    lane.close()
                self._lanes.clear()
                if batch == 1:
                    need = self.depth * lane_bytes(parts.shapes, self._width, self._height, 1)
                    raise self._no_memory(need) from None
                batch //= 2
        if batch < wanted:
            free, total = free_and_total(self._cuda)
            log.warning(
                "GPU %d: batches of %d instead of %d, for want of memory (%d of %d MiB free)",
                self._index, batch, wanted, free >> 20, total >> 20,
            )  # fmt: skip
        self.max_batch = batch
        self._free = deque(self._lanes)

    def _no_memory(self, need: int) -> DeviceError:
        free, total = free_and_total(self._cuda)
        return DeviceError(
            f"GPU {self._index}: not enough memory: {need >> 20} MiB more are needed, {free >> 20} of {total >> 20} "
            "MiB are free; other programs may hold it (`nvidia-smi`), or lower inference.batch_max or the model's size"
        )

    def warm_up(self) -> None:
        """See Engine.warm_up; also records the common sizes: powers of two, and the greatest."""
        sizes = {self.max_batch, *(1 << i for i in range(self.max_batch.bit_length()))}
        with device_errors(self._cuda, "the first run"):
            for size in sorted(sizes, reverse=True):
                for lane in self._lanes:
                    lane.record(size)

    def infer(self, batch: Sequence[BatchFrame]) -> Outputs:
        """See Engine.infer. Raises ValueError for a batch that is empty or too big."""
        return self.collect(self.submit(batch))

    def submit(self, batch: Sequence[BatchFrame]) -> tuple[Lane, int]:
        """See QueuedEngine.submit."""
        if not 0 < len(batch) <= self.max_batch:
            raise ValueError(f"a batch of {len(batch)}; this engine takes 1 to {self.max_batch}")
        if not self._free:
            raise ValueError(f"{self.depth} batches are under way; collect one first")
        lane = self._free[0]
        with device_errors(self._cuda, f"a batch of {len(batch)}"):
            lane.start(batch)
        return self._free.popleft(), len(batch)

    def collect(self, ticket: object) -> Outputs:
        """See QueuedEngine.collect."""
        assert isinstance(ticket, tuple)
        lane, size = ticket
        try:
            with device_errors(self._cuda, f"a batch of {size}"):
                found: Outputs = lane.finish(size)
        finally:
            self._free.append(lane)
        return found

    def lend(self, memory: ByteArray) -> None:
        """See QueuedEngine.lend. Where the driver won't page-lock it, frames there are uploaded the slow way."""
        try:
            self._lent.append(LentMemory(memory))
        except DeviceError as error:
            if not self._refused:
                log.warning("frames are uploaded the slow way, since their memory can't be page-locked: %s", error)
            self._refused = True

    def take_back(self, memory: ByteArray) -> None:
        """See QueuedEngine.take_back."""
        start = memory.__array_interface__["data"][0]
        for lent in [one for one in self._lent if one.start == start]:
            self._lent.remove(lent)
            with suppress(DeviceError):
                lent.close()

    def close(self) -> None:
        """Give the GPU back. May be called twice."""
        atexit.unregister(self.close)
        for lent in self._lent:
            with suppress(DeviceError):
                lent.close()
        for lane in self._lanes:
            with suppress(DeviceError):
                lane.close()
        self._lent, self._lanes, self._keep = [], [], ()
        self._free.clear()
        for buffer in self._shared:
            buffer.free()
        self._shared.clear()
        self._stack.close()
