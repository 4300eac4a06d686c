"""All targets by name."""

from __future__ import annotations

import importlib

from tests.fuzz.target import Target

ROOMS = {
    "config": "files", "import": "files", "state": "files", "urls": "files",
    "header": "workers", "segment": "workers", "link": "workers", "ipc": "workers", "record": "workers",
    "api": "api", "web": "web", "model": "models", "nal": "cameras", "file": "cameras", "rtsp": "cameras",
}  # fmt: skip
"""The module of each: they are loaded one by one, in the process that feeds them."""
TARGETS = tuple(ROOMS)


def find(name: str) -> Target:
    """A target by name, or by ``module:NAME``."""
    if ":" in name:
        module, _, attribute = name.partition(":")
        target = getattr(importlib.import_module(module), attribute)
    else:
        target = importlib.import_module(f"tests.fuzz.{ROOMS[name]}").TARGETS[name]
    assert isinstance(target, Target)
    return target
