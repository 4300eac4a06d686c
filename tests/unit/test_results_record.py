"""The result record: what packs unpacks, and nothing malformed gets through."""

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facedetd.results.record import MAX_FACES, MAX_RECORD_BYTES, RawResult, ResultError, pack_result, unpack_result
from facedetd.types import MAX_SIDE, Face

f32 = st.floats(allow_nan=False, allow_infinity=False, width=32)
i64 = st.integers(-(2**63), 2**63 - 1)
points = st.tuples(f32, f32)
faces_ = st.lists(
    st.builds(
        Face,
        st.tuples(f32, f32, f32, f32),
        f32,
        st.one_of(st.just(()), st.tuples(points, points, points, points, points)),
    ),
    max_size=6,
).map(tuple)
results = st.builds(
    RawResult,
    ring_id=st.integers(0, 2**16 - 1),
    stream_index=st.integers(0, 2**16 - 1),
    epoch=st.integers(0, 2**32 - 1),
    sequence=st.integers(0, 2**64 - 1),
    pts_ns=i64,
    capture_utc_ns=i64,
    capture_mono_ns=i64,
    arrival_mono_ns=i64,
    done_mono_ns=i64,
    source_width=st.integers(1, MAX_SIDE),
    source_height=st.integers(1, MAX_SIDE),
    batch_size=st.integers(1, 2**16 - 1),
    faces=faces_,
)
NAMES = RawResult.__match_args__
MARKS = tuple((float(n), n + 0.5) for n in range(5))


def pack(result):
    return pack_result(*(getattr(result, name) for name in NAMES))


def plain(**changes):
    values = dict.fromkeys(NAMES, 1) | {
        "faces": (Face((1.0, 2.0, 3.0, 4.0), 0.5, MARKS), Face((1.0, 2.0, 3.0, 4.0), 0.5))
    }
    return values | changes


@given(results)
def test_what_packs_unpacks(result):
    assert unpack_result(pack(result)) == result


@given(st.binary(max_size=400))
def test_any_bytes_give_a_result_or_the_one_error(data):
    for each in (data, b"FDR1" + data):
        try:
            found = unpack_result(each)
        except ResultError:
            continue
        assert pack(found) == each


@given(results, st.data())
def test_a_changed_record_is_refused_or_still_a_record(result, data):
    record = bytearray(pack(result))
    for _ in range(data.draw(st.integers(1, 4))):
        record[data.draw(st.integers(0, len(record) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = unpack_result(record)
    except ResultError:
        return
    assert pack(found) == bytes(record)


@given(results, st.integers(1, 100))
def test_a_record_cut_short_or_too_long_is_refused(result, by):
    record = pack(result)
    with pytest.raises(ResultError):
        unpack_result(record[: max(0, len(record) - by)])
    with pytest.raises(ResultError):
        unpack_result(record + bytes(by))


@pytest.mark.parametrize(
    "changes",
    [
        {"ring_id": -1},
        {"ring_id": 2**16},
        {"stream_index": 2**16},
        {"epoch": 2**32},
        {"sequence": -1},
        {"pts_ns": 2**63},
        {"source_width": 0},
        {"source_height": 0},
        {"batch_size": 0},
        {"faces": (Face((0.0, 0.0, float("nan"), 1.0), 0.5),)},
        {"faces": (Face((0.0, 0.0, 1.0, 1.0), float("inf")),)},
        {"faces": (Face((0.0, 0.0, 1e39, 1.0), 0.5),)},
        {"faces": (Face((0.0, 0.0, 1.0, 1.0), 0.5, MARKS[:4]),)},
        {"faces": (Face((0.0, 0.0, 1.0, 1.0), 0.5, ((0.0, float("nan")), *MARKS[1:])),)},
        {"faces": (Face((0.0, 0.0, 1.0, 1.0), 0.5),) * (MAX_FACES + 1)},
    ],
    ids="-".join,
)
def test_what_does_not_fit_is_refused_at_the_sender(changes):
    with pytest.raises(ResultError):
        pack_result(**plain(**changes))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite_are_refused_at_the_receiver(value):
    record = bytearray(pack_result(**plain(faces=(Face((1.0, 2.0, 3.0, 4.0), 0.5),))))
    record[-5:-1] = struct.pack("<f", value)  # the score stands before the face's flag
    with pytest.raises(ResultError, match="finite"):
        unpack_result(record)


@pytest.mark.parametrize("at", [8, 16, 20], ids=["batch_size", "source_width", "source_height"])
def test_an_empty_frame_is_refused_at_the_receiver(at):
    record = bytearray(pack_result(**plain()))
    record[at : at + 2] = bytes(2)  # each is 1, in two or four bytes
    with pytest.raises(ResultError, match="px frame in a batch of"):
        unpack_result(record)


@pytest.mark.parametrize("at", [16, 20], ids=["source_width", "source_height"])
def test_a_frame_too_large_for_the_api_is_refused_at_the_receiver(at):
    record = bytearray(pack_result(**plain()))
    struct.pack_into("<I", record, at, MAX_SIDE)
    unpack_result(record)
    struct.pack_into("<I", record, at, MAX_SIDE + 1)
    with pytest.raises(ResultError, match="65536"):
        unpack_result(record)


def test_four_thousand_faces_fit_and_pass_a_seqpacket_socket():
    record = pack_result(**plain(faces=(Face((1.0, 2.0, 3.0, 4.0), 0.5, MARKS),) * MAX_FACES))
    assert len(record) == MAX_RECORD_BYTES < 256 * 1024
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with sender, receiver:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_RECORD_BYTES)
        sender.setblocking(False)
        sender.send(record)
        assert len(unpack_result(receiver.recv(MAX_RECORD_BYTES)).faces) == MAX_FACES
