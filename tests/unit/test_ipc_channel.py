"""Control messages: what goes in comes out whole, and nothing that the other end does breaks this one."""

from __future__ import annotations

import errno
import json
import os
import resource
import socket
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facedetd.ipc import MAX_MESSAGE, MESSAGES_A_TURN, Channel, TalkerLoop, channel_pair
from tests.descriptors import descriptors

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@pytest.fixture
def pair() -> Iterator[tuple[Channel, Channel]]:
    a, b = (Channel(sock) for sock in channel_pair())
    yield a, b
    a.close()
    b.close()


@pytest.fixture
def raw() -> Iterator[tuple[socket.socket, Channel]]:
    """A bare socket to say anything with, and the channel that hears it."""
    a, b = channel_pair()
    channel = Channel(b)
    yield a, channel
    a.close()
    channel.close()


@given(st.dictionaries(st.text(), JSON, max_size=6))
def test_a_message_comes_out_as_it_went_in(message: dict[str, object]) -> None:
    a, b = (Channel(sock) for sock in channel_pair())
    a.send(message)
    assert b.receive() == [(message, [])]
    a.close()
    b.close()


def test_descriptors_travel_and_the_senders_stay_its_own(pair: tuple[Channel, Channel]) -> None:
    a, b = pair
    fd = os.memfd_create("x")
    os.write(fd, b"picture")
    a.send({"op": "ring"}, (fd, fd))
    os.close(fd)
    [(message, received)] = b.receive()
    assert message == {"op": "ring"}
    assert [os.pread(f, 10, 0) for f in received] == [b"picture", b"picture"]
    assert not any(os.get_inheritable(f) for f in received)
    for f in received:
        os.close(f)


def test_the_largest_message_fits_and_a_larger_one_is_refused(pair: tuple[Channel, Channel]) -> None:
    a, b = pair
    room = MAX_MESSAGE - len(json.dumps({"x": ""}, separators=(",", ":")))
    a.send({"x": "y" * room})
    assert len(b.receive()[0][0]["x"]) == room
    with pytest.raises(ValueError, match=str(MAX_MESSAGE)):
        a.send({"x": "y" * (room + 1)})


def test_what_the_socket_does_not_take_waits_in_order_with_its_descriptors(pair: tuple[Channel, Channel]) -> None:
    a, b = pair
    before = descriptors()
    fd = os.memfd_create("x")
    sent = 0
    while not a.wants_write:
        a.send({"n": sent, "pad": "p" * 5000}, (fd,))
        sent += 1
    for _ in range(20):
        a.send({"n": sent}, (fd,))
        sent += 1
    heard = []
    while len(heard) < sent:
        for message, fds in b.receive():
            heard.append(message["n"])
            for f in fds:
                os.close(f)
        a.flush()
    assert heard == list(range(sent))
    assert not a.wants_write
    os.close(fd)
    assert not descriptors() - before


def test_the_end_is_seen_after_all_that_was_said(pair: tuple[Channel, Channel]) -> None:
    a, b = pair
    a.send({"last": "words"})
    a.close()
    assert b.receive() == [({"last": "words"}, [])]
    assert b.closed


def test_last_words_are_heard_though_the_dead_left_words_of_ours_unread(pair: tuple[Channel, Channel]) -> None:
    a, b = pair
    b.send({"op": "stop"})  # never read: its socket is reset
    a.send({"ev": "unusable"})
    a.close()
    b.send({"op": "more"})  # finds that nobody is there
    assert not b.wants_write
    assert b.receive() == [({"ev": "unusable"}, [])]
    assert b.closed


@pytest.mark.parametrize("short", [errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS])
def test_where_the_kernel_cannot_pass_a_message_on_both_ends_know(pair, monkeypatch, short: int) -> None:
    a, b = pair
    a.send({"op": "ring"})

    def fails(*_: object) -> int:
        raise OSError(short, "short")

    b.send({"ev": "last"})
    with monkeypatch.context() as patch:
        patch.setattr(socket, "send_fds", fails)
        a.send({"op": "link"}, [0])
    a.send({"op": "more"})
    assert b.receive() == [({"op": "ring"}, [])]
    assert b.closed
    assert a.receive() == [({"ev": "last"}, [])]


