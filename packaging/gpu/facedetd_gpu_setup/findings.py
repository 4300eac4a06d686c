"""What is wrong with a machine and what to do about it: pure, from :class:`~facedetd_gpu_setup.facts.Facts`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from facedetd_gpu_setup.facts import Facts
from facedetd_gpu_setup.lock import Pin, differences

CUDA = (12, 0)
"""What the locked libraries are built for; any driver of CUDA 12.0 (525) and newer runs them."""
SM = (7, 5)
"""The oldest GPUs that TensorRT 10 takes: Turing."""
DRIVER = "install NVIDIA's driver, 525 or newer: apt install nvidia-driver libcuda1 libnvcuvid1, from Debian's non-free"
SPACE = 20 << 30
"""Bytes while it is installed from an index: TensorRT's wheel is 2 to 4 GB, and is there three times and unpacked:
its source package fetches it once for its metadata alone."""


class Grade(Enum):
    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    subject: str
    grade: Grade
    what: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.subject}: {self.grade.value}: {self.what}" + (f"; {self.advice}" if self.advice else "")


def of_gpu(facts: Facts) -> list[Finding]:
    """Driver, GPUs and their devices."""
    if facts.driver_fault:
        return [Finding("driver", Grade.ERROR, facts.driver_fault, "nvidia-smi says more" if facts.driver else DRIVER)]
    found = [_driver(facts), *_gpus(facts)]
    if not facts.decoder:
        advice = "apt install libnvcuvid1; without it the CPU decodes"
        found.append(Finding("decoder", Grade.WARNING, "libnvcuvid.so.1, NVDEC's library, isn't there", advice))
    if not facts.uvm:
        advice = "apt install nvidia-modprobe, then nvidia-modprobe -c0 -u; the service can't make it itself"
        found.append(Finding("devices", Grade.WARNING, "/dev/nvidia-uvm isn't there", advice))
    return found


def _driver(facts: Facts) -> Finding:
    speaks = "speaks CUDA {}.{}".format(*facts.cuda)
    if facts.cuda < CUDA:
        return Finding("driver", Grade.ERROR, f"{speaks}, and {CUDA[0]}.{CUDA[1]} is needed", DRIVER)
    return Finding("driver", Grade.OK, speaks)


def _gpus(facts: Facts) -> list[Finding]:
    if not facts.gpus:
        return [Finding("gpu", Grade.ERROR, "the driver knows none", "nvidia-smi says more")]
    fits = any(gpu.sm >= SM for gpu in facts.gpus)
    found = []
    for index, gpu in enumerate(facts.gpus):
        what = "{}, compute capability {}.{}".format(gpu.name, *gpu.sm)
        if gpu.sm >= SM:
            found.append(Finding(f"gpu {index}", Grade.OK, what))
        else:
            grade = Grade.WARNING if fits else Grade.ERROR
            found.append(Finding(f"gpu {index}", grade, f"{what}; TensorRT 10 needs {SM[0]}.{SM[1]}"))
    return found


def of_building(facts: Facts) -> list[Finding]:
    """What PyCUDA's installation from its source needs of Debian."""
    found = []
    if not facts.compiler:
        found.append(Finding("compiler", Grade.ERROR, "PyCUDA is built here, and there is no g++", "apt install g++"))
    if not facts.headers:
        what = "PyCUDA is built here, and Python's headers aren't there"
        found.append(Finding("headers", Grade.ERROR, what, "apt install python3.11-dev"))
    return found


def of_space(facts: Facts, needed: int, where: str) -> list[Finding]:
    """``needed`` in bytes."""
    if facts.free >= needed:
        return []
    what = f"{facts.free / 1e9:.1f} GB free in {where}, and {needed / 1e9:.1f} GB are needed meanwhile"
    return [Finding("disk", Grade.ERROR, what)]


def of_installed(have: Sequence[Pin] | None, wanted: Iterable[Pin], fault: str) -> Finding:
    """``have``: None where nothing is installed. ``fault``: what the daemon's Python said when it tried to load it."""
    if have is None:
        return Finding("libraries", Grade.WARNING, "not installed", "facedetd-gpu-setup install")
    if fault:
        return Finding("libraries", Grade.ERROR, fault, "facedetd-gpu-setup install puts them there anew")
    if other := differences(have, wanted):
        what = f"installed, but not what this version is for: {', '.join(other)}"
        return Finding("libraries", Grade.WARNING, what, "facedetd-gpu-setup install")
    return Finding("libraries", Grade.OK, ", ".join(f"{p.name} {p.version}" for p in have))


def failed(findings: Iterable[Finding]) -> bool:
    return any(finding.grade is Grade.ERROR for finding in findings)
