"""Downloads: whole or a clear error."""

from __future__ import annotations

import base64
import itertools
import socket
import threading

import pytest
from file_server import cut_short, dripping, endless, file_server, redirect_to, silent_for

from facedetd.models.fetch import FetchError, Limits, fetch, redact


@pytest.fixture
def server():
    with file_server() as served:
        yield served


def test_a_whole_body_with_progress(server):
    body = bytes(range(256)) * 1000
    server.answers["/model"] = body
    steps = []
    got = fetch(f"{server.url}/model", progress=lambda done, total: steps.append((done, total)))
    assert got.body == body
    assert steps[-1] == (len(body), len(body))
    assert [d for d, _ in steps] == sorted(d for d, _ in steps)


def test_redirects_are_followed_and_the_last_url_told(server):
    server.answers["/old"] = redirect_to("/new")
    server.answers["/new"] = b"here"
    got = fetch(f"{server.url}/old")
    assert (got.body, got.url) == (b"here", f"{server.url}/new")


def test_a_login_is_sent_but_not_to_another_host_and_never_shown(server):
    secret = "http://someone:p%40ss@"
    with file_server() as other:
        server.answers["/here"] = b"1"
        server.answers["/there"] = redirect_to(f"{other.url}/x")
        other.answers["/x"] = b"2"
        base = server.url.replace("http://", secret)
        assert fetch(f"{base}/here").body == b"1"
        assert fetch(f"{base}/there").body == b"2"
        assert server.seen[0][1]["Authorization"] == "Basic " + base64.b64encode(b"someone:p@ss").decode()
        assert "Authorization" not in other.seen[0][1]
        with pytest.raises(FetchError) as caught:
            fetch(f"{base}/missing")
    assert "p%40ss" not in str(caught.value)
    assert "someone" not in str(caught.value)
    assert redact("at https://u:p@h/x and http://h/y") == "at https://***@h/x and http://h/y"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, "/x: the server answered 404 Not Found"),
        (cut_short(b"half", 8), "/x: the connection ended after 4 of 8 bytes"),
        (bytes(2000), "/x: 2000 bytes; at most 1000 are taken"),
        (endless, "/x: more than 1000 bytes, which is all that is taken"),
        (redirect_to("file:///etc/passwd"), "/x: .*not allowed"),
        (redirect_to("ftp://127.0.0.1/x"), "/x: .*not allowed"),
        (redirect_to("/x"), "/x: .*"),  # round and round
    ],
)
def test_what_is_not_whole_is_an_error(server, answer, message):
    if answer is not None:
        server.answers["/x"] = answer
    with pytest.raises(FetchError, match=message):
        fetch(f"{server.url}/x", Limits(max_bytes=1000))


def test_nobody_there():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/x"
        with pytest.raises(FetchError, match=r"/x: .*[Cc]onnection refused"):
            fetch(url)


def test_a_silent_server_is_left(server):
    done = threading.Event()
    server.answers["/x"] = silent_for(done)
    try:
        with pytest.raises(FetchError, match=r"/x: no (byte came|answer) within 0\.2 s"):
            fetch(f"{server.url}/x", Limits(idle_s=0.2))
    finally:
        done.set()


def test_a_slow_server_is_left(server):
    server.answers["/x"] = endless
    ticks = itertools.count(0, 100)  # each look at the clock is 100 s later
    with pytest.raises(FetchError, match=r"not done after 300 s, [0-9]+ bytes had come"):
        fetch(f"{server.url}/x", Limits(max_bytes=1 << 40), now=lambda: next(ticks))


def test_a_server_that_drips_its_headers_is_left(server):
    server.answers["/x"] = dripping(1000)
    with pytest.raises(FetchError, match=r"/x: not done after 0\.3 s, 0 bytes had come"):
        fetch(f"{server.url}/x", Limits(idle_s=20, total_s=0.3))


def test_the_limit_is_one_for_all_redirects(server):
    server.answers |= {"/x": redirect_to("/y"), "/y": redirect_to("/z"), "/z": b"there at last"}
    ticks = itertools.count(0, 50)
    with pytest.raises(FetchError, match="/x: not done after 300 s, 0 bytes had come"):
        fetch(f"{server.url}/x", now=lambda: next(ticks))


def test_an_error_that_came_in_time_is_told_of_also_when_time_is_up(server):
    ticks = itertools.count(0, 125)  # looked at for the beginning, the connection, and the answer
    with pytest.raises(FetchError, match="404"):
        fetch(f"{server.url}/none", now=lambda: next(ticks))


def test_what_comes_with_a_redirect_is_not_read(server):
    server.answers |= {"/x": redirect_to("/y", body=None), "/y": b"here"}
    assert fetch(f"{server.url}/x", Limits(total_s=20)).body == b"here"


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/x", "no url", "http://[::1/x"])
def test_other_urls_are_refused(url):
    with pytest.raises(FetchError):
        fetch(url)
