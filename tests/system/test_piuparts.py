"""Debian's piuparts over both packages, in a chroot without systemd and without a network: install and purge, install
and upgrade and purge, and nothing may be left. The repository with the version before is a folder."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system import base, packages
from tests.system.container import Container

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def chroot(debs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """A root whose only source of packages is the folder ``repository`` beside it, with the packages' first version."""
    if shutil.which("piuparts") is None:
        reason = "needs piuparts: run packaging/setup_packaging.sh system"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    folder = tmp_path_factory.mktemp("piuparts")
    repository = folder / "repository"
    repository.mkdir()
    for deb in (debs[0], gpu_deb()):
        shutil.copy(deb, repository)
    found = subprocess.run(["dpkg-scanpackages", "."], cwd=repository, check=True, capture_output=True).stdout
    (repository / "Packages").write_bytes(found)
    with Container(base.root(), folder / "machine", f"fd{os.getpid()}pp") as made:
        (made.root / "etc/apt/sources.list").write_text(f"deb [trusted=yes] file:{repository} ./\n")
        yield made
    shutil.rmtree(folder, ignore_errors=True)


def gpu_deb() -> Path:
    first = Path(os.environ["FACEDETD_DEB"])
    return first.with_name(first.name.replace("facedetd_", "facedetd-gpu_", 1))


def piuparts(chroot: Container, folder: Path, *debs: Path) -> tuple[int, list[str]]:
    """Exit code, and what it said but for what it only did."""
    repository = chroot.root.parents[1] / "repository"
    done = subprocess.run(
        ["ip", "netns", "exec", chroot.netns, "piuparts", "-d", base.SUITE, "--existing-chroot", chroot.root,
         "--bindmount", repository, "--keep-sources-list", "--no-eatmydata", "--tmpdir", folder, *debs],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, [line for line in done.stdout.splitlines() if "DEBUG:" not in line]


def test_install_upgrade_and_purge_leave_nothing(chroot, debs, tmp_path):
    packages.later(gpu_deb(), tmp_path / "facedetd-gpu_later.deb")
    code, said = piuparts(chroot, tmp_path, debs[1], tmp_path / "facedetd-gpu_later.deb")
    assert code == 0, "\n".join(said[-60:])
    passed = {line.partition("PASS: ")[2] for line in said if "PASS: " in line}
    assert {"Installation and purging test.", "Installation, upgrade and purging tests."} <= passed


def test_it_would_notice(chroot, tmp_path):
    tree = tmp_path / "leaver"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        "Package: leaver\nVersion: 1\nArchitecture: all\nMaintainer: Tests <tests@facedetd.invalid>\n"
        "Description: leaves a file behind\n"
    )
    postinst = tree / "DEBIAN/postinst"
    postinst.write_text("#!/bin/sh\ntouch /etc/left-behind\n")
    postinst.chmod(0o755)
    deb = tmp_path / "leaver_1_all.deb"
    subprocess.run(["dpkg-deb", "-b", tree, deb], check=True, stdout=subprocess.DEVNULL)
    code, said = piuparts(chroot, tmp_path, deb)
    assert code != 0 and any("/etc/left-behind" in line for line in said), said[-20:]
