"""The hub: filters, bounded queues, one slow watcher slows nobody, clean ends."""

import asyncio
import gc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facedetd.control import CapacityError, UnavailableError, WatchFilter
from facedetd.results.hub import ResultsHub
from facedetd.types import Face, FrameResult


def result(sequence=0, stream="cam1", scores=(0.9,)):
    faces = tuple(Face((0.0, 0.0, 10.0, 10.0), score) for score in scores)
    return FrameResult(stream, 1, sequence, 0, 0, 0, 0, 0, 640, 360, faces, "m", "1")


async def taken(watch, count):
    return [await asyncio.wait_for(anext(watch), 5) for _ in range(count)]


def test_a_watcher_gets_results_in_order_and_only_from_when_it_began():
    async def main():
        hub = ResultsHub()
        hub.publish(result(0))
        watch = hub.watch(WatchFilter())
        for n in (1, 2, 3):
            hub.publish(result(n))
        assert [(r.sequence, lost) for r, lost in await taken(watch, 3)] == [(1, 0), (2, 0), (3, 0)]

    asyncio.run(main())


def test_what_waits_can_be_taken_together():
    async def main():
        hub = ResultsHub(queue_size=4)
        watch = hub.watch(WatchFilter())
        for n in range(6):
            hub.publish(result(n))
        first, lost = (await taken(watch, 1))[0]
        assert (first.sequence, lost) == (2, 2)
        assert [r.sequence for r in watch.waiting(2, 9)] == [3, 4]
        assert [r.sequence for r in watch.waiting(2, 9)] == [5]
        assert watch.waiting(2, 9) == []
        hub.publish(result(7))
        assert [(r.sequence, n) for r, n in await taken(watch, 1)] == [(7, 2)]

    asyncio.run(main())


def test_only_so_many_faces_are_taken_together():
    async def main():
        watch = (hub := ResultsHub()).watch(WatchFilter(include_empty=True))
        for n, faces in enumerate((3, 2, 0, 4, 9)):
            hub.publish(result(n, scores=(0.9,) * faces))
        assert [r.sequence for r in watch.waiting(9, 5)] == [0, 1, 2]
        assert watch.waiting(9, 3) == watch.waiting(9, -1) == []
        assert [r.sequence for r in watch.waiting(9, 4)] == [3]
        assert [r.sequence for r, _ in await taken(watch, 1)] == [4]

    asyncio.run(main())


def test_a_waiting_watcher_is_woken():
    async def main():
        hub = ResultsHub()
        watch = hub.watch(WatchFilter())
        task = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0)
        assert not task.done()
        hub.publish(result(7))
        assert (await asyncio.wait_for(task, 5))[0].sequence == 7

    asyncio.run(main())


def test_filters_by_stream_score_and_emptiness():
    async def main():
        hub = ResultsHub()
        watch = hub.watch(WatchFilter(frozenset({"a"}), min_score=0.5))
        everything = hub.watch(WatchFilter(min_score=0.5, include_empty=True))
        sent = [
            result(0, "b"),
            result(1, "a", (0.4,)),
            result(2, "a", ()),
            result(3, "a", (0.4, 0.5, 0.8)),
        ]
        for each in sent:
            hub.publish(each)
        got = await taken(watch, 1)
        assert [f.score for f in got[0][0].faces] == [0.5, 0.8]
        assert got[0][0].sequence == 3
        assert [(r.sequence, len(r.faces)) for r, _ in await taken(everything, 4)] == [(0, 1), (1, 0), (2, 0), (3, 2)]
        assert len(sent[3].faces) == 3  # what others see is untouched

    asyncio.run(main())


def test_a_slow_watcher_loses_its_own_oldest_and_nobody_elses():
    async def main():
        hub = ResultsHub(queue_size=4)
        slow = hub.watch(WatchFilter())
        quick = hub.watch(WatchFilter())
        for n in range(10):
            hub.publish(result(n))
            assert [r.sequence for r, _ in await taken(quick, 1)] == [n]
        assert [(r.sequence, lost) for r, lost in await taken(slow, 4)] == [(6, 6), (7, 6), (8, 6), (9, 6)]
        assert hub.lost_total == 6

    asyncio.run(main())


