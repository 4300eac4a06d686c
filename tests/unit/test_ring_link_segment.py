"""The ring's parts: headers, segments and the link, against a peer that lies."""

from __future__ import annotations

import errno
import mmap
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facedetd.ring import link as link_module
from facedetd.ring.counts import pending_frames, read_place
from facedetd.ring.header import HEADER_SIZE, ColorMatrix, ColorRange, Geometry, HeaderError, SlotHeader
from facedetd.ring.link import RECORDS_A_MESSAGE, RETURNED, SENT, SlotLink, SlotRecord, link_pair
from facedetd.ring.reader import RingReader
from facedetd.ring.segment import DecoderCounter, InferenceCounter, RingError, RingSpec, Segment
from facedetd.ring.writer import RingWriter

SPEC = RingSpec(7, 3, 16, 16, 2, 4)
UINT32 = st.integers(0, 2**32 - 1)
SIZE = st.integers(1, 2**32 - 1)
SIDE = st.integers(1, 65535)
INT64 = st.integers(-(2**63), 2**63 - 1)
UINT64 = st.integers(0, 2**64 - 1)

HEADERS = st.builds(
    SlotHeader,
    stream_id=st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z"),
    stream_index=st.integers(0, 2**16 - 1),
    epoch=UINT32,
    generation=UINT32,
    sequence=UINT64,
    frame_number=UINT64,
    pts_ns=INT64,
    arrival_mono_ns=INT64,
    capture_mono_ns=INT64,
    capture_utc_ns=INT64,
    geometry=st.builds(Geometry, SIDE, SIDE, SIZE, SIZE, UINT32, UINT32),
    matrix=st.sampled_from(ColorMatrix),
    range=st.sampled_from(ColorRange),
)


@given(HEADERS)
def test_a_header_comes_out_as_it_went_in(header: SlotHeader) -> None:
    data = header.pack()
    assert len(data) <= HEADER_SIZE
    assert SlotHeader.unpack(data + bytes(HEADER_SIZE - len(data))) == header


@given(HEADERS, st.data())
def test_no_bytes_break_the_reading_of_a_header(header: SlotHeader, data: st.DataObject) -> None:
    page = bytearray(header.pack().ljust(HEADER_SIZE, b"\0"))
    for _ in range(data.draw(st.integers(1, 8))):
        page[data.draw(st.integers(0, 200))] = data.draw(st.integers(0, 255))
    try:
        read = SlotHeader.unpack(bytes(page))
    except HeaderError:
        return
    assert read.geometry.width > 0
    assert read.geometry.source_height > 0


@pytest.mark.parametrize("size", [0, 1, 100])
def test_too_few_bytes_are_no_header(size: int) -> None:
    with pytest.raises(HeaderError, match=f"{size} bytes"):
        SlotHeader.unpack(bytes(size))


def test_a_source_too_large_for_the_api_is_no_header() -> None:
    def header(width: int) -> bytes:
        return SlotHeader("cam", 0, 0, 0, 0, 0, 0, 0, 0, 0, Geometry(width, 2, 2, 2, 0, 0)).pack()

    assert SlotHeader.unpack(header(65535)).geometry.source_width == 65535
    with pytest.raises(HeaderError, match="65536"):
        SlotHeader.unpack(header(65536))


def memory(data: bytes) -> int:
    fd = os.memfd_create("test")
    os.write(fd, data)
    return fd


def head(**changes: int) -> bytes:
    fields = {"ring": 7, "generation": 3, "width": 16, "height": 16, "streams": 2, "slots": 4} | changes
    return struct.pack("<8sIIIIII", b"FACERING", *fields.values()).ljust(SPEC.size, b"\0")


