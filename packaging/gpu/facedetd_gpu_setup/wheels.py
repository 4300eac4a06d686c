"""Fetches, builds and unpacks wheels, with Debian's pip in an environment for the moment."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from facedetd_gpu_setup import lock
from facedetd_gpu_setup.lock import Pin

_WORK = ".work-"
_SITECONF = """\
CUDA_INC_DIR = {headers!r}
CUDA_ENABLE_CURAND = False
CUDADRV_LIBNAME = []
LDFLAGS = [{stub!r}, "-Wl,--no-as-needed", "-lcuda"]
"""
_CHECK = """\
import site, sys
site.addsitedir(sys.argv[1])
from facedetd.trt import compat, device
from facedetd.trt.errors import GpuError
try:
    compat.installed(), device.driver()
except GpuError as error:
    sys.exit(str(error))
"""


class SetupError(Exception):
    """What went wrong, in words for whoever runs the command."""


@dataclass(frozen=True, slots=True)
class Places:
    """``root``: where everything of it is. ``site``: the folder in it that facedetd-gpu.pth puts on the daemon's path.
    ``locks``: the package's own."""

    root: Path = Path("/var/lib/facedetd-gpu")
    locks: Path = Path("/usr/share/facedetd-gpu")
    python: Path = Path("/usr/bin/python3.11")
    daemon_python: Path = Path("/usr/lib/facedetd/bin/python3")

    @property
    def site(self) -> Path:
        return self.root / "python3.11"

    def wanted(self) -> tuple[Pin, ...]:
        """Raises LockError."""
        return lock.load(self.locks / "facedetd.lock")

    def installed(self) -> tuple[Pin, ...] | None:
        """None: nothing. Raises LockError where what is there can't be told."""
        return lock.load(self.site / lock.NAME) if self.site.is_dir() else None


@dataclass(frozen=True, slots=True)
class Source:
    """Where pip looks: a folder, and then nowhere else; or the index it is configured for, or ``index``."""

    folder: Path | None = None
    index: str = ""

    def options(self) -> list[str]:
        if self.folder is not None:
            return ["--no-index", "--find-links", str(self.folder)]
        return ["--index-url", self.index] if self.index else []


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def workplace(root: Path) -> Iterator[Path]:
    """A folder below ``root`` that is gone afterwards, for one process at a time. Raises SetupError, OSError."""
    root.mkdir(mode=0o755, parents=True, exist_ok=True)
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SetupError(f"another facedetd-gpu-setup is at work in {root}") from None
        for left in root.glob(f"{_WORK}*"):  # by one that was killed
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=_WORK, dir=root) as made:
            yield Path(made)
    finally:
        os.close(folder)


class Pip:
    """pip in an environment of its own below ``work``, which needs Debian's python3-venv."""

    def __init__(self, places: Places, work: Path):
        self._work, self._places = work, places
        self._home = work / "home"
        for folder in (self._home, work / "tmp"):
            folder.mkdir()
        _run([places.python, "-m", "venv", work / "venv"], self._environment(), "no environment for pip could be made")

    def __call__(self, *arguments: str | Path, why: str) -> None:
        """Raises SetupError: ``why``, and what pip said last."""
        command: list[str | Path] = [
            self._work / "venv/bin/python",
            "-I",
            "-m",
            "pip",
            "--disable-pip-version-check",
            "--no-cache-dir",
        ]
        _run([*command, *arguments], self._environment(), why)

    def prepare_building(self, source: Source) -> None:
        """What builds PyCUDA, and what it is told: CUDA's headers, and an empty library of the driver's name. Thus it
        can be built without a driver, and looks for the real one when it is loaded. Raises SetupError."""
        self("install", "-q", "--require-hashes", "--no-deps", "--only-binary", ":all:", *source.options(),
             "-r", self._places.locks / "build.lock", why="what is needed to build PyCUDA can't be had")  # fmt: skip
        stub = self._work / "stub"
        stub.mkdir()
        empty: list[str | Path] = [
            "g++",
            "-shared",
            "-Wl,-soname,libcuda.so.1",
            "-o",
            stub / "libcuda.so",
            "-x",
            "c++",
            "/dev/null",
        ]
        _run(empty, self._environment(), "g++ doesn't work")
        headers = [str(path) for path in sorted(self._work.glob("venv/lib/python3*/site-packages/nvidia/*/include"))]
        # PyCUDA's setup reads this file of the user's
        (self._home / ".aksetup-defaults.py").write_text(_SITECONF.format(headers=headers, stub=f"-L{stub}"))

    def _environment(self) -> dict[str, str]:
        """The caller's, so that proxies and pip's settings count, but for Python's variables and the home folder."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        home = Path(kept.get("HOME", "/root"))
        return {
            "XDG_CONFIG_HOME": str(home / ".config"),
            "NETRC": str(home / ".netrc"),
            **kept,
            "HOME": str(self._home),
            "TMPDIR": str(self._work / "tmp"),
        }


def collect(places: Places, pip: Pip, source: Source, into: Path) -> None:
    """Wheels of everything the package's lock names, and a lock of these. Raises SetupError, LockError, OSError."""
    wanted = places.wanted()
    pip.prepare_building(source)
    say("fetching TensorRT, some gigabytes, and building PyCUDA, some minutes")
    pip("wheel", "-q", "--require-hashes", "--no-deps", "--no-build-isolation", "-w", into, *source.options(),
        "-r", places.locks / "facedetd.lock", why="TensorRT, PyCUDA or what they need can't be had")  # fmt: skip
    wheels = lock.digests(into)
    if wrong := lock.faults(wheels, wanted):
        raise SetupError("what came isn't what is locked: " + "; ".join(wrong))
    (into / lock.NAME).write_text(lock.render(lock.pins_of(wheels)))


def unpack(pip: Pip, folder: Path, into: Path) -> None:
    """The wheels that the lock in ``folder`` names, if their hashes are right. Raises SetupError, OSError."""
    pip("install", "-q", "--no-index", "--find-links", folder, "--require-hashes", "--no-deps", "--only-binary",
        ":all:", "--target", into, "-r", folder / lock.NAME, why=f"what is in {folder} can't be installed")  # fmt: skip
    shutil.copy(folder / lock.NAME, into / lock.NAME)
    into.chmod(0o755)


def load_fault(places: Places, site: Path) -> str:
    """What the daemon's Python says against TensorRT and PyCUDA in ``site``; empty: they load and find a GPU."""
    command = [places.daemon_python, "-IBc", _CHECK, site]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode == 0:
        return ""
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"the daemon's Python ended with {done.returncode} when it loaded them"


def swap(new: Path, place: Path) -> None:
    """``new`` takes the place of ``place``; what was there goes. Both are on one file system. Raises OSError."""
    old = new.with_name("old")
    if place.exists():
        place.rename(old)
    new.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def _run(command: Sequence[str | Path], environment: Mapping[str, str], why: str) -> None:
    done = subprocess.run(  # noqa: S603
        [str(c) for c in command], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        last = "\n".join(done.stdout.strip().splitlines()[-40:])
        raise SetupError(f"{why}:\n{last}")
