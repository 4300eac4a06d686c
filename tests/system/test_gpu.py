"""The package facedetd-gpu where there is no GPU: what it opens, what its command installs and refuses, and that
nothing stays of it. The wheels are stand-ins: one holds a library of Python's own in place of TensorRT's, so that
loading machine code from there shows too. In order: one machine goes through all of it."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.system import base, packages
from tests.system.conftest import DEBS, STRANGER, Machine
from tests.system.container import ContainerError, wait_for

sys.path.append(str(Path(__file__).resolve().parents[2] / "packaging" / "gpu"))

from facedetd_gpu_setup import lock

pytestmark = pytest.mark.timeout(400)
FAKES = f"{DEBS}/fakes"
PLACE = "/var/lib/facedetd-gpu"
DEVICES = "/lib/systemd/system/facedetd-gpu-devices.service"
PYTHON = "/usr/lib/facedetd/bin/python3"
CODE = "import tensorrt._json, pycuda.driver; print(tensorrt._json.__file__, pycuda.driver.__file__)"
DROPIN = "/run/systemd/system/facedetd.service.d/90-load.conf"


@pytest.fixture(scope="module")
def fakes(debs: tuple[Path, Path]) -> Path:
    """A folder as ``facedetd-gpu-setup fetch`` leaves one."""
    folder = debs[0].parent / "fakes"
    folder.mkdir()
    library = "_json.cpython-311-x86_64-linux-gnu.so"
    code = (base.root() / "usr/lib/python3.11/lib-dynload" / library).read_bytes()
    tensorrt = {"tensorrt/__init__.py": b"__version__ = '0.0+fake'\n", f"tensorrt/{library}": code}
    packages.wheel(folder, "tensorrt_cu12", "0.0+fake", "cp311-cp311-linux_x86_64", tensorrt)
    pycuda = {"pycuda/__init__.py": b"", "pycuda/driver.py": b"def init():\n    raise RuntimeError('a stand-in')\n"}
    packages.wheel(folder, "pycuda", "0.0+fake", "py3-none-any", pycuda)
    (folder / lock.NAME).write_text(lock.render(lock.pins_of(lock.digests(folder))))
    return folder


@pytest.fixture(scope="module")
def gpu_debs(debs: tuple[Path, Path]) -> tuple[str, str]:
    """Names of the package and a later one, beside those of facedetd."""
    first = Path(os.environ["FACEDETD_DEB"])
    named = first.with_name(first.name.replace("facedetd_", "facedetd-gpu_", 1))
    assert named.exists(), f"packaging/build_deb.sh makes {named.name} with {first.name}"
    shutil.copy(named, debs[0].parent)
    packages.later(named, debs[0].parent / "facedetd-gpu_later.deb")
    return named.name, "facedetd-gpu_later.deb"


@pytest.fixture(scope="module")
def before(machine: Machine) -> set[str]:
    wait_for("the daemon", machine.active)
    return own_files(machine)


@pytest.fixture(scope="module")
def both(before: set[str], machine: Machine, gpu_debs: tuple[str, str], fakes: Path) -> Machine:
    assert (machine.show("PrivateDevices"), nvidia(machine)) == (["yes"], set())
    machine.install(gpu_debs[0])
    return machine


def own_files(machine: Machine) -> set[str]:
    moving = (
        "/var/log/",
        "/var/backups/",
        "/var/cache/",
        "/var/lib/systemd/",
        "/var/lib/apt/",
        "/var/lib/facedetd/",
        "/var/tmp/",
        "/home/",
    )
    return {path for path in machine.container.files() if not path.startswith(moving)}


def nvidia(machine: Machine) -> set[str]:
    lines = machine.out("systemctl", "show", "facedetd", "-p", "DeviceAllow").splitlines()
    return {line.removeprefix("DeviceAllow=").split()[0] for line in lines if "nvidia" in line}


def setup(machine: Machine, *arguments: str, user: str = "") -> tuple[int, str]:
    """Exit code, and what it said in either way."""
    done = machine.run("facedetd-gpu-setup", *arguments, user=user, check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_service_may_use_nvidias_devices_and_no_others(both):
    both.run("systemctl", "restart", "facedetd")
    wait_for("the daemon", both.active)
    assert both.show("PrivateDevices", "DevicePolicy", "SupplementaryGroups") == ["no", "closed", "video"]
    assert nvidia(both) == {"char-nvidia", "char-nvidia-frontend", "char-nvidia-uvm", "char-nvidia-caps"}
    assert both.out("dpkg", "--verify", "facedetd-gpu") == ""
    text = both.out("systemd-analyze", "security", "--no-pager", "facedetd.service")
    assert float(text.rpartition("facedetd.service:")[2].split()[0]) <= 2.5


def test_the_devices_are_made_before_each_start_of_the_daemon(both):
    both.write(
        "/usr/bin/nvidia-modprobe", '#!/bin/sh\necho "$@" >>/run/asked; systemctl is-active facedetd >>/run/asked\n'
    )
    both.run("chmod", "755", "/usr/bin/nvidia-modprobe")
    for _ in range(2):
        both.run("systemctl", "stop", "facedetd")
        both.run("systemctl", "start", "facedetd")
    asked = both.out("cat", "/run/asked")
    both.run("rm", "/usr/bin/nvidia-modprobe", "/run/asked")
    assert asked.split("\n") == ["-c0 -u", "inactive"] * 2
    assert "facedetd" not in both.run("systemd-analyze", "verify", "--man=no", DEVICES, check=False).stderr


def test_without_a_gpu_it_says_what_is_missing(both):
    code, said = setup(both, "check")
    assert (
        code == 1 and "driver: error: NVIDIA's driver isn't installed" in said and "apt install nvidia-driver" in said
    )
    assert "libraries: warning: not installed; facedetd-gpu-setup install" in said
    code, said = setup(both, "install", "--from", FAKES)
    assert code == 1 and "--no-gpu installs all the same" in said
    code, said = setup(both, "install", "--no-gpu")
    assert code == 1 and "apt install g++" in said and "apt install python3.11-dev" in said
    code, said = setup(both, "install", "--from", FAKES, user=STRANGER)
    assert code == 1 and "use sudo" in said
    assert both.run("test", "-e", PLACE, check=False).returncode == 1


def test_the_daemons_python_finds_what_was_installed_and_its_own_first(both):
    code, said = setup(both, "install", "--from", FAKES, "--no-gpu")
    assert code == 0, said
    assert "tensorrt-cu12 0.0+fake instead of 10." in said, "what it isn't is told"
    found = both.out(PYTHON, "-IBc", CODE, user="facedetd").split()
    assert [path.startswith(f"{PLACE}/python3.11/") for path in found] == [True, True]
    path = both.out(PYTHON, "-IBc", "import sys; print(*sys.path)").split()
    assert path.index("/usr/lib/facedetd/lib/python3.11/site-packages") < path.index(f"{PLACE}/python3.11")
    assert both.out("find", PLACE, "!", "-user", "root", "-o", "-perm", "/022", "!", "-type", "l") == ""
    code, said = setup(both, "check")
    assert code == 1 and "that Python finds isn't TensorRT" in said, "no stand-in passes for it"


def test_the_confined_daemon_may_load_code_from_there_and_from_nowhere_else_below_var(both):
    load = f'[Service]\nExecStartPre={PYTHON} -IBc "{CODE}"\n'
    both.write(DROPIN, load + "ExecPaths=\n")
    both.run("systemctl", "daemon-reload")
    with pytest.raises(ContainerError):
        both.run("systemctl", "restart", "facedetd")
    wait_for("a word on it", lambda: any("_json" in m for m in both.messages()))
    both.write(DROPIN, load)
    both.run("systemctl", "daemon-reload")
    both.run("systemctl", "reset-failed", "facedetd")
    both.run("systemctl", "restart", "facedetd")
    wait_for("the daemon", both.active)
    both.run("rm", DROPIN)
    both.run("systemctl", "daemon-reload")


def test_a_wheel_that_is_not_the_one_locked_is_refused_and_the_old_ones_stay(both, fakes):
    wheel = next(fakes.glob("pycuda-*.whl"))
    right = wheel.read_bytes()
    wheel.write_bytes(right + b"\0")
    code, said = setup(both, "install", "--from", FAKES, "--no-gpu")
    assert code == 1 and "DO NOT MATCH THE HASHES" in said
    wheel.write_bytes(right)
    both.run(PYTHON, "-IBc", CODE, user="facedetd")
    assert both.out("ls", "-A", PLACE) == "python3.11"


def test_an_upgrade_keeps_what_was_installed(both, debs, gpu_debs):
    both.install(debs[1].name, f"{DEBS}/{gpu_debs[1]}")
    wait_for("the daemon", both.active)
    assert both.out("dpkg-query", "-W", "-f", "${Version}", "facedetd-gpu").endswith("+later")
    both.run(PYTHON, "-IBc", CODE, user="facedetd")


def test_nothing_stays_when_it_goes(both, before):
    both.run("apt-get", "remove", "-y", "-qq", "facedetd-gpu")
    assert both.run("test", "-e", PLACE, check=False).returncode == 1
    assert (both.show("PrivateDevices"), nvidia(both)) == (["yes"], set())
    both.run("apt-get", "purge", "-y", "-qq", "facedetd-gpu")
    assert own_files(both) - before == set()
    both.run("systemctl", "restart", "facedetd")
    wait_for("the daemon", both.active)
    assert both.run(PYTHON, "-IBc", "import tensorrt", check=False).returncode == 1
