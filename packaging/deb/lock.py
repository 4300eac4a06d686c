"""Writes the part of a lock file that the Debian package needs: ``lock.py requirements/dev-py311.txt``.

Raises SystemExit when a package of wheels.txt isn't locked, with or without hashes.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

WHEELS = Path(__file__).with_name("wheels.txt")


def wanted() -> list[str]:
    return [line for line in WHEELS.read_text().splitlines() if line and not line.startswith("#")]


def part_of(lock: str, names: list[str]) -> str:
    """The pinned and hashed lines of these packages."""
    blocks = {
        m[1]: m[0] for m in re.finditer(r"^([a-z0-9-]+)==\S+ \\\n(?:    --hash=\S+(?: \\)?\n)+", lock, re.MULTILINE)
    }
    missing = [name for name in names if name not in blocks]
    if missing:
        raise SystemExit(f"no version with hashes is locked of: {', '.join(missing)}")
    return "".join(blocks[name] for name in names)


if __name__ == "__main__":
    sys.stdout.write(part_of(Path(sys.argv[1]).read_text(), wanted()))
