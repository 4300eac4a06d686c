"""Processes killed and stopped at random moments: ``python -m tests.faults.chaos --rounds 200 --seed 7``.

Nine rounds of ten hurt a worker of one daemon, which must end as it began; then as many as are left kill the
supervisor. With ``--strict`` the times are judged too, which needs a machine that does nothing else."""

from __future__ import annotations

import argparse
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from facedetctl.local import LocalDaemon
from facedetd.v1 import stream_pb2
from tests.cameras import CameraServer, Clip, Coding, encode, make_scene
from tests.faults.process_kit import (
    KINDS,
    PATIENCE_S,
    SETTINGS,
    Comeback,
    Victim,
    footprint,
    temporary_files_in,
    workers,
)
from tests.integration.daemon_kit import (
    CALL_S,
    add,
    check_accounts,
    model_store,
    quiesce,
    stream,
    until,
    until_inferred,
)

IDS = ["a", "b", "c", "d"]
GOP_S, BACK_S = 1.0, 3.0
TICK_S = 1.0
"""A stopped worker is found by a look twice a second."""
STOPS = 0.25
"""Share of rounds that stop, not kill: each costs the heartbeat timeout."""
GROWTH_BYTES = 24 << 20
"""The supervisor's own memory may grow by so much: windows of latencies fill, the allocator keeps what was freed."""


def light_clip() -> Clip:
    """320x192 at 10 fps with a keyframe a second: nearly nothing to decode."""
    return encode(make_scene(320, 192, fps=10, frames=50, faces=1, seed=4), coding=Coding(bitrate=200_000, gop=10))


def chaos(url: str, rounds: int, seed: int, heartbeat_s: float, say: Callable[[str], None]) -> list[Comeback]:
    """Asserts all but times, which it returns. ``url``: of a camera with GOPs of GOP_S."""
    say(f"chaos: {rounds} rounds, seed {seed}, heartbeat timeout {heartbeat_s:g} s")
    rng = random.Random(seed)
    of_supervisor = max(1, rounds // 10)
    with tempfile.TemporaryDirectory(prefix="facedetd-tmp-") as name, temporary_files_in(Path(name)):
        settings = SETTINGS.format(heartbeat_s=heartbeat_s)
        with LocalDaemon(settings, models=model_store()) as daemon:
            try:
                for stream_id in IDS:
                    add(daemon, stream_id, url)
                until_inferred(daemon, IDS, timeout_s=PATIENCE_S)
                victim = Victim(daemon, IDS)
                try:
                    found = _of_workers(victim, Path(name), rounds - of_supervisor, rng, say)
                    found += _of_supervisor(victim, Path(name), of_supervisor, rng, say)
                finally:
                    victim.close()
            except BaseException:
                say(daemon.log_text()[-20000:])
                raise
    return found


def _of_workers(
    victim: Victim, temporary: Path, rounds: int, rng: random.Random, say: Callable[[str], None]
) -> list[Comeback]:
    daemon = victim.daemon
    victim.until_results(3)
    before = footprint(daemon, temporary)
    victim.look()
    start = {i: stream(daemon, i).status.frames_inferred - victim.results[i] for i in IDS}
    found = []
    for _ in range(rounds):
        time.sleep(rng.uniform(0, 1.5))
        kind = KINDS[rng.choice(sorted(KINDS))]
        name = rng.choice(sorted(n for n, p in workers(daemon).items() if p.kind == kind))
        last = victim.hurt(name, signal.SIGSTOP if rng.random() < STOPS else signal.SIGKILL)
        say(f"{last.what} ({last.victim}): {last.seconds:.1f} s, {last.paused:.1f} of it held back")
        found.append(last)
    victim.until_results(3)

    def as_before() -> bool:
        left = footprint(daemon, temporary).more_than(before)
        if left:
            say(f"still: {'; '.join(left)}")
            time.sleep(1)
        return not left

    until(as_before, "all processes to hold what they held before", PATIENCE_S)
    now = footprint(daemon, temporary)
    say(f"supervisor's memory: {before.resident >> 10} -> {now.resident >> 10} KiB; shared: {now.shared >> 10} KiB")
    assert now.resident < before.resident + GROWTH_BYTES
    _check_accounts(victim)
    for stream_id in IDS:
        # A result may have reached the supervisor of a frame whose count died with its worker, one each time
        watched = start[stream_id] + victim.results[stream_id]
        assert abs(watched - stream(daemon, stream_id).status.frames_inferred) <= rounds + 2
        daemon.streams.ResumeStream(stream_pb2.ResumeStreamRequest(id=stream_id), timeout=CALL_S)
    victim.until_results()
    return found


def _of_supervisor(
    victim: Victim, temporary: Path, rounds: int, rng: random.Random, say: Callable[[str], None]
) -> list[Comeback]:
    before = footprint(victim.daemon, temporary).files
    found = []
    for _ in range(rounds):
        time.sleep(rng.uniform(0, 2))
        found.append(victim.kill_supervisor())
        say(f"{found[-1].what}: {found[-1].seconds:.1f} s")
    assert footprint(victim.daemon, temporary).files == before
    _check_accounts(victim)
    return found


def _check_accounts(victim: Victim) -> None:
    for status in quiesce(victim.daemon, IDS).values():
        check_accounts(status)
        assert status.frames_waiting == status.frames_in_flight == 0
    victim.look()


def late(found: Sequence[Comeback], heartbeat_s: float) -> list[Comeback]:
    """Those that took longer than 3 s plus one GOP, and for a stopped worker the heartbeat timeout. What the supervisor
    held a restart back, after quick deaths, is not counted."""
    stopped = heartbeat_s + TICK_S
    return [f for f in found if f.seconds - f.paused > BACK_S + GOP_S + stopped * f.what.startswith("stop")]


def table(found: Sequence[Comeback]) -> str:
    lines = [f"{'fault':<18}{'rounds':>7}{'p50 s':>8}{'max s':>8}"]
    for what in sorted({f.what for f in found}):
        times = [f.seconds - f.paused for f in found if f.what == what]
        lines.append(f"{what:<18}{len(times):>7}{statistics.median(times):>8.2f}{max(times):>8.2f}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, help="default: another each time; it is printed")
    parser.add_argument("--heartbeat", type=float, default=5.0, help="heartbeat_timeout_s of the daemon")
    parser.add_argument("--strict", action="store_true", help="fail where streams came back too late")
    args = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if args.seed is None else args.seed
    with CameraServer([light_clip()]) as cameras:
        found = chaos(cameras.url(0), args.rounds, seed, args.heartbeat, lambda text: print(text, flush=True))
    print(table(found))
    slow = late(found, args.heartbeat)
    for one in slow:
        print(f"late: {one.what} ({one.victim}) took {one.seconds:.1f} s, {one.paused:.1f} of it held back")
    return 1 if slow and args.strict else 0


if __name__ == "__main__":
    sys.exit(main())
