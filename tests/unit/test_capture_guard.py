"""What FFmpeg may reach on a camera's behalf, the thread that is held to it, and the look at a camera's port."""

import errno
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facedetd.capture import guard, guard_seccomp, source
from facedetd.capture.diagnose import Unreachable, reach
from facedetd.capture.guard import Judge, LedElsewhere, run_guarded
from facedetd.capture.guard_seccomp import Attempt, NotConfinable, parse, run_judged
from facedetd.capture.source import ErrorKind, SourceError, open_source
from facedetd.types import StreamSpec, Transport
from tests.descriptors import descriptors

TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM
CAMERA = ("192.0.2.7", "2001:db8::7")
PORT = 554


def tcp(address, port=PORT):
    return Attempt(socket.AF_INET, TCP, address, port)


def udp(address, port):
    return Attempt(socket.AF_INET, UDP, address, port)


ADDRESSES = st.sampled_from([*CAMERA, "192.0.2.8", "127.0.0.1", "::1", ""])
PORTS = st.sampled_from([0, 53, 80, 322, PORT, 5000, 65535])
FAMILIES = st.sampled_from([socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_UNSPEC, 40])
ATTEMPTS = st.lists(st.builds(Attempt, FAMILIES, st.sampled_from([TCP, UDP, socket.SOCK_RAW]), ADDRESSES, PORTS))


@given(ATTEMPTS)
def test_once_the_camera_is_reached_nobody_else_is(attempts):
    judge = Judge(CAMERA, PORT)
    assert judge(tcp(CAMERA[0]))
    for attempt in attempts:
        if judge(attempt):
            assert attempt.address in CAMERA
            assert attempt.port == PORT if attempt.type == TCP else attempt.port >= 1024
        elif attempt.address not in CAMERA:
            assert judge.refused is not None


@given(ATTEMPTS)
def test_before_that_only_names_are_looked_up(attempts):
    judge = Judge(CAMERA, PORT)
    for attempt in attempts:
        before = judge._untried == set(CAMERA)
        if judge(attempt) and before and attempt.type == TCP and attempt.family != socket.AF_UNIX:
            assert (attempt.address in CAMERA and attempt.port == PORT) or attempt.port == 53


def test_each_address_is_connected_to_once_as_a_second_time_is_a_redirect():
    judge = Judge(CAMERA, PORT)
    assert judge(tcp(CAMERA[0])) and judge(tcp(CAMERA[1])) and judge.refused is None
    assert not judge(tcp(CAMERA[0])) and judge.refused == tcp(CAMERA[0])


def test_a_camera_that_names_no_port_is_no_offender():
    judge = Judge(CAMERA, PORT)
    assert judge(tcp(CAMERA[0])) and not judge(udp(CAMERA[0], 0)) and judge.refused is None
    assert not judge(udp("192.0.2.8", 0)) and judge.refused == udp("192.0.2.8", 0)


def test_addresses_as_the_kernel_gets_them():
    with socket.socket(socket.AF_INET6) as listener:
        listener.bind(("::1", 0))
        port = listener.getsockname()[1]
    head = socket.AF_INET6.to_bytes(2, "little") + port.to_bytes(2, "big") + bytes(4)
    assert parse(head + socket.inet_pton(socket.AF_INET6, "::1") + bytes(4), TCP).address == "::1"
    mapped = parse(head + socket.inet_pton(socket.AF_INET6, "::ffff:192.0.2.7") + bytes(4), TCP)
    assert (mapped.address, mapped.port) == ("192.0.2.7", port)
    assert parse(b"\x01\0/run/x", TCP) == Attempt(socket.AF_UNIX, TCP)


@given(st.binary(max_size=128))
def test_no_address_is_too_odd_to_parse(raw):
    attempt = parse(raw, TCP)
    assert 0 <= attempt.port <= 65535


@pytest.fixture
def listeners():
    """Of TCP on 127.0.0.1 and 127.0.0.2, and a UDP socket on the latter; none of them blocks."""
    with (
        socket.create_server(("127.0.0.1", 0)) as own,
        socket.create_server(("127.0.0.2", 0)) as other,
        socket.socket(socket.AF_INET, UDP) as datagrams,
    ):
        datagrams.bind(("127.0.0.2", 0))
        for each in (own, other, datagrams):
            each.setblocking(False)
        yield own, other, datagrams


def accepted(listener):
    """The other end of a connection, which the kernel may hand over a moment after it was made."""
    listener.settimeout(20)
    connection, _ = listener.accept()
    listener.setblocking(False)
    return connection


def connect(address, *others):
    connection = socket.create_connection(address)
    for other in others:
        try:
            other()
        except BaseException:
            connection.close()
            raise
    return connection


