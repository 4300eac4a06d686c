"""Threads that are there from the beginning: what is refused isn't done later."""

import asyncio
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from facedetd.config.model import Config, DaemonConfig
from facedetd.metrics.server import MetricsError, MetricsServer
from facedetd.supervisor import app
from facedetd.threads import no_thread, started


def refuse(self):
    raise RuntimeError("can't start new thread")


def saved_while_another_thread_is_busy(pool, monkeypatch):
    """What a change that is made then, with no further thread to be had, raises; and whether it is done in the end."""
    done, go_on = [], threading.Event()

    async def main():
        asyncio.get_running_loop().set_default_executor(pool)
        busy = asyncio.create_task(asyncio.to_thread(go_on.wait, 30))
        await asyncio.sleep(0)
        error = None
        with monkeypatch.context() as limit:
            limit.setattr(threading.Thread, "start", refuse)
            try:
                await asyncio.to_thread(done.append, 1)
            except RuntimeError as found:
                error = found
        go_on.set()
        await busy
        return error

    error = asyncio.run(main())
    return error, bool(done)


def test_a_change_is_made_though_no_thread_can_be_started(monkeypatch):
    assert saved_while_another_thread_is_busy(started(2, "files"), monkeypatch) == (None, True)


def test_where_threads_come_one_by_one_a_change_that_was_refused_is_made_later(monkeypatch):
    """Why they are started first: this is what Python's executor does."""
    error, done = saved_while_another_thread_is_busy(ThreadPoolExecutor(2), monkeypatch)
    assert isinstance(error, RuntimeError) and done


def test_threads_that_can_t_be_started_are_said(monkeypatch):
    begun, start = [], threading.Thread.start

    def second_refused(self):
        if begun:
            refuse(self)
        begun.append(self)
        start(self)

    with monkeypatch.context() as limit:
        limit.setattr(threading.Thread, "start", second_refused)
        with pytest.raises(RuntimeError):
            started(3, "files")
    for thread in threading.enumerate():
        if thread.name.startswith("files"):
            thread.join(20)
            assert not thread.is_alive()


def test_a_daemon_without_threads_does_not_begin(monkeypatch, tmp_path):
    monkeypatch.setattr(app.worker, "forbid_core_dumps", lambda: None)
    monkeypatch.setattr(app.allocator, "keep_steady", lambda: None)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(app.StartError, match=f"^{re.escape(no_thread())}$"):
        asyncio.run(app.serve(Config(daemon=DaemonConfig(state_dir=tmp_path / "state")), Config))
    assert not list(tmp_path.iterdir())


def test_metrics_without_a_thread_do_not_begin(monkeypatch):
    monkeypatch.setattr(threading.Thread, "start", refuse)
    server = MetricsServer(lambda: {})
    with pytest.raises(MetricsError, match=re.escape(no_thread("for it"))):
        asyncio.run(server.start("127.0.0.1:0"))


def test_what_is_said_names_what_to_look_at():
    assert no_thread() == (
        "no thread can be started: the limit of processes (TasksMax, ulimit -u) or of memory is reached"
    )
    assert no_thread("to draw it").startswith("no thread can be started to draw it: the limit")
