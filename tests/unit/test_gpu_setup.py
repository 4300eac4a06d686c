"""facedetd-gpu-setup: its locks, what it finds wrong, what it refuses. What pip does: tests/system/test_gpu.py."""

import dataclasses
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "packaging" / "gpu"))

from facedetd_gpu_setup import facts, findings, lock, main, wheels  # noqa: E402
from facedetd_gpu_setup.facts import Facts, Gpu  # noqa: E402
from facedetd_gpu_setup.findings import Grade  # noqa: E402
from facedetd_gpu_setup.lock import LockError, Pin  # noqa: E402

A, B = "a" * 64, "b" * 64
GOOD = Facts(
    driver=True, cuda=(12, 2), gpus=(Gpu("Thing", (8, 6)),), decoder=True, uvm=True, compiler=True, headers=True
)  # fmt: skip
names = st.from_regex(r"[a-z0-9]+(-[a-z0-9]+)*", fullmatch=True)
pins = st.builds(
    Pin, names, st.from_regex(r"[0-9]+(\.[0-9]+)*", fullmatch=True),
    st.lists(st.from_regex(r"[0-9a-f]{64}", fullmatch=True), min_size=1, max_size=3).map(tuple),
)  # fmt: skip


def package_lock(name: str) -> dict[str, Pin]:
    return {pin.name: pin for pin in lock.load(ROOT / "packaging" / "gpu" / name)}


@given(st.lists(pins, min_size=1).map(tuple))
def test_a_lock_is_read_as_it_was_written(made):
    assert lock.parse(lock.render(made), "x") == made


@pytest.mark.parametrize(
    "line",
    ["thing", "thing==1", f"thing>=1 --hash=sha256:{A}", f"thing==1 --hash=md5:{A}", f"thing==1 --hash=sha256:{A[1:]}",
     f"thing==1 --hash=sha256:{A} --index-url=x", "-r other.txt"],
)  # fmt: skip
def test_a_lock_with_anything_else_is_refused(line, tmp_path):
    with pytest.raises(LockError, match=r"mine, line 2: .* isn't NAME==VERSION"):
        lock.parse(f"# words\n{line}\n", "mine")
    with pytest.raises(LockError, match="names no package"):
        lock.parse("\n", "mine")
    with pytest.raises(LockError, match="can't be read"):
        lock.load(tmp_path / "none")


def test_the_packages_locks_fit_each_other_and_the_packages_wheels():
    wanted, building = package_lock("facedetd.lock"), package_lock("build.lock")
    assert {"tensorrt-cu12", "tensorrt-cu12-libs", "tensorrt-cu12-bindings", "pycuda"} <= wanted.keys()
    assert len({p.version for p in wanted.values() if p.name.startswith("tensorrt")}) == 1
    assert building["nvidia-cuda-runtime-cu12"] == wanted["nvidia-cuda-runtime-cu12"]
    assert building["nvidia-cuda-profiler-api-cu12"].version == wanted["nvidia-cuda-runtime-cu12"].version
    # PyCUDA is built for the NumPy that it will find
    locked = (ROOT / "requirements" / "dev-py311.txt").read_text()
    block = re.search(rf"^numpy=={re.escape(building['numpy'].version)} \\\n(?:    --hash=\S+.*\n)+", locked, re.M)
    assert block, "another version is locked for the package"
    assert building["numpy"].hashes[0] in block[0]
    assert not wanted.keys() & {"numpy", "typing-extensions"}, "the daemon's own are found first"


def test_what_came_is_compared_with_what_is_locked():
    wanted = (Pin("thing-libs", "1.0", (A, B)), Pin("pycuda", "2", (A,)))
    right = {"thing_libs-1.0-py3-none-any.whl": B, "pycuda-2-cp311-cp311-linux_x86_64.whl": "c" * 64}
    assert lock.faults(right, wanted) == []
    assert lock.faults({**right, "thing_libs-1.0-py3-none-any.whl": "c" * 64}, wanted)[0].startswith(
        "thing-libs 1.0: its wheel has the SHA-256 cccc"
    )
    assert lock.faults({"thing_libs-1.1-py3-none-any.whl": A, "other-1-py3-none-any.whl": A}, wanted) == [
        "other: not locked",
        "thing-libs: version 1.1 came, 1.0 is locked",
        "pycuda 2: no wheel came",
    ]


def test_a_lock_for_wheels_has_the_hashes_of_their_files(tmp_path):
    (tmp_path / "Thing.Two_x-1.0-py3-none-any.whl").write_bytes(b"")
    (tmp_path / "words.txt").write_text("no wheel")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert lock.pins_of(lock.digests(tmp_path)) == (Pin("thing-two-x", "1.0", (empty,)),)


