"""What the supervisor does again and again. A fault of ours in one chore must end neither the others nor the daemon."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

log = logging.getLogger(__name__)


class Chores:
    def __init__(self) -> None:
        self._faults: dict[str, str] = {}  # by chore

    def do(self, name: str, chore: Callable[[], None]) -> None:
        """Never raises. A fault is logged when it first comes, and is a problem until the chore succeeds."""
        try:
            chore()
            self._faults.pop(name, None)
        except Exception as error:
            if name not in self._faults:
                log.exception("internal error while looking after the %s", name)
            self._faults[name] = f"internal error ({type(error).__name__}), see the log"

    def problems(self) -> Iterator[tuple[str, str, str]]:
        """For health: (severity, subject, message)."""
        yield from (("error", name, fault) for name, fault in self._faults.items())
