"""What a reader who never stops asking costs: python -m tests.flood [--streams 500] [--callers 1] [--seconds 10]

A daemon with so many paused streams; its read-only socket is asked for stats, or for the list of streams, or /metrics,
without a pause. Prints how long an answer takes alone, the answers, the supervisor's use of the CPU, and how long an
admin's call takes before and meanwhile. Needs a model (FACEDETD_TEST_MODELS).
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Callable
from urllib.request import urlopen

import grpc

from facedetctl.bench.usage import cpu_seconds
from facedetctl.local import LocalDaemon
from facedetd.config.urls import grpc_unix
from facedetd.v1 import daemon_pb2, daemon_pb2_grpc, stream_pb2, stream_pb2_grpc
from tests.integration.daemon_kit import AWAY, TINY_MODEL, model_store
from tests.ports import free_port

PATIENCE_S = 60


def took_ms(call: Callable[[], object], times: int) -> float:
    """The median."""
    found = []
    for _ in range(times):
        began = time.monotonic()
        call()
        found.append(1e3 * (time.monotonic() - began))
        time.sleep(0.1)
    return statistics.median(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--callers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--ask", choices=["stats", "list", "metrics"], default="stats")
    args = parser.parse_args()
    port = free_port()
    listen = f'[metrics]\nlisten = "127.0.0.1:{port}"\n'
    with LocalDaemon(TINY_MODEL + listen, models=model_store()) as daemon:
        specs = [stream_pb2.StreamSpec(id=f"cam{n}", url=f"{AWAY}{n}", paused=True) for n in range(args.streams)]
        imports = [stream_pb2.StreamImport(spec=spec) for spec in specs]
        daemon.streams.ImportStreams(stream_pb2.ImportStreamsRequest(streams=imports), timeout=PATIENCE_S)
        channel = grpc.insecure_channel(grpc_unix(daemon.read_only_socket))
        asked = daemon_pb2_grpc.DaemonServiceStub(channel)
        listed = stream_pb2_grpc.StreamServiceStub(channel)

        def ask() -> object:
            if args.ask == "metrics":
                with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_S) as answer:
                    return answer.read()
            if args.ask == "list":
                return listed.ListStreams(stream_pb2.ListStreamsRequest(), timeout=PATIENCE_S)
            return asked.GetStats(daemon_pb2.GetStatsRequest(), timeout=PATIENCE_S)

        def admin() -> object:
            return daemon.streams.GetStream(stream_pb2.GetStreamRequest(id="cam0"), timeout=PATIENCE_S)

        alone_ms, before_ms, supervisor = took_ms(ask, 5), took_ms(admin, 20), daemon.pids()[0]
        answers, stop = [0] * args.callers, threading.Event()

        def flood(index: int) -> None:
            while not stop.is_set():
                ask()
                answers[index] += 1

        threads = [threading.Thread(target=flood, args=(index,)) for index in range(args.callers)]
        used, began = cpu_seconds([supervisor]), time.monotonic()
        for thread in threads:
            thread.start()
        during_ms = took_ms(admin, 20)
        time.sleep(max(0.0, args.seconds - (time.monotonic() - began)))
        cores, answered = (cpu_seconds([supervisor]) - used) / (time.monotonic() - began), sum(answers)
        stop.set()
        for thread in threads:
            thread.join()
        channel.close()
    print(
        f"{args.streams} streams, {args.callers} callers of {args.ask}: {alone_ms:.0f} ms an answer alone; "
        f"{answered} answers in {args.seconds:.0f} s, {cores:.0%} of a core in the supervisor; an admin's call took "
        f"{before_ms:.1f} ms before, {during_ms:.1f} ms meanwhile (medians)"
    )


if __name__ == "__main__":
    main()
