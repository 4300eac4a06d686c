"""Too little memory or too few descriptors: said before anything is started, with what is needed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from facedetctl.local import LocalDaemon
from facedetd.v1 import daemon_pb2
from tests.integration.daemon_kit import CALL_S

MB = 10**6
FAKE_LIMIT = """
set -e
mount -t tmpfs none /sys/fs/cgroup
mkdir -p "/sys/fs/cgroup/$1"
echo "$3" >"/sys/fs/cgroup/$1/$2"
shift 3
exec "$@"
"""
"""In a mount namespace of its own, where a limit of this process's control group is what we say."""


def group() -> tuple[str, str]:
    """Folder and file, below /sys/fs/cgroup, of the memory limit of this process's control group."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        if controllers == "memory":
            return f"memory{path}", "memory.limit_in_bytes"
        if number == "0":
            unified = path.lstrip("/")
    return unified, "memory.max"


def limited(limit: int, *command: str) -> list[str]:
    return ["unshare", "--mount", "sh", "-c", FAKE_LIMIT, "sh", *group(), str(limit), *command]


@pytest.fixture(scope="module")
def may_unshare() -> None:
    made = subprocess.run(limited(1, "true"), capture_output=True, check=False)
    if os.geteuid() != 0 or made.returncode != 0:
        pytest.skip(f"no mount namespace can be made here: {made.stderr.decode().strip()}")


@pytest.fixture
def settings(tmp_path: Path) -> list[str]:
    """The command that runs facedetd with twenty streams, without ``--check``."""
    made = LocalDaemon()
    streams = "".join(f'[[stream]]\nid = "s{i}"\nurl = "rtsp://127.0.0.1:1/{i}"\n' for i in range(20))
    made.folder.rmdir()
    made.folder = tmp_path
    for name in ("socket", "read_only_socket", "state_dir", "config"):
        setattr(made, name, tmp_path / getattr(made, name).name)
    made.write_config("[capture]\nstreams_per_group = 10\n[daemon]\n[api]\n" + streams)
    return [sys.executable, "-m", "facedetd", "--config", str(made.config)]


def outcome(command: list[str]) -> tuple[int, str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize("check", [True, False], ids=["--check", "start"])
@pytest.mark.usefixtures("may_unshare")
def test_a_limit_too_small_for_the_rings_is_refused_with_the_needed_size(
    settings: list[str], check: bool, tmp_path: Path
) -> None:
    code, said = outcome(limited(10 * MB, *settings, *["--check"] * check))
    assert code == 78
    found = re.search(r"the rings for 20 streams in (\d+) decoder groups need (\d+) MB", said)
    assert found
    groups, needed = map(int, found.groups())
    assert groups == max(2, min(5, len(os.sched_getaffinity(0))))
    ring = 640 * 384 * 1.5 * 4 * 10
    assert groups * ring / MB < needed < groups * ring * 1.05 / MB + 1
    assert group()[1] in said
    assert "allows 10 MB" in said
    assert not (tmp_path / "facedetd.sock").exists()
    assert "Traceback" not in said


@pytest.mark.usefixtures("may_unshare")
def test_a_limit_that_may_be_too_small_is_said_and_tried(settings: list[str]) -> None:
    code, said = outcome(limited(200 * MB, *settings, "--check"))
    assert code == 0
    assert "20 streams may not fit" in said
    assert "allows 200 MB" in said
    code, said = outcome(limited(10**12, *settings, "--check"))
    assert (code, said) == (0, "")


def test_too_few_descriptors_are_said_with_the_number_needed(settings: list[str]) -> None:
    code, said = outcome(["prlimit", "--nofile=100:100", *settings, "--check"])
    assert code == 0
    found = re.search(r"20 streams need up to (\d+) open files in one process; allowed are 100 ", said)
    assert found
    enough = found[1]
    assert outcome(["prlimit", f"--nofile={enough}:{enough}", *settings, "--check"]) == (0, "")


def test_a_low_soft_limit_of_descriptors_is_raised_and_health_speaks_of_a_low_hard_one() -> None:
    with LocalDaemon() as daemon:
        assert daemon.process
        limits = Path(f"/proc/{daemon.process.pid}/limits").read_text()
        soft, hard = re.search(r"Max open files +(\d+) +(\d+)", limits).groups()  # type: ignore[union-attr]
        assert soft == hard
        problems = daemon.daemon.GetHealth(daemon_pb2.GetHealthRequest(), timeout=CALL_S).problems
        assert ("open files" in {p.subject for p in problems}) == (int(hard) < 200)
