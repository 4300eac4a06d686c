"""The process that feeds one target: ``python -m tests.fuzz.child NAME SEED FIRST SECONDS PAGE``.

What it is about to feed stands in PAGE, a file mapped into memory: its number plus one, its size, itself. So whoever
finds this process dead knows which input it was. The last line on stdout is a JSON report."""

from __future__ import annotations

import faulthandler
import gc
import json
import logging
import mmap
import os
import resource
import struct
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from tests.fuzz.target import MAX_INPUT, Finding, Target
from tests.fuzz.targets import find

HEAD = struct.Struct("<QI")
PAGE_BYTES = HEAD.size + MAX_INPUT
DONE = 2**64 - 1
"""Stands in the page in place of a number once nothing more is fed."""
MAX_FINDINGS = 20
_WARM = 30  # inputs before memory, threads and descriptors are looked at for the first time


def usage() -> dict[str, int]:
    """Memory in bytes, threads and descriptors of this process."""
    gc.collect()
    status = Path("/proc/self/status").read_text()
    found = {line.split(":")[0]: line.split()[1] for line in status.splitlines() if line.startswith(("VmRSS", "Thr"))}
    fds = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    return {"memory": int(found["VmRSS"]) << 10, "threads": int(found["Threads"]), "descriptors": fds}


def settled(base: dict[str, int], looks: int = 60) -> dict[str, int]:
    """Usage once threads and descriptors are back at ``base``: some of them take a moment to go. So many looks and no
    time: a machine that stops for seconds stops those threads, too."""
    now = usage()
    for _ in range(looks):
        if all(now[k] <= base[k] for k in ("threads", "descriptors")):
            break
        time.sleep(0.05)
        now = usage()
    return now


def limit_memory(extra: int) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + extra, used + extra))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def place_of(error: BaseException) -> str:
    """Where it came from: the same bug is reported once."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
    return f"{type(error).__name__} at {where}" + (f": {error}" if isinstance(error, Finding) else "")


class Feeder:
    def __init__(self, name: str, target: Target, seed: str, page: mmap.mmap):
        self._name, self._target, self._seed, self._page = name, target, f"{seed}/{name}", page
        self.findings: dict[str, dict[str, Any]] = {}
        self.number = 0

    def found(self, kind: str, detail: str, data: bytes = b"") -> None:
        if kind not in self.findings and len(self.findings) < MAX_FINDINGS:
            self.findings[kind] = {"kind": kind, "number": self.number, "detail": detail[-4000:], "data": data.hex()}

    def run(self, first: int, seconds: float) -> dict[str, Any]:
        target = self._target
        seeds = target.seeds()
        end = time.monotonic() + seconds
        base: dict[str, int] = {}
        self.number = first
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, target.open(Path(folder)) as fed:
            fed.good()
            limit_memory(target.memory)
            while self.number - first < target.least or time.monotonic() < end:
                data = target.input(self._seed, self.number, seeds)
                self._page[: HEAD.size + len(data)] = HEAD.pack(self.number + 1, len(data)) + data
                try:
                    fed.feed(data)
                except Exception as error:
                    self.found(place_of(error), "".join(traceback.format_exception(error)), data)
                self.number += 1
                if self.number == first + _WARM:
                    base = usage()
                if (self.number - first) % target.good_every == 0:
                    self._good(fed)
            self._page[: HEAD.size] = HEAD.pack(DONE, 0)
            self._good(fed)
            now = settled(base) if base else usage()
        if base:
            self._judge(base, now)
        return {"inputs": self.number - first, "next": self.number, "findings": list(self.findings.values()), **now}

    def _good(self, fed: Any) -> None:
        try:
            fed.good()
        except Exception as error:
            self.found(f"a good input fails afterwards: {place_of(error)}", "".join(traceback.format_exception(error)))

    def _judge(self, base: dict[str, int], now: dict[str, int]) -> None:
        for what in ("threads", "descriptors"):
            if now[what] > base[what] + 2:  # a pool's last thread, a cached connection
                self.found(f"{what} left behind", f"{what}: {base[what]} after {_WARM} inputs, {now[what]} at the end")
        if now["memory"] > base["memory"] + self._target.growth:
            grown = (now["memory"] - base["memory"]) >> 20
            self.found("memory left behind", f"{grown} MB more after {self.number} inputs")


def main() -> None:
    name, seed, first, seconds, page = sys.argv[1:]
    faulthandler.enable()
    logging.disable(logging.CRITICAL)
    # A thread that dies of an exception would else only print it
    deaths: list[threading.ExceptHookArgs] = []
    threading.excepthook = deaths.append
    with open(page, "r+b") as file:  # noqa: PTH123
        feeder = Feeder(name, find(name), seed, mmap.mmap(file.fileno(), PAGE_BYTES))
    report = feeder.run(int(first), float(seconds))
    for death in deaths:
        trace = "".join(traceback.format_exception(death.exc_type, death.exc_value, death.exc_traceback))
        report["findings"].append({"kind": "a thread died", "number": 0, "detail": trace, "data": ""})
    print(json.dumps(report), flush=True)
    os._exit(0)  # threads that are left were counted above


if __name__ == "__main__":
    main()