@pytest.mark.parametrize(
    "data",
    [b"no json", b"[1, 2]", b"17", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 20_000, b'{"a"', b"x" * (MAX_MESSAGE + 1)],
    ids=["words", "list", "number", "no text", "deep lists", "deep objects", "cut off", "too long"],
)
def test_garbage_ends_the_channel_and_leaks_nothing(raw: tuple[socket.socket, Channel], data: bytes) -> None:
    sock, channel = raw
    before = descriptors()
    sock.send(b'{"ev":"fine"}')
    socket.send_fds(sock, [data], [0])
    sock.send(b'{"ev":"late"}')
    assert channel.receive() == [({"ev": "fine"}, [])]
    assert channel.closed
    assert not descriptors() - before


def test_a_process_without_memory_for_a_message_of_any_size_hears_a_small_one(pair: tuple[Channel, Channel]) -> None:
    a, b = pair
    a.send({"op": "stop"})
    tracemalloc.start()
    try:
        assert b.receive() == [({"op": "stop"}, [])]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MAX_MESSAGE / 4


def test_more_descriptors_than_allowed_end_the_channel(raw: tuple[socket.socket, Channel]) -> None:
    sock, channel = raw
    before = descriptors()
    socket.send_fds(sock, [b'{"ev":"many"}'], [0] * 40)
    assert channel.receive() == []
    assert channel.closed
    assert not descriptors() - before


@pytest.mark.parametrize("goes_without", [False, True])
def test_one_without_room_for_descriptors_ends_or_goes_without_them(goes_without: bool) -> None:
    a, b = channel_pair()
    channel = Channel(b, goes_without=goes_without)
    before = descriptors()
    socket.send_fds(a, [b'{"ev":"jpeg"}'], [0, 0])
    a.send(b'{"ev":"beat"}')
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (5, hard))
    try:
        heard = channel.receive()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert heard == ([({"ev": "jpeg"}, []), ({"ev": "beat"}, [])] if goes_without else [])
    assert channel.closed is not goes_without
    assert not descriptors() - before
    a.close()
    channel.close()


def test_an_end_that_never_stops_talking_is_heard_in_turns(raw: tuple[socket.socket, Channel]) -> None:
    sock, channel = raw
    for _ in range(MESSAGES_A_TURN + 5):
        sock.send(b"{}")
    assert len(channel.receive()) == MESSAGES_A_TURN
    assert len(channel.receive()) == 5
    assert not channel.closed


def test_a_descriptor_that_cannot_be_passed_on_leaks_none_of_the_others(pair: tuple[Channel, Channel]) -> None:
    a, b = pair
    before = descriptors()
    with pytest.raises(OSError, match="descriptor"):
        a.send({"op": "ring"}, (0, 99_999))
    assert not descriptors() - before
    a.send({"op": "next"})
    assert b.receive() == [({"op": "next"}, [])]


def test_closing_closes_the_descriptors_that_wait() -> None:
    before = descriptors()
    a, b = (Channel(sock) for sock in channel_pair())
    while not a.wants_write:
        a.send({"pad": "p" * 5000}, (0,))
    a.close()
    b.close()
    a.send({"op": "late"}, (0,))
    assert not descriptors() - before


def test_a_loop_flushes_what_waits_and_calls_who_can_read(pair: tuple[Channel, Channel]) -> None:
    a, b = pair
    heard: list[object] = []
    loop = TalkerLoop()
    loop.watch(a, lambda: None)
    loop.watch(b, lambda: heard.extend(m["n"] for m, _ in b.receive()))
    sent = 0
    while not a.wants_write:
        a.send({"n": sent, "pad": "p" * 5000})
        sent += 1
    while len(heard) < sent:
        loop.turn(5.0)
    assert heard == list(range(sent))


def test_a_loop_calls_nobody_who_was_forgotten_in_the_same_turn() -> None:
    pairs = [[Channel(sock) for sock in channel_pair()] for _ in range(2)]
    loop = TalkerLoop()
    called = []

    def hear(me: int) -> None:
        called.append(me)
        loop.forget(pairs[1 - me][1])
        loop.forget(pairs[1 - me][1])  # twice is once
        pairs[1 - me][1].close()

    for me, (a, b) in enumerate(pairs):
        loop.watch(b, lambda me=me: hear(me))  # type: ignore[misc]
        a.send({})
    loop.turn(5.0)
    assert len(called) == 1
    for a, b in pairs:
        a.close()
        b.close()
