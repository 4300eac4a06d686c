"""A thousand cameras that fail cost next to nothing. CPU time is counted, which a busy machine changes little."""

from __future__ import annotations

import time
from collections.abc import Sequence

import psutil
import pytest

from facedetctl.local import LocalDaemon
from facedetd.v1 import stream_pb2
from tests.integration.daemon_kit import AWAY, TINY_MODEL, model_store, stats, until

COUNT = 1000
MOST = 0.05
"""Cores, for all processes of the daemon."""
WINDOW_S = 15.0


def spent(pids: Sequence[int]) -> float:
    """CPU seconds of these processes so far."""
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids)


def share(pids: Sequence[int]) -> float:
    """Cores that they use, over WINDOW_S."""
    before, began = spent(pids), time.monotonic()
    time.sleep(WINDOW_S)
    return (spent(pids) - before) / (time.monotonic() - began)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_thousand_cameras_that_refuse() -> None:
    with LocalDaemon(TINY_MODEL, models=model_store()) as daemon:
        specs = [stream_pb2.StreamSpec(id=f"c{i}", url=AWAY) for i in range(COUNT)]
        entries = [stream_pb2.StreamImport(spec=spec) for spec in specs]
        daemon.streams.ImportStreams(stream_pb2.ImportStreamsRequest(streams=entries), timeout=60)

        def all_refused() -> bool:
            return all("connection refused" in s.status.detail for s in stats(daemon).streams)

        until(all_refused, "every camera to have refused", 180)
        pids = daemon.pids()
        seen: list[float] = []

        def cheap() -> bool:  # once the pauses have grown
            seen.append(share(pids))
            print(f"{seen[-1]:.1%} of a core")
            return seen[-1] < MOST

        until(cheap, f"{COUNT} cameras to cost under {MOST:.0%} of a core", 300)
        assert daemon.pids() == pids
        assert daemon.log_text().count("connection refused") <= COUNT  # a retry that fails is no news
        assert all_refused()
