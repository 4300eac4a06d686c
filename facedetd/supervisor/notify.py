"""What the daemon tells systemd (sd_notify(3)). Without systemd every call does nothing; none raises or blocks."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable

import sdnotify

_STATUS_CHARS = 512  # a status is one line for people


class Notifier:
    """Each call returns whether the message went out: False without NOTIFY_SOCKET, or when systemd is behind. What
    changes the service's state is then sent before the next message: without READY systemd would end it."""

    def __init__(self, clock_ns: Callable[[], int] = time.monotonic_ns):
        """``clock_ns`` is CLOCK_MONOTONIC, which systemd compares with its own."""
        self._clock_ns = clock_ns
        self._systemd: sdnotify.SystemdNotifier | None = None
        self._owed: deque[str] = deque(maxlen=2)  # a reload's begin and end; what was before them no longer matters
        if os.environ.get("NOTIFY_SOCKET"):
            try:
                # Not in debug mode it hides whether a message went out.
                self._systemd = sdnotify.SystemdNotifier(debug=True)
                self._systemd.socket.setblocking(False)
            except Exception:  # sdnotify raises whatever went wrong inside it
                self._systemd = None

    def ready(self, status: str = "") -> bool:
        """The daemon is up, or a reload is done."""
        return self._send("READY=1", *_status(status), owed=True)

    def status(self, text: str) -> bool:
        """One line for ``systemctl status``."""
        return self._send(*_status(text))

    def watchdog(self) -> bool:
        return self._send("WATCHDOG=1")

    def reloading(self) -> bool:
        """A reload begins; :meth:`ready` must follow (Type=notify-reload wants both and the time)."""
        return self._send("RELOADING=1", f"MONOTONIC_USEC={self._clock_ns() // 1000}", owed=True)

    def stopping(self, status: str = "") -> bool:
        return self._send("STOPPING=1", *_status(status))

    def watchdog_interval_s(self) -> float | None:
        """How often to call :meth:`watchdog`: half of the unit's WatchdogSec, as sd_watchdog_enabled(3) advises.

        None when the unit has no watchdog or it is meant for another process.
        """
        pid = os.environ.get("WATCHDOG_PID", "")
        try:
            if pid and int(pid) != os.getpid():
                return None
            timeout_us = int(os.environ.get("WATCHDOG_USEC", "0"))
        except ValueError:
            return None
        return timeout_us / 2e6 if timeout_us > 0 else None

    def close(self) -> None:
        if self._systemd is not None:
            self._systemd.socket.close()
            self._systemd = None

    def _send(self, *assignments: str, owed: bool = False) -> bool:
        if self._systemd is None or not assignments:
            return False
        # sdnotify encodes as Latin-1, systemd wants UTF-8: hand it the UTF-8 bytes as Latin-1 characters.
        message = "\n".join(assignments).encode("utf-8", "replace").decode("latin-1")
        try:
            while self._owed:
                self._systemd.notify(self._owed[0])
                self._owed.popleft()
            self._systemd.notify(message)
        except Exception:
            if owed:
                self._owed.append(message)
            return False
        return True


def _status(text: str) -> tuple[str, ...]:
    """A line break would start another assignment, so there is none."""
    line = " ".join(text.split())[:_STATUS_CHARS]
    return (f"STATUS={line}",) if line else ()
