"""The unit on a kernel of its own: every row of the confinement's table, and the limits that a container can't set."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.system.confine import ROWS, Probes, check, prepare
from tests.system.conftest import Machine
from tests.system.container import wait_for

pytestmark = pytest.mark.timeout(1800)
EXAMPLES = "/usr/share/doc/facedetd/examples"


@pytest.fixture(scope="module")
def probes(machine: Machine) -> Iterator[Probes]:
    prepare(machine)
    made = Probes(machine)
    yield made
    machine.run("systemctl", "start", "facedetd", timeout_s=300)


@pytest.fixture(scope="module")
def confined(probes: Probes) -> Any:
    return probes.run(probes.whole())


def drop_in(machine: Machine, name: str) -> list[str]:
    """The lines of an example that set something in [Service] or [Slice]."""
    text = re.sub(r"^\[Unit\]\n[^[]*", "", machine.out("cat", f"{EXAMPLES}/{name}"), flags=re.M)
    return [line for line in text.splitlines() if re.match(r"\w+=", line)]


# The daemon first: what comes later stops it


def test_the_daemon_runs_here_and_finds_its_model(machine):
    # It takes 43 s from the daemon's start where QEMU has a core for itself: three pictures at 10 s (``machine.CPU``)
    wait_for("the model", lambda: machine.stats()["state"] == "running", 300, 3)
    assert machine.out("systemctl", "is-system-running") == "running"


def test_its_limits_are_those_of_the_unit(machine):
    pid = machine.main_pid()
    limits = machine.out("cat", f"/proc/{pid}/limits")
    assert re.search(r"^Max open files\s+65536\s+65536\s", limits, re.M), "the soft limit is raised to the hard one"
    assert re.search(r"^Max nice priority\s+15\s+15\s", limits, re.M), "decoders may go up to nice 5 again"
    assert re.search(r"^Max core file size\s+0\s+0\s", limits, re.M)
    group = machine.out("cat", f"/proc/{pid}/cgroup").partition("::")[2]
    assert group == "/facedetd.slice/facedetd.service"
    assert machine.out("cat", f"/sys/fs/cgroup{group}/pids.max") == "16384"


def test_the_doctor_knows_the_limit_of_the_slice(machine):
    def memory() -> str:
        done = machine.run("facedetctl", "--json", "--timeout", "60", "doctor", "--seconds", "1", check=False)
        return str(next(f["found"] for f in json.loads(done.stdout)["findings"] if f["subject"] == "memory"))

    assert "; the machine has " in memory()
    machine.run("systemctl", "set-property", "--runtime", "facedetd.slice", "MemoryMax=1500M")
    try:
        assert "/facedetd.slice/memory.max allows 1500 MiB" in memory()
    finally:
        machine.run("systemctl", "set-property", "--runtime", "facedetd.slice", "MemoryMax=infinity")


def test_it_refuses_to_start_where_the_rings_have_no_room(machine):
    config = '[model]\nwidth = 1280\nheight = 736\n[capture]\nstreams_per_group = 64\n[[stream]]\nid = "a"\nurl = "rtsp://192.0.2.10/"\n'
    machine.write("/etc/facedetd-large.toml", config)

    def check_within(limit: str) -> Any:
        command = ("systemd-run", "--quiet", "--wait", "--pipe", f"--property=MemoryMax={limit}", "/usr/sbin/facedetd")
        return machine.run(*command, "--config", "/etc/facedetd-large.toml", "--check", check=False)

    refused = check_within("200M")
    assert refused.returncode == 78 and "the rings for 1 streams" in refused.stderr + refused.stdout, refused
    assert check_within("1900M").returncode == 0


# And what confines it


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.by}: {row.tries[0]}")
def test_the_directive_is_what_stops_it(probes, confined, row):
    check(probes, confined, row)


def test_open_files_are_limited_by_the_unit(probes, confined):
    assert confined["nofile"] == 65536
    assert probes.run(probes.whole(without=("LimitNOFILE",)))["nofile"] != 65536


def test_only_the_camera_network_may_be_reached(probes, machine):
    for address in ("192.0.2.10", "198.51.100.10"):
        machine.run("ip", "address", "add", f"{address}/32", "dev", "lo")
    tries = ("reach a camera", "reach another host")
    assert probes.run(probes.whole(), tries) == dict.fromkeys(tries, "done")
    lines = drop_in(machine, "camera-network.conf")
    found = probes.run([*probes.whole(), *lines], tries)
    assert found.pop("reach another host") in ("EPERM", "TimeoutError('timed out')"), "what it sends is dropped"
    assert found == {"reach a camera": "done"}


def test_the_slice_limits_memory_and_one_dead_process_is_not_the_end(probes, machine):
    take = ("take 400 MB",)
    assert probes.run(probes.whole(), take) == {take[0]: "done"}
    machine.run("systemctl", "set-property", "--runtime", "facedetd.slice", "MemoryMax=200M", "MemorySwapMax=0")
    try:
        assert probes.run(probes.whole(), take) == {take[0]: "killed"}, "OOMPolicy=continue: the service went on"
    finally:
        machine.run("systemctl", "set-property", "--runtime", "facedetd.slice", "MemoryMax=infinity")


def test_the_example_for_gpus_opens_their_devices_and_no_others(probes, machine):
    # There is no NVIDIA here, so a disk is what it allows; which disk makes no difference to the kernel
    machine.run("chmod", "666", "/dev/vda", "/dev/vcs1")
    lines = drop_in(machine, "gpu.conf")
    kinds = [line for line in lines if line.startswith("DeviceAllow=char-nvidia")]
    assert kinds, lines
    disk = [line for line in lines if line not in kinds] + ["DeviceAllow=block-virtblk rw"]
    tries = ("read a disk", "read a screen")
    assert probes.run([*probes.whole(), *disk], tries) == {tries[0]: "done", tries[1]: "EPERM"}
    open_to_all = [line for line in disk if not line.startswith("Device")]
    whole = probes.whole(without=("DevicePolicy",))
    assert probes.run([*whole, *open_to_all], tries) == dict.fromkeys(tries, "done"), "only the policy closes the other"