def test_the_thread_reaches_the_camera_only(listeners):
    own, other, datagrams = listeners
    port = own.getsockname()[1]

    def to_other():
        socket.create_connection(other.getsockname()).close()

    def datagram():
        with socket.socket(socket.AF_INET, UDP) as sender:
            sender.sendto(b"x", datagrams.getsockname())

    def lookup():
        socket.getaddrinfo("name.invalid", 1)

    closed = []
    mine, others = run_guarded(lambda: connect(own.getsockname()), ("127.0.0.1",), port, lambda c: None)
    far = accepted(own)
    assert [one.getsockname() for one in others] == [mine.getsockname()]
    mine.close()
    others[0].shutdown(socket.SHUT_RDWR)  # the same connection, whoever holds which descriptor
    far.setblocking(True)
    assert far.recv(1) == b""
    for one in (far, *others):
        one.close()
    for offence, named in ((to_other, "127.0.0.2:"), (datagram, "127.0.0.2:"), (lookup, "another name")):
        with pytest.raises(LedElsewhere, match=named):
            run_guarded(lambda o=offence: connect(own.getsockname(), o), ("127.0.0.1",), port, lambda c: None)

    def offend_and_go_on():
        connection = connect(own.getsockname())
        with pytest.raises(PermissionError):
            datagram()
        return connection

    with pytest.raises(LedElsewhere):
        run_guarded(offend_and_go_on, ("127.0.0.1",), port, lambda c: (closed.append(c), c.close()))
    assert len(closed) == 1
    for quiet in (other.accept, lambda: datagrams.recv(10)):
        with pytest.raises(BlockingIOError):
            quiet()
    to_other()  # this thread isn't held to anything
    datagram()
    accepted(other).close()
    datagrams.settimeout(20)
    assert datagrams.recv(10) == b"x"


def test_connections_that_are_closed_again_are_not_handed_over(listeners):
    own, *_ = listeners
    port = own.getsockname()[1]

    def closed_again():
        connect(own.getsockname()).close()
        return socket.socket(socket.AF_INET, UDP)  # its descriptor has the same number

    mine, found = run_guarded(closed_again, ("127.0.0.1",), port, lambda c: None)
    mine.close()
    assert found == []


def test_a_judge_that_fails_closes_nothing_of_its_library(listeners, monkeypatch):
    own, *_ = listeners

    def short_of_memory(raw, kind):
        raise MemoryError

    def still_open():
        tried = socket.socket(socket.AF_INET, TCP)
        try:
            tried.connect(own.getsockname())
        except OSError:
            left.append(os.fstat(tried.fileno()).st_ino)
            done.set()
        tried.close()

    left, done = [], threading.Event()
    monkeypatch.setattr(guard_seccomp, "parse", short_of_memory)
    with pytest.raises(MemoryError):
        run_guarded(still_open, ("127.0.0.1",), own.getsockname()[1], lambda c: None)
    assert done.wait(30) and left


def test_results_errors_and_nothing_left_behind():
    others = threading.active_count() - 1 - sum(t.name == "opener" for t in threading.enumerate())

    with ThreadPoolExecutor(12) as many:  # so that more are made than kept
        assert (
            list(many.map(lambda n: run_judged(lambda: (time.sleep(0.1), n)[1], lambda a: True), range(12)))[11] == 11
        )
    end = time.monotonic() + 30
    while threading.active_count() > 1 + guard_seccomp._MAX_IDLE + others:
        assert time.monotonic() < end
        time.sleep(0.01)
    threads, before = threading.active_count(), descriptors()
    for _ in range(20):
        assert run_judged(lambda: "x", lambda a: True) == "x"
        with pytest.raises(ZeroDivisionError):
            run_judged(lambda: 1 / 0, lambda a: True)
    assert threading.active_count() <= threads and not descriptors() - before


def test_a_judge_that_fails_refuses(listeners):
    own, *_ = listeners

    def judge(attempt):
        raise RuntimeError("no opinion")

    with pytest.raises(RuntimeError, match="no opinion"):
        run_judged(lambda: connect(own.getsockname()), judge)
    with pytest.raises(BlockingIOError):
        own.accept()


def test_where_it_cannot_be_done_nothing_is_called(monkeypatch):
    monkeypatch.setattr(guard_seccomp, "_idle", [])
    monkeypatch.setattr(guard_seccomp.platform, "machine", lambda: "vax")
    called = []
    with pytest.raises(NotConfinable, match="vax"):
        run_judged(lambda: called.append(1), lambda a: True)
    assert not called


