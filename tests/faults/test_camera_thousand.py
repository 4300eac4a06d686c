"""A thousand cameras that fail cost next to nothing. CPU time is counted, and beside it what a little work costs on
this machine at that moment: waking up for it costs one machine twice what it costs another."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psutil
import pytest

from facedetctl.local import LocalDaemon
from facedetd.v1 import stream_pb2
from tests.integration.daemon_kit import AWAY, TINY_MODEL, model_store, stats, until

COUNT = 1000
MOST = 0.05
"""Cores, for all processes of the daemon, where a refused connection costs USUAL_S of CPU time."""
USUAL_S = 100e-6
"""Of a thread that slept before, which is most of it: a virtual machine with two cores, 2026-11-23: 115 to 148 us."""
WINDOW_S, PAUSE_S = 15.0, 0.02


def spent(pids: Sequence[int]) -> float:
    """CPU seconds of these processes so far."""
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids)


def share(pids: Sequence[int]) -> float:
    """Cores that they use, over WINDOW_S; fewer by as much as work is dearer here than usual."""
    before, began, mine = spent(pids), time.monotonic(), time.thread_time()
    count = round(WINDOW_S / PAUSE_S)
    for _ in range(count):
        time.sleep(PAUSE_S)
        with socket.socket() as connection:
            connection.connect_ex(("127.0.0.1", 1))
    cost_s = (time.thread_time() - mine) / count
    cores = (spent(pids) - before) / (time.monotonic() - began)
    print(f"{cores:.1%} of a core; a refused connection costs {cost_s * 1e6:.0f} us")
    return cores / max(1.0, cost_s / USUAL_S)


@contextmanager
def mute_camera() -> Iterator[str]:
    """The URL of a camera that takes every connection and never says a word."""
    held: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0), backlog=COUNT) as server:

        def take() -> None:
            while True:
                try:
                    held.append(server.accept()[0])
                except OSError:  # closed
                    return
                # The other end has given up on the oldest
                while len(held) > 2 * COUNT:
                    held.pop(0).close()

        threading.Thread(target=take, daemon=True).start()
        yield f"rtsp://127.0.0.1:{server.getsockname()[1]}/mute"
        server.shutdown(socket.SHUT_RDWR)
    for connection in held:
        connection.close()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_thousand_cameras_that_refuse() -> None:
    cost_next_to_nothing(AWAY, "connection refused")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_thousand_cameras_that_never_answer() -> None:
    with mute_camera() as url:
        cost_next_to_nothing(url, "no answer within")


def cost_next_to_nothing(url: str, reason: str) -> None:
    """A thousand cameras that fail for this reason, once the pauses between the attempts have grown."""
    with LocalDaemon(TINY_MODEL, models=model_store()) as daemon:
        specs = [stream_pb2.StreamSpec(id=f"c{i}", url=url) for i in range(COUNT)]
        entries = [stream_pb2.StreamImport(spec=spec) for spec in specs]
        daemon.streams.ImportStreams(stream_pb2.ImportStreamsRequest(streams=entries), timeout=60)

        def all_failed() -> bool:
            return all(reason in s.status.detail for s in stats(daemon).streams)

        until(all_failed, f"{reason!r} of every camera", 180)
        pids = daemon.pids()

        def cheap() -> bool:
            return share(pids) < MOST

        until(cheap, f"{COUNT} cameras to cost under {MOST:.0%} of a core", 300)
        assert daemon.pids() == pids
        assert daemon.log_text().count(reason) <= COUNT  # a retry that fails is no news
        assert all_failed()
