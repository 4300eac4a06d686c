"""A libnvidia-ml.so.1 for machines without a GPU: two of paper, whose figures and faults tests choose.

Each variable may be set from Python (``ctypes.c_int.in_dll``). In the environment, for a process of its own:
``FAKE_NVML_HANGS`` makes it hang from the start, ``FAKE_NVML_GPUS`` says how many there are, and the one whose number
plus one stands in the file ``FAKE_NVML_GONE`` is lost.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

_SOURCE = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory;
typedef struct { unsigned pid; unsigned long long used; unsigned gpu, compute; } process;
enum { OK, UNINITIALIZED, INVALID_ARGUMENT, NOT_SUPPORTED, NO_PERMISSION, NOT_FOUND = 6, TOO_SMALL, LOST = 15 };
/* gone: the GPU of that number plus one is lost. silent: a bit for each figure that isn't given, in the order of the
   calls below. */
int gone = 0, hangs = 0, users = 0, inits = 0, fails = 0, gpus = 1;
unsigned silent = 0, decoder = 0, processes = 0;
static char devices[8];
static void look_around(void) {
  char *number = getenv("FAKE_NVML_GPUS"), *file = getenv("FAKE_NVML_GONE");
  if (number) gpus = atoi(number);
  FILE *found = file ? fopen(file, "r") : 0;
  if (file) gone = 0;
  if (found) { fscanf(found, "%d", &gone); fclose(found); }
}
static int ask(void *device, int bit) {
  while (hangs || getenv("FAKE_NVML_HANGS")) usleep(1000);
  look_around();
  if (!users) return UNINITIALIZED;
  long index = (char *)device - devices;
  if (index < 0 || index >= gpus) return INVALID_ARGUMENT;
  if (gone == index + 1) return LOST;
  return silent >> bit & 1 ? NOT_SUPPORTED : OK;
}
int nvmlInit_v2(void) { look_around(); if (fails) return fails; users++; inits++; return OK; }
int nvmlShutdown(void) { if (!users) return UNINITIALIZED; users--; return OK; }
int nvmlDeviceGetCount_v2(unsigned *number) { *number = gpus; return OK; }
int nvmlSystemGetDriverVersion(char *text, unsigned length) { strncpy(text, "580.0", length); return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
  if (index >= gpus) return INVALID_ARGUMENT;
  *device = devices + index;
  return gone == index + 1 ? LOST : OK;
}
int nvmlDeviceGetName(void *device, char *text, unsigned length) {
  strncpy(text, "a GPU of paper", length); return OK;
}
int nvmlDeviceGetUUID(void *device, char *text, unsigned length) {
  strncpy(text, "GPU-0", length); text[4] += (char *)device - devices; return OK;
}
typedef struct { char short_id[16]; unsigned domain, bus, device, kind, board; char id[32]; } pci;
int nvmlDeviceGetPciInfo_v3(void *device, pci *p) {
  p->domain = 0x10000, p->bus = 0xa0 + ((char *)device - devices), p->device = 0; return ask(device, 7);
}
int nvmlDeviceGetMemoryInfo_v2(void *device, memory *m) {
  int code = ask(device, 0);
  if (m->version != (sizeof(memory) | 2 << 24)) return INVALID_ARGUMENT;
  m->total = 80000000000ull; m->free = 60000000000ull; m->used = 19000000000ull; m->reserved = 1000000000ull;
  return code;
}
int nvmlDeviceGetUtilizationRates(void *device, unsigned *percent) {
  percent[0] = 40, percent[1] = 7; return ask(device, 1);
}
int nvmlDeviceGetDecoderUtilization(void *device, unsigned *percent, unsigned *us) {
  *percent = decoder, *us = 166666; return ask(device, 2);
}
int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *celsius) {
  *celsius = sensor ? 99 : 61; return ask(device, 3);
}
int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts) { *milliwatts = 312500; return ask(device, 4); }
int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *number, process *found) {
  unsigned room = *number;
  int code = ask(device, 5);
  *number = processes;
  if (!code && room < processes) return TOO_SMALL;
  for (unsigned i = 0; i < processes && i < room; i++) {
    found[i].pid = 100 + i; found[i].used = i % 2 ? ~0ull : 1000000000ull + i; found[i].gpu = found[i].compute = ~0u;
  }
  return code;
}
int nvmlDeviceGetPcieThroughput(void *device, int counter, unsigned *kb) {
  *kb = counter ? 272000 : 9000; return ask(device, 6);
}
"""

MEMORY, BUSY, DECODER, TEMPERATURE, POWER, PROCESSES, PCIE, PLACE = (1 << bit for bit in range(8))
"""For ``silent``."""


def build(folder: Path, without: str = "") -> Path:
    """The library's path in ``folder``. ``without``: a call that it lacks, as an older driver's does. Skips the test
    where there is no C compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: NVML can't be made up")
    (folder / "nvml.c").write_text(_SOURCE.replace(f"int {without}(", "static int absent(") if without else _SOURCE)
    library = folder / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-w", "-shared", "-fPIC", "-o", str(library), str(folder / "nvml.c")], check=True)
    return library


def put(library: Path, name: str, value: int) -> None:
    """Set one of the library's variables."""
    ctypes.c_int.in_dll(ctypes.CDLL(str(library)), name).value = value


def get(library: Path, name: str) -> int:
    return ctypes.c_int.in_dll(ctypes.CDLL(str(library)), name).value
