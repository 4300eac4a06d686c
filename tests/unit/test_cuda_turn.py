"""Decoders of a daemon's processes are opened one after the other; and what if one process doesn't let go."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from facedetd.cuda.turn import Turn

HOLDER = """
import sys, time
from pathlib import Path
from facedetd.cuda.turn import Turn
with Turn(Path(sys.argv[1])).taken():
    print("mine", flush=True)
    time.sleep(60)
"""

ADDER = """
import sys, time
from pathlib import Path
from facedetd.cuda.turn import Turn
turn, counter = Turn(Path(sys.argv[1])), Path(sys.argv[2])
for _ in range(20):
    with turn.taken():
        number = int(counter.read_text())
        time.sleep(0.002)
        counter.write_text(str(number + 1))
"""


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(params=["file", "folder"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "lock"
    path.touch(0o444) if request.param == "file" else path.mkdir(0o700)
    return path


@pytest.fixture
def holder(path: Path):
    process = subprocess.Popen([sys.executable, "-c", HOLDER, path], stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "mine\n"
    yield process
    process.kill()
    process.wait()


def test_processes_and_their_threads_come_one_after_the_other(path: Path, tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    others = [subprocess.Popen([sys.executable, "-c", ADDER, path, counter]) for _ in range(3)]
    turn = Turn(path)

    def add() -> None:
        for _ in range(20):
            with turn.taken():
                number = int(counter.read_text())
                time.sleep(0.002)
                counter.write_text(str(number + 1))

    threads = [threading.Thread(target=add) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [other.wait(60) for other in others] == [0, 0, 0]
    assert counter.read_text() == "120"


def test_a_process_that_dies_lets_go(path: Path, holder: subprocess.Popen[str]) -> None:
    taken = threading.Event()

    def take() -> None:
        with Turn(path).taken():
            taken.set()

    threading.Thread(target=take, daemon=True).start()
    assert not taken.wait(0.3)
    holder.kill()
    assert taken.wait(30)


def test_of_one_that_hangs_only_the_first_wait_is_waited(path: Path, holder: subprocess.Popen[str], caplog) -> None:
    holder.send_signal(signal.SIGSTOP)
    clock = Clock()
    turn = Turn(path, 60.0, clock, clock.pause)
    with turn.taken():
        assert 160 <= clock.now < 161
    with turn.taken():
        assert clock.now < 161
    assert caplog.text.count("no decoder could be opened for 60 s") == 1
    clock.now = 300.0
    with turn.taken():
        assert clock.now >= 360


def test_who_no_longer_wants_it_doesnt_wait(path: Path, holder: subprocess.Popen[str]) -> None:
    clock, asked = Clock(), []
    turn = Turn(path, 60.0, clock, clock.pause)
    with turn.taken(lambda: len(asked) < 3 and asked.append(0) is None):
        assert clock.now < 101


def test_patience_ends(path: Path, holder: subprocess.Popen[str]) -> None:
    clock = Clock()
    turn = Turn(path, 60.0, clock, clock.pause)
    with turn.taken(patience_s=0.2) as ours:
        assert not ours and 100.2 <= clock.now < 100.3
    with turn.taken(lambda: False, patience_s=0.2) as ours:
        assert ours, "it isn't for want of its turn that it has none"
    holder.kill()
    holder.wait()
    with turn.taken(patience_s=0.2) as ours:
        assert ours


def test_without_a_file_nobody_waits(tmp_path: Path, caplog) -> None:
    clock = Clock()
    turn = Turn(tmp_path / "gone", 60.0, clock, clock.pause)
    for _ in range(3):
        with turn.taken():
            assert clock.now < 101
    assert caplog.text.count("out of turn") == 1


def test_an_error_lets_go(path: Path) -> None:
    turn = Turn(path)
    with pytest.raises(ValueError, match="broken"), turn.taken():
        raise ValueError("broken")
    with turn.taken():
        pass


def test_want_of_memory_costs_nobody_else_the_turn(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    turn = Turn(path, 60.0, clock, clock.pause)

    def fail(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(fcntl, "flock", fail)
        with turn.taken():
            pass
    with turn.taken():
        assert clock.now == 100.0


def test_many_that_have_their_turns_are_no_sign_of_one_that_hangs(path: Path, caplog) -> None:
    """2000 decoders on eight GPUs take minutes, one after the other."""
    clock = Clock()
    others = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(others, fcntl.LOCK_EX)

        def pause(seconds: float) -> None:
            clock.now += 10
            fcntl.flock(others, fcntl.LOCK_UN)
            if clock.now < 400:
                with turn.taken():  # another stream of this process
                    pass
                fcntl.flock(others, fcntl.LOCK_EX)

        turn = Turn(path, 60.0, clock, pause)
        with turn.taken():
            assert clock.now == 400
            with pytest.raises(BlockingIOError):
                fcntl.flock(others, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(others)
    assert not caplog.text
