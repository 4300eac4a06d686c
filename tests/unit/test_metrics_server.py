"""The HTTP server: right answers, and scrapers that are slow, rude or many harm nobody."""

import asyncio
import contextlib
import gzip
import logging
import select
import threading
import time

import pytest

from facedetd.metrics import answers as answers_module
from facedetd.metrics.answers import Answer
from facedetd.metrics.exporter import Metrics, one_of_few
from facedetd.metrics.server import MetricsError, MetricsServer, parse_listen

GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


def take():
    return lambda accept, encoding: Answer(f"up 1 {accept} {encoding}\n".encode(), "text/plain")


async def ask(port, request=GET):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    data = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    head, _, body = data.partition(b"\r\n\r\n")
    return head.decode(), body


async def until(true):
    for _ in range(1000):
        if true():
            return
        await asyncio.sleep(0.01)
    pytest.fail("waited 10 s in vain")


def serving(test, make=take, **options):
    """Run a test coroutine against a server and stop it."""

    async def main():
        server = MetricsServer(make, **options)
        await server.start("127.0.0.1:0")
        try:
            await test(server)
        finally:
            await asyncio.wait_for(server.stop(), 20)
        assert server.port is None
        assert not server._connections

    asyncio.run(main())


def test_a_scrape():
    async def test(server):
        request = b"GET /metrics?x=1 HTTP/1.1\r\nHost: x\r\nACCEPT: a/b\r\nAccept-Encoding: br\r\n\r\n"
        head, body = await ask(server.port, request)
        assert head.startswith("HTTP/1.1 200 OK")
        assert body == b"up 1 a/b br\n"
        assert f"Content-Length: {len(body)}" in head
        head_only, nothing = await ask(server.port, request.replace(b"GET", b"HEAD"))
        assert (head_only, nothing) == (head, b"")

    serving(test)


def test_a_scrape_where_no_thread_can_be_started_any_more(monkeypatch):
    async def test(server):
        monkeypatch.setattr(threading.Thread, "start", lambda self: 1 / 0)
        assert (await ask(server.port))[0].startswith("HTTP/1.1 200 OK")

    serving(test)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 404),
        (b"GET /metrics/ HTTP/1.1\r\n\r\n", 404),
        (b"GET /../metrics HTTP/1.1\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"GET /metrics HTTP/2.0\r\n\r\n", 400),
        (b"GET /metrics\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"\x16\x03\x01\x00\xff\xfe\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nA : b\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nA: " + b"b" * 9000 + b"\r\n\r\n", 431),
    ],
)
def test_what_is_no_scrape_is_answered_and_harms_nothing(request_, status):
    async def test(server):
        head, _ = await ask(server.port, request_)
        assert head.startswith(f"HTTP/1.1 {status} ")
        assert (await ask(server.port))[0].startswith("HTTP/1.1 200")

    serving(test)


def test_half_open_scrapers_are_dropped_in_time():
    async def test(server):
        silent = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(2)]
        silent[1][1].write(b"GET /metrics HTTP/1.1\r\nX: ")
        for reader, writer in silent:
            assert await asyncio.wait_for(reader.read(), 20) == b""
            writer.close()
        assert (await ask(server.port))[0].startswith("HTTP/1.1 200")

    serving(test, head_timeout_s=0.2)


def test_silent_connections_keep_no_scraper_out():
    async def test(server):
        silent = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(5)]
        for _ in range(3):
            assert (await ask(server.port))[0].startswith("HTTP/1.1 200")
        assert len(server._connections) <= 2
        for reader, writer in silent[:3]:  # the oldest went, in their order
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), 20) == b""
            writer.close()
        for _, writer in silent[3:]:
            writer.close()

    serving(test, max_connections=2, head_timeout_s=60)