def test_frames_that_are_not_wanted_push_nothing_out():
    async def main():
        hub = ResultsHub(queue_size=1)
        watch = hub.watch(WatchFilter(frozenset({"a"})))
        hub.publish(result(1, "a"))
        for n in range(5):
            hub.publish(result(n, "b"))
            hub.publish(result(n, "a", ()))
        assert (await taken(watch, 1))[0][0].sequence == 1
        assert hub.lost_total == 0

    asyncio.run(main())


def test_the_cap_is_told_at_once_and_places_come_back():
    async def main():
        hub = ResultsHub(max_watchers=2)
        first, second = hub.watch(WatchFilter()), hub.watch(WatchFilter())
        with pytest.raises(CapacityError, match="2 watchers already"):
            hub.watch(WatchFilter())
        await first.aclose()
        await first.aclose()
        assert hub.watchers == 1
        with pytest.raises(StopAsyncIteration):
            await anext(first)
        async with hub.watch(WatchFilter()):
            assert hub.watchers == 2
        del second
        gc.collect()
        assert hub.watchers == 0

    asyncio.run(main())


def test_cancelling_a_waiting_watcher_gives_its_place_back():
    async def main():
        hub = ResultsHub()
        watch = hub.watch(WatchFilter())
        task = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert hub.watchers == 0
        hub.publish(result())

    asyncio.run(main())


def test_a_watcher_cancelled_in_its_loop_leaves_no_trace_while_others_go_on():
    async def main():
        hub = ResultsHub()
        seen = []

        async def read():
            async for each, _ in hub.watch(WatchFilter()):
                seen.append(each.sequence)

        tasks = [asyncio.ensure_future(read()) for _ in range(3)]
        await asyncio.sleep(0)
        hub.publish(result(1))
        tasks[0].cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        hub.publish(result(2))
        hub.close()
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
        assert seen.count(2) == 2
        assert hub.watchers == 0

    asyncio.run(main())


def test_close_ends_watchers_after_what_waits_and_admits_no_more():
    async def main():
        hub = ResultsHub()
        behind, waiting = hub.watch(WatchFilter()), hub.watch(WatchFilter(frozenset({"other"})))
        task = asyncio.ensure_future(anext(waiting))
        await asyncio.sleep(0)
        hub.publish(result(1))
        hub.close()
        assert [r.sequence async for r, _ in behind] == [1]
        with pytest.raises(StopAsyncIteration):
            await task
        with pytest.raises(UnavailableError):
            hub.watch(WatchFilter())

    asyncio.run(main())


def test_a_watch_has_one_reader():
    async def main():
        watch = ResultsHub().watch(WatchFilter())
        task = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError):
            await anext(watch)
        task.cancel()

    asyncio.run(main())


@given(
    st.integers(1, 6),
    st.lists(st.one_of(st.none(), st.tuples(st.sampled_from("ab"), st.floats(0, 1))), max_size=60),
    st.sampled_from([frozenset(), frozenset("a")]),
    st.floats(0, 1),
)
def test_what_is_wanted_is_received_or_counted_lost(size, steps, streams, least):
    """None reads one; a pair publishes one. Received + lost + waiting = wanted, and order holds."""

    async def main():
        hub = ResultsHub(queue_size=size)
        watch = hub.watch(WatchFilter(streams, least))
        wanted, got, lost, waiting = [], [], 0, 0
        for number, step in enumerate(steps):
            if step is not None:
                hub.publish(result(number, step[0], (step[1],)))
                if (not streams or step[0] in streams) and step[1] >= least:
                    wanted.append(number)
                    waiting = min(size, waiting + 1)
            elif waiting:
                each, lost = await anext(watch)
                waiting -= 1
                got.append(each.sequence)
        hub.close()
        rest = [(r.sequence, n) async for r, n in watch]
        got += [sequence for sequence, _ in rest]
        lost = rest[-1][1] if rest else lost
        assert len(got) + lost == len(wanted)
        assert got == [n for n in wanted if n in set(got)]
        assert hub.lost_total == lost

    asyncio.run(main())
