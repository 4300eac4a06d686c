"""A minimal Debian root with systemd, kept in ``.cache``; another set of packages makes another one."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "system-roots"
SUITE = "bookworm"
PACKAGES = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "libpam-systemd",
    "procps",
    "util-linux",
    "python3",
    "python3-venv",
    "libstdc++6",
    "prometheus",
)
KERNEL = ("linux-image-cloud-amd64", "initramfs-tools", "kmod", "udev", "iproute2")
"""What the root needs in addition where it shall boot by itself (tests/vm)."""
COMMANDS = ("systemd-nspawn", "mmdebstrap", "ip", "nsenter")


def missing() -> str:
    """Why the tests can't run here; empty: they can."""
    if os.geteuid() != 0:
        return "needs root: it boots a container"
    gone = [command for command in COMMANDS if shutil.which(command) is None]
    return f"needs {', '.join(gone)}: run packaging/setup_packaging.sh system" if gone else ""


def root(packages: tuple[str, ...] = PACKAGES) -> Path:
    """The root, made if it isn't there yet; that takes a minute or two. Raises CalledProcessError."""
    key = hashlib.sha256(" ".join((SUITE, *packages)).encode()).hexdigest()[:12]
    place = CACHE / f"{SUITE}-{key}"
    if place.is_dir():
        return place
    part = CACHE / f".{place.name}.{os.getpid()}"
    part.mkdir(parents=True)
    print(f"making {place}", file=sys.stderr)
    try:
        subprocess.run(
            [
                "mmdebstrap",
                "--quiet",
                "--variant=minbase",
                f"--include={','.join(packages)}",
                '--aptopt=Acquire::Languages "none"',
                "--aptopt=APT::Install-Recommends false",
                # Nothing may start by itself but what a test starts
                "--customize-hook=chroot $1 systemctl mask prometheus.service apt-daily.timer apt-daily-upgrade.timer",
                SUITE,
                str(part),
            ],
            check=True,
        )
        part.rename(place)
    finally:
        if part.exists():
            subprocess.run(["rm", "-rf", "--one-file-system", str(part)], check=False)
    return place
