"""A change is made to its end, whether or not somebody waits for it."""

from __future__ import annotations

import asyncio
import gc
import logging

import pytest

from facedetd.control import UnavailableError
from facedetd.supervisor.whole import Whole


@pytest.fixture(autouse=True)
def without_garbage_of_tests_before(caplog) -> None:
    gc.collect()  # asyncio speaks of theirs, too
    caplog.clear()


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (None, []),
        (UnavailableError("the daemon is stopping"), []),
        (KeyError("x"), ["a change whose client has gone failed"]),
    ],
)
def test_work_whose_caller_goes_away_ends_and_only_faults_are_logged(error, says, caplog) -> None:
    done = []

    async def work(go: asyncio.Event) -> None:
        await go.wait()
        done.append(1)
        if error:
            raise error

    async def main() -> None:
        whole, go = Whole(), asyncio.Event()
        caller = asyncio.create_task(whole.do(work(go)))
        await asyncio.sleep(0)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        gc.collect()
        go.set()
        for _ in range(5):
            await asyncio.sleep(0)
        assert done
        gc.collect()  # asyncio speaks of an exception that nobody took when its task is collected

    with caplog.at_level(logging.INFO):
        asyncio.run(main())
    assert [r.message for r in caplog.records] == says


def test_the_caller_gets_what_comes_of_it(caplog) -> None:
    async def gives() -> int:
        await asyncio.sleep(0)
        return 7

    async def fails() -> int:
        await asyncio.sleep(0)
        raise KeyError("x")

    assert asyncio.run(Whole().do(gives())) == 7
    with pytest.raises(KeyError):
        asyncio.run(Whole().do(fails()))
    assert not caplog.records
