"""Lays out the files of the Debian packages: ``stage.py --inputs build-inputs --into debian``, each in a folder of its
name below.

Runs in the root of the sources, under a Python with the project's locked packages. ``inputs`` has ``wheels/`` and
``models/`` (a model store); it gets ``man/``. The same inputs give the same bytes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

HOME = Path("usr/lib/facedetd")
SITE = HOME / "lib/python3.11/site-packages"
INTERPRETER = "/usr/bin/python3.11"
GPU_LIBRARIES = "/var/lib/facedetd-gpu/python3.11"
"""Where facedetd-gpu-setup installs to (``Places.site`` there)."""

LEFT_OUT = (
    # Headers, stubs, sources of extension modules, static libraries
    "*.pyi", "*.pxd", "*.pyx", "*.h", "*.a", "*.c", "*.cpp", "py.typed",
    # Tests and tools
    "tests/*", "numpy/f2py/*", "numpy/_pyinstaller/*", "numpy/_core/include/*", "numpy/_core/lib/*",
    "numpy/random/_examples/*", "numpy/conftest.py", "numpy/_core/*_tests.*.so", "av/datasets.py", "av/__main__.py",
    "onnxruntime/backend/*", "onnxruntime/datasets/*", "onnxruntime/quantization/*", "onnxruntime/tools/*",
    "onnxruntime/transformers/*", "onnxruntime/Privacy.md",
    # For C programs: the Python module holds a runtime of its own
    "onnxruntime/capi/libonnxruntime.so*",
    "cv2/data/*", "cv2/load_config_py2.py", "google/protobuf/compiler/*",
)  # fmt: skip
"""What neither daemon nor facedetctl load. The tests of the package would notice what they do."""

SCRIPT = """\
#!/usr/lib/facedetd/bin/python3 -IB
import sys
{path}
from {module} import main

if __name__ == "__main__":
    sys.exit(main())
"""


def unpack_wheels(wheels: Iterable[Path], site: Path, licences: Path) -> None:
    """Their modules and their names and versions to ``site``; their licences, one file for each, to ``licences``."""
    licences.mkdir(parents=True)
    for wheel in sorted(wheels):
        texts = []
        with zipfile.ZipFile(wheel) as archive:
            for name in sorted(archive.namelist()):
                path = Path(name)
                if name.endswith("/") or any(path.match(pattern) or _below(path, pattern) for pattern in LEFT_OUT):
                    continue
                if _is_licence(path):
                    texts.append(f"==== {name}\n\n".encode() + archive.read(name) + b"\n")
                elif not path.parts[0].endswith(".dist-info") or path.name == "METADATA":
                    write(site / path, _module(path, archive.read(name)))
        if texts:
            write(licences / f"{wheel.name.split('-')[0]}.txt", b"".join(texts))


def _module(path: Path, data: bytes) -> bytes:
    """Without a first line that names an interpreter: nothing here is run by its name."""
    return data.partition(b"\n")[2] if path.suffix == ".py" and data.startswith(b"#!") else data


def _below(path: Path, pattern: str) -> bool:
    """Whether a folder/* of the list holds the file at any depth."""
    if not pattern.endswith("/*"):
        return False
    return any(parent.match(pattern[:-2]) for parent in path.parents if parent != Path())


def _is_licence(path: Path) -> bool:
    return any(word in path.name.lower() for word in ("license", "licence", "copying", "notice", "authors"))


def copy_modules(package: Path, site: Path) -> None:
    """Modules, and the kernels for GPUs that stand beside them."""
    for file in sorted(f for kind in ("*.py", "*.ptx") for f in package.rglob(kind)):
        write(site / package.name / file.relative_to(package), file.read_bytes())


def write(path: Path, data: bytes, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)


def completion(shell: str) -> str:
    from facedetctl import completion as made
    from facedetctl.main import make_parser

    scripts: dict[str, Callable[[list[made.Node]], str]] = {"bash": made.bash, "zsh": made.zsh, "fish": made.fish}
    return scripts[shell](list(made.walk(make_parser())))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=Path, required=True)
    parser.add_argument("--into", type=Path, required=True)
    args = parser.parse_args()
    inputs, root = args.inputs, args.into / "facedetd"
    os.umask(0o022)
    sys.path[:0] = [str(Path.cwd()), str(Path("ctl").resolve())]  # these sources, not an installed copy
    import manpages  # beside this file

    from facedetd.config.reference import render_toml

    doc = root / "usr/share/doc/facedetd"
    unpack_wheels((inputs / "wheels").glob("*.whl"), root / SITE, doc / "third-party")
    for package in (Path("facedetd"), Path("ctl/facedetctl")):
        copy_modules(package, root / SITE)
    (root / HOME / "bin").mkdir()
    (root / HOME / "bin/python3").symlink_to(INTERPRETER)
    write(root / HOME / "pyvenv.cfg", b"home = /usr/bin\ninclude-system-site-packages = false\nversion = 3.11\n")
    for command, module in (("usr/sbin/facedetd", "facedetd.main"), ("usr/bin/facedetctl", "facedetctl.__main__")):
        write(root / command, SCRIPT.format(path="", module=module).encode(), 0o755)

    shutil.copytree(inputs / "models", root / "usr/share/facedetd/models")
    write(root / "etc/facedetd/facedetd.toml", render_toml().encode())
    (root / "etc/facedetd/conf.d").mkdir()
    (root / "etc/facedetd/credentials").mkdir(mode=0o700)
    for unit in ("facedetd.service", "facedetd.slice"):
        write(root / "lib/systemd/system" / unit, Path("systemd", unit).read_bytes())
    for example in ("camera-network.conf", "gpu.conf", "limits.conf"):
        write(doc / "examples" / example, Path("systemd", example).read_bytes())
    for shell, path in (
        ("bash", "usr/share/bash-completion/completions/facedetctl"),
        ("zsh", "usr/share/zsh/vendor-completions/_facedetctl"),
        ("fish", "usr/share/fish/vendor_completions.d/facedetctl.fish"),
    ):
        write(root / path, completion(shell).encode())
    for name, text in manpages.pages().items():
        write(inputs / "man" / name, text.encode())
    stage_gpu(args.into / "facedetd-gpu")


def stage_gpu(root: Path) -> None:
    """The package facedetd-gpu: a command, what it installs, and what lets the daemon see and use that."""
    share = Path("usr/share/facedetd-gpu")
    copy_modules(Path("packaging/gpu/facedetd_gpu_setup"), root / share)
    for name in ("facedetd.lock", "build.lock"):
        write(root / share / name, Path("packaging/gpu", name).read_bytes())
    path = f'\nsys.path.append("/{share}")\n'
    script = SCRIPT.format(path=path, module="facedetd_gpu_setup.main")
    write(root / "usr/sbin/facedetd-gpu-setup", script.encode(), 0o755)
    # Behind the daemon's own packages, none of which it can thus replace; a folder that isn't there is passed over
    write(root / SITE / "facedetd-gpu.pth", f"{GPU_LIBRARIES}\n".encode())
    dropin = root / "lib/systemd/system/facedetd.service.d/50-facedetd-gpu.conf"
    write(dropin, Path("systemd/gpu.conf").read_bytes())
    devices = "facedetd-gpu-devices.service"
    write(root / "lib/systemd/system" / devices, Path("systemd", devices).read_bytes())


if __name__ == "__main__":
    main()
