"""Log lines when nobody reads stderr: no process waits for that, and what is lost is said."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest

PROGRAM = """
import logging, sys
from facedetd import logs
logs.setup("info", "text", worker="w")
count = int(sys.argv[1])
for n in range(count):
    logging.getLogger("facedetd").info("line %d %s", n, "x" * 400)
print("on", flush=True)
sys.stdin.readline()
logging.getLogger("facedetd").info("last")
"""

Make = Callable[[], tuple[int, int]]


def stream_pair() -> tuple[int, int]:
    a, b = socket.socketpair()
    return a.detach(), b.detach()


@pytest.fixture(params=[os.pipe, stream_pair], ids=["pipe", "socket"])
def ends(request: pytest.FixtureRequest) -> tuple[int, int]:
    make: Make = request.param
    return make()


def started(write_end: int, lines: int) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(lines)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=write_end, text=True,
    )  # fmt: skip
    os.close(write_end)
    return process


def goes_on(process: subprocess.Popen[str]) -> bool:
    assert process.stdout
    ready, _, _ = select.select([process.stdout], [], [], 30)
    return bool(ready) and process.stdout.readline() == "on\n"


def rest_of(read_end: int, begun: bytes = b"") -> list[str]:
    """Lines to the end, and those of what was read before, which may end anywhere in one."""
    with open(read_end, "rb") as file:
        return (begun + file.read()).decode().splitlines()


def test_a_process_goes_on_though_nobody_reads_what_it_logs_and_ends_though_nobody_does(ends: tuple[int, int]) -> None:
    process = started(ends[1], 5000)
    try:
        assert goes_on(process)
        assert process.communicate("\n", timeout=30)
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()
    lines = rest_of(ends[0])
    assert 10 < len(lines) < 5000
    assert all(f"line {n} xxx" in line for n, line in enumerate(lines[:-1]))


def test_what_waited_comes_in_order_once_it_is_read_and_how_much_was_lost(ends: tuple[int, int]) -> None:
    process = started(ends[1], 5000)
    try:
        assert goes_on(process)
        found = b""
        while b"lost here" not in found:
            found += os.read(ends[0], 1000)
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
        lines = rest_of(ends[0], found)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate()
    *said, lost, last = lines
    assert [line.split(" line ")[1].split()[0] for line in said] == [str(n) for n in range(len(said))]
    assert f" WARNING facedetd.stderr: {5000 - len(said)} lines of the log were lost here" in lost
    assert last.endswith("facedetd: last worker=w")


def test_a_reader_that_is_slow_loses_nothing_that_fits(ends: tuple[int, int]) -> None:
    process = started(ends[1], 500)
    try:
        assert goes_on(process)
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
        lines = rest_of(ends[0])
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate()
    assert len(lines) == 501
    assert all(f" line {n} " in line for n, line in enumerate(lines[:-1]))


def test_without_a_stderr_it_writes_nowhere() -> None:
    """Descriptor 2 is someone else's then."""
    code = f"import os, sys; os.close(2); os.execv(sys.executable, [sys.executable, '-c', {PROGRAM!r}, '3'])"
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, input="\n", capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "on\n")


def test_a_reader_that_goes_harms_nobody(ends: tuple[int, int]) -> None:
    process = started(ends[1], 5000)
    try:
        assert goes_on(process)
        os.close(ends[0])
        process.communicate("\n", timeout=30)
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()


def test_what_the_terminal_cannot_show_is_escaped() -> None:
    code = "from facedetd import logs; import logging; logs.setup('info', 'text'); logging.info('caf\u00e9 \u2603')"
    env = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, env=env, timeout=60)
    assert done.stderr.endswith(b"caf\xe9 \\u2603\n")
