"""The daemon's metrics: what is observed as it happens, and what is read from StatsView at each scrape."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Histogram, disable_created_metrics
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder, gzip_accepted
from prometheus_client.registry import Collector

from facedetd.control import StatsView
from facedetd.metrics.answers import Answer
from facedetd.metrics.families import families
from facedetd.metrics.server import MetricsServer

LATENCY_BUCKETS_S = (0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.35, 0.5, 1.0, 2.0, 5.0)
BATCH_BUCKETS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)
BATCH_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.0)


class MonotonicTotals:
    """Sums of counters that begin anew with each incarnation of what they count (a restarted process)."""

    def __init__(self) -> None:
        self._seen: dict[Hashable, tuple[Hashable, float, float]] = {}  # incarnation, last value, sum before it

    def total(self, key: Hashable, incarnation: Hashable, value: float) -> float:
        """The counter over all incarnations seen. A value that fell means a new incarnation too."""
        last_incarnation, last, base = self._seen.get(key, (incarnation, 0.0, 0.0))
        if incarnation != last_incarnation or value < last:
            base += last
        self._seen[key] = (incarnation, value, base)
        return base + value

    def keep(self, keys: Iterable[Hashable]) -> None:
        """Forget all others, so that this holds no more than what there is."""
        wanted = set(keys)
        for key in self._seen.keys() - wanted:
            del self._seen[key]


@dataclass(frozen=True, slots=True)
class _Scrape(Collector):
    """One scrape's numbers. What it holds is frozen or locks itself, so a thread may render it."""

    stats: StatsView
    cpu_seconds: tuple[float, ...]
    results_lost: float
    observed: CollectorRegistry

    def collect(self) -> Iterator[Metric]:
        yield from families(self.stats, self.cpu_seconds, self.results_lost)
        yield from self.observed.collect()


_FORMATS = {
    choose_encoder(accept)[1].split("; escaping=")[0]: accept
    for accept in (*(f"application/openmetrics-text;version={version}" for version in ("0.0.1", "1.0.0")), "")
}
"""By content type, the header that asks for it. prometheus_client repeats any version that is asked for, and how names
are escaped, which is the same for ours."""


def one_of_few(accept: str, accept_encoding: str) -> tuple[str, str]:
    """The headers that are answered in place of these."""
    content_type = choose_encoder(accept)[1].split("; escaping=")[0]
    return _FORMATS.get(content_type, ""), "gzip" if gzip_accepted(accept_encoding) else ""


class Metrics:
    """Serves ``/metrics``. All methods belong to the event loop's thread and none blocks it:
    a scrape takes its numbers there and is made into text on a thread of the server."""

    def __init__(self, stats: Callable[[], StatsView]):
        """``stats`` is ControlPlane.stats; it is called at each scrape."""
        disable_created_metrics()  # type: ignore[no-untyped-call]  # _created series only cost space
        self._stats = stats
        self._observed = CollectorRegistry()
        self._latency = Histogram(
            "facedetd_stream_latency_seconds",
            "Time from a frame's capture to its result.",
            ["stream"],
            buckets=LATENCY_BUCKETS_S,
            registry=self._observed,
        )
        self._batch_frames = Histogram(
            "facedetd_inference_batch_frames",
            "Frames in a batch.",
            buckets=BATCH_BUCKETS,
            registry=self._observed,
        )
        self._batch_seconds = Histogram(
            "facedetd_inference_batch_seconds",
            "Time to convert, infer and decode a batch.",
            buckets=BATCH_BUCKETS_S,
            registry=self._observed,
        )
        self._with_latency: set[str] = set()
        self._totals = MonotonicTotals()
        self._lost = MonotonicTotals()
        self._results_lost = 0.0
        self._server = MetricsServer(self._take, kind=one_of_few)

    def observe_result(self, stream_id: str, latency_s: float) -> None:
        self._with_latency.add(stream_id)
        self._latency.labels(stream_id).observe(latency_s)

    def observe_batch(self, size: int, seconds: float) -> None:
        self._batch_frames.observe(size)
        self._batch_seconds.observe(seconds)

    def forget_stream(self, stream_id: str) -> None:
        """Remove a deleted stream's series. A result that comes later can't bring them back for long:
        each scrape forgets the streams that StatsView doesn't have."""
        if stream_id in self._with_latency:
            self._with_latency.discard(stream_id)
            self._latency.remove(stream_id)

    async def start(self, listen: str) -> None:
        """Serve on ``host:port`` of the loopback; an empty ``listen`` serves nothing.

        Raises MetricsError, which names the address, when it isn't of the loopback or can't be bound.
        """
        if listen:
            await self._server.start(listen)

    async def stop(self) -> None:
        await self._server.stop()

    @property
    def port(self) -> int | None:
        """The port that is served, None when none is."""
        return self._server.port

    def render(self, accept: str = "", accept_encoding: str = "") -> Answer:
        """One scrape, as a server would answer it with these headers."""
        return self._take()(accept, accept_encoding)

    def _take(self) -> Callable[[str, str], Answer]:
        stats = self._stats()
        for gone in self._with_latency - {s.spec.id for s in stats.streams}:
            self.forget_stream(gone)
        self._totals.keep((p.kind, p.name) for p in stats.processes)
        cpu = tuple(self._totals.total((p.kind, p.name), p.pid, p.cpu_seconds) for p in stats.processes)
        if stats.inference:  # else nobody says anything, which is no 0
            self._results_lost = self._lost.total("results", None, stats.inference.results_lost)
        scrape = _Scrape(stats, cpu, self._results_lost, self._observed)

        def answer(accept: str, accept_encoding: str) -> Answer:
            encode, content_type = choose_encoder(accept)
            body = encode(scrape)
            if gzip_accepted(accept_encoding):
                return Answer(gzip.compress(body, compresslevel=1), content_type, "gzip")
            return Answer(body, content_type)

        return answer
