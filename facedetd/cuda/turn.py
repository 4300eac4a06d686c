"""One process of a daemon at a time opens a decoder on a GPU.

The driver has one lock for all that is made on any GPU, and who waits for it spins: 18 processes that opened 236
decoders took 70 % of 16 cores for 45 s that way (H100).
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path

log = logging.getLogger(__name__)

LONGEST_S = 60.0
"""One decoder opens in 0.1 s, hundreds after one another. A process none of whose streams had its turn for so long
waits for one that hangs."""
_LOOK_S = 0.01


class Turn:
    """For any thread. Where none has it for ``longest_s``, all of this process go on without for as long.

    ``path``: a file or folder that every process can read; what is in it doesn't matter. The kernel lets go for a
    process that ends.
    """

    def __init__(
        self,
        path: Path,
        longest_s: float = LONGEST_S,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], object] = time.sleep,
    ):
        self._path, self._longest_s, self._clock, self._pause = path, longest_s, clock, pause
        self._ours = threading.Lock()
        self._file: int | None = None
        self._without_until_s = self._had_s = 0.0

    @contextmanager
    def taken(self, wanted: Callable[[], bool] = lambda: True, patience_s: float = inf) -> Iterator[bool]:
        """Waits till it is its turn, or no longer ``wanted``. False: it wasn't within ``patience_s``."""
        until_s = self._clock() + patience_s
        if not self._wait(wanted, until_s):
            yield self._clock() < until_s
            return
        try:
            yield True
        finally:
            self._had_s = self._clock()
            assert self._file is not None
            fcntl.flock(self._file, fcntl.LOCK_UN)
            self._ours.release()

    def _wait(self, wanted: Callable[[], bool], until_s: float) -> bool:
        began_s = self._clock()
        while self._clock() >= self._without_until_s and wanted():
            if self._try():
                return True
            if self._clock() >= until_s:
                return False
            if self._clock() >= max(began_s, self._had_s) + self._longest_s:
                log.warning("no decoder could be opened for %.0f s: going on out of turn", self._longest_s)
                self._without_until_s = self._clock() + self._longest_s
            self._pause(_LOOK_S)
        return False

    def _try(self) -> bool:
        if not self._ours.acquire(blocking=False):
            return False
        got = False
        try:
            if self._file is None:
                self._file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            got = True
        except BlockingIOError:
            pass
        except OSError as error:  # no descriptor is left, or the file system has no locks
            log.warning("decoders are opened out of turn for %.0f s: %s", self._longest_s, error.strerror)
            self._without_until_s = self._clock() + self._longest_s
        finally:
            if not got:  # also for want of memory: nobody else of this process would have a turn any more
                self._ours.release()
        return got
