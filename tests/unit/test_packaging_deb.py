"""What goes into the Debian package, as far as it shows without building it (``make test-system`` does that)."""

import importlib.util
import re
import shutil
import subprocess
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from facedetctl import completion
from facedetctl.main import make_parser
from facedetd.config.load import load
from facedetd.config.reference import render_toml
from facedetd.config.schema import KEYS
from facedetd.main import EXIT_CONFIG

ROOT = Path(__file__).resolve().parents[2]


def script(name: str) -> ModuleType:
    """One of packaging/deb. By its path: the package `packaging` of the index has that name already."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "packaging" / "deb" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


lock, manpages, stage = script("lock"), script("manpages"), script("stage")
UNIT = (ROOT / "systemd" / "facedetd.service").read_text()


def test_every_wheel_of_the_package_is_locked_with_hashes():
    text = lock.part_of((ROOT / "requirements" / "dev-py311.txt").read_text(), lock.wanted())
    assert len(re.findall(r"^[a-z0-9-]+==", text, re.MULTILINE)) == len(lock.wanted())
    assert all("--hash=sha256:" in block for block in re.split(r"\n(?=[a-z])", text))
    with pytest.raises(SystemExit, match="is locked of: nothing-of-this-name"):
        lock.part_of(text, ["nothing-of-this-name"])


def test_a_wheel_is_unpacked_without_what_nothing_loads(tmp_path):
    wheel = tmp_path / "thing-1-py3-none-any.whl"
    kept = ["thing/__init__.py", "numpy/core.py", "thing-1.dist-info/METADATA", "thing/data/model.bin"]
    gone = ["thing/a.pyi", "thing/b.pxd", "numpy/core/tests/test_x.py", "numpy/f2py/deep/er.py",
            "thing-1.dist-info/RECORD", "onnxruntime/tools/x/y.py", "onnxruntime/capi/libonnxruntime.so.1"]  # fmt: skip
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in [*kept, *gone]:
            archive.writestr(name, "#!/usr/bin/python\nx = 1\n" if name.endswith(".py") else "x")
        archive.writestr("thing-1.dist-info/licenses/LICENSE", "words")
    stage.unpack_wheels([wheel], tmp_path / "site", tmp_path / "licences")
    assert {str(p.relative_to(tmp_path / "site")) for p in (tmp_path / "site").rglob("*") if p.is_file()} == {*kept}
    assert (tmp_path / "site/thing/__init__.py").read_text() == "x = 1\n"
    assert "words" in (tmp_path / "licences/thing.txt").read_text()


def test_the_configuration_that_is_installed_loads_and_has_every_key(tmp_path):
    (tmp_path / "facedetd.toml").write_text(render_toml())
    assert load(tmp_path / "facedetd.toml").streams == ()
    for section, keys in KEYS.items():
        assert all(f"\n#{key} = " in render_toml() for key in keys), section


def test_manual_pages_have_every_command_option_and_key():
    pages = manpages.pages()
    for node in completion.walk(make_parser()):
        for option in node.options:
            assert all(name.replace("-", "\\-") in pages["facedetctl.1"] for name in option.names), (node.path, option)
    commands = {line[4:] for line in pages["facedetctl.1"].splitlines() if line.startswith(".SS ")}
    assert {"add\\-stream ID URL", "model pull NAME"} <= commands
    assert re.findall(r"\n\\fB(\d+)\\fR\n", pages["facedetd.8"]) == ["0", "1", "2", "78"]
    for section, keys in KEYS.items():
        assert all(f"\\fB{key}\\fR" in pages["facedetd.toml.5"] for key in keys), section


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not here")
def test_manual_pages_are_sound():
    for name, text in manpages.pages().items():
        done = subprocess.run(
            ["groff", "-man", "-Tutf8", "-Kutf8", "-ww", "-rCHECKSTYLE=3"],
            input=text,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == "", f"{name}: {done.stderr}"


def test_the_unit_agrees_with_the_code():
    assert f"RestartPreventExitStatus={EXIT_CONFIG}\n" in UNIT
    assert "SystemCallErrorNumber=EPERM" in UNIT and "LimitNOFILE=65536" in UNIT
    assert re.search(r"^SystemCallFilter=@system-service seccomp$", UNIT, re.MULTILINE), (
        "cameras are opened under seccomp"
    )
    version = re.search(r"^facedetd \(([^-]+)-", (ROOT / "packaging/debian/changelog").read_text())[1]
    from facedetd import __version__

    assert version == __version__


@pytest.mark.parametrize("package", ["facedetd", "facedetd-gpu"])
def test_a_purge_empties_a_state_directory_that_is_a_mount_point(tmp_path, package):
    if subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode:
        pytest.skip("no user namespaces here")
    state = tmp_path / "var/lib" / package
    state.mkdir(parents=True)
    script = (ROOT / f"packaging/debian/{package}.postrm").read_text()
    (tmp_path / "postrm").write_text(re.sub(r"/(?=(var/lib|var/cache|etc)/)", f"{tmp_path}/", script))
    mounted = f"mount -t tmpfs none {state} && mkdir {state}/models && touch {state}/models/a {state}/.b"
    inside = f"{mounted} && sh {tmp_path}/postrm purge && ls -A {state} && echo left"
    done = subprocess.run(["unshare", "-rm", "sh", "-c", inside], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "left\n"), done.stderr
    # What is no mount point goes
    (state / "a").write_text("")
    assert subprocess.run(["sh", tmp_path / "postrm", "purge"], check=False).returncode == 0 and not state.exists()
