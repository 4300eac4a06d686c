"""Which control groups this process is in, its own and those above it (cgroups(7))."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Membership:
    """A line of /proc/self/cgroup. ``controllers`` is empty for cgroup v2."""

    controllers: tuple[str, ...]
    path: str

    def folders(self, top: Path) -> Iterator[Path]:
        """From its own folder up to ``top``, where its hierarchy is mounted. That comes always: a container may see
        its own group only, and the host's path of it."""
        folder = top / self.path.lstrip("/")
        while folder != top and top in folder.parents:
            yield folder
            folder = folder.parent
        yield top


def memberships(proc: Path = Path("/proc")) -> Iterator[Membership]:
    """None where it can't be known."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.strip().split(":", 2)
        yield Membership(tuple(filter(None, controllers.split(","))), path)
