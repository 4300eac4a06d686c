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
AGAIN_S = 60.0
"""So long after a GPU was lost, or wasn't there, it is looked for again."""
STALE_S = 10.0
"""Figures that are older say nothing any more: the driver hangs."""
_WHOLE = (DecodeLevel.FULL, DecodeLevel.NO_LOOP_FILTER, DecodeLevel.SUB_STREAM)


class Reader(Protocol):
    def read(self) -> GpuFigures: ...

    def close(self) -> None: ...


class GpuWatch:
    """Reads a GPU's figures in a thread of its own: a driver in trouble may take its time. One that isn't there, or is
    lost, is looked for again."""

    def __init__(
        self,
        index: int,
        make: Callable[[int], Reader] = Nvml,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        self.problem = ""
        """Why there are no figures; empty before the first."""
        self.first = threading.Event()
        """Set when it is known whether there is a GPU."""
        self._index, self._make, self._clock, self._pause = index, make, clock, pause
        self._seen: tuple[float, GpuFigures] | None = None
        self._ever = False
        threading.Thread(target=self._run, name="gpu-watch", daemon=True).start()

    @property
    def figures(self) -> GpuFigures | None:
        seen = self._seen
        return seen[1] if seen and self._clock() - seen[0] < STALE_S else None

    def _run(self) -> None:
        while True:
            self._watch()
            self._pause(AGAIN_S)

    def _watch(self) -> None:
        """Till it is lost."""
        reader: Reader | None = None
        try:
            reader = self._make(self._index)
            while True:
                figures = reader.read()
                if self.problem and self._ever:
                    log.info("GPU %d is back", self._index)
                self._seen, self.problem, self._ever = (self._clock(), figures), "", True
                self.first.set()
                self._pause(PERIOD_S)
        except Exception as error:
            self._seen = None
            ours = not isinstance(error, OSError)  # or want of memory: that may pass, too
            why = f"internal error ({type(error).__name__}), see the log" if ours else str(error)
            if ours and why != self.problem:
                log.exception("internal error while watching GPU %d", self._index)
            elif self._ever and not self.problem:
                log.error("GPU %d is away (%s): its streams are decoded on the CPU", self._index, error)
            self.problem = why
        finally:
            self.first.set()
            if reader:
                reader.close()


class DecoderPlacer:
    """``mode`` is capture.decode. ``gpu_of`` tells which GPU a stream's group uses (None: it has no group), ``tell``
    passes a stream's device on to its group. Each GPU is judged by itself; streams don't change their group."""

    def __init__(
        self,
        mode: str,
        gpus: Iterable[int],
        gpu_of: Callable[[str], int | None],
        tell: Callable[[str], None],
        make_watch: Callable[[int], GpuWatch] = GpuWatch,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._mode, self._gpu_of, self._tell, self._make_watch, self._clock = mode, gpu_of, tell, make_watch, clock
        self._watches: dict[int, GpuWatch] = {}
        self._states: dict[int, Placing] = {}
        self._wishes: dict[int, list[Wish]] = {}
        self._looked_s: float | None = None
        self.use(gpus)

    def use(self, gpus: Iterable[int]) -> None:
        """Watch these too."""
        for gpu in gpus if self._mode != "cpu" else ():
            if gpu not in self._watches:
                self._watches[gpu], self._states[gpu] = self._make_watch(gpu), Placing()

    def _gauge(self, gpu: int) -> Gauge | None:
        """None: it doesn't answer."""
        figures = self._watches[gpu].figures
        return Gauge(figures.decoder_busy, figures.memory_free) if figures else None

    @property
    def has_gpu(self) -> bool:
        return any(self._gauge(gpu) for gpu in self._watches)

    def wait(self, timeout_s: float) -> None:
        """Till it is known which GPUs there are. Blocks."""
        until_s = self._clock() + timeout_s
        for watch in self._watches.values():
            watch.first.wait(max(0.0, until_s - self._clock()))

    def tick(self, streams: Sequence[StreamRuntime]) -> None:
        """Call about twice a second or more often; it looks once a second."""
        now = self._clock()
        if not self._watches or (self._looked_s is not None and now - self._looked_s < PERIOD_S):
            return
        self._looked_s = now
        asking = [s for s in streams if s.wants_capacity]
        self._wishes = {gpu: [] for gpu in self._watches}
        for stream in asking:
            gpu = self._gpu_of(stream.spec.id)
            if gpu in self._watches:
                self._wishes[gpu].append(_wish(stream))
        placed: dict[str, DecodeDevice] = {}
        for gpu, wishes in self._wishes.items():
            before = self._states[gpu]
            self._states[gpu], found = place_decoders(
                before, wishes, self._gauge(gpu), now, limited=self._mode != "nvdec"
            )
            if (seats := self._states[gpu].seats) and not before.seats:
                log.warning("GPU %d takes no more than %d decoders: the CPU has the other streams", gpu, seats.most)
            placed.update(found)
        for stream in asking:
            device = placed.get(stream.spec.id, DecodeDevice.CPU)
            if device is stream.device:
                continue
            stream.device = device
            if stream.seen.nvdec_problem:
                log.warning("stream %s: decoded on the CPU: %s", stream.spec.id, stream.seen.nvdec_problem)
            self._tell(stream.spec.id)

    def takes(self, spec: StreamSpec) -> bool:
        """Whether NVDEC would take one more stream, as far as can be known before it has been seen."""
        if spec.decode is DecodeMode.CPU:
            return False
        gauges = {gpu: gauge for gpu in self._watches if (gauge := self._gauge(gpu))}
        return any(
            has_room(self._states[gpu], self._wishes.get(gpu, []), gauge, limited=self._mode != "nvdec")
            for gpu, gauge in gauges.items()
        )

    def problems(self, streams: Iterable[StreamRuntime]) -> Iterable[tuple[str, str, str]]:
        """For health: (severity, subject, message)."""
        streams = list(streams)
        reason = self._no_gpu
        away = {gpu: self._why_away(gpu) for gpu in sorted(self._watches) if not self._gauge(gpu)}
        used = {self._gpu_of(s.spec.id) for s in streams}
        if self._mode == "nvdec" and reason:
            yield "warning", "nvdec", f"capture.decode is nvdec, but streams are decoded on the CPU: {reason}"
        elif not reason and used & away.keys():  # one of several: GPUs are there to be used
            each = [f"streams of GPU {gpu} are decoded on the CPU: {why}" for gpu, why in away.items() if gpu in used]
            yield "warning", "nvdec", "; ".join(each)
        for s in streams:
            there = s.seen.device is DecodeDevice.NVDEC
            if s.spec.decode is DecodeMode.GPU and s.seen.state is StreamState.STREAMING and not there:
                gpu = self._gpu_of(s.spec.id)
                lost = "" if gpu is None else away.get(gpu, "")
                why = reason or lost or s.seen.nvdec_problem or "NVDEC is full, or refused it a while ago"
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
        if not self._watches:
            return "capture.decode is cpu"
        if self.has_gpu:
            return ""
        return "; ".join(sorted({self._why_away(gpu) for gpu in self._watches}))

    def _why_away(self, gpu: int) -> str:
        return self._watches[gpu].problem or "the GPU's driver doesn't answer"


def _wish(stream: StreamRuntime) -> Wish:
    seen = stream.seen
    video = seen.video or stream.main
    return Wish(
        stream.spec.id,
        stream.spec.priority,
        stream.spec.decode,
        video,
        stream.device,
        there=seen.device is DecodeDevice.NVDEC and seen.state is StreamState.STREAMING,
        problem=seen.nvdec_problem,
        whole=seen.level in _WHOLE,
    )
