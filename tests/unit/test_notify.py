"""What systemd hears, through a real datagram socket."""

import os
import socket
import uuid

import pytest

from facedetd.supervisor.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def systemd(request, tmp_path, monkeypatch):
    name = str(tmp_path / "notify") if request.param == "path" else f"\0facedetd-test-{uuid.uuid4().hex}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(name)
        listening.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", name.replace("\0", "@"))
        yield listening


def heard(listening):
    return listening.recv(65536).decode().split("\n")


def test_each_call_says_its_line(systemd):
    notifier = Notifier(clock_ns=lambda: 12_345_678_901)
    assert notifier.ready()
    assert heard(systemd) == ["READY=1"]
    assert notifier.ready("4 streams")
    assert heard(systemd) == ["READY=1", "STATUS=4 streams"]
    assert notifier.status("waiting for a model")
    assert heard(systemd) == ["STATUS=waiting for a model"]
    assert notifier.watchdog()
    assert heard(systemd) == ["WATCHDOG=1"]
    assert notifier.reloading()
    assert heard(systemd) == ["RELOADING=1", "MONOTONIC_USEC=12345678"]
    assert notifier.stopping()
    assert heard(systemd) == ["STOPPING=1"]
    notifier.close()
    assert not notifier.watchdog()
    with pytest.raises(BlockingIOError):
        systemd.recv(100)


def test_a_status_is_one_line_of_utf8_and_not_endless(systemd):
    notifier = Notifier()
    assert notifier.status("Kamera Süd 門\nMAINPID=1\r\nREADY=1")
    assert heard(systemd) == ["STATUS=Kamera Süd 門 MAINPID=1 READY=1"]
    assert notifier.status("x" * 100_000)
    assert len(heard(systemd)[0]) < 1000
    assert notifier.status("lone \ud800 surrogate")
    assert heard(systemd) == ["STATUS=lone ? surrogate"]
    assert not notifier.status("")


def test_a_systemd_that_does_not_read_neither_blocks_nor_raises(systemd):
    notifier = Notifier()
    assert notifier._systemd.socket.gettimeout() == 0
    assert not all(notifier.watchdog() for _ in range(100_000))


def test_what_changes_the_service_s_state_is_told_once_systemd_reads_again(systemd):
    """Else a busy PID 1 would wait for READY=1 in vain, and end the service."""
    notifier = Notifier(clock_ns=lambda: 5_000_000)
    while notifier.watchdog():
        pass
    assert not notifier.ready("no streams")
    assert not notifier.reloading()
    assert not notifier.ready("4 streams")
    assert not notifier.status("4 streams")
    while True:
        try:
            assert heard(systemd) == ["WATCHDOG=1"]
        except BlockingIOError:
            break
    assert notifier.status("5 streams")
    assert heard(systemd) == ["RELOADING=1", "MONOTONIC_USEC=5000"]
    assert heard(systemd) == ["READY=1", "STATUS=4 streams"]
    assert heard(systemd) == ["STATUS=5 streams"]
    assert notifier.watchdog()
    assert heard(systemd) == ["WATCHDOG=1"]


def test_a_systemd_that_went_away_is_survived(systemd):
    notifier = Notifier()
    systemd.close()
    assert not notifier.ready()


@pytest.mark.parametrize("name", [None, "", "/nonexistent/notify", "relative", "vsock:2:1234", "/" + "x" * 300])
def test_without_a_usable_socket_nothing_happens(name, monkeypatch):
    if name is None:
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    else:
        monkeypatch.setenv("NOTIFY_SOCKET", name)
    notifier = Notifier()
    said = [notifier.ready(), notifier.status("s"), notifier.watchdog(), notifier.reloading(), notifier.stopping()]
    assert said == [False] * 5
    notifier.close()


@pytest.mark.parametrize(
    ("usec", "pid", "interval"),
    [
        ("30000000", "own", 15.0),
        ("30000000", None, 15.0),
        ("30000000", "1", None),
        (None, "own", None),
        ("0", "own", None),
        ("-5", "own", None),
        ("soon", "own", None),
        ("30000000", "me", None),
    ],
)
def test_the_watchdog_is_fed_twice_an_interval_by_the_process_it_is_for(usec, pid, interval, monkeypatch):
    for name, value in (("WATCHDOG_USEC", usec), ("WATCHDOG_PID", str(os.getpid()) if pid == "own" else pid)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert Notifier().watchdog_interval_s() == interval
