"""A network namespace with a camera's address, whose packets can be made to vanish."""

from __future__ import annotations

import os
import shutil
import subprocess
from types import TracebackType

HERE, ADDRESS = "198.18.77.1", "198.18.77.2"
"""Out of the block for benchmarks (RFC 2544): nobody's addresses."""


def namespaces_possible() -> bool:
    """Whether this user may make one; asked by making one."""
    if os.geteuid() != 0 or not shutil.which("ip"):
        return False
    try:
        with Namespace():
            return True
    except subprocess.CalledProcessError:
        return False


class Namespace:
    """A context manager: ``address`` is reached from here while it lives."""

    def __init__(self) -> None:
        self.name = f"facedetd-{os.getpid()}"
        self.address = ADDRESS

    def __enter__(self) -> Namespace:
        here, there = f"fdt{os.getpid()}a", f"fdt{os.getpid()}b"
        self._ip("netns", "add", self.name)
        try:
            self._ip("link", "add", here, "type", "veth", "peer", "name", there, "netns", self.name)
            self._ip("addr", "add", f"{HERE}/30", "dev", here)
            self._ip("link", "set", here, "up")
            self._ip("-n", self.name, "addr", "add", f"{ADDRESS}/30", "dev", there)
            self._ip("-n", self.name, "link", "set", there, "up")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ip("netns", "del", self.name)  # the link goes with it

    def swallow(self) -> None:
        """From now on nothing that the camera says arrives, and nobody is told."""
        self._ip("-n", self.name, "route", "add", "blackhole", f"{HERE}/32")

    def pass_on(self) -> None:
        self._ip("-n", self.name, "route", "del", "blackhole", f"{HERE}/32")

    @staticmethod
    def _ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)