FOREIGN: dict[str, Callable[[], int]] = {
    "a device": lambda: os.open("/dev/null", os.O_RDWR),
    "a pipe": lambda: os.pipe()[0],
    "an empty file": lambda: memory(b""),
    "other bytes": lambda: memory(b"x" * SPEC.size),
    "too short": lambda: memory(head()[:-1]),
    "too long": lambda: memory(head() + b"\0"),
    "odd width": lambda: memory(head(width=15)),
    "no streams": lambda: memory(head(streams=0)),
    "too many slots": lambda: memory(head(slots=5)),
    "more than there is": lambda: memory(head(streams=2**31)),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_a_descriptor_that_is_no_ring_is_refused_and_closed(what: str) -> None:
    fd = FOREIGN[what]()
    with pytest.raises(RingError):
        Segment.attach(fd)
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(fd)


@pytest.mark.parametrize(
    "error, said",
    [
        (
            OSError(errno.ENOMEM, "Cannot allocate memory"),
            "not enough memory or address space .*; raise that limit, or",
        ),
        (MemoryError(), "not enough memory or address space .*; raise that limit, or"),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files$"),
    ],
)
def test_a_ring_that_cannot_be_mapped_is_refused_with_its_size_and_closed(
    monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    made = Segment.create(SPEC)
    fd = os.dup(made.fd)

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(mmap, "mmap", fail)
    with pytest.raises(RingError, match=f"^a ring of 0 MB for 2 streams can't be mapped: {said}"):
        Segment.attach(fd)
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(fd)


def test_both_ends_see_the_same_memory_and_its_size_is_fixed() -> None:
    made = Segment.create(SPEC)
    attached = Segment.attach(os.dup(made.fd))
    assert attached.spec == SPEC
    made.picture(5)[:] = 9
    attached.counters[1, 0, DecoderCounter.SAMPLED] = 4
    assert (attached.picture(5) == 9).all()
    assert not attached.picture(4).any()
    assert made.counters[1, 0, DecoderCounter.SAMPLED] == 4
    for change in (SPEC.size - 4096, SPEC.size + 4096):
        with pytest.raises(OSError, match="not permitted"):
            os.ftruncate(made.fd, change)


def test_a_segment_goes_with_its_last_holder() -> None:
    segment = Segment.create(RingSpec(4711, 1, 16, 16, 1, 2))
    picture = segment.picture(0)
    segment.close()
    assert "facedetd-ring-4711" in Path("/proc/self/maps").read_text()
    picture[:] = 1  # a view outlives the segment's descriptor
    del segment, picture
    assert "facedetd-ring-4711" not in Path("/proc/self/maps").read_text()


# ---- the link


def test_records_before_the_end_are_read_though_the_dead_left_some_of_ours_unread() -> None:
    a, b = (SlotLink(sock) for sock in link_pair())
    record = SlotRecord(SENT, 1, 4, 2, 3)
    b.send(SlotRecord(RETURNED, 1, 5, 0, 0))
    a.send(record)
    a.close()
    b.send(SlotRecord(RETURNED, 1, 6, 0, 0))  # finds nobody there; what was sent before is still to be read
    assert not b.closed
    assert b.receive() == [record]
    assert b.closed
    b.close()


def test_an_end_that_does_not_read_cannot_make_the_other_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "MAX_WAITING", 100)
    a, b = (SlotLink(sock) for sock in link_pair())
    b.send(SlotRecord(SENT, 0, 1, 0, 0))
    for _ in range(5000):
        a.send(SlotRecord(RETURNED, 0, 0, 0, 0))
    assert len(a._waiting) <= 100
    assert len(a.receive()) == 1 and a.closed
    a.close()
    b.close()


def test_where_the_kernel_has_no_memory_for_a_record_both_ends_know_that_the_link_is_gone() -> None:
    """Else the slots of the records that never went would be missing for good, and nobody would start anything anew."""

    class Short(socket.socket):
        def send(self, *_: object) -> int:
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))

    a, b = link_pair()
    other = SlotLink(b)
    SlotLink(a.dup()).send(SlotRecord(SENT, 0, 0, 1, 1))  # went while there was memory
    other.send(SlotRecord(RETURNED, 0, 3, 1, 1))
    with Short(fileno=a.detach()) as short:
        link = SlotLink(short)
        link.send(SlotRecord(SENT, 0, 1, 1, 2))
        assert not link.wants_write
        assert [r.slot for r in link.receive()] == [3] and link.closed
        assert [r.slot for r in other.receive()] == [0] and other.closed
    other.close()