def test_udp_is_refused_where_it_cannot_be_kept_to_the_camera(monkeypatch, listeners):
    def not_here(*_):
        raise NotConfinable("seccomp user notification: Function not implemented")

    monkeypatch.setattr(guard, "run_judged", not_here)
    opened = []
    monkeypatch.setattr(source.av, "open", lambda *a, **k: opened.append(1) or 1 / 0)
    url = f"rtsp://127.0.0.1:{listeners[0].getsockname()[1]}/x"
    with pytest.raises(SourceError, match="use TCP"):
        open_source(StreamSpec("c", url, transport=Transport.UDP), None, 2, 2, threading.Event(), lambda: 0)
    assert not opened
    with pytest.raises(ZeroDivisionError):
        open_source(StreamSpec("c", url), None, 2, 2, threading.Event(), lambda: 0)
    assert opened


def test_a_port_is_looked_at_and_let_go(listeners):
    own, *_ = listeners
    assert reach("localhost", own.getsockname()[1], 5, threading.Event()).count("127.0.0.1") == 1
    connection = accepted(own)
    connection.setblocking(True)
    assert connection.recv(1) == b""  # closed again, nothing said
    connection.close()


def test_why_a_port_is_out_of_reach():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(Unreachable, match="connection refused") as caught:
            reach("127.0.0.1", unused.getsockname()[1], 5, threading.Event())
    assert ErrorKind(caught.value.kind) is ErrorKind.REFUSED
    with pytest.raises(Unreachable, match=r"name nosuch\.invalid is not known"):
        reach("nosuch.invalid", 1, 5, threading.Event())


@pytest.fixture
def deaf():
    """An address that takes no connection and refuses none: its queue is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = []
        for _ in range(4):
            connection = socket.socket()
            connection.setblocking(False)
            connection.connect_ex(listener.getsockname())
            waiting.append(connection)
        yield listener.getsockname()
        for connection in waiting:
            connection.close()


def test_a_silent_port_times_out(deaf):
    with pytest.raises(Unreachable, match=r"no answer within 0\.2 s"):
        reach(*deaf, 0.2, threading.Event())


def test_a_knock_waits_for_a_word(listeners):
    own = listeners[0]
    where = own.getsockname()
    with pytest.raises(Unreachable, match=r"no answer within 0\.2 s"):
        reach(*where, 0.2, threading.Event(), knock=True)
    accepted(own).close()
    said = []

    def answer():
        connection, _ = own.accept()
        connection.setblocking(True)
        said.append(connection.recv(1000))
        connection.send(b"R")
        connection.close()

    thread = threading.Thread(target=answer)
    own.setblocking(True)
    thread.start()
    assert reach(*where, 5, threading.Event(), knock=True) == (where[0],)
    thread.join()
    assert said == [f"OPTIONS rtsp://{where[0]}:{where[1]}/ RTSP/1.0\r\nCSeq: 1\r\n\r\n".encode()]


def test_stop_ends_the_wait_for_a_silent_port(deaf):
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    with pytest.raises(Unreachable, match="stopped"):  # not "no answer within 600 s"
        reach(*deaf, 600, stop)


def test_one_dead_address_of_a_name_leaves_time_for_the_next(deaf, listeners, monkeypatch):
    own = listeners[0].getsockname()
    both = [(socket.AF_INET, TCP, 0, "", a) for a in (deaf, own)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: both)
    assert reach("camera", own[1], 1, threading.Event()) == (deaf[0], own[0])


def test_out_of_descriptors_is_said(monkeypatch):
    def none_left(*_):
        raise OSError(24, os.strerror(24))

    monkeypatch.setattr(socket, "socket", none_left)
    with pytest.raises(Unreachable, match="Too many open files"):
        reach("127.0.0.1", 1, 1, threading.Event())


@pytest.mark.parametrize("place", ["eventfd", "listener"])
def test_without_descriptors_nothing_is_opened_unwatched_and_nothing_left_behind(monkeypatch, place):
    def refuse(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(guard_seccomp, "_idle", [])
    if place == "eventfd":
        monkeypatch.setattr(os, "eventfd", refuse)
    else:
        monkeypatch.setattr(guard_seccomp, "_confine_this_thread", refuse)
    called = []
    before, threads = descriptors(), threading.active_count()
    for _ in range(5):
        with pytest.raises(OSError, match="Too many open files"):
            run_judged(lambda: called.append(1), lambda attempt: True)
    deadline = time.monotonic() + 20
    while threading.active_count() > threads and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= threads and not descriptors() - before
    assert not called


def test_without_threads_it_is_no_lack_of_the_guard(monkeypatch):
    def refuse(*_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(guard_seccomp, "_idle", [])
    monkeypatch.setattr(threading.Thread, "start", refuse)
    before = descriptors()
    with pytest.raises(OSError, match="temporarily unavailable"):
        run_judged(lambda: None, lambda attempt: True)
    assert not descriptors() - before
