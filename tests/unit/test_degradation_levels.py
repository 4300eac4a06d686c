"""Decode levels: what is chosen for a capacity, and what they are believed to cost."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facedetd.degradation.levels import (
    RANK,
    Level,
    StreamLevels,
    allocate_levels,
    bits_of,
    levels_of,
    useful_levels,
)
from facedetd.types import DecodeLevel, Video

LIMIT = settings(max_examples=150, deadline=None)
FULL_HD = Video("h264", 1920, 1080, 25.0, 2.0, 1.0, 4e6)
SUB = Video("h264", 640, 360, 12.0, 2.0, 1.0, 4e5)
COST = st.integers(0, 400).map(lambda x: x / 1000)
CAPACITY = st.one_of(st.floats(0, 6), st.just(math.inf))


@st.composite
def streams(draw):
    """Any costs and rates, sensible or not: cameras and measurements are what they are."""
    made = []
    for n in range(draw(st.integers(0, 8))):
        kinds = draw(st.lists(st.sampled_from(DecodeLevel), min_size=1, max_size=6, unique=True))
        levels = tuple(
            Level(kind, draw(COST), draw(st.integers(0, 30)))
            for kind in sorted(kinds, key=RANK.__getitem__)
        )  # fmt: skip
        low, high = sorted((draw(st.integers(0, 20)), draw(st.integers(0, 20))))
        made.append(StreamLevels(f"s{n}", draw(st.integers(0, 2)), low, high, levels))
    return made


def need(stream):
    return min(stream.min_fps, stream.levels[0].fps)


@LIMIT
@given(CAPACITY, streams())
def test_within_the_capacity_and_minima_kept_while_they_fit(capacity, wanted):
    result = allocate_levels(capacity, wanted)
    assert result.cost == pytest.approx(math.fsum(x.cores for x in result.levels.values()))
    cheapest = math.fsum(useful_levels(s)[-1].cores for s in wanted)
    assert result.cost <= max(capacity, cheapest) + 1e-9
    if result.minima_fit:
        assert all(result.levels[s.id].fps >= need(s) for s in wanted)
    minimal = math.fsum(min(x.cores for x in useful_levels(s) if x.fps >= need(s)) for s in wanted)
    assert result.minima_fit == (minimal <= capacity * (1 + 1e-12)) or minimal == pytest.approx(capacity)


@LIMIT
@given(streams())
def test_everything_fits_in_endless_capacity(wanted):
    result = allocate_levels(math.inf, wanted)
    assert result.levels == {s.id: s.levels[0] for s in wanted}
    assert result.minima_fit and result.next_cost is None


@LIMIT
@given(st.floats(0, 6), st.floats(0, 1), streams())
def test_with_more_capacity_no_level_falls(capacity, more, wanted):
    before, after = allocate_levels(capacity, wanted).levels, allocate_levels(capacity + more, wanted).levels
    assert all(RANK[after[i].kind] <= RANK[before[i].kind] for i in before)


@LIMIT
@given(CAPACITY, streams())
def test_priority_is_never_inverted(capacity, wanted):
    """A stream is above its minimum only when all of higher priority have the best."""
    result = allocate_levels(capacity, wanted)
    for low in wanted:
        minimum = [x for x in useful_levels(low) if x.fps >= need(low)][-1]
        if RANK[result.levels[low.id].kind] < RANK[minimum.kind]:
            assert all(result.levels[s.id] == s.levels[0] for s in wanted if s.priority > low.priority)


@LIMIT
@given(CAPACITY, streams(), st.randoms(use_true_random=False))
def test_the_order_doesnt_matter(capacity, wanted, rng):
    shuffled = list(wanted)
    rng.shuffle(shuffled)
    assert allocate_levels(capacity, shuffled).levels == allocate_levels(capacity, wanted).levels


@LIMIT
@given(st.floats(0, 6), streams())
def test_the_next_step_is_what_it_says(capacity, wanted):
    result = allocate_levels(capacity, wanted)
    if result.next_cost is not None and result.cost <= capacity:
        assert result.next_cost > capacity
        better = allocate_levels(result.next_cost * (1 + 1e-9), wanted)
        assert sum(RANK[x.kind] for x in better.levels.values()) < sum(RANK[x.kind] for x in result.levels.values())


def wall(count, priority, sub=None, min_fps=1.0, video=FULL_HD):
    return [StreamLevels(f"{priority}-{n}", priority, min_fps, 5.0, levels_of(video, sub)) for n in range(count)]


def kinds(result, priority):
    return sorted({x.kind.value for i, x in result.levels.items() if i.startswith(f"{priority}-")})


def test_the_higher_priority_keeps_the_better_picture():
    result = allocate_levels(1.0, wall(4, 9, SUB) + wall(12, 1, SUB))
    assert kinds(result, 9) == ["full"]
    assert kinds(result, 1) == ["no-loop-filter", "sub-stream"]
    assert result.minima_fit


def test_where_not_all_minima_fit_the_higher_are_whole_and_the_lower_get_the_rest():
    result = allocate_levels(0.62, wall(4, 9) + wall(8, 1))  # keyframes only give 0.5 fps: under min_fps
    assert not result.minima_fit
    assert kinds(result, 9) == ["no-loop-filter"]
    assert kinds(result, 1) == ["keyframes"]
    assert kinds(allocate_levels(0.5, wall(4, 9) + wall(30, 1)), 1) == ["keyframes", "off"]


def test_not_reference_frames_only_for_streams_without_b_frames():
    assert DecodeLevel.REFERENCE_FRAMES not in [x.kind for x in levels_of(FULL_HD)]
    with_b = levels_of(Video("h264", 1920, 1080, 25.0, 2.0, 0.34))
    level = with_b[2]
    assert level.kind is DecodeLevel.REFERENCE_FRAMES and level.fps == pytest.approx(8.5)
    assert [x.cores for x in with_b] == sorted((x.cores for x in with_b), reverse=True)


def test_costs_are_near_what_was_measured():
    full, no_filter, keyframes, off = levels_of(FULL_HD)
    assert full.cores == pytest.approx(25 * 5.3e-3, rel=0.01)
    assert 0.8 < no_filter.cores / full.cores < 0.95
    assert 2 / 70 > keyframes.cores > 2 / 200  # two cores carry about 70, with scaling and inference
    assert off.cores == 0 and off.fps == 0 and off.bits_per_s == full.bits_per_s


def test_motion_jpeg_has_nothing_to_save_but_the_sub_stream():
    mjpeg = Video("mjpeg", 1920, 1080, 10.0)
    assert [x.kind for x in levels_of(mjpeg)] == [DecodeLevel.FULL, DecodeLevel.OFF]
    assert [x.kind for x in levels_of(mjpeg, SUB)] == [
        DecodeLevel.FULL, DecodeLevel.SUB_STREAM, DecodeLevel.KEYFRAMES, DecodeLevel.OFF,
    ]  # fmt: skip


def test_for_the_network_only_the_sub_stream_helps():
    stream = StreamLevels("x", 1, 1, 5, levels_of(FULL_HD, SUB))
    assert [x.kind for x in useful_levels(stream, bits_of)] == [DecodeLevel.FULL, DecodeLevel.SUB_STREAM]
    assert allocate_levels(3e6, [stream], bits_of).levels["x"].kind is DecodeLevel.SUB_STREAM


def test_bad_calls():
    full = Level(DecodeLevel.FULL, 0.1, 25)
    with pytest.raises(ValueError, match="capacity of -1"):
        allocate_levels(-1, [])
    with pytest.raises(ValueError, match="same id"):
        allocate_levels(1, [StreamLevels("x", 1, 0, 1, (full,))] * 2)
    for levels in ((), (full, full), (Level(DecodeLevel.OFF, 0, 0), full)):
        with pytest.raises(ValueError, match="in order"):
            StreamLevels("x", 1, 0, 1, levels)
    with pytest.raises(ValueError, match="-1 cores"):
        Level(DecodeLevel.FULL, -1, 25)