class Ends:
    """A ring whose decoder end is a bare socket, to say anything with."""

    def __init__(self) -> None:
        self.segment = Segment.create(SPEC)
        self.sock, theirs = link_pair()
        self.now = 0
        self.reader = RingReader(Segment.attach(os.dup(self.segment.fd)), SlotLink(theirs), lambda: self.now)

    def header(self, slot: int, **changes: object) -> SlotHeader:
        fields = {"stream_id": "s", "stream_index": slot // 4, "epoch": 1, "generation": 3, "sequence": 0} | changes
        numbers = dict.fromkeys(("frame_number", "pts_ns", "arrival_mono_ns", "capture_mono_ns", "capture_utc_ns"), 0)
        geometry = fields.pop("geometry", Geometry(32, 32, 16, 16, 0, 0))
        header = SlotHeader(**fields, **numbers, geometry=geometry)  # type: ignore[arg-type]
        data = header.pack()
        self.segment.header_view(slot)[: len(data)] = data
        return header

    def say(self, stream: int, slot: int, kind: int = SENT, epoch: int = 1, sequence: int = 0) -> None:
        self.sock.send(struct.pack("<BxHIQQ", kind, stream, slot, epoch, sequence))
        self.reader.drain()

    def count(self, stream: int, counter: InferenceCounter) -> int:
        return int(self.segment.counters[stream, 1, counter])


@pytest.mark.parametrize(
    ("stream", "slot", "kind"),
    [(2, 0, SENT), (65535, 0, SENT), (0, 4, SENT), (1, 3, SENT), (1, 8, SENT), (0, 2**32 - 1, SENT), (0, 0, RETURNED),
     (0, 0, 99)],
)  # fmt: skip
def test_a_record_that_names_what_is_not_its_senders_is_ignored(stream: int, slot: int, kind: int) -> None:
    ends = Ends()
    for number in range(SPEC.slots):
        ends.header(number)
    ends.say(stream, slot, kind)
    assert ends.reader.waiting() == []
    assert not ends.segment.counters[:, 1].any()
    assert not ends.reader.closed


def test_a_slot_that_is_held_already_is_not_taken_twice() -> None:
    ends = Ends()
    ends.header(0)
    ends.say(0, 0)
    ends.say(0, 0)  # it waits
    assert len(ends.reader.waiting()) == 1
    frame = ends.reader.take(0)
    assert frame
    ends.say(0, 0)  # it is in a batch
    assert ends.reader.waiting() == []
    assert ends.count(0, InferenceCounter.REPLACED) == 0
    ends.reader.finish([frame], InferenceCounter.INFERRED)
    assert ends.reader.idle


@pytest.mark.parametrize(
    "changes",
    [
        {"epoch": 2},
        {"sequence": 9},
        {"stream_index": 1},
        {"generation": 4},
        {"geometry": Geometry(32, 32, 16, 16, 1, 0)},
        {"geometry": Geometry(32, 32, 16, 18, 0, 0)},
        {"geometry": Geometry(32, 32, 4, 4, 2**32 - 2, 0)},
    ],
    ids=str,
)
def test_a_slot_that_is_not_what_its_record_says_is_torn_and_given_back(changes: dict[str, object]) -> None:
    ends = Ends()
    ends.header(0, **changes)
    ends.say(0, 0)
    assert ends.reader.waiting() == []
    assert ends.count(0, InferenceCounter.BAD) == 1
    assert SlotLink(ends.sock).receive() == [SlotRecord(RETURNED, 0, 0, 0, 0)]


@pytest.mark.parametrize("data", [b"hello", bytes(25), bytes(24 * (RECORDS_A_MESSAGE + 1))])
def test_messages_of_another_size_close_the_link(data: bytes) -> None:
    ends = Ends()
    ends.sock.send(data)
    ends.reader.drain()
    assert ends.reader.closed
    assert ends.reader.idle


def test_many_records_go_in_few_messages() -> None:
    near, far = link_pair()
    sender, records = SlotLink(near), [SlotRecord(RETURNED, i % 7, i, i * 3, 1 << 40) for i in range(130)]
    sender.send(*records)
    sender.send()  # nothing
    assert [len(far.recv(1 << 16)) for _ in range(3)] == [24 * 64, 24 * 64, 24 * 2]
    with pytest.raises(BlockingIOError):
        far.recv(1)
    sender.send(*records)
    assert SlotLink(far).receive() == records


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9), st.sampled_from([SENT, RETURNED, 0])), max_size=30))
def test_whatever_a_decoder_says_slots_are_held_once_and_at_most_one_frame_of_a_stream_waits(
    said: list[tuple[int, int, int]],
) -> None:
    ends = Ends()
    for number in range(SPEC.slots):
        ends.header(number)
    given_back = SlotLink(ends.sock)
    taken = []
    for turn, (stream, slot, kind) in enumerate(said):
        ends.say(stream, slot, kind)
        waiting = ends.reader.waiting()
        assert len({w.stream for w in waiting}) == len(waiting)
        held = [w.slot for w in waiting] + [f.slot for f in taken]
        assert len(set(held)) == len(held)
        assert all(w.slot // 4 == w.stream for w in waiting)
        if turn % 3 == 2 and waiting:
            frame = ends.reader.take(waiting[0].stream)
            assert frame
            taken.append(frame)
    for frame in taken:
        ends.reader.finish([frame], InferenceCounter.INFERRED)
    ends.reader.discard_waiting()
    assert ends.reader.idle
    assert all(record.kind == RETURNED for record in given_back.receive())
    ends.sock.close()
    ends.reader.close()


# ---- the writer


def writer_and_peer() -> tuple[RingWriter, socket.socket]:
    ours, theirs = link_pair()
    return RingWriter(Segment.create(SPEC), SlotLink(ours)), theirs


def test_returned_slots_are_believed_only_of_what_was_sent() -> None:
    writer, peer = writer_and_peer()
    slot = writer.acquire(0)
    assert slot
    for number in (slot.number, 3, 77):  # held by a thread, free, and none
        peer.send(struct.pack("<BxHIQQ", RETURNED, 0, number, 0, 0))
    writer.take_back()
    others = [writer.acquire(0) for _ in range(4)]
    assert len({s.number for s in others if s} | {slot.number}) == 4
    assert others[3] is None


def test_a_ring_is_left_when_the_last_record_is_out() -> None:
    writer, peer = writer_and_peer()
    assert writer.link
    link = writer.link
    slot = writer.acquire(0)
    assert slot
    assert not writer.is_left()
    while not link.wants_write:  # the other end doesn't read
        link.send(SlotRecord(SENT, 0, 0, 0, 0))
    header = SlotHeader("s", 0, 1, 3, 0, 0, 0, 0, 0, 0, Geometry(32, 32, 16, 16, 0, 0))
    writer.submit(0, slot, header)
    assert writer.in_writing == 0
    assert not writer.is_left()
    other = SlotLink(peer)
    heard: list[SlotRecord] = []
    while not writer.is_left():
        heard += other.receive()
    heard += other.receive()
    assert heard[-1] == SlotRecord(SENT, 0, slot.number, 1, 0)


def test_a_dropped_frame_is_never_seen_half_counted() -> None:
    writer, _ = writer_and_peer()
    writer.drop_for_want_of_a_slot(1)
    counters = writer.segment.counters[1, 0]
    assert counters[DecoderCounter.SAMPLED] == counters[DecoderCounter.NO_SLOT] == 1
    with writer._lock:  # so relink, which takes this lock too, sees both or neither
        assert pending_frames(read_place(writer.segment, 1)) == 0
    writer.relink(None)
    assert counters[DecoderCounter.WORKER_LOST] == 0
    assert not np.any(writer.segment.counters[0])