def test_a_machine_that_has_everything_is_well():
    assert {f.grade for f in findings.of_gpu(GOOD)} == {Grade.OK}
    assert findings.of_building(GOOD) == []


@pytest.mark.parametrize(
    ("machine", "grade", "words"),
    [
        (Facts(driver_fault="isn't installed"), Grade.ERROR, "driver: error: .* apt install nvidia-driver"),
        (Facts(driver=True, driver_fault="cuInit: x (100)"), Grade.ERROR, "driver: error: .* nvidia-smi"),
        ({"cuda": (11, 8)}, Grade.ERROR, r"speaks CUDA 11.8, and 12.0 is needed"),
        ({"gpus": ()}, Grade.ERROR, "gpu: error: the driver knows none"),
        ({"gpus": (Gpu("Old", (7, 0)),)}, Grade.ERROR, "gpu 0: error: Old, .* 7.0; TensorRT 10 needs 7.5"),
        ({"gpus": (Gpu("Old", (7, 0)), Gpu("New", (9, 0)))}, Grade.WARNING, "gpu 0: warning"),
        ({"decoder": False}, Grade.WARNING, "libnvcuvid1"),
        ({"uvm": False}, Grade.WARNING, "nvidia-modprobe -c0 -u"),
    ],
)  # fmt: skip
def test_what_is_missing_for_a_gpu_is_said_with_what_to_do(machine, grade, words):
    if isinstance(machine, dict):
        machine = dataclasses.replace(GOOD, **machine)
    bad = [f for f in findings.of_gpu(machine) if f.grade is not Grade.OK]
    assert [f.grade for f in bad] == [grade] and re.search(words, str(bad[0])), bad


def test_what_is_missing_for_building_is_said_with_what_to_do():
    assert [f.advice for f in findings.of_building(Facts())] == ["apt install g++", "apt install python3.11-dev"]
    assert findings.of_space(Facts(free=10), 10, "x") == []
    assert "0.0 GB free in x" in findings.of_space(Facts(free=9), 10, "x")[0].what


def test_what_is_installed_is_compared_with_what_this_version_is_for():
    wanted = (Pin("thing", "2", (A,)), Pin("other", "1", (A,)))
    old = (Pin("thing", "1", (B,)),)
    cases = ((None, ""), (wanted, "libx.so is missing"), (old, ""), (wanted, ""))
    grades = [findings.of_installed(have, wanted, fault).grade for have, fault in cases]
    assert grades == [Grade.WARNING, Grade.ERROR, Grade.WARNING, Grade.OK]
    said = findings.of_installed(old, wanted, "").what
    assert "thing 1 instead of 2" in said and "other missing instead of 1" in said


@pytest.fixture
def places(tmp_path, monkeypatch):
    monkeypatch.setattr(facts, "look", lambda place: Facts(driver_fault="no driver", free=1 << 40))
    monkeypatch.setattr(main.os, "geteuid", lambda: 0)
    return wheels.Places(root=tmp_path / "gpu", locks=ROOT / "packaging" / "gpu", daemon_python=Path(sys.executable))


@pytest.fixture
def ready(tmp_path):
    """A folder as fetch leaves it, of no wheels."""
    folder = tmp_path / "ready"
    folder.mkdir()
    (folder / lock.NAME).write_text(lock.render((Pin("thing", "1", (A,)),)))
    return folder


def test_nothing_is_installed_where_there_is_no_gpu_unless_it_is_wanted_so(places, ready, capsys, monkeypatch):
    assert main.main(["install", "--from", str(ready)], places) == 1
    said = capsys.readouterr().err
    assert "driver: error: no driver" in said and "--no-gpu installs all the same" in said
    assert not places.root.exists()
    done = []
    monkeypatch.setattr(main, "Pip", lambda *_: done.append("pip"))
    monkeypatch.setattr(wheels, "unpack", lambda _, folder, new: (new.mkdir(), done.append(folder)))
    assert main.main(["install", "--from", str(ready), "--no-gpu"], places) == 0
    assert done == ["pip", ready] and places.site.is_dir() and [*places.root.iterdir()] == [places.site]


def test_what_does_not_load_does_not_take_the_place_of_what_does(places, ready, capsys, monkeypatch):
    places.site.mkdir(parents=True)
    (places.site / "mine").touch()
    monkeypatch.setattr(facts, "look", lambda place: dataclasses.replace(GOOD, free=1 << 40))
    monkeypatch.setattr(main, "Pip", lambda *_: None)
    monkeypatch.setattr(wheels, "unpack", lambda _, folder, new: new.mkdir())
    monkeypatch.setattr(wheels, "load_fault", lambda *_: "libx.so is missing")
    assert main.main(["install", "--from", str(ready)], places) == 1
    assert "doesn't work: libx.so is missing" in capsys.readouterr().err
    assert (places.site / "mine").exists() and [*places.root.iterdir()] == [places.site]
    monkeypatch.setattr(wheels, "load_fault", lambda *_: "")
    assert main.main(["install", "--from", str(ready)], places) == 0
    assert not (places.site / "mine").exists() and [*places.root.iterdir()] == [places.site]
    assert main.main(["remove"], places) == 0
    assert not places.root.exists()


