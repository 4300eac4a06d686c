"""Two racing processes on a ring: nothing torn is taken, nothing is lost without being counted, whoever dies."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import random
import socket
import time
from dataclasses import dataclass

import numpy as np
import pytest

from facedetd.ring.link import link_pair
from facedetd.ring.segment import DecoderCounter, InferenceCounter, RingSpec, Segment
from facedetd.supervisor.accounting import StreamAccount
from tests.ring_processes import read, write

SPAWN = multiprocessing.get_context("spawn")
FULL_SIZE = (640, 384)
SMALL = (16, 16)


@dataclass
class Outcome:
    sound: int
    torn: int
    written: int
    sampled: int
    inferred: int
    ended: int
    worker_lost: int
    no_slot: int
    replaced: int
    reader_deaths: int
    writer_deaths: int


class Race:
    """The supervisor's part, small: makes segments, starts both ends, kills and replaces them, folds counters."""

    def __init__(self, size: tuple[int, int], broken: str = ""):
        self.size, self.broken = size, broken
        self.tally_fd = os.memfd_create("tally")
        os.ftruncate(self.tally_fd, 4096)
        self.tally = np.frombuffer(mmap.mmap(self.tally_fd, 4096), np.uint64, 3)
        self.account = StreamAccount()
        self.rings = 0
        self.reader_deaths = self.writer_deaths = 0

    def start_ring(self) -> None:
        self.rings += 1
        self.segment = Segment.create(RingSpec(self.rings, 1, *self.size, 1, 4))
        self.assignment = self.account.assign("race", 1, self.segment, 0)

    def start_writer(self, sock: socket.socket, first: int, last: int) -> None:
        self.links, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        fds = _Fd(self.segment.fd), _Fd(self.tally_fd)
        self.writer = SPAWN.Process(target=_write, args=(*fds, sock, theirs, first, last, self.broken))
        self.writer.start()
        sock.close()
        theirs.close()

    def start_reader(self, sock: socket.socket) -> None:
        self.reader = SPAWN.Process(target=_read, args=(_Fd(self.segment.fd), sock, _Fd(self.tally_fd), self.broken))
        self.reader.start()
        sock.close()

    def kill_reader(self) -> None:
        self.reader.kill()
        self.reader.join()
        self.reader_deaths += 1
        ours, theirs = link_pair()
        socket.send_fds(self.links, [b"x"], [ours.fileno()])
        ours.close()
        self.start_reader(theirs)

    def run(self, frames: int, reader_kills: int = 0, writer_kills: int = 0, seed: int = 1, least: int = 0) -> Outcome:
        """At least so many frames, and more till all kills are done and ``least`` were inferred: a busy machine may run
        one end alone for long."""
        rng = random.Random(seed)
        parts = writer_kills + 1
        for part in range(parts):
            self.start_ring()
            ours, theirs = link_pair()
            self.start_reader(theirs)
            self.start_writer(ours, part * frames // parts, (part + 1) * frames // parts)
            if part < writer_kills:
                self._wait_for_frames(50)
                time.sleep(rng.random() * 0.3)
                self.writer.kill()
                self.writer_deaths += 1
            for _ in range(reader_kills if part == 0 else 0):
                self._wait_for_frames(50)
                time.sleep(rng.random() * 0.3)
                self.kill_reader()
            if part == writer_kills:
                self._wait_for_frames(least)
                self.links.send(b".")  # enough
            self.writer.join(500)
            killed = self.writer.exitcode == -9
            assert self.writer.exitcode == 0 or killed
            self.reader.join(30)
            assert self.reader.exitcode == 0
            self.account.fold(self.assignment)
        counts = self.account.counts()
        return Outcome(
            *map(int, self.tally), counts.sampled, counts.inferred,
            counts.inferred + sum(counts.dropped.values()), counts.dropped["worker_lost"], counts.dropped["no_slot"],
            counts.dropped["replaced"], self.reader_deaths, self.writer_deaths,
        )  # fmt: skip

    def _wait_for_frames(self, count: int) -> None:
        """Until both ends are at work: so many frames more have been inferred."""
        start = int(self.segment.counters[0, 1, InferenceCounter.INFERRED])
        deadline = time.monotonic() + 60
        while int(self.segment.counters[0, 1, InferenceCounter.INFERRED]) < start + count:
            if not self.writer.is_alive() or time.monotonic() > deadline:
                return
            time.sleep(0.002)


class _Fd:
    """A descriptor that travels to a spawned process."""

    def __init__(self, fd: int):
        self.fd = fd

    def __getstate__(self) -> object:
        from multiprocessing import reduction

        return reduction.DupFd(self.fd)

    def __setstate__(self, state: object) -> None:
        self.fd = state.detach()  # type: ignore[attr-defined]


def _write(fd: _Fd, tally: _Fd, sock: socket.socket, links: socket.socket, *args: object) -> None:
    write(fd.fd, sock, links, tally.fd, *args)  # type: ignore[arg-type]


def _read(fd: _Fd, sock: socket.socket, tally: _Fd, broken: str) -> None:
    read(fd.fd, sock, tally.fd, broken)


def check(outcome: Outcome, frames: int) -> None:
    assert outcome.torn == 0
    assert outcome.ended == outcome.sampled  # every frame came to an end that was counted
    # What was checked and what was counted as inferred may differ by the one frame a reader was killed over.
    assert 0 <= outcome.sound - outcome.inferred <= outcome.reader_deaths
    if not outcome.writer_deaths:
        assert outcome.sampled == outcome.written >= frames
    assert outcome.worker_lost <= outcome.reader_deaths * 4 + outcome.writer_deaths


@pytest.mark.timeout(600)
def test_a_million_small_slots() -> None:
    outcome = Race(SMALL).run(1_000_000, least=10_000)
    check(outcome, 1_000_000)
    assert outcome.inferred >= 10_000
    assert outcome.worker_lost == 0


def test_ten_thousand_full_size_slots() -> None:
    outcome = Race(FULL_SIZE).run(10_000, least=1000)
    check(outcome, 10_000)
    assert outcome.inferred > 100


@pytest.mark.parametrize("size", [SMALL, FULL_SIZE])
def test_readers_killed_at_random(size: tuple[int, int]) -> None:
    frames = 200_000 if size == SMALL else 10_000
    outcome = Race(size).run(frames, reader_kills=5, seed=size[0])
    check(outcome, frames)
    assert outcome.reader_deaths == 5


@pytest.mark.parametrize("size", [SMALL, FULL_SIZE])
def test_writers_killed_at_random(size: tuple[int, int]) -> None:
    outcome = Race(size).run(60_000, writer_kills=4, seed=size[0])
    check(outcome, 0)
    assert outcome.writer_deaths == 4


@pytest.mark.parametrize("broken", ["writes a slot it has sent", "forgets a frame"])
def test_a_broken_protocol_is_noticed(broken: str) -> None:
    size, frames = (FULL_SIZE, 5_000) if broken.startswith("writes") else (SMALL, 20_000)
    for _ in range(5):  # on a busy machine the two may not get in each other's way in so many frames
        outcome = Race(size, broken).run(frames, least=500)
        try:
            check(outcome, frames)
        except AssertionError:
            return
    pytest.fail("never noticed")


def test_sampled_counts_without_a_slot_are_drops() -> None:
    race = Race(SMALL)
    race.start_ring()
    race.segment.counters[0, 0, DecoderCounter.SAMPLED] += 3
    race.segment.counters[0, 0, DecoderCounter.NO_SLOT] += 3
    counts = race.account.counts()
    assert (counts.sampled, counts.dropped["no_slot"], counts.waiting) == (3, 3, 0)
