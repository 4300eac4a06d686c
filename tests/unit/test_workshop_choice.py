"""The choice of a calibration set: properties, over any candidates."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facedetd.workshop.choice import HASH_BITS, Candidate, bins_of, choose, distances, hardness, hash_array

LIMIT = settings(max_examples=100, deadline=None)
hashes = st.one_of(st.integers(0, 15), st.integers(0, 2**HASH_BITS - 1))  # the first: often alike


@st.composite
def pools(draw):
    rows = draw(
        st.lists(
            st.builds(
                Candidate,
                key=st.just(""),
                stream=st.sampled_from(["a", "b", "c"]),
                utc_s=st.sampled_from([0.0, 7200.0, 40_000.0, 80_000.0]),
                luma_mean=st.sampled_from([10.0, 60.0, 100.0, 200.0]),
                hash=hashes,
                faces=st.integers(0, 9),
                smallest_px=st.sampled_from([0.0, 12.0, 40.0, 100.0]),
                hardness=st.floats(0, 1),
            ),
            max_size=40,
        )
    )
    return [replace(row, key=f"{i:03}") for i, row in enumerate(rows)]


def apart(a, b):
    return (a.hash ^ b.hash).bit_count()


@LIMIT
@given(pools(), st.integers(0, 45), st.integers(0, 5))
def test_never_more_than_asked_for_and_no_two_alike(pool, count, distance):
    chosen = choose(pool, count, distance)
    assert len(chosen) <= count
    assert len({c.key for c in chosen}) == len(chosen)
    assert all(c in pool for c in chosen)
    assert all(apart(a, b) >= distance for i, a in enumerate(chosen) for b in chosen[:i])


@LIMIT
@given(pools(), st.integers(0, 45), st.integers(0, 5), st.randoms())
def test_the_order_of_the_candidates_does_not_matter(pool, count, distance, random):
    shuffled = list(pool)
    random.shuffle(shuffled)
    assert choose(shuffled, count, distance) == choose(pool, count, distance)


@LIMIT
@given(pools(), st.integers(0, 45), st.integers(0, 5))
def test_nothing_that_could_be_taken_is_left(pool, count, distance):
    chosen = choose(pool, count, distance)
    if len(chosen) < count:
        for left in set(pool) - set(chosen):
            assert any(apart(left, c) < distance for c in chosen)


@LIMIT
@given(pools(), st.integers(0, 45), st.integers(0, 5))
def test_a_stratum_has_fewer_than_another_only_where_it_has_no_more_to_give(pool, count, distance):
    chosen = choose(pool, count, distance)
    filled = Counter(bins_of(c) for c in chosen)
    for left in set(pool) - set(chosen):
        if all(apart(left, c) >= distance for c in chosen):
            assert max(filled.values(), default=0) <= filled[bins_of(left)] + 1


@LIMIT
@given(pools(), st.integers(0, 45))
def test_inside_a_stratum_the_hardest_are_taken(pool, count):
    chosen = choose(pool, count, 0)
    for left in set(pool) - set(chosen):
        assert all(c.hardness >= left.hardness for c in chosen if bins_of(c) == bins_of(left))


@LIMIT
@given(pools(), st.integers(1, 45), st.integers(0, 5))
def test_who_comes_first_does_not_depend_on_how_many_are_wanted(pool, count, distance):
    assert choose(pool, 1, distance) == choose(pool, count, distance)[:1]


def test_streams_share_a_set_though_one_offers_far_more():
    one = Candidate("", "a", 0.0, 100.0, 0, 1, 40.0, 0.0)
    busy = [replace(one, key=f"a{i}", hash=i) for i in range(500)]
    calm = [replace(one, key=f"b{i}", stream="b", hash=i << 128) for i in range(500)]
    chosen = choose(busy + calm[:20], 60, 0)
    assert Counter(c.stream for c in chosen) == {"a": 40, "b": 20}
    assert Counter(c.stream for c in choose(busy + calm, 60, 0)) == {"a": 30, "b": 30}


def test_the_rarest_is_taken_first_where_strata_are_more_than_places():
    one = Candidate("", "a", 0.0, 100.0, 0, 1, 40.0, 0.0)
    many = [
        replace(one, key=f"{h}{luma}", hash=h, utc_s=h * 3600.0, luma_mean=luma) for h in range(24) for luma in (9, 99)
    ]
    chosen = choose(many, 8, 0)
    assert len({bins_of(c).hours for c in chosen}) == 8
    assert Counter(bins_of(c).brightness for c in chosen) == {0: 4, 2: 4}


@LIMIT
@given(hashes, hashes)
def test_distance_counts_bits(a, b):
    assert distances(hash_array([a]), hash_array([b])[0]).tolist() == [(a ^ b).bit_count()]


@pytest.mark.parametrize(
    ("scores", "smallest", "wanted"),
    [((), 0, 0), ((0.5,), 100, 1), ((0.8,), 100, 0), ((0.35, 0.95), 100, 0.5), ((0.9,), 8, 1), ((0.9,), 20, 0.5),
     ((0.9,), 2, 1)],
)  # fmt: skip
def test_hard_is_what_is_near_the_threshold_or_small(scores, smallest, wanted):
    assert hardness(scores, 0.5, smallest) == pytest.approx(wanted)
