"""The C library's allocator, told to keep less: by default each thread may have an arena of its own, and what was freed
in it stays with the process. Threads come and go with the cameras' connections."""

from __future__ import annotations

import ctypes

_M_ARENA_MAX = -8  # mallopt(3)
ARENAS = 2


def few_arenas() -> None:
    """Call before there are threads. Does nothing where the C library isn't glibc. Four 640x360 cameras connected to
    124 times: 88 MB instead of 90 MB (`python -m tests.reconnects`)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, ARENAS)


def give_back() -> None:
    """Return to the system what is free but kept; takes milliseconds."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
