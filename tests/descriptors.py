"""What this process holds open."""

from __future__ import annotations

import gc
from pathlib import Path


def descriptors() -> set[str]:
    """Number and target of each descriptor, but for those that only garbage of tests before holds: these close at any
    moment. What is left behind is ``descriptors() - before``; a thread of a test before may close some of its own."""
    gc.collect()
    return {f"{entry.name} {entry.readlink()}" for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()}
