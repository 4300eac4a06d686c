"""What tests of cameras share."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TypeVar

from facedetd.capture.source import SourceError

T = TypeVar("T")


def once_free(opens: Callable[[], T]) -> T:
    """What it gives. A server that is still ending the last session of a camera answers 503: that is tried again for
    some 20 s. Raises SourceError with the last answer."""
    for _ in range(40):
        with contextlib.suppress(SourceError):
            return opens()
        time.sleep(0.5)
    return opens()