def test_connections_over_the_cap_are_closed_while_scrapes_are_made():
    release = threading.Event()

    def slow(accept, encoding):
        release.wait(20)
        return Answer(b"", "text/plain")

    async def test(server):
        tasks = [asyncio.ensure_future(ask(server.port)) for _ in range(2)]
        await until(lambda: len(server._connections) == 2 and not server._silent)
        try:
            head, _ = await ask(server.port)
        except ConnectionError:
            head = ""
        assert head == ""
        release.set()
        assert [head.split()[1] for head, _ in await asyncio.gather(*tasks)] == ["200", "200"]

    serving(test, lambda: slow, max_connections=2)


def test_a_scraper_that_does_not_read_is_dropped_and_others_go_on():
    big = Answer(b"x" * 30_000_000, "text/plain")

    async def test(server):
        _, stuck = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
        stuck.transport.pause_reading()
        stuck.write(GET)
        await until(lambda: select.select([stuck.get_extra_info("socket")], [], [], 0)[0])  # its time has begun
        server._answer_timeout_s = 60.0  # the next one's: however long this machine takes for all of it
        assert len((await ask(server.port))[1]) == len(big.body)
        await until(lambda: not server._connections)
        stuck.transport.abort()

    serving(test, lambda: lambda accept, encoding: big, answer_timeout_s=2.0)


def test_numbers_are_taken_on_the_loops_thread_and_made_into_text_elsewhere():
    threads = []

    def make():
        threads.append(threading.get_ident())

        def answer(accept, encoding):
            threads.append(threading.current_thread().name)
            return Answer(b"", "text/plain")

        return answer

    async def test(server):
        await ask(server.port)
        assert threads[0] == threading.get_ident()
        assert threads[1].startswith("metrics")  # its own: the loop's default pool is for others

    serving(test, make)


def test_the_loop_runs_while_a_scrape_is_made():
    release = threading.Event()

    async def test(server):
        task = asyncio.ensure_future(ask(server.port))
        for _ in range(20):
            await asyncio.sleep(0.01)
        assert not task.done()
        assert (await ask(server.port, b"GET /x HTTP/1.1\r\n\r\n"))[0].startswith("HTTP/1.1 404")
        release.set()
        assert (await task)[0].startswith("HTTP/1.1 200")

    def slow(accept, encoding):
        release.wait(20)
        return Answer(b"", "text/plain")

    serving(test, lambda: slow)


def test_a_failing_scrape_is_a_500_and_one_log_line_until_it_works_again(caplog):
    fails = [True, True, False, True]

    def make():
        if fails.pop(0):
            raise RuntimeError("no stats")
        return take()

    async def test(server):
        statuses = [(await ask(server.port))[0].split()[1] for _ in range(4)]
        assert statuses == ["500", "500", "200", "500"]
        logged = [r.name for r in caplog.records if r.levelno >= logging.ERROR and r.name.startswith("facedetd.")]
        assert logged == ["facedetd.metrics.server"] * 2

    serving(test, make, fresh_s=0.0)


def test_who_asks_without_a_pause_is_given_the_same_answer_again():
    made = []

    def make():
        made.append(1)
        return take()

    async def test(server):
        bodies = {(await ask(server.port))[1] for _ in range(20)}
        assert len(bodies) == 1 and len(made) == 1
        assert b"openmetrics" in (await ask(server.port, GET[:-2] + b"Accept: openmetrics\r\n\r\n"))[1]
        assert len(made) == 2

    serving(test, make, fresh_s=3600.0)

    async def later(server):
        await ask(server.port)
        count = len(made)
        await asyncio.sleep(0.01)
        await ask(server.port)
        assert len(made) == count + 1

    serving(later, make, fresh_s=0.0)


