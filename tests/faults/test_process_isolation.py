"""A camera whose video crashes FFmpeg, with everybody in its process, as often as it is connected. Here SIGSEGV stands
for it: which of the streams it is nobody knows, the daemon neither."""

from __future__ import annotations

import os
import signal

from facedetctl.local import LocalDaemon
from tests.faults.process_kit import DECODER, PATIENCE_S, SETTINGS, workers
from tests.integration.daemon_kit import add, model_store, until, until_inferred

IDS = ["a", "b", "c", "d"]
VICTIM = "decoder-0"


def groups(daemon: LocalDaemon) -> dict[str, int]:
    """Streams of each that is ready."""
    return {name: p.streams for name, p in workers(daemon).items() if p.kind == DECODER}


def crash(daemon: LocalDaemon) -> None:
    pid = until(lambda: found.pid if (found := workers(daemon).get(VICTIM)) else 0, f"{VICTIM} to run", PATIENCE_S)
    os.kill(pid, signal.SIGSEGV)
    until(lambda: pid not in (p.pid for p in workers(daemon).values()), "its end to be noticed", PATIENCE_S)


def test_a_group_that_crashes_again_and_again_is_taken_apart_till_one_stream_is_alone(light_url: str) -> None:
    with LocalDaemon(SETTINGS.format(heartbeat_s=5).replace("group = 2", "group = 4"), models=model_store()) as daemon:
        for stream_id in IDS:
            add(daemon, stream_id, light_url)
        until_inferred(daemon, IDS, timeout_s=PATIENCE_S)
        assert groups(daemon) == {VICTIM: 4}
        for wanted in ([4], [2, 2], [1, 1, 2]):
            crash(daemon)
            until(lambda w=wanted: sorted(groups(daemon).values()) == w, f"groups of {wanted}", PATIENCE_S)
            until_inferred(daemon, IDS, timeout_s=PATIENCE_S)
        others = {name: p.pid for name, p in workers(daemon).items() if name != VICTIM}
        for _ in range(3):
            crash(daemon)
        until_inferred(daemon, IDS, timeout_s=PATIENCE_S)
        assert {name: p.pid for name, p in workers(daemon).items() if name != VICTIM} == others
        add(daemon, "e", light_url)
        until_inferred(daemon, ["e"], timeout_s=PATIENCE_S)
        assert groups(daemon)[VICTIM] == 1 and sum(groups(daemon).values()) == 5
        log = daemon.log_text()
        assert log.count("what one of its cameras sends may be why") == 2
        assert log.count("internal error") == log.count("Traceback") == 0
