"""How the NVIDIA GPUs were used, from the driver's NVML. Absent where there is no driver: no package is needed."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Generic, TypeVar

from facedetd.cuda.nvml import GpuFigures, Nvml, open_gpus

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class GpuUse:
    """All GPUs as wholes over a window; None: not told. Shares 0-1, the mean of the busiest GPU, and of the one whose
    decoders were busiest; memory the most that was in use on all together; the highest temperature; watts the mean of
    all together."""

    utilisation: float | None = None
    decoder_utilisation: float | None = None
    memory_bytes: int | None = None
    temperature_c: float | None = None
    power_w: float | None = None


def use_of(samples: Sequence[Sequence[GpuFigures]]) -> GpuUse:
    """``samples``: one after the other, each with the same GPUs in the same order. A sum of all GPUs is of those that
    tell."""
    memory = [round(sum(told)) for now in samples if (told := _told(figures.memory_used for figures in now))]
    warm = _told(figures.temperature_c for now in samples for figures in now)
    watts = _means(samples, lambda figures: figures.power_w)
    return GpuUse(
        max(_means(samples, lambda figures: figures.busy), default=None),
        max(_means(samples, lambda figures: figures.decoder_busy), default=None),
        max(memory, default=None),
        max(warm, default=None),
        sum(watts) if watts else None,
    )


def _told(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _means(samples: Sequence[Sequence[GpuFigures]], figure: Callable[[GpuFigures], float | None]) -> list[float]:
    """A mean for each GPU that tells."""
    told = [_told(figure(figures) for figures in one_gpu) for one_gpu in zip(*samples, strict=True)]
    return [sum(values) / len(values) for values in told if values]


class Sampler(Generic[T]):
    """Samples in a thread while it is entered. ``open_source`` is called there, and gives what takes a sample; where
    either raises OSError, what was seen until then stays."""

    def __init__(self, open_source: Callable[[], Callable[[], T]], period_s: float) -> None:
        self.samples: list[T] = []
        self._open_source, self._period_s = open_source, period_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="gpu-watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(5)

    def _watch(self) -> None:
        with contextlib.suppress(OSError):
            take = self._open_source()
            while not self._stop.wait(self._period_s):
                self.samples.append(take())


class GpuWatch(Sampler[list[GpuFigures]]):
    """All GPUs; see ``use`` when it is left. Without a driver nothing is told."""

    def __init__(
        self, period_s: float = 0.5, open_all: Callable[[], tuple[Sequence[Nvml], Sequence[str]]] = open_gpus
    ) -> None:
        def open_source() -> Callable[[], list[GpuFigures]]:
            gpus, _ = open_all()
            return lambda: [gpu.read() for gpu in gpus]

        super().__init__(open_source, period_s)

    @property
    def use(self) -> GpuUse:
        return use_of(self.samples[:])
