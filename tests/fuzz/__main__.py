"""Runs the targets: ``python -m tests.fuzz [--seconds N] [--target NAME]… [--seed TEXT] [--keep DIR]``.

Exit status 1 when anything was found; each input that did it is kept as a file, with what it did beside it.
``--replay FILE --target NAME`` feeds one of them again."""

from __future__ import annotations

import argparse
import json
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fuzz.child import DONE, HEAD, PAGE_BYTES
from tests.fuzz.targets import TARGETS, find

HANG_S = 90.0
"""An input that takes longer has hung; so long because the machine may be busy with other things."""
HANG_CPU_S = 15.0
OWN_S = 60.0
"""What loading and looking for leftovers may take."""
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class Outcome:
    name: str
    inputs: int = 0
    memory: int = 0
    findings: list[dict[str, Any]] = field(default_factory=list)


def run_target(name: str, seed: str, seconds: float, hang_s: float = HANG_S) -> Outcome:
    """Feed one target for so long, with a new process after each crash or hang (at most three)."""
    outcome, first = Outcome(name), 0
    end = time.monotonic() + seconds
    for _ in range(3):
        with tempfile.NamedTemporaryFile() as page:
            page.truncate(PAGE_BYTES)
            found, first = _run_child(name, seed, first, max(1.0, end - time.monotonic()), Path(page.name), hang_s)
        outcome.inputs += found.inputs
        outcome.memory = max(outcome.memory, found.memory)
        outcome.findings += found.findings
        if first < 0 or time.monotonic() > end:
            break
    return outcome


def _run_child(name: str, seed: str, first: int, seconds: float, page: Path, hang_s: float) -> tuple[Outcome, int]:
    """What one process found, and the number of the input after the one that killed it (-1: none did)."""
    words = [sys.executable, "-m", "tests.fuzz.child", name, seed, str(first), str(seconds), str(page)]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        try:
            hung = _watch(child, page, hang_s)
        finally:
            child.kill()
            child.wait()
        out.seek(0)
        err.seek(0)
        lines, trace = out.read().decode().splitlines(), err.read().decode(errors="replace")[-6000:]
    if not hung and child.returncode == 0 and lines:
        report = json.loads(lines[-1])
        return Outcome(name, report["inputs"], report["memory"], report["findings"]), -1
    with page.open("rb") as file:
        number, size = HEAD.unpack(file.read(HEAD.size))
        data = file.read(size)
    if number in (0, DONE):  # before it fed anything, or afterwards
        number, data = first + 1, b""
    number -= 1
    kind = hung or f"died ({_how(child.returncode)})"
    return Outcome(name, number - first, 0, [{"kind": kind, "number": number, "detail": trace, "data": data.hex()}]), (
        number + 1
    )


def _how(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"status {code}"


def _watch(child: subprocess.Popen[bytes], page: Path, hang_s: float) -> str:
    """Wait for its end; what is wrong when an input takes too long (then it has been sent SIGABRT for its stack)."""
    with page.open("rb") as file, mmap.mmap(file.fileno(), HEAD.size, access=mmap.ACCESS_READ) as view:
        seen, since, cpu = -1, time.monotonic(), 0.0
        while child.poll() is None:
            number = HEAD.unpack_from(view)[0]
            if number != seen:
                seen, since, cpu = number, time.monotonic(), _cpu_s(child.pid)
            fed = 0 < seen < DONE
            slow = fed and _cpu_s(child.pid) - cpu > HANG_CPU_S
            if slow or time.monotonic() - since > hang_s + (0 if fed else OWN_S):
                child.send_signal(signal.SIGABRT)  # faulthandler says where it is
                with suppress(subprocess.TimeoutExpired):
                    child.wait(10)
                return "takes too much CPU time" if slow else "hangs"
            time.sleep(0.1)
    return ""


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICK


def keep(outcome: Outcome, folder: Path) -> None:
    for finding in outcome.findings:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{outcome.name.replace(':', '-')}-{finding['number']}"
        path.with_suffix(".bin").write_bytes(bytes.fromhex(finding["data"]))
        path.with_suffix(".txt").write_text(f"{finding['kind']}\n\n{finding['detail']}\n")
        print(f"FOUND in {outcome.name}, input {finding['number']}: {finding['kind']}\n  kept as {path}.bin, .txt")


def replay(name: str, file: Path) -> None:
    with tempfile.TemporaryDirectory() as folder, find(name).open(Path(folder)) as fed:
        fed.good()
        fed.feed(file.read_bytes())
        fed.good()
    print("nothing happened")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="for all targets together (60)")
    parser.add_argument("--target", action="append", metavar="NAME", help=f"repeatable; of {', '.join(TARGETS)}")
    parser.add_argument("--seed", default="1", help="other seeds give other inputs; 'random' takes a new one")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where findings go (a new folder)")
    parser.add_argument("--jobs", type=int, default=2, help="targets at a time (2)")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="feed this once, to the --target")
    args = parser.parse_args()
    names = args.target or list(TARGETS)
    for name in names:
        if name not in TARGETS and ":" not in name:
            parser.error(f"there is no target {name!r}; there are {', '.join(TARGETS)}")
    if args.replay:
        replay(names[0], args.replay)
        return 0
    seed = os.urandom(4).hex() if args.seed == "random" else args.seed
    folder = args.keep or Path(tempfile.gettempdir()) / f"facedetd-fuzz-{os.getpid()}"
    share = args.seconds * min(args.jobs, len(names)) / len(names)
    print(f"fuzz: seed {seed}, {len(names)} targets, {share:.1f} s each; findings go to {folder}", flush=True)
    count = 0
    with ThreadPoolExecutor(args.jobs) as pool:
        for outcome in pool.map(lambda name: run_target(name, seed, share), names):
            print(f"{outcome.name:12} {outcome.inputs:8} inputs  {outcome.memory >> 20:5} MB  "
                  f"{len(outcome.findings)} findings", flush=True)  # fmt: skip
            keep(outcome, folder)
            count += len(outcome.findings)
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
