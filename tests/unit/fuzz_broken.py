"""Targets that do what the fuzzer must see."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fuzz.target import Fed, Target, expect


class _Broken:
    def __init__(self) -> None:
        self._kept: list[object] = []

    def feed(self, data: bytes) -> None:
        match data:
            case b"raise":
                raise KeyError("unexpected")
            case b"crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            case b"hang":
                time.sleep(1000)
            case b"thread":
                thread = threading.Thread(target=time.sleep, args=(1000,), daemon=True)
                thread.start()
            case b"descriptor":
                self._kept.append(os.memfd_create("x"))
            case b"memory":
                self._kept.append(os.urandom(4 << 20))
            case b"too much":
                bytearray(8 << 30)
            case b"poison":
                self._kept.append(None)
            case _:
                time.sleep(0.001)

    def good(self) -> None:
        expect(None not in self._kept, "poisoned")


@contextmanager
def _open(_: Path) -> Iterator[Fed]:
    yield _Broken()


def _target(word: bytes) -> Target:
    # One word in twenty: what is left behind must be seen among good inputs. There are enough of them in ``least``
    return Target(
        _open,
        lambda: [b"good"],
        make=lambda rng, _: word if rng.random() < 0.05 else b"good",
        growth=32 << 20,
        least=600,
    )


RAISE, CRASH, HANG, THREAD, DESCRIPTOR, MEMORY, TOO_MUCH, POISON, SOUND = (
    _target(w)
    for w in (b"raise", b"crash", b"hang", b"thread", b"descriptor", b"memory", b"too much", b"poison", b"good")
)
