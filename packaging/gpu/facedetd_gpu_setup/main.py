"""The commands."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from facedetd_gpu_setup import facts, findings, lock, wheels
from facedetd_gpu_setup.findings import Finding
from facedetd_gpu_setup.lock import LockError
from facedetd_gpu_setup.wheels import Pip, Places, SetupError, Source, say

LICENCE = "TensorRT and CUDA are NVIDIA's; whoever installs them accepts its licences, which come with them."


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="facedetd-gpu-setup",
        description="Put what inference on an NVIDIA GPU needs (TensorRT, PyCUDA) where facedetd finds it: pinned and "
        "hashed, in /var/lib/facedetd-gpu, which belongs to root.",
    )
    commands = made.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace, Places], int], text: str) -> argparse.ArgumentParser:
        inner = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        inner.set_defaults(run=run)
        return inner

    command("check", _check, "look at driver, GPUs and what is installed, and say what is missing")
    install = command("install", _install, "install, in place of what is there")
    install.add_argument(
        "--from", dest="folder", type=Path, metavar="DIR",
        help="take everything from this folder, which fetch made, and reach no network",
    )  # fmt: skip
    install.add_argument(
        "--no-gpu", action="store_true",
        help="install where there is no GPU, as for the image of a machine; whether it loads isn't tried then",
    )  # fmt: skip
    fetch = command("fetch", _fetch, "fetch and build everything into a folder, for install --from on other machines")
    fetch.add_argument("folder", type=Path, metavar="DIR", help="an empty or new folder")
    for each in (install, fetch):
        each.add_argument(
            "--index-url", default="", metavar="URL", help="pip's index, in place of the one it is set to"
        )
    command("remove", _remove, "delete everything that was installed")
    return made


def main(arguments: Sequence[str] | None = None, places: Places | None = None) -> int:
    """Exit code: 0 done, or all is well; 1 something is wrong; 2 the command line is."""
    args = parser().parse_args(arguments)
    os.umask(0o022)
    try:
        done: int = args.run(args, places or Places())
        return done
    except (SetupError, LockError, OSError) as error:
        say(f"facedetd-gpu-setup: {error}")
    except KeyboardInterrupt:
        say("facedetd-gpu-setup: interrupted; what was installed before is as it was")
    return 1


def _check(_: argparse.Namespace, places: Places) -> int:
    have = places.installed()
    fault = "" if have is None else wheels.load_fault(places, places.site)
    found = findings.of_gpu(facts.look(_existing(places.root)))
    found.append(findings.of_installed(have, places.wanted(), fault))
    for finding in found:
        print(finding)
    return 1 if findings.failed(found) else 0


def _fetch(args: argparse.Namespace, places: Places) -> int:
    folder: Path = args.folder
    if folder.exists() and any(folder.iterdir()):
        raise SetupError(f"{folder} isn't empty")
    here = facts.look(_existing(folder.resolve()))
    _stop([*findings.of_building(here), *findings.of_space(here, findings.SPACE, str(folder))])
    say(LICENCE)
    with wheels.workplace(folder.resolve()) as work:
        (work / "wheels").mkdir()
        wheels.collect(places, Pip(places, work), Source(index=args.index_url), work / "wheels")
        for file in sorted((work / "wheels").iterdir(), key=lambda path: path.name == lock.NAME):  # the lock last
            file.rename(folder / file.name)
    say(f"{folder} is complete: facedetd-gpu-setup install --from {folder}")
    return 0


def _install(args: argparse.Namespace, places: Places) -> int:
    folder: Path | None = args.folder
    if os.geteuid() != 0:
        raise SetupError(f"installs to {places.root}, which is root's: use sudo")
    if folder is not None and args.index_url:
        raise SetupError("--from reaches no index: leave --index-url away")
    if folder is not None and not folder.is_dir():
        raise SetupError(f"{folder}: no such folder")
    ready = folder is not None and (folder / lock.NAME).exists()
    here = facts.look(_existing(places.root))
    needed = 4 * sum(file.stat().st_size for file in folder.iterdir()) if folder is not None else findings.SPACE
    said = findings.of_space(here, needed, str(places.root))
    if not ready:
        said += findings.of_building(here)
    if not args.no_gpu:
        said = findings.of_gpu(here) + said
    _stop(said, "--no-gpu installs all the same where no GPU is meant to be" if not args.no_gpu else "")
    say(LICENCE)
    with wheels.workplace(places.root) as work:
        pip, new = Pip(places, work), work / "site"
        if folder is None or not ready:
            (work / "wheels").mkdir()
            wheels.collect(places, pip, Source(folder, args.index_url), work / "wheels")
            folder = work / "wheels"
        other = lock.differences(lock.load(folder / lock.NAME), places.wanted())
        wheels.unpack(pip, folder, new)
        if not args.no_gpu and (fault := wheels.load_fault(places, new)):
            raise SetupError(f"it was fetched, and doesn't work: {fault}. What was installed before is as it was")
        wheels.swap(new, places.site)
    if other:
        say(f"note: not what this version of facedetd-gpu is for: {', '.join(other)}")
    say(f"installed in {places.site}. Now set inference.engine (man facedetd.toml), and: systemctl restart facedetd")
    return 0


def _remove(_: argparse.Namespace, places: Places) -> int:
    if os.geteuid() != 0:
        raise SetupError(f"{places.root} is root's: use sudo")
    if places.root.exists():
        shutil.rmtree(places.root)
    say("removed; a daemon that runs has it until: systemctl restart facedetd")
    return 0


def _stop(found: Iterable[Finding], hint: str = "") -> None:
    """Says what isn't well. Raises SetupError where it can't go on."""
    found = list(found)
    for finding in found:
        if finding.grade is not findings.Grade.OK:
            say(str(finding))
    if findings.failed(found):
        gpu = any(f.grade is findings.Grade.ERROR and f.subject.startswith(("driver", "gpu")) for f in found)
        raise SetupError("not installed, see above" + (f"; {hint}" if hint and gpu else ""))


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next(each for each in (path, *path.parents) if each.exists())


if __name__ == "__main__":
    sys.exit(main())
