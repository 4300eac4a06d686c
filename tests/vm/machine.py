"""A disk with Debian and a kernel, started by QEMU without KVM, and spoken to over a serial line."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.system import base
from tests.system.container import ENVIRONMENT, ContainerError

PACKAGES = (*(name for name in base.PACKAGES if name != "prometheus"), *base.KERNEL)
COMMANDS = ("mmdebstrap", "qemu-system-x86_64", "mkfs.ext4")
BOOT_S, STOP_S = 600.0, 120.0
DISK_BYTES = 4 << 30
MEMORY_MIB = 2048
CPU = "max,-fma,-avx2,-avx"
"""No FMA and no AVX, which QEMU 7.2 emulates slowly, FMA above all: a picture through CenterFace at 640x384 cost 135 to
160 s of CPU time, and 10 s without (0.04 s where nothing is emulated); a start takes three. No test is about them."""
SLOWER = 5
"""How many times longer than on the machine itself a command may take before it is given up."""
AGENT = """
[Unit]
Description=Does what the tests say
After=basic.target
[Service]
ExecStart=/usr/bin/python3 -I /opt/agent.py /dev/ttyS1
[Install]
WantedBy=multi-user.target
"""


def missing() -> str:
    """Why no machine can be emulated here; empty: it can be."""
    if os.geteuid() != 0:
        return "needs root: it makes a file system of Debian"
    gone = [command for command in COMMANDS if shutil.which(command) is None]
    return f"needs {', '.join(gone)}: run packaging/setup_packaging.sh vm" if gone else ""


class Vm:
    """A context manager: inside it the machine runs. Speaks as :class:`tests.system.container.Container` does."""

    def __init__(self, folder: Path, shared: Mapping[str, Path] = {}):
        """``shared``: paths inside to folders of the host, whose files are copied onto the disk."""
        self._folder, self._shared = folder, shared
        self._qemu: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None
        self._pending = b""

    def __enter__(self) -> Vm:
        try:
            self._start(self._make_disk())
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._line is not None:
            self._line.close()
        if self._qemu is not None and self._qemu.poll() is None:
            self._qemu.kill()  # its disk is thrown away
            self._qemu.wait(STOP_S)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _make_disk(self) -> Path:
        """Debian's root with the agent and what is shared in it; the base itself stays as it is."""
        root, changes, work = (self._folder / name for name in ("root", "changes", "work"))
        for each in (root, changes, work):
            each.mkdir(parents=True)
        layers = f"lowerdir={base.root(PACKAGES)},upperdir={changes},workdir={work}"
        _run("mount", "-t", "overlay", "overlay", "-o", layers, str(root))
        try:
            shutil.copy(Path(__file__).with_name("agent.py"), root / "opt/agent.py")
            (root / "etc/systemd/system/agent.service").write_text(AGENT)
            wanted = root / "etc/systemd/system/multi-user.target.wants"
            (wanted / "agent.service").symlink_to("../agent.service")
            (root / "etc/fstab").write_text("/dev/vda / ext4 defaults 0 1\n")
            for inside, outside in self._shared.items():
                shutil.copytree(outside, root / inside.lstrip("/"))
            for name in ("vmlinuz", "initrd.img"):
                shutil.copy(next((root / "boot").glob(f"{name}-*")), self._folder / name)
            disk = self._folder / "disk"
            with disk.open("wb") as file:
                file.truncate(DISK_BYTES)
            _run("mkfs.ext4", "-q", "-F", "-d", str(root), str(disk))
        finally:
            _run("umount", str(root))
        return disk

    def _start(self, disk: Path) -> None:
        line = self._folder / "line"
        with socket.socket(socket.AF_UNIX) as listening, (self._folder / "qemu.log").open("wb") as log:
            listening.bind(str(line))
            listening.listen(1)
            command = [
                "nice", "-n", "19", "qemu-system-x86_64", "-accel", "tcg", "-cpu", CPU, "-m", str(MEMORY_MIB),
                "-display", "none", "-no-reboot", "-nic", "none", "-kernel", str(self._folder / "vmlinuz"),
                "-initrd", str(self._folder / "initrd.img"),
                "-append", "root=/dev/vda rw console=ttyS0 systemd.show_status=0 loglevel=3 panic=-1",
                "-drive", f"file={disk},if=virtio,format=raw,cache=unsafe",
                "-serial", f"file:{self._folder / 'console'}", "-chardev", f"socket,id=line,path={line}",
                "-serial", "chardev:line",
            ]  # fmt: skip
            self._qemu = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            listening.settimeout(30)
            self._line = listening.accept()[0]
        self._answer(BOOT_S, "the machine is up")  # nothing is asked: it says so by itself

    def console(self) -> str:
        """The end of what kernel and systemd wrote to the console, and of what QEMU said."""
        files = (self._folder / name for name in ("console", "qemu.log"))
        return "".join(file.read_text(errors="replace")[-3000:] for file in files if file.exists())

    def _answer(self, timeout_s: float, what: str) -> Any:
        assert self._line and self._qemu
        until = time.monotonic() + timeout_s
        self._line.settimeout(1)
        while b"\n" not in self._pending:
            try:
                data = self._line.recv(65536)
            except TimeoutError:
                data = None
            if data == b"" or self._qemu.poll() is not None:
                raise ContainerError(f"{what}: the machine ended: {self.console()}")
            if time.monotonic() > until:
                raise ContainerError(f"{what}: no answer in {timeout_s:.0f} s: {self.console()}")
            self._pending += data or b""
        text, _, self._pending = self._pending.partition(b"\n")
        return json.loads(text)

    def run(
        self, *command: str, user: str = "", check: bool = True, text_in: str = "", timeout_s: float = 120.0
    ) -> subprocess.CompletedProcess[str]:
        """See :meth:`Container.run`."""
        as_user = ["runuser", "-u", user, "--"] if user else []
        whole = [*ENVIRONMENT, *as_user, *command]
        order = {"command": whole, "input": text_in, "timeout_s": timeout_s * SLOWER}
        assert self._line
        self._line.settimeout(60)
        self._line.sendall(json.dumps(order).encode() + b"\n")
        said = self._answer(timeout_s * SLOWER + 60, " ".join(command))
        out, err = (base64.b64decode(said[stream]).decode(errors="replace") for stream in ("out", "err"))
        if check and said["code"] != 0:
            raise ContainerError(f"{' '.join(command)}: exit {said['code']}\n{out}{err}")
        return subprocess.CompletedProcess(whole, said["code"], out, err)

    def out(self, *command: str, user: str = "") -> str:
        return self.run(*command, user=user).stdout.strip()

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        self.run("install", "-D", "-m", f"{mode:o}", "/dev/stdin", path, text_in=text)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ContainerError(f"{' '.join(command)}: {done.stderr.strip()}")
