"""Which streams must be back by when, and which were silent without a reason. The clock is the caller's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

SILENT_S = 30.0
"""No stream that nothing was done to may be without a result for so long. Far over what any restart takes on an idle
machine, since this one may be busy with other things; how long it really takes stands among the recoveries."""
RESULTS = 2
"""So many new results and a stream is back: one may have been under way before."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What is seen of a stream."""

    inferred: int
    reconnects: int


@dataclass(slots=True, eq=False)
class Fault:
    """One thing done. ``gone``: processes that must be gone before a result counts; ``reconnects``: the least
    number of reconnects of a stream that show that it noticed."""

    cause: str
    since_s: float
    bound_s: float
    gone: frozenset[int] = frozenset()
    reconnects: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recovery:
    """All streams that a fault had touched, and that nothing else befell since, gave results again."""

    at_s: float
    cause: str
    streams: int
    took_s: float


@dataclass(slots=True)
class _Due:
    fault: Fault
    deadline_s: float
    start: int | None = None  # results it had when they began to count


class Expectations:
    def __init__(self) -> None:
        self._due: dict[str, _Due] = {}
        self._last: dict[str, tuple[int, float]] = {}  # results, and since when so many
        self._open: dict[Fault, int] = {}  # streams that came back so far
        self.recoveries: list[Recovery] = []

    @property
    def pending(self) -> tuple[str, ...]:
        """Streams that are not back yet."""
        return tuple(sorted(self._due))

    def expect(self, fault: Fault, streams: Iterable[str]) -> None:
        """From now on these must come back. What was expected of them before is forgotten, but not a later deadline."""
        self._open[fault] = 0
        for stream in streams:
            old = self._due.get(stream)
            deadline = fault.since_s + fault.bound_s
            self._due[stream] = _Due(fault, max(deadline, old.deadline_s) if old else deadline)

    def forget(self, stream: str) -> None:
        """It is away on purpose."""
        self._due.pop(stream, None)
        self._last.pop(stream, None)

    def look(self, now_s: float, seen: Mapping[str, Progress], running: frozenset[int]) -> list[str]:
        """Take in what is seen of all streams that should run; says which are late, each once for each fault."""
        late = []
        for stream in self._last.keys() - seen.keys():
            del self._last[stream]
        for stream, progress in seen.items():
            count, since_s = self._last.get(stream, (-1, now_s))
            if progress.inferred != count:
                since_s = now_s
            self._last[stream] = progress.inferred, since_s
            due = self._due.get(stream)
            if due is not None:
                said = self._look_at(stream, due, now_s, progress, running)
                if said:
                    self._last[stream] = progress.inferred, now_s  # its silence was told
                late += said
            elif now_s - since_s > SILENT_S:
                late.append(f"{stream} gave no result for {now_s - since_s:.0f} s, and nothing was done to it")
                self._last[stream] = progress.inferred, now_s
        self._close(now_s)
        return late

    def _look_at(self, stream: str, due: _Due, now_s: float, progress: Progress, running: frozenset[int]) -> list[str]:
        fault = due.fault
        if due.start is not None and progress.inferred >= due.start + RESULTS:
            del self._due[stream]
            self._open[fault] += 1
        elif now_s > due.deadline_s:
            del self._due[stream]
            return [f"{stream} was not back within {now_s - fault.since_s:.0f} s after {fault.cause}"]
        elif due.start is None or progress.inferred < due.start:  # fewer: the daemon counts anew
            noticed = progress.reconnects >= fault.reconnects.get(stream, 0)
            due.start = progress.inferred if noticed and not fault.gone & running else None
        return []

    def _close(self, now_s: float) -> None:
        waiting = {due.fault for due in self._due.values()}
        for fault in [f for f in self._open if f not in waiting]:
            back = self._open.pop(fault)
            if back:
                self.recoveries.append(Recovery(fault.since_s, fault.cause, back, now_s - fault.since_s))
