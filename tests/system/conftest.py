"""A booted machine with the package installed, cameras beside it, and words for what the tests ask of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cameras import Account, CameraServer, Coding, encode, make_scene, missing_message, requirements
from tests.system import base, packages
from tests.system.container import Container, ContainerError, wait_for

OPERATOR, STRANGER = "olga", "sam"
"""Two ordinary users; one is a member of the group facedetd."""
PASSWORD = "s3cr3t-Wort:@/%"
DEBS = "/mnt/debs"


class Machine:
    """The container, and the daemon in it as an operator sees it."""

    def __init__(self, container: Container, deb: str):
        self.container = container
        self.deb = deb
        self.run, self.out, self.write = container.run, container.out, container.write

    def install(self, deb: str, *options: str) -> None:
        quiet = (
            "-y",
            "-qq",
            "--no-install-recommends",
            "-o",
            "Dpkg::Use-Pty=0",
            "-o",
            "Dpkg::Options::=--force-confold",
        )
        self.run("apt-get", "install", *quiet, *options, f"{DEBS}/{deb}", timeout_s=300)

    def add_users(self) -> None:
        self.run("useradd", "-m", "-G", "facedetd", OPERATOR)
        self.run("useradd", "-m", STRANGER)

    def ctl(self, *arguments: str, user: str = OPERATOR, text_in: str = "") -> Any:
        """What facedetctl says as JSON. Raises ContainerError when it fails."""
        done = self.run("facedetctl", "--json", "--timeout", "30", *arguments, user=user, text_in=text_in)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def stats(self) -> Any:
        return self.ctl("stats")[0]

    def streaming(self) -> set[str]:
        return {s["spec"]["id"] for s in self.stats()["streams"] if s["status"]["state"] == "streaming"}

    def process(self, kind: str) -> int:
        """The pid inside of the first running process of this kind; 0: none."""
        found = [p["pid"] for p in self.stats()["processes"] if p["kind"] == kind and p["state"] == "running"]
        return int(found[0]) if found else 0

    def show(self, *properties: str, unit: str = "facedetd") -> list[str]:
        """Values of a unit's properties, in the order asked."""
        lines = self.out("systemctl", "show", unit, *(f"-p{name}" for name in properties)).splitlines()
        values = dict(line.split("=", 1) for line in lines)
        return [values[name] for name in properties]

    def active(self) -> bool:
        return self.show("ActiveState", "SubState") == ["active", "running"]

    def main_pid(self) -> int:
        return int(self.show("MainPID")[0])

    def journal(self, *more: str) -> list[dict[str, Any]]:
        lines = self.out("journalctl", "-u", "facedetd", "-o", "json", "--no-pager", *more).splitlines()
        return [json.loads(line) for line in lines]

    def messages(self) -> list[str]:
        """All of the journal of the daemon."""
        return [str(entry.get("MESSAGE")) for entry in self.journal()]

    def wait_streaming(self, wanted: set[str], timeout_s: float = 90) -> None:
        wait_for(f"{sorted(wanted)} streaming", lambda: wanted <= self.streaming(), timeout_s)

    def wait_detections(self, stream: str, timeout_s: float = 90) -> None:
        """Until frames that were inferred from now on are counted."""

        def count() -> int:
            found = [s for s in self.stats()["streams"] if s["spec"]["id"] == stream]
            return int(found[0]["status"]["frames_inferred"]) if found else 0

        before = count()
        wait_for(f"detections of {stream}", lambda: count() not in range(before + 1), timeout_s)


def _say_more(tree: Path) -> None:
    with (tree / "etc/facedetd/facedetd.toml").open("a") as conffile:
        conffile.write("# A later version says more\n")


@pytest.fixture(scope="session")
def debs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """The package and a later one, in one folder. The later one is the same but for its version and a changed
    conffile, as a release with a new key would have it."""
    named = os.environ.get("FACEDETD_DEB", "")
    reason = base.missing() or "" if named else "FACEDETD_DEB names no package: run make test-system"
    if missing := requirements():
        reason = reason or missing_message(missing)
    if reason:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    folder = tmp_path_factory.mktemp("debs")
    first, later = folder / Path(named).name, folder / "facedetd_later.deb"
    shutil.copy(named, first)
    packages.later(first, later, _say_more)
    yield first, later
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def container(
    debs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Container]:
    """Booted, with nothing of facedetd in it; a new one for each module."""
    folder = tmp_path_factory.mktemp("machine")
    name = f"fd{os.getpid()}{request.module.__name__[-3:]}"
    with Container(base.root(), folder, name, {DEBS: debs[0].parent}) as made:
        made.boot()
        yield made


@pytest.fixture(scope="module")
def machine(container: Container, debs: tuple[Path, Path]) -> Machine:
    """With the package installed, as apt does it, and users."""
    made = Machine(container, debs[0].name)
    made.install(made.deb)
    made.add_users()
    return made


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """What a person would look at first stands beside a failure."""
    report = yield
    machine = getattr(item, "funcargs", {}).get("machine")
    if report.failed and isinstance(machine, Machine):
        for command in ("systemctl status facedetd --no-pager -n 0", "journalctl -u facedetd --no-pager -n 40 -o cat"):
            try:
                done = machine.run(*command.split(), check=False)
                said = done.stdout + done.stderr
            except (ContainerError, OSError, subprocess.TimeoutExpired) as error:  # gone: that may be the failure
                said = f"can't be asked: {error}"
            report.sections.append((command, said))
    return report


def _clips(count: int) -> list[Any]:
    coding = Coding(bitrate=800_000, gop=25)
    return [encode(make_scene(640, 360, faces=2, frames=100, seed=seed), coding=coding) for seed in range(count)]


@pytest.fixture(scope="module")
def cameras(container: Container) -> Iterator[CameraServer]:
    """Four cameras on the loopback of the container's network."""
    with CameraServer(_clips(4), netns=container.netns, port=8554) as server:
        yield server


@pytest.fixture(scope="module")
def locked_camera(container: Container) -> Iterator[CameraServer]:
    """A camera that wants a login."""
    with CameraServer(_clips(1), netns=container.netns, port=8555, account=Account("viewer", PASSWORD)) as server:
        yield server


def camera_url(server: CameraServer, index: int) -> str:
    return f"rtsp://127.0.0.1:{server.port}/cam{index}"
