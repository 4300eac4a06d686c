"""A writer and a reader of a ring, as processes of their own, for the race tests.

Every picture is filled with a pattern of its sequence number, so that a reader can tell a torn one. ``broken`` names a
deliberate fault in the protocol, to show that the tests would notice.
"""

from __future__ import annotations

import itertools
import mmap
import os
import socket
import time

import numpy as np

from facedetd.ring.header import Geometry, SlotHeader
from facedetd.ring.link import RETURNED, SlotLink, SlotRecord
from facedetd.ring.reader import RingReader
from facedetd.ring.segment import DecoderCounter, InferenceCounter, Segment
from facedetd.ring.writer import RingWriter, Slot

STREAM = 0


def pattern(sequence: int) -> int:
    return sequence * 37 % 251


def write(
    fd: int, sock: socket.socket, links: socket.socket, tally_fd: int, first: int, last: int, broken: str
) -> None:
    """Write frames first..last-1 as fast as slots come back, and more till ``links`` says that it is enough; it brings
    a new link when a reader died. The third uint64 of ``tally_fd``: how many they were."""
    tally = np.frombuffer(mmap.mmap(tally_fd, 4096), np.uint64, 3)
    writer = RingWriter(Segment.attach(fd), SlotLink(sock))
    spec = writer.segment.spec
    counters = writer.segment.counters[STREAM, 0]
    links.setblocking(False)
    geometry = Geometry(spec.width, spec.height, spec.width, spec.height, 0, 0)
    enough = False
    for sequence in itertools.count(first):
        if sequence >= last and enough:
            tally[2] += sequence - first
            break
        writer.take_back()
        if writer.link is None or writer.link.closed or sequence % 64 == 0:
            enough |= _relink(writer, links)
        slot = writer.acquire(STREAM)
        if broken == "writes a slot it has sent" and slot is None:
            slot = Slot(sequence % spec.slots, writer.segment.picture(sequence % spec.slots))
        if slot is None:
            counters[DecoderCounter.SAMPLED] += 1
            counters[DecoderCounter.NO_SLOT] += 1
            if sequence % 8 == 0:
                time.sleep(0)
            continue
        slot.picture[:] = pattern(sequence)
        writer.submit(STREAM, slot, SlotHeader("race", STREAM, 1, spec.generation, sequence, 0, 0, 0, 0, 0, geometry))
        if sequence == first:
            _wait_for_reader(writer)
    deadline = time.monotonic() + 30
    while writer.outstanding(STREAM) and time.monotonic() < deadline:
        writer.take_back()
        if writer.link is None or writer.link.closed:
            _relink(writer, links)
        time.sleep(0.001)
    os._exit(0 if not writer.outstanding(STREAM) else 1)


def _wait_for_reader(writer: RingWriter) -> None:
    """A race has two: the reader may still be importing."""
    deadline = time.monotonic() + 30
    while not writer.segment.counters[STREAM, 1, InferenceCounter.TAKEN] and time.monotonic() < deadline:
        time.sleep(0.001)


def _relink(writer: RingWriter, links: socket.socket) -> bool:
    """Whether it is enough."""
    try:
        _, fds, _, _ = socket.recv_fds(links, 1, 1)
    except BlockingIOError:
        return False
    if fds:
        writer.relink(SlotLink(socket.socket(fileno=fds[0])))
    return not fds


def read(fd: int, sock: socket.socket, tally_fd: int, broken: str) -> None:
    """Take every frame that waits, check it, count it. ``tally_fd`` maps two uint64: sound and torn frames."""
    reader = RingReader(Segment.attach(fd), SlotLink(sock), time.monotonic_ns)
    tally = np.frombuffer(mmap.mmap(tally_fd, 4096), np.uint64, 2)
    n = 0
    while True:
        fresh = reader.drain()
        reader.link.flush()
        for waiting in reader.waiting():
            frame = reader.take(waiting.stream)
            if frame is None:
                continue
            picture = reader.picture(frame.slot)
            value = pattern(frame.header.sequence)
            sound = bool((picture == value).all())
            if picture.size > 10_000:  # what an engine does to it takes a while
                sound = sound and bool((picture == value).all())
            n += 1
            if broken == "forgets a frame" and n % 100 == 0:
                reader._in_flight.discard(frame.slot)
                reader.link.send(SlotRecord(RETURNED, frame.stream, frame.slot, 0, 0))
                continue
            tally[0 if sound else 1] += 1
            reader.finish([frame], InferenceCounter.INFERRED)
        if reader.closed and reader.idle:
            os._exit(0)
        if not fresh:
            time.sleep(0.0002)
