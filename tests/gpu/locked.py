"""Whether RLIMIT_MEMLOCK bounds the rings that a worker page-locks: ``python -m tests.gpu.locked``, as root.

A child without rights, and with a limit of 64 KiB, page-locks a memfd as large as many rings, as decoder groups and the
inference process do; then it asks the kernel for one MiB of locked memory by itself, which that limit must refuse.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import sys

LIMIT, RING, OWN = 64 << 10, 512 << 20, 1 << 20
NOBODY = 65534


def lock(size: int = RING) -> None:
    from facedetd.cuda.driver import Gpu  # as root: nobody may not be able to read where it lies

    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (LIMIT, LIMIT))
    gpu = Gpu(0)
    descriptor = os.memfd_create("ring")
    os.posix_fallocate(descriptor, 0, size)
    ring = mmap.mmap(descriptor, size)
    address = ctypes.addressof(ctypes.c_char.from_buffer(ring))
    gpu.pin(address, size)
    print(f"user {os.getuid()}, RLIMIT_MEMLOCK {LIMIT >> 10} KiB: a memfd of {size >> 20} MiB is page-locked for GPU 0")
    gpu.unpin(address)
    libc = ctypes.CDLL(None, use_errno=True)
    refused = libc.mlock(ctypes.c_void_p(address), ctypes.c_size_t(OWN)) != 0
    print(f"mlock of {OWN >> 20} MiB: {os.strerror(ctypes.get_errno()) if refused else 'done, so the limit is none'}")
    sys.exit(not refused)


if __name__ == "__main__":
    lock()
