"""One daemon for a state directory."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from facedetd.control import StorageError

LOCK_NAME = "lock"


class LockedError(StorageError):
    """Another process holds the state directory. ``pid`` is its id, None where that isn't known."""

    def __init__(self, state_dir: Path, pid: int | None):
        self.pid = pid
        who = f"the process {pid}" if pid else "another process"
        super().__init__(f"{state_dir} is in use by {who}; only one facedetd may run on a state directory")


class StateLock:
    """Held until :meth:`close` or the end of the process, however it ends. Not inherited by programs it starts."""

    def __init__(self, handle: int):
        self._handle = handle

    def close(self) -> None:
        """Let go. The file stays: taking it away would let two others each lock a file of that name."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def __enter__(self) -> StateLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def lock_state_dir(state_dir: Path) -> StateLock:
    """Make ``state_dir`` (0700) where it is missing, and lock it.

    Raises:
        LockedError: another process has it.
        StorageError: the directory or the lock can't be made."""
    handle = -1
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(state_dir / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError:
        holder = os.pread(handle, 32, 0).strip()
        os.close(handle)
        raise LockedError(state_dir, int(holder) if holder.isdigit() else None) from None
    except OSError as error:
        if handle >= 0:
            os.close(handle)
        raise StorageError(f"can't lock the state directory {state_dir}: {error.strerror}") from None
    return StateLock(handle)
