"""Keeps the API's streams on disk, through restart, kill -9, power cut and a full disk.

``streams.json`` is only ever replaced whole, by rename, after the new bytes are on the disk; ``streams.json.bak`` is
what it held before the last change. Both are 0600, for they hold passwords.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from facedetd.control import StorageError
from facedetd.registry.codec import StateFileError, Stored, decode, encode

NAME = "streams.json"
BACKUP = NAME + ".bak"
TEMPORARY = NAME + ".tmp"
BACKUP_TEMPORARY = BACKUP + ".tmp"
MAX_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Loaded:
    """``streams`` as last saved, and what is wrong with the files, for the log and for health."""

    streams: Stored
    problems: tuple[str, ...] = ()


def utc_now() -> datetime:
    return datetime.now(timezone.utc)


class StateStore:
    """The state file of one directory, which the caller has locked (``lock_state_dir``).

    Calls block for as long as the disk takes: make them in a thread, one at a time."""

    def __init__(self, state_dir: Path, now: Callable[[], datetime] = utc_now):
        self.state_dir = state_dir
        self._now = now
        # Whether streams.json is known to be good, so that a bad one never takes the place of a good backup;
        # None before load()
        self._main_is_good: bool | None = None

    def load(self) -> Loaded:
        """What was last saved. A file that is torn, corrupt or of another version is set aside as
        ``streams.json.corrupt-<UTC>``, the backup is used in its place, and ``problems`` says so.

        Raises:
            StorageError: a file is there but can't be read (so it may be good, and must not be replaced)."""
        with self._opened() as directory:
            problems: list[str] = []
            for name in (TEMPORARY, BACKUP_TEMPORARY):  # left behind by a kill
                with suppress(OSError):
                    directory.unlink(name)
            streams = self._read(directory, NAME, problems)
            self._main_is_good = streams is not None
            if streams is not None:
                return Loaded(streams, tuple(problems))
            missing = not problems
            streams = self._read(directory, BACKUP, problems)
        if streams is None:
            if problems:
                problems.append(f"no streams of the API are known: {self.state_dir / NAME} and its backup are lost")
            return Loaded((), tuple(problems))
        if missing:
            problems.append(f"{self.state_dir / NAME} is missing")
        problems.append(
            f"{self.state_dir / BACKUP} is used in its place: {len(streams)} streams, without the last change"
        )
        try:
            self.save(streams)
        except StorageError as error:
            problems.append(str(error))
        return Loaded(streams, tuple(problems))

    def save(self, streams: Stored) -> None:
        """Put ``streams`` on the disk; when this returns, they survive a power cut.

        Raises:
            StorageError: it failed, the file stands as it was before and no temporary file is left.
            RuntimeError: :meth:`load` was not called before."""
        if self._main_is_good is None:
            raise RuntimeError("load() comes before save(): what stands on the disk must be known")
        data = encode(streams)
        with self._opened() as directory:
            try:
                self._replace(directory, data)
            except OSError as error:
                for name in (TEMPORARY, BACKUP_TEMPORARY):
                    with suppress(OSError):
                        directory.unlink(name)
                raise self._error("can't write", NAME, error) from None
        self._main_is_good = True

    def _replace(self, directory: _Directory, data: bytes) -> None:
        directory.write(TEMPORARY, data)
        if self._main_is_good:
            # A link, so that streams.json is there at every instant.
            directory.link(NAME, BACKUP_TEMPORARY)
            directory.rename(BACKUP_TEMPORARY, BACKUP)
            # rename() of two names of one file does nothing, and leaves both
            with suppress(FileNotFoundError):
                directory.unlink(BACKUP_TEMPORARY)
        else:
            # A bad file that load() could not set aside isn't overwritten.
            with suppress(FileNotFoundError):
                self._set_aside(directory, NAME)
        directory.rename(TEMPORARY, NAME)
        try:
            directory.sync()
        except OSError:
            self._take_back(directory)
            raise

    def _take_back(self, directory: _Directory) -> None:
        """The rename was done but may not last: the caller is told that nothing changed, so make that true."""
        with suppress(OSError):
            if self._main_is_good:
                directory.link(BACKUP, BACKUP_TEMPORARY)
                directory.rename(BACKUP_TEMPORARY, NAME)
            else:
                directory.unlink(NAME)
            directory.sync()

    def _read(self, directory: _Directory, name: str, problems: list[str]) -> Stored | None:
        """The streams in a file; None where it is missing or (with a problem added, and set aside) no good."""
        try:
            data, mode = directory.read(name)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._error("can't read", name, error) from None
        if mode & 0o077:
            problems.append(f"{self.state_dir / name} holds passwords and had mode {mode:04o}; it is 0600 again")
            with suppress(OSError):
                directory.chmod(name, 0o600)
        try:
            return decode(data)
        except StateFileError as error:
            try:
                outcome = f"it was set aside as {self._set_aside(directory, name)}"
            except OSError as failure:
                outcome = f"it could not be set aside: {failure.strerror}"
            problems.append(f"{self.state_dir / name} can't be used: {error}; {outcome}")
            return None

    def _set_aside(self, directory: _Directory, name: str) -> Path:
        stamp = self._now().strftime("%Y%m%dT%H%M%SZ")
        attempt = 0
        while True:
            aside = f"{name}.corrupt-{stamp}" + (f"-{attempt}" if attempt else "")
            try:
                directory.link(name, aside)  # unlike rename, link() never replaces an earlier one
            except FileExistsError:
                attempt += 1
                continue
            directory.unlink(name)
            directory.sync()
            return self.state_dir / aside

    def _opened(self) -> _Directory:
        try:
            return _Directory(os.open(self.state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        except OSError as error:
            raise StorageError(f"can't open the state directory {self.state_dir}: {error.strerror}") from None

    def _error(self, what: str, name: str, error: OSError) -> StorageError:
        return StorageError(f"{what} {self.state_dir / name}: {error.strerror}")


class _Directory:
    """File operations inside one open directory, all by bare name."""

    def __init__(self, handle: int):
        self._handle = handle

    def __enter__(self) -> _Directory:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)

    def read(self, name: str) -> tuple[bytes, int]:
        """(contents, permission bits) of a regular file of at most ``MAX_BYTES``."""
        handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._handle)
        with os.fdopen(handle, "rb") as file:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
                raise OSError(errno.EINVAL, f"not a regular file of at most {MAX_BYTES} bytes")
            return file.read(MAX_BYTES), stat.S_IMODE(status.st_mode)

    def write(self, name: str, data: bytes) -> None:
        """A new file, 0600, with its contents on the disk."""
        with suppress(FileNotFoundError):
            self.unlink(name)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        handle = os.open(name, flags, 0o600, dir_fd=self._handle)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(handle, rest) :]
            os.fsync(handle)
        finally:
            os.close(handle)

    def link(self, source: str, target: str) -> None:
        os.link(source, target, src_dir_fd=self._handle, dst_dir_fd=self._handle)

    def rename(self, source: str, target: str) -> None:
        os.rename(source, target, src_dir_fd=self._handle, dst_dir_fd=self._handle)

    def unlink(self, name: str) -> None:
        os.unlink(name, dir_fd=self._handle)

    def chmod(self, name: str, mode: int) -> None:
        os.chmod(name, mode, dir_fd=self._handle)

    def sync(self) -> None:
        os.fsync(self._handle)
