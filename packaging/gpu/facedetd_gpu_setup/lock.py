"""Versions and hashes, in the form that ``pip --require-hashes`` reads: a line a package."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

NAME = "facedetd-gpu.lock"
"""The lock in a folder of wheels, and beside what is installed."""
BUILT_HERE = ("pycuda", "tensorrt-cu12")
"""Their locked hash is of the source; the wheel made of it has another one each time."""
_LINE = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==(\S+)((?: --hash=sha256:[0-9a-f]{64})+)")


class LockError(Exception):
    """What was found, where, and what is allowed."""


@dataclass(frozen=True, slots=True)
class Pin:
    """``name`` in pip's normal form (small letters, hyphens); ``hashes`` are SHA-256 in hex."""

    name: str
    version: str
    hashes: tuple[str, ...]


def normal(name: str) -> str:
    """PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def parse(text: str, where: str) -> tuple[Pin, ...]:
    """Raises LockError."""
    pins = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise LockError(
                f"{where}, line {number}: {line.strip()[:80]!r} isn't NAME==VERSION --hash=sha256:HEX [--hash=...]"
            )
        pins.append(Pin(normal(match[1]), match[2], tuple(re.findall(r"sha256:(\w+)", match[3]))))
    if not pins:
        raise LockError(f"{where}: names no package")
    return tuple(pins)


def load(path: Path) -> tuple[Pin, ...]:
    """Raises LockError, also where the file can't be read."""
    try:
        return parse(path.read_text(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise LockError(f"{path}: can't be read: {error}") from None


def render(pins: Iterable[Pin]) -> str:
    return "".join(f"{p.name}=={p.version}{''.join(f' --hash=sha256:{h}' for h in p.hashes)}\n" for p in pins)


def digests(folder: Path) -> dict[str, str]:
    """File name to SHA-256 of each wheel in it. Raises OSError."""
    found = {}
    for wheel in sorted(folder.glob("*.whl")):
        digest = hashlib.sha256()
        with wheel.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        found[wheel.name] = digest.hexdigest()
    return found


def pins_of(wheels: Mapping[str, str]) -> tuple[Pin, ...]:
    """A lock for exactly these wheels (file name to SHA-256), sorted by name."""
    pins = []
    for wheel, digest in wheels.items():
        name, version = wheel.split("-")[:2]
        pins.append(Pin(normal(name), version, (digest,)))
    return tuple(sorted(pins, key=lambda pin: pin.name))


def faults(wheels: Mapping[str, str], wanted: Iterable[Pin]) -> list[str]:
    """What is wrong with wheels that were fetched and built for a lock: missing, of another version or name, or not the
    file whose hash the lock has. pip checks what it fetches itself; this is for what a source package fetched."""
    have = {pin.name: pin for pin in pins_of(wheels)}
    pins = {pin.name: pin for pin in wanted}
    said = [f"{name}: not locked" for name in have if name not in pins]
    for name, pin in pins.items():
        got = have.get(name)
        if got is None:
            said.append(f"{name} {pin.version}: no wheel came")
        elif got.version != pin.version:
            said.append(f"{name}: version {got.version} came, {pin.version} is locked")
        elif name not in BUILT_HERE and got.hashes[0] not in pin.hashes:
            said.append(f"{name} {pin.version}: its wheel has the SHA-256 {got.hashes[0]}, which isn't locked")
    return said


def differences(have: Iterable[Pin], wanted: Iterable[Pin]) -> list[str]:
    """Packages of ``wanted`` that are installed in another version or not at all."""
    versions = {pin.name: pin.version for pin in have}
    return [
        f"{pin.name} {versions.get(pin.name, 'missing')} instead of {pin.version}"
        for pin in wanted
        if versions.get(pin.name) != pin.version
    ]
