"""Puts streams on NVDEC and takes them off: watches the GPU, asks the pure decision once a second, tells the groups."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from facedetd.cuda.nvml import GpuFigures, Nvml
from facedetd.degradation.decoders import Gauge, Placing, Wish, has_room, place_decoders
from facedetd.supervisor.streams import StreamRuntime
from facedetd.types import DecodeDevice, DecodeLevel, DecodeMode, StreamSpec, StreamState

log = logging.getLogger(__name__)

PERIOD_S = 1.0
STALE_S = 10.0
"""Figures that are older say nothing any more: the driver hangs."""
_WHOLE = (DecodeLevel.FULL, DecodeLevel.NO_LOOP_FILTER, DecodeLevel.SUB_STREAM)


class Reader(Protocol):
    def read(self) -> GpuFigures: ...

    def close(self) -> None: ...


class GpuWatch:
    """Reads a GPU's figures in a thread of its own: a driver in trouble may take its time. Without a GPU the thread
    ends at once."""

    def __init__(
        self, index: int, make: Callable[[int], Reader] = Nvml, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.problem = ""
        """Why there are no figures; empty before the first."""
        self.first = threading.Event()
        """Set when it is known whether there is a GPU."""
        self._index, self._make, self._clock = index, make, clock
        self._seen: tuple[float, GpuFigures] | None = None
        threading.Thread(target=self._run, name="gpu-watch", daemon=True).start()

    @property
    def figures(self) -> GpuFigures | None:
        seen = self._seen
        return seen[1] if seen and self._clock() - seen[0] < STALE_S else None

    def _run(self) -> None:
        reader: Reader | None = None
        try:
            reader = self._make(self._index)
            while True:
                self._seen = self._clock(), reader.read()
                self.first.set()
                time.sleep(PERIOD_S)
        except OSError as error:
            self.problem = str(error)
            self._seen = None
            if self.first.is_set():
                log.error("GPU %d is away (%s): all streams are decoded on the CPU", self._index, error)
        finally:
            self.first.set()
            if reader:
                reader.close()


class DecoderPlacer:
    """``mode`` is capture.decode. ``tell`` passes a stream's device on to its group."""

    def __init__(
        self,
        mode: str,
        watch: GpuWatch | None,
        tell: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._mode, self._watch, self._tell, self._clock = mode, watch, tell, clock
        self._state = Placing()
        self._wishes: tuple[Wish, ...] = ()
        self._looked_s: float | None = None

    @property
    def gauge(self) -> Gauge | None:
        """None: no GPU, or none is wanted."""
        figures = self._watch.figures if self._watch else None
        return Gauge(figures.decoder_busy, figures.memory_free) if figures else None

    def wait(self, timeout_s: float) -> None:
        """Till it is known whether there is a GPU. Blocks."""
        if self._watch:
            self._watch.first.wait(timeout_s)

    def tick(self, streams: Sequence[StreamRuntime]) -> None:
        """Call about twice a second or more often; it looks once a second."""
        now = self._clock()
        if self._watch is None or (self._looked_s is not None and now - self._looked_s < PERIOD_S):
            return
        self._looked_s = now
        asking = [s for s in streams if s.wants_capacity]
        self._wishes = tuple(_wish(s) for s in asking)
        self._state, placed = place_decoders(self._state, self._wishes, self.gauge, now, limited=self._mode != "nvdec")
        for stream in asking:
            device = placed[stream.spec.id]
            if device is stream.device:
                continue
            stream.device = device
            if stream.seen.nvdec_problem:
                log.warning("stream %s: decoded on the CPU: %s", stream.spec.id, stream.seen.nvdec_problem)
            self._tell(stream.spec.id)

    def takes(self, spec: StreamSpec) -> bool:
        """Whether NVDEC would take one more stream, as far as can be known before it has been seen."""
        gauge = self.gauge
        if gauge is None or spec.decode is DecodeMode.CPU:
            return False
        return self._mode == "nvdec" or has_room(self._state, self._wishes, gauge)

    def problems(self, streams: Iterable[StreamRuntime]) -> Iterable[tuple[str, str, str]]:
        """For health: (severity, subject, message)."""
        reason = self._no_gpu
        if self._mode == "nvdec" and reason:
            yield "warning", "nvdec", f"capture.decode is nvdec, but streams are decoded on the CPU: {reason}"
        for s in streams:
            there = s.seen.device is DecodeDevice.NVDEC
            if s.spec.decode is DecodeMode.GPU and s.seen.state is StreamState.STREAMING and not there:
                why = reason or s.seen.nvdec_problem or "NVDEC is full, or refused it a while ago"
                yield "warning", f"stream {s.spec.id}", f"decode is gpu, but it is decoded on the CPU: {why}"

    def warnings(self, specs: Iterable[StreamSpec]) -> tuple[str, ...]:
        """What whoever adds or changes these streams should know."""
        on_gpu = [spec.id for spec in specs if spec.decode is DecodeMode.GPU]
        if on_gpu and self._no_gpu:
            return (f"{', '.join(on_gpu)}: decode is gpu, but this daemon decodes on the CPU: {self._no_gpu}",)
        return ()

    @property
    def _no_gpu(self) -> str:
        """Why there is no NVDEC; empty when there is one."""
        if self._watch is None:
            return "capture.decode is cpu"
        return "" if self.gauge else self._watch.problem or "the GPU's driver doesn't answer"


def _wish(stream: StreamRuntime) -> Wish:
    seen = stream.seen
    video = seen.video or stream.main
    running = seen.state is StreamState.STREAMING and seen.level in _WHOLE
    return Wish(
        stream.spec.id,
        stream.spec.priority,
        stream.spec.decode,
        video,
        stream.device,
        there=seen.device is DecodeDevice.NVDEC and running,
        problem=seen.nvdec_problem,
    )
