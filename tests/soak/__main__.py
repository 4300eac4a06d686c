"""Runs the daemon for minutes or days while cameras, clients and its processes come and go; see docs/soak.md.

Exits 0 when nothing grew and all was accounted for, 1 when something was violated, 2 when it could not run, 130 when it
was interrupted (then it says what it has so far).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from facedetctl.local import LocalDaemon, LocalDaemonError
from facedetd.models import ModelError
from tests.cameras import CameraError, CameraServer, Coding, encode, make_scene
from tests.integration.daemon_kit import model_store
from tests.ports import free_port
from tests.soak import judge, results
from tests.soak.config import SIZES, settings
from tests.soak.drive import Drive, EndedError
from tests.soak.plan import make_plan
from tests.soak.watch import may_look

CAMERAS, SIZE, CAMERA_FPS = 8, (640, 360), 12
LEAST_MINUTES = 3.0
SAMPLE_S, LEAST_SAMPLES = 10.0, 60


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=5.0, help=f"how long (default 5, at least {LEAST_MINUTES:g})")
    parser.add_argument("--seed", type=int, default=1, help="of the plan (default 1)")
    parser.add_argument("--cameras", type=int, default=CAMERAS, help=f"how many (default {CAMERAS})")
    parser.add_argument(
        "--out", type=Path, default=Path(".run/soak"), help="folder of results.json, samples.csv, daemon.log"
    )
    parser.add_argument("--plot", type=Path, help="draw into this file (.svg, .png)")
    parser.add_argument("--replot", type=Path, metavar="RESULTS.JSON", help="no run: draw and tell this one")
    args = parser.parse_args(argv)
    if args.minutes < LEAST_MINUTES:
        parser.error(f"--minutes {args.minutes:g}: at least {LEAST_MINUTES:g}, or there is nothing to judge by")
    if args.cameras < 2:
        parser.error(f"--cameras {args.cameras}: at least 2")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if args.replot:
            return finish(results.read_json(args.replot), args.plot)
        if not may_look():
            say("make soak: only root may see what processes hold that dump no core")
            return 2
        return run(args.minutes * 60, args.seed, args.cameras, args.out, args.plot)
    except (ModelError, CameraError, LocalDaemonError, results.ResultsError) as error:
        say(f"make soak: {error}")
        return 2


def run(duration_s: float, seed: int, cameras: int, out: Path, plot: Path | None) -> int:
    out.mkdir(parents=True, exist_ok=True)
    say("rendering scenes with moving faces (kept for next time)")
    coding = Coding(bitrate=400_000, gop=CAMERA_FPS)
    clips = [
        encode(make_scene(*SIZE, fps=CAMERA_FPS, faces=2, frames=8 * CAMERA_FPS, seed=s), coding=coding)
        for s in range(4)
    ]
    store, port = model_store(), free_port()
    about = {
        "minutes": duration_s / 60,
        "seed": seed,
        "cameras": cameras,
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
    }
    plan = make_plan(seed, duration_s, cameras)
    interrupted = False
    with CameraServer([clips[i % len(clips)] for i in range(cameras)]) as server, own_folder() as folder:
        with LocalDaemon(settings(SIZES[0], port), models=store) as daemon:
            drive = Drive(daemon, server, port, folder, say)
            try:
                drive.run(plan, duration_s, min(SAMPLE_S, duration_s / LEAST_SAMPLES))
            except KeyboardInterrupt:
                interrupted = True
                say("interrupted: what there is so far")
            except (EndedError, LocalDaemonError, CameraError) as error:
                drive.complain(str(error))
            finally:
                drive.actions.close()
                if daemon.log.exists():
                    shutil.copyfile(daemon.log, out / "daemon.log")
        if left := sorted(folder.iterdir()):
            drive.complain(f"files were left outside the daemon's folder: {', '.join(p.name for p in left)}")
    figures = [*judge.judge(drive.samples, duration_s), *drive.at_rest]
    broken = [*drive.violations, *judge.violations(figures, complete=not interrupted)]
    found = results.Results(about, drive.samples, drive.done, drive.expectations.recoveries, figures, broken)
    results.write_json(found, out / "results.json")
    results.write_csv(drive.samples, out / "samples.csv")
    status = finish(found, plot)
    say(f"written: {out}/results.json, samples.csv, daemon.log")
    return 130 if interrupted else status


def finish(found: results.Results, plot: Path | None) -> int:
    """Tell and draw; 1 when something was violated."""
    print(results.table(found.figures), results.recovery_table(found.recoveries), sep="\n\n", end="\n\n")
    counted = f"{len(found.events)} events, {len(found.samples)} samples, {len(found.recoveries)} recoveries"
    print(f"{counted}: {len(found.violations) or 'no'} violations")
    for violation in found.violations:
        print(f"VIOLATION {violation}")
    sys.stdout.flush()
    if plot:
        from tests.soak.plot import draw

        draw(found, plot)
        say(f"drawn: {plot}")
    return 1 if found.violations else 0


@contextlib.contextmanager
def own_folder() -> Iterator[Path]:
    """A folder that is the only place for temporary files of this process and the daemon: so what is left is seen."""
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    os.environ["TMPDIR"] = str(folder)
    try:
        yield folder
    finally:
        tempfile.tempdir = before
        del os.environ["TMPDIR"]
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
