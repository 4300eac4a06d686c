"""CPU time and memory of process trees, out of /proc."""

import os
import subprocess
import sys
import time

from facedetctl.bench.usage import cpu_seconds, descendants, memory_bytes

MIB = 1 << 20
BURN = "import time\nwhile time.process_time() < 0.3: pass\n"


def wait(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_children_that_have_ended_still_count():
    parent = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BURN!r}]); "
         "print(flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        parent.stdout.readline()
        assert list(descendants(parent.pid)) == []
        assert cpu_seconds([parent.pid]) >= 0.29
    finally:
        parent.kill()
        parent.communicate()


def test_descendants_at_any_depth_and_of_any_thread():
    code = (
        "import subprocess, sys, threading\n"
        "inner = [sys.executable, '-c', 'import sys; sys.stdin.read()']\n"
        "hold = threading.Event()\n"
        "def start(): subprocess.Popen(inner, stdin=subprocess.PIPE); hold.wait()\n"
        "threading.Thread(target=start, daemon=True).start()\n"
        "subprocess.Popen(inner, stdin=subprocess.PIPE); sys.stdin.read()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    try:
        wait(lambda: len(list(descendants(parent.pid))) == 2)
        assert parent.pid in descendants(os.getpid())
    finally:
        parent.communicate()


def test_a_process_that_is_gone_is_nothing():
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert list(descendants(gone.pid)) == []
    assert cpu_seconds([gone.pid]) == 0.0
    assert memory_bytes([gone.pid]) == 0


def test_a_name_may_hold_anything(tmp_path):
    (tmp_path / "7").mkdir()
    fields = ["S", *["0"] * 10, "100", "50", "30", "20", *["0"] * 30]
    (tmp_path / "7" / "stat").write_text("7 (a) b (c) " + " ".join(fields) + "\n")
    assert cpu_seconds([7], tmp_path) == 200 / os.sysconf("SC_CLK_TCK")


def holder(fd, size):
    """A process that maps the memfd and touches all of it."""
    code = (
        f"import mmap, sys\nm = mmap.mmap({fd}, {size})\n"
        f"s = sum(m[i] for i in range(0, {size}, 4096))\nprint(flush=True)\nsys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[fd]
    )
    process.stdout.readline()
    return process


def test_a_memfd_counts_once_and_whole():
    size = 64 * MIB
    fd = os.memfd_create("test")
    empty = os.memfd_create("none")
    processes = []
    try:
        os.ftruncate(empty, 4096)
        os.posix_fallocate(fd, 0, size)
        processes = [holder(fd, size), holder(fd, size), holder(empty, 4096), holder(empty, 4096)]
        with_ring, without = ([p.pid for p in pair] for pair in (processes[:2], processes[2:]))
        difference = memory_bytes(with_ring) - memory_bytes(without)
        assert size - 4 * MIB < difference < size + 4 * MIB
    finally:
        for process in processes:
            process.communicate()
        os.close(fd)
        os.close(empty)


def test_what_may_not_be_seen_is_estimated(tmp_path):
    for pid, touched in ((1, 300), (2, 500)):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "status").write_text(
            f"Name:\tx\nRssAnon:\t    1000 kB\nRssFile:\t     200 kB\nRssShmem:\t     {touched} kB\nThreads:\t3\n"
        )
    assert memory_bytes([1, 2], tmp_path) == 1024 * (2 * 1200 + 500)
