"""Packages for tests: a later version of one, and wheels that pretend."""

from __future__ import annotations

import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path


def later(deb: Path, made: Path, change: Callable[[Path], None] = lambda tree: None) -> None:
    """The same package but for its version, and what ``change`` does to its tree. A dependency on its own version goes
    along. Raises CalledProcessError."""
    tree = made.with_suffix(".tree")
    subprocess.run(["dpkg-deb", "-R", deb, tree], check=True)
    control = tree / "DEBIAN" / "control"
    text = re.sub(r"^(Version: .*)$", r"\1+later", control.read_text(), flags=re.MULTILINE)
    control.write_text(re.sub(r"(facedetd \(= [^)]*)\)", r"\1+later)", text))
    change(tree)
    subprocess.run(["dpkg-deb", "-Znone", "-b", tree, made], check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(tree)


def wheel(folder: Path, name: str, version: str, tag: str, files: Mapping[str, bytes]) -> Path:
    """A wheel of these files that says what it is."""
    made, info = folder / f"{name}-{version}-{tag}.whl", f"{name}-{version}.dist-info"
    about = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        "Summary: A stand-in for tests, with nothing of what its name says\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: facedetd's tests\nRoot-Is-Purelib: false\nTag: {tag}\n",
    }
    everything = {**files, **{path: text.encode() for path, text in about.items()}}
    with zipfile.ZipFile(made, "w") as archive:
        for path, data in everything.items():
            archive.writestr(path, data)
        archive.writestr(f"{info}/RECORD", "".join(f"{path},,\n" for path in [*everything, f"{info}/RECORD"]))
    return made
