"""All NVIDIA GPUs' figures, for stats, metrics and health: read in a thread, for a driver in trouble takes its time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Protocol

from facedetd.config.model import Config
from facedetd.control import GpuView
from facedetd.cuda.nvml import Identity, Snapshot, open_gpus

log = logging.getLogger(__name__)

PERIOD_S = 3.0
AGAIN_S = 60.0
"""So long after it was looked for the last time a GPU that isn't there, or doesn't answer, is looked for again."""
LATE_S = 10.0
"""A driver that hasn't answered for so long says nothing any more. Waking a GPU that nobody used takes some seconds."""


class Reader(Protocol):
    @property
    def identity(self) -> Identity: ...

    def snapshot(self) -> Snapshot:
        """Raises OSError: the GPU is gone."""

    def close(self) -> None: ...


Open = Callable[[], tuple[Sequence[Reader], Sequence[str]]]
"""As open_gpus: the GPUs that answer, and what is wrong with the others."""


class Gpus:
    """Without a driver there are no GPUs, which is no error; it may be installed later."""

    def __init__(
        self,
        open_all: Open = open_gpus,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        self._open, self._clock, self._pause = open_all, clock, pause
        self._thread: threading.Thread | None = None
        self._asked_s: float | None = None  # when the driver was asked what it hasn't answered yet
        self._seen: tuple[Snapshot, ...] = ()
        self._wrong: tuple[str, ...] = ()
        self._unusable = ""
        self._ever = False

    def look(self, config: Config) -> None:
        """Call again and again. From the first configuration on that may use a GPU they are read: a laptop's GPU
        that sleeps is not woken for nothing."""
        if self._thread is None and (config.capture.decode != "cpu" or config.inference.engine == "tensorrt"):
            thread = threading.Thread(target=self._run, name="gpu-figures", daemon=True)
            thread.start()  # where none can be had, the next look tries again
            self._thread = thread

    @property
    def _late(self) -> bool:
        asked_s = self._asked_s
        return asked_s is not None and self._clock() - asked_s > LATE_S

    def views(self, pids: Collection[int]) -> tuple[GpuView, ...]:
        """``pids`` are the daemon's own. Never blocks."""
        return () if self._late else tuple(view_of(each, pids) for each in self._seen)

    def problems(self) -> Iterable[tuple[str, str, str]]:
        """For health: (severity, subject, message)."""
        if self._late:
            yield (
                "warning",
                "gpu",
                f"the GPU's driver hasn't answered for over {LATE_S:g} s: there are no figures of it",
            )
        elif self._wrong:
            yield "warning", "gpu", "; ".join(self._wrong)

    # ---- in the thread

    def _run(self) -> None:
        try:
            while True:
                self._watch()
        except Exception as error:
            log.exception("internal error while reading the GPUs' figures")
            self._wrong = (f"internal error ({type(error).__name__}), see the log: there are no figures of GPUs",)
        finally:
            self._seen, self._asked_s = (), None

    def _watch(self) -> None:
        """Reads what is there, until it is time to look for what isn't."""
        began_s = self._asked_s = self._clock()
        readers: Sequence[Reader] = ()
        missing: Sequence[str] = ()
        try:
            readers, missing = self._open()
        except OSError as error:  # no GPU, unless there was one
            missing = (str(error),) if self._ever else ()
            if not isinstance(error, FileNotFoundError) and str(error) != self._unusable:
                self._unusable = str(error)
                log.info("no figures of GPUs: %s", error)
        while True:
            self._asked_s = self._clock()
            seen, lost = _read(readers)
            self._take(seen, (*missing, *lost))
            self._asked_s = None
            all_there = seen and not missing and not lost
            if not all_there and self._clock() - began_s >= AGAIN_S:
                break
            self._pause(PERIOD_S if readers else AGAIN_S)
        self._asked_s = self._clock()
        for reader in readers:
            reader.close()

    def _take(self, seen: tuple[Snapshot, ...], wrong: tuple[str, ...]) -> None:
        before = {each.identity.index for each in self._seen}
        for identity in (each.identity for each in seen):
            if identity.index not in before:
                log.info("GPU %d: %s, driver %s", identity.index, identity.name, identity.driver)
        for what in wrong:
            if what not in self._wrong:
                log.warning("%s", what)
        self._seen, self._wrong, self._ever = seen, wrong, self._ever or bool(seen)


def _read(readers: Sequence[Reader]) -> tuple[tuple[Snapshot, ...], tuple[str, ...]]:
    seen, lost = [], []
    for reader in readers:
        try:
            seen.append(reader.snapshot())
        except OSError as error:
            lost.append(f"GPU {reader.identity.index}: {error}")
    return tuple(seen), tuple(lost)


def view_of(snapshot: Snapshot, pids: Collection[int]) -> GpuView:
    """``own_memory_bytes`` is None where the driver names none of ``pids``: in a container it counts others."""
    identity, figures = snapshot.identity, snapshot.figures
    own = [used for pid, used in snapshot.processes.items() if pid in pids]
    return GpuView(
        identity.index,
        identity.uuid,
        identity.name,
        identity.driver,
        figures.busy,
        figures.decoder_busy,
        figures.memory_used,
        figures.memory_free,
        figures.memory_total,
        sum(own) if own else None,
        figures.temperature_c,
        figures.power_w,
    )
