"""A libnvidia-ml.so.1 for machines without a GPU: one of paper, of whose figures tests may choose some."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

_SOURCE = r"""
#include <string.h>
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory;
int gone = 0, silent = 0;
unsigned decoder = 0;
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = &gone; return index ? 2 : 0; }
int nvmlDeviceGetName(void *device, char *name, unsigned length) { strncpy(name, "a GPU of paper", length); return 0; }
int nvmlDeviceGetMemoryInfo_v2(void *device, memory *m) {
  if (gone || device != &gone) return 15;
  if (m->version != (sizeof(memory) | 2 << 24)) return 2;
  m->total = 80000000000ull; m->free = 60000000000ull; m->used = 19000000000ull; m->reserved = 1000000000ull;
  return 0;
}
int nvmlDeviceGetUtilizationRates(void *device, unsigned *percent) {
  percent[0] = 40, percent[1] = 7; return silent ? 3 : 0;
}
int nvmlDeviceGetDecoderUtilization(void *device, unsigned *percent, unsigned *us) {
  *percent = decoder, *us = 166666; return silent ? 3 : 0;
}
"""


def build(folder: Path) -> Path:
    """The library's path in ``folder``. Skips the test where there is no C compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: NVML can't be made up")
    (folder / "nvml.c").write_text(_SOURCE)
    library = folder / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(folder / "nvml.c")], check=True)
    return library