def test_those_who_ask_at_the_same_time_get_one_answer(monkeypatch):
    """Whatever their headers, there are few kinds; and after each that is made there is a rest."""
    monkeypatch.setattr(answers_module, "REST_MAX_S", 0.3)
    made = []

    def make():
        made.append(asyncio.get_running_loop().time())

        def slow(accept, encoding):
            time.sleep(0.1)
            return take()(accept, encoding)

        return slow

    async def test(server):
        asked = [ask(server.port, GET[:-2] + b"Accept: text/plain;q=0.%d\r\n\r\n" % number) for number in range(10)]
        asked += [ask(server.port, GET[:-2] + b"Accept: %d\r\n\r\n" % number) for number in range(5)]
        assert all(head.startswith("HTTP/1.1 200") for head, _ in await asyncio.gather(*asked))
        assert len(made) == 2
        assert made[1] - made[0] >= 0.39
        assert len(server._answers._made) <= 2

    serving(test, make, fresh_s=60.0, kind=lambda accept, encoding: (accept[:4].strip("0123456789"), ""))


PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,*/*;q=0.1"
)


def test_whatever_headers_are_sent_there_are_few_answers():
    accepts = [f"application/openmetrics-text;version={v}.0.0;escaping={e}" for v in range(50) for e in ("a", "dots")]
    accepts += ["*/*", "", "text/plain;version=0.0.4", "text/plain;version=9", PROMETHEUS, "," * 100, "\xff"]
    found = {one_of_few(accept, encoding) for accept in accepts for encoding in ("", "gzip", "br", "gzip;q=1")}
    assert len(found) <= 6
    assert one_of_few(PROMETHEUS, "gzip") == ("application/openmetrics-text;version=1.0.0", "gzip")
    assert one_of_few("*/*", "") == ("", "")


def test_a_taken_port_is_told_with_its_address():
    async def test(server):
        other = MetricsServer(take)
        with pytest.raises(MetricsError, match=rf"127\.0\.0\.1:{server.port}.*in use"):
            await other.start(f"127.0.0.1:{server.port}")
        await other.stop()

    serving(test)


def test_stop_ends_open_connections_and_frees_the_port():
    async def main():
        server = MetricsServer(take)
        await server.start("127.0.0.1:0")
        port = server.port
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET ")
        await until(lambda: server._connections)
        await asyncio.wait_for(server.stop(), 20)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(1), 20)
        writer.close()
        await server.start(f"127.0.0.1:{port}")
        assert (await ask(port))[0].startswith("HTTP/1.1 200")
        await server.stop()
        await server.stop()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("listen", "want"),
    [
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        ("127.3.2.1:0", ("127.3.2.1", 0)),
        ("[::1]:80", ("::1", 80)),
        ("localhost:65535", ("localhost", 65535)),
    ],
)
def test_listen_addresses(listen, want):
    assert parse_listen(listen) == want


@pytest.mark.parametrize(
    "listen",
    [
        *("", "9464", ":9464", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536", "127.0.0.1:-1"),
        *("::1:9464", "0.0.0.0:9464", "[::]:9464", "10.1.2.3:9464", "example.org:9464", "[127.0.0.1]:1", "127.0.0.1:٣"),
    ],
)
def test_other_listen_addresses_are_refused_with_what_is_allowed(listen):
    with pytest.raises(MetricsError, match=r"want .*127\.0\.0\.1"):
        parse_listen(listen)


def test_an_empty_listen_serves_nothing():
    async def main():
        metrics = Metrics(lambda: pytest.fail("not to be called"))
        await metrics.start("")
        assert metrics.port is None
        await metrics.stop()

    asyncio.run(main())


def test_the_whole_exporter_over_http():
    from test_metrics_exporter import stats, stream

    async def main():
        metrics = Metrics(lambda: stats([stream()]))
        await metrics.start("127.0.0.1:0")
        request = b"GET /metrics HTTP/1.1\r\nAccept-Encoding: gzip\r\n\r\n"
        head, body = await ask(metrics.port, request)
        await metrics.stop()
        assert "Content-Encoding: gzip" in head
        assert b'facedetd_stream_faces_total{stream="cam1"} 7.0' in gzip.decompress(body)

    asyncio.run(main())
