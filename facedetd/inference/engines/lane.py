"""One batch's place on the GPU: its buffers, and the work from NV12 to what is copied back. The engine has two, so that
one is filled while the other is worked on.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from facedetd.inference.engines.cuda import Graph, as_floats
from facedetd.inference.selection import MAX_CHANNELS, MAX_KEYS, MAX_VALUES, Candidates, Field, Group, Rows, pick
from facedetd.inference.types import BatchFrame, DeviceError, Outputs
from facedetd.trt.compat import Api, Messages
from facedetd.types import FloatArray

log = logging.getLogger(__name__)

ROW = 2 + MAX_CHANNELS  # 32-bit words; as in kernels.cu
CAPACITY = 1 << 16
"""Rows that are picked on the GPU; where there are more, the dense outputs are copied."""
FIRST = 2048
"""Rows that are copied without looking how many there are."""
_FIELD, _TAIL = struct.Struct("<QqiiiI"), struct.Struct("<iiif")
GROUP_BYTES = _FIELD.size * (MAX_KEYS + MAX_VALUES) + _TAIL.size


@dataclass(frozen=True, slots=True)
class Parts:
    """What the lanes of an engine share. ``shapes``: of a picture's outputs, by name; ``maps`` and ``scale`` are on the
    GPU: colour matrices, and scale and shift of the channels. ``compute`` is the stream that all lanes work on."""

    cuda: Any
    api: Api
    messages: Messages
    engine: Any
    compute: Any
    upload: Any
    convert: Any
    select: Any
    maps: Any
    scale: Any
    input: str
    shapes: dict[str, tuple[int, ...]]
    groups: tuple[Group, ...]
    width: int
    height: int
    scratch: Any
    scratch_bytes: int

    @property
    def picture_bytes(self) -> int:
        return self.width * self.height * 3 // 2


def lane_bytes(shapes: dict[str, tuple[int, ...]], width: int, height: int, batch: int) -> int:
    """GPU memory of a lane for batches up to ``batch``, about."""
    outputs = sum(4 * int(np.prod(shape)) for shape in shapes.values())
    return batch * (width * height * 3 // 2 + width * height * 12 + outputs) + 4 * ROW * (CAPACITY + 1)


class Lane:
    """Used by the engine's thread only. PyCUDA's errors come out as they are."""

    def __init__(self, parts: Parts, max_batch: int) -> None:
        """Raises PyCUDA's MemoryError where there is no room."""
        self._p = parts
        cuda = parts.cuda
        self._buffers: list[Any] = []
        try:
            self._nv12 = self._room(max_batch * parts.picture_bytes)
            self._input = self._room(max_batch * parts.width * parts.height * 12)
            self._outputs = {n: self._room(max_batch * 4 * int(np.prod(s))) for n, s in parts.shapes.items()}
            self._kinds = self._room(4 * max_batch)
            self._rows = self._room(4 * ROW * (CAPACITY + 1))  # the first row's first word is the count
            self._groups = self._room(max(1, len(parts.groups)) * GROUP_BYTES)
        except cuda.MemoryError:
            for buffer in self._buffers:
                buffer.free()
            raise
        self._kinds_host = cuda.pagelocked_empty(max_batch, np.int32)
        self._rows_host = cuda.pagelocked_empty((FIRST + 1, ROW), np.int32)
        if parts.groups:
            places = {n: (int(self._outputs[n]), int(np.prod(shape))) for n, shape in parts.shapes.items()}
            cuda.memcpy_htod(self._groups, b"".join(packed_group(group, places) for group in parts.groups))
        cuda.memset_d8(self._nv12, 0, max_batch * parts.picture_bytes)
        cuda.memset_d8(self._kinds, 0, 4 * max_batch)
        quiet = cuda.event_flags.DISABLE_TIMING
        self._uploaded = cuda.Event(quiet)
        self._done = cuda.Event(quiet | cuda.event_flags.BLOCKING_SYNC)  # waiting must not cost a core
        self._contexts: dict[int, Any] = {}
        self._graphs: dict[int, Graph] = {}

    def _room(self, size: int) -> Any:
        self._buffers.append(self._p.cuda.mem_alloc(size))
        return self._buffers[-1]

    def record(self, size: int) -> None:
        """Make batches of this size start with one call. Raises DeviceError where they can't be run at all."""
        self._work(size)  # TensorRT settles a new shape at its first run, which can't be recorded
        self._p.compute.synchronize()
        try:
            self._graphs[size] = Graph(self._p.compute, lambda: self._work(size))
        except DeviceError as error:
            log.warning("batches of %d can't be recorded, and run step by step: %s", size, error)

    def start(self, batch: Sequence[BatchFrame]) -> None:
        """Upload and run; returns at once. The frames must stay as they are until ``finish``. Raises DeviceError."""
        p, size = self._p, len(batch)
        for i, frame in enumerate(batch):
            p.cuda.memcpy_htod_async(int(self._nv12) + i * p.picture_bytes, frame.nv12, p.upload)
            self._kinds_host[i] = kind(frame)
        p.cuda.memcpy_htod_async(self._kinds, self._kinds_host, p.upload)
        self._uploaded.record(p.upload)
        p.compute.wait_for_event(self._uploaded)
        graph = self._graphs.get(size)
        if graph is not None:
            graph.launch()
        else:
            self._work(size)
        self._done.record(p.compute)

    def finish(self, size: int) -> Outputs:
        """Wait, and give what came out: picked where there are groups, else raw."""
        self._done.synchronize()
        if not self._p.groups:
            return self._dense(size)
        count = int(self._rows_host[0, 0])
        if count > CAPACITY:
            return pick(self._dense(size), self._p.groups)
        rows = self._rows_host[1 : count + 1]
        if count > FIRST:
            rows = np.empty((count, ROW), np.int32)
            self._p.cuda.memcpy_dtoh(rows, int(self._rows) + 4 * ROW)
        return sorted_rows(rows, self._p.groups, size)

    def _dense(self, size: int) -> dict[str, FloatArray]:
        found: dict[str, FloatArray] = {}
        for name, shape in self._p.shapes.items():
            found[name] = np.empty((size, *shape), np.float32)
            self._p.cuda.memcpy_dtoh(found[name], self._outputs[name])
        return found

    def _work(self, size: int) -> None:
        """From uploaded NV12 to rows on the host, on the compute stream."""
        p, words = self._p, np.int32
        p.convert(
            self._nv12, self._kinds, p.maps, p.scale, np.uintp(int(p.scale) + 12), self._input,
            words(p.width), words(p.height),
            block=(32, 4, 1), grid=(-(-p.width // 128), -(-p.height // 8), size), stream=p.compute,
        )  # fmt: skip
        context = self._contexts.get(size)
        if context is None:
            context = self._contexts[size] = self._context(size)
        if not context.execute_async_v3(p.compute.handle):
            raise DeviceError(f"TensorRT can't run a batch of {size}: {p.messages.why()}")
        if p.groups:
            p.cuda.memset_d32_async(self._rows, 0, 1, p.compute)
            most = max(group.elements for group in p.groups)
            p.select(
                self._groups, self._rows, np.uintp(int(self._rows) + 4 * ROW), np.uint32(CAPACITY),
                block=(256, 1, 1), grid=(-(-most // 256), size, len(p.groups)), stream=p.compute,
            )  # fmt: skip
            p.cuda.memcpy_dtoh_async(self._rows_host, self._rows, p.compute)

    def _context(self, size: int) -> Any:
        """TensorRT's state for one size of batch; scratch memory is shared, since one batch is worked on at a time."""
        p = self._p
        context = p.api.context(p.engine, int(p.scratch), p.scratch_bytes)
        if context is None or not context.set_input_shape(p.input, (size, 3, p.height, p.width)):
            raise DeviceError(f"TensorRT can't prepare a batch of {size}: {p.messages.why()}")
        context.set_tensor_address(p.input, int(self._input))
        for name, buffer in self._outputs.items():
            context.set_tensor_address(name, int(buffer))
        return context

    def close(self) -> None:
        for graph in self._graphs.values():
            graph.close()
        self._graphs.clear()
        self._contexts.clear()
        for buffer in self._buffers:
            buffer.free()
        self._buffers.clear()


def kind(frame: BatchFrame) -> int:
    """Which row of the colour maps a frame's is."""
    return int(frame.header.matrix) * 2 + int(frame.header.range)


def packed_group(group: Group, places: Mapping[str, tuple[int, int]]) -> bytes:
    """As struct Group of kernels.cu. ``places``: each output's address, and how many values a picture has there."""

    def fields(some: tuple[Field, ...], room: int) -> bytes:
        packed = [_FIELD.pack(*places[f.tensor], f.offset, f.step, f.channel_step, f.channels) for f in some]
        return b"".join(packed).ljust(room * _FIELD.size, b"\0")

    tail = _TAIL.pack(group.elements, len(group.keys), len(group.values), group.floor)
    return fields(group.keys, MAX_KEYS) + fields(group.values, MAX_VALUES) + tail


def sorted_rows(rows: np.ndarray[Any, np.dtype[np.int32]], groups: Sequence[Group], pictures: int) -> Candidates:
    """Rows as the GPU wrote them, in any order: (n, ROW) of group << 16 | picture, element, values."""
    order = np.lexsort((rows[:, 1], rows[:, 0]))
    rows = rows[order]
    picture, element = (rows[:, i].astype(np.intp) for i in (0, 1))
    edges = np.searchsorted(picture, np.arange(len(groups) + 1) << 16)
    found = []
    for i, group in enumerate(groups):
        own = slice(edges[i], edges[i + 1])
        channels = sum(field.channels for field in group.values)
        found.append(Rows(picture[own] & 0xFFFF, element[own], as_floats(rows[own, 2 : 2 + channels])))
    return Candidates(pictures, tuple(found))
