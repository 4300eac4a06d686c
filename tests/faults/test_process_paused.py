"""A machine that is paused, or a frozen control group: clocks go on, and nobody is to blame for the time."""

from __future__ import annotations

import os
import signal
import time

from facedetctl.local import LocalDaemon
from facedetd.v1 import stream_pb2
from tests.faults.process_kit import INFERENCE, PATIENCE_S, SETTINGS, Victim, workers
from tests.integration.daemon_kit import CALL_S, add, model_store, stream, until, until_inferred

IDS = ["a", "b"]
HEARTBEAT_S = 4.0
"""With less a machine that stops for 1.5 s, outside of the pause, might cost a process."""
PAUSE_S = 2 * HEARTBEAT_S + 1


def stop_in_a_batch(daemon: LocalDaemon, inference: int) -> None:
    """SIGSTOP to the inference process, at a moment when a frame is in flight."""

    def stopped() -> bool:
        os.kill(inference, signal.SIGSTOP)
        streams = daemon.streams.ListStreams(stream_pb2.ListStreamsRequest(), timeout=CALL_S).streams
        if any(s.status.frames_in_flight for s in streams):
            return True
        os.kill(inference, signal.SIGCONT)
        return False

    until(stopped, "a batch to be under way", PATIENCE_S)


def test_a_pause_longer_than_all_time_outs_costs_no_process_and_no_connection(light_url: str) -> None:
    settings = SETTINGS.format(heartbeat_s=HEARTBEAT_S).replace("read_timeout_s = 20.0", "read_timeout_s = 4.0")
    with LocalDaemon(settings, models=model_store()) as daemon:
        for stream_id in IDS:
            add(daemon, stream_id, light_url)
        until_inferred(daemon, IDS, timeout_s=PATIENCE_S)
        victim = Victim(daemon, IDS)
        try:
            victim.until_results()
            before, reconnects = workers(daemon), [stream(daemon, i).status.reconnects for i in IDS]
            inference = next(p.pid for p in before.values() if p.kind == INFERENCE)
            stop_in_a_batch(daemon, inference)
            pids = daemon.pids()
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            time.sleep(PAUSE_S)
            for pid in reversed(pids):  # the supervisor last
                os.kill(pid, signal.SIGCONT)
            victim.until_results(5)
            assert {n: p.pid for n, p in workers(daemon).items()} == {n: p.pid for n, p in before.items()}
            assert [stream(daemon, i).status.reconnects for i in IDS] == reconnects
        finally:
            victim.close()
            print(daemon.log_text())
