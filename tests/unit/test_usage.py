"""CPU time and memory, by ways that nothing hides."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from facedetd.usage import cpu_seconds, own_resident_bytes

HIDES = """
import ctypes, os, sys, time
sys.path.insert(0, sys.argv[1])
from facedetd.usage import cpu_seconds
told, tell = os.pipe()
child = os.fork()
if not child:
    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE, as workers do
    os.write(tell, b"!")
    while True: pass
os.read(told, 1)
while not (spent := cpu_seconds(child)):
    time.sleep(0.01)
print(os.path.exists(f"/proc/{child}/stat"), spent > 0)
os.kill(child, 9)
os.wait()
print(cpu_seconds(child))
"""


def test_a_process_s_cpu_time_is_what_it_says_itself():
    before = time.process_time()
    told = cpu_seconds(os.getpid())
    assert told is not None and before <= told <= time.process_time()


def test_another_s_grows_with_what_it_does_and_is_none_once_it_is_gone():
    child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    first = cpu_seconds(child.pid)
    while (cpu_seconds(child.pid) or 0.0) < (first or 0.0) + 0.05:
        assert child.poll() is None
        time.sleep(0.01)
    child.kill()
    child.wait()
    assert cpu_seconds(child.pid) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a /proc of its own, which wants root")
def test_it_is_known_of_one_that_proc_hides_from_us():
    """As in the packaged service: ProtectProc=invisible, and a worker that dumps no core."""
    mount = "mount -t proc -o hidepid=invisible proc /proc && exec setpriv --reuid 65534 --regid 65534 --clear-groups"
    python = os.path.realpath(sys.executable)
    command = f'{mount} "$0" "$@"'
    done = subprocess.run(
        ["unshare", "-m", "-p", "--fork", "sh", "-c", command, python, "-c", HIDES, str(Path.cwd())],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if "denied" in done.stderr or "not permitted" in done.stderr:
        pytest.skip(f"not possible here: {done.stderr.strip()[:200]}")
    assert done.stdout.split() == ["False", "True", "None"], done.stderr


def test_memory_is_what_others_see():
    assert own_resident_bytes() == pytest.approx(psutil.Process().memory_info().rss, rel=0.2)


@pytest.mark.parametrize("statm", ["", "7", "7 x"])
def test_a_proc_that_does_not_tell_is_no_error(tmp_path, statm):
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "statm").write_text(statm)
    assert own_resident_bytes(tmp_path) == own_resident_bytes(tmp_path / "none") == 0
