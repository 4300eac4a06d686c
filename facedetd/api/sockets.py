"""Unix socket files: probing, taking and removing them."""

from __future__ import annotations

import errno
import grp
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SOCKET_MODE = 0o660
MAX_PATH = 107  # bytes; sun_path of unix(7) has 108 with its final zero
PROBE_TIMEOUT_S = 1.0


class SocketError(Exception):
    """A socket can't be bound; the message names it and says why."""


def prepare(path: Path) -> None:
    """Make way for a socket: its directory is there, and no live server listens on it. A dead file is removed.

    Raises SocketError.
    """
    if len(os.fsencode(path)) > MAX_PATH:
        raise SocketError(f"socket path {path} is too long: at most {MAX_PATH} bytes")
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        found = path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise SocketError(f"can't use {path.parent} for the socket {path.name}: {error.strerror}") from error
    if not stat.S_ISSOCK(found.st_mode):
        raise SocketError(f"{path} is in the way: it is not a socket")
    if is_live(path):
        raise SocketError(f"another server listens on {path}; stop it first, or set another path in [api]")
    try:
        path.unlink()
    except OSError as error:
        raise SocketError(f"can't remove the dead socket {path}: {error.strerror}") from error


def is_live(path: Path) -> bool:
    """Whether someone listens. A server too busy to answer is alive."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_TIMEOUT_S)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
    return True


@contextmanager
def private_umask() -> Iterator[None]:
    """Files made in the body get at most SOCKET_MODE: the socket is never open wider, not even between
    bind and chmod."""
    before = os.umask(0o777 & ~SOCKET_MODE)
    try:
        yield
    finally:
        os.umask(before)


def give_to(path: Path, group: str) -> None:
    """Owner and group may use the socket from now on; an empty group is the daemon's own.

    Raises SocketError."""
    try:
        if group:
            os.chown(path, -1, grp.getgrnam(group).gr_gid)
        path.chmod(SOCKET_MODE)
    except KeyError:
        raise SocketError(f"can't give {path} to the group {group}: there is no such group") from None
    except OSError as error:
        hint = "; the daemon's user must be a member of it" if group and error.errno == errno.EPERM else ""
        whom = f"to the group {group}" if group else "its mode"
        raise SocketError(f"can't give {path} {whom}: {error.strerror}{hint}") from error


def probe_tcp(host: str, port: int) -> None:
    """gRPC only says that it can't bind; this says why.

    Raises SocketError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen(1)
    except OSError as error:
        hint = "; stop what listens there, or set another api.listen" if error.errno == errno.EADDRINUSE else ""
        raise SocketError(f"can't listen on {host} port {port}: {error.strerror}{hint}") from error


def identity(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_dev, found.st_ino


def remove_own(path: Path, own: tuple[int, int] | None) -> None:
    """Remove the file if it is still the one that was bound."""
    with suppress(OSError):
        if own is not None and identity(path) == own:
            path.unlink()
