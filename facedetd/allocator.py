"""glibc's allocator, kept from adapting itself in a way that makes long-lived processes grow."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_LARGE = 128 * 1024
_ARENAS = 4


def keep_steady() -> None:
    """Blocks of 128 KiB and more go back to the system when they are freed; small ones come from a few arenas.

    glibc begins so, but raises the limit to the largest block that was ever freed (mallopt(3), M_MMAP_THRESHOLD), up to
    32 MiB: then pictures lie among small blocks, in an arena for each thread, and what is free between them is never
    given back. A process of many threads that come and go grows for hours. Costs 0.2 ms for each frame that is scaled
    from 1080p. Nothing is done where the C library isn't glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
        mallopt(_M_TRIM_THRESHOLD, _LARGE)
        mallopt(_M_ARENA_MAX, _ARENAS)