def test_the_daemons_python_says_why_they_do_not_load(places, tmp_path):
    (tmp_path / "tensorrt.py").write_text("raise OSError('libnvinfer.so.10: cannot open')")
    assert "TensorRT can't be loaded (libnvinfer.so.10: cannot open)" in wheels.load_fault(places, tmp_path)
    (tmp_path / "tensorrt.py").write_text("__version__, Builder = '10.0.0', object")
    assert "pycuda isn't installed" in wheels.load_fault(places, tmp_path)
    (tmp_path / "pycuda").mkdir()
    (tmp_path / "pycuda/driver.py").write_text("def init(): raise RuntimeError('no device')")
    assert "no NVIDIA GPU can be used: no device" in wheels.load_fault(places, tmp_path)
    (tmp_path / "pycuda/driver.py").write_text("def init(): pass")
    assert wheels.load_fault(places, tmp_path) == ""


def test_one_at_a_time_and_nothing_stays_of_one_that_was_killed(tmp_path):
    (tmp_path / ".work-killed").mkdir()
    with wheels.workplace(tmp_path) as work:
        assert [*tmp_path.iterdir()] == [work]
        with pytest.raises(wheels.SetupError, match="another facedetd-gpu-setup"), wheels.workplace(tmp_path):
            pass
        assert work.is_dir()
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["install", "--from", "nowhere"], "nowhere: no such folder"),
        (["install", "--from", ".", "--index-url", "x"], "--from reaches no index"),
        (["install", "--no-gpu"], "apt install g"),
        (["fetch", "FULL"], "isn't empty"),
        (["fetch", "new"], "apt install python3.11-dev"),
    ],
)
def test_what_it_refuses_it_says(places, tmp_path, capsys, arguments, words):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    assert main.main([str(tmp_path / "full") if a == "FULL" else a for a in arguments], places) == 1
    assert re.search(words, capsys.readouterr().err)


def test_an_ordinary_user_is_told_to_use_sudo(places, capsys, monkeypatch):
    monkeypatch.setattr(main.os, "geteuid", lambda: 1000)
    for command in ("install", "remove"):
        assert main.main([command], places) == 1
        assert "use sudo" in capsys.readouterr().err


def test_the_package_points_where_the_command_installs_to():
    stage = (ROOT / "packaging/deb/stage.py").read_text()
    assert f'GPU_LIBRARIES = "{wheels.Places().site}"' in stage
    assert f"ExecPaths=-{wheels.Places().root}\n" in (ROOT / "systemd/gpu.conf").read_text()
    assert f"rm -rf {wheels.Places().root} " in (ROOT / "packaging/debian/facedetd-gpu.postrm").read_text()


def test_each_gpu_gets_its_device(tmp_path):
    """The commands of the unit, with a /proc and an nvidia-modprobe of the test's."""
    unit = (ROOT / "systemd/facedetd-gpu-devices.service").read_text()
    commands = re.findall(r"^ExecStart=-(.*)$", unit, re.M)
    assert len(commands) == 2 and "$" not in unit and "%" not in unit, "systemd would put its own in their place"
    made, modprobe = tmp_path / "made", tmp_path / "nvidia-modprobe"
    modprobe.write_text(f'#!/bin/sh\necho "$@" >>{made}\n')
    modprobe.chmod(0o755)

    def run() -> str:
        made.write_text("")
        for command in commands:
            there = command.replace("/usr/bin/nvidia-modprobe", str(modprobe)).replace("/proc", str(tmp_path))
            subprocess.run(shlex.split(there), check=False, capture_output=True)
        return made.read_text()

    assert run() == "-c0 -u\n", "no driver"
    for place, minor in (("0000:3b:00.0", 1), ("0000:86:00.0", 0), ("0000:af:00.0", 12)):
        folder = tmp_path / "driver/nvidia/gpus" / place
        folder.mkdir(parents=True)
        (folder / "information").write_text(f"Model: \t\t Thing\nDevice Minor: \t {minor}\nGPU Excluded:\t No\n")
    assert run() == "-c0 -u\n-c1 -c0 -c12\n"
    assert "ExecStartPre" not in (ROOT / "systemd/gpu.conf").read_text(), "there no device can be made"
