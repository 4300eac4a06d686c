"""Ranges of tensors: what is counted picture by picture is what would have been counted at once."""

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facedetd.workshop import ranges
from facedetd.workshop.ranges import BINS, LEVELS, METHODS, Spread, limit, merge, spread

VALUES = hnp.arrays(
    np.float32,
    st.integers(1, 60),
    elements=st.floats(-(2.0**30), 2.0**30, width=32).map(lambda v: 0.0 if abs(v) < 2.0**-30 else v),
)
"""Few enough that each is counted (SAMPLE)."""


def same(one: Spread, other: Spread) -> bool:
    return (one.low, one.high, one.exponent) == (other.low, other.high, other.exponent) and np.array_equal(
        one.counts, other.counts
    )


@given(VALUES, VALUES)
def test_merged_is_counted_together(a, b):
    assert same(merge(spread(a), spread(b)), spread(np.concatenate([a, b])))


@given(VALUES, VALUES, VALUES)
def test_the_order_of_pictures_does_not_matter(a, b, c):
    one, two, three = spread(a), spread(b), spread(c)
    assert same(merge(merge(one, two), three), merge(one, merge(three, two)))


@given(st.lists(VALUES, min_size=1, max_size=6))
def test_a_range_holds_what_it_promises(arrays):
    whole = spread(arrays[0])
    for more in arrays[1:]:
        whole = merge(whole, spread(more))
    everything = np.concatenate(arrays)
    top = float(np.abs(everything).max())
    assert ranges.minmax(whole) == top
    assert whole.counts.sum() == len(everything)
    for method in METHODS:
        assert 0 < limit(whole, method) <= (top or 1.0), method


@given(VALUES)
def test_bins_hold_the_values_they_stand_for(values):
    one = spread(values)
    assert np.array_equal(one.counts, np.histogram(np.abs(values.astype(np.float64)), one.edges)[0])


def test_values_that_are_no_numbers_are_refused():
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(ValueError, match="not finite"):
            spread(np.array([1.0, bad], np.float32))
    with pytest.raises(ValueError, match="empty"):
        spread(np.zeros((0, 3), np.float32))


def test_a_large_tensor_is_sampled_across_its_columns():
    """An even step over rows of even length would see half of the columns, or one."""
    picture = np.zeros((4, 1024, 1024), np.float32)
    picture[:, :, 1::2] = 1.0
    one = spread(picture)
    assert one.counts.sum() <= ranges.SAMPLE
    assert 0.45 < one.counts[BINS // 2 :].sum() / one.counts.sum() < 0.55


def error(values, top):
    """What rounding to int8 with this range does, by doing it."""
    step = top / LEVELS
    return float(((np.clip(np.rint(values / step), -LEVELS, LEVELS) * step - values) ** 2).mean())


@pytest.fixture
def tailed():
    """Mostly small, with a few far out: what a stem's activations look like."""
    random = np.random.default_rng(3)
    return np.concatenate([random.normal(0, 1, 100_000), random.normal(0, 12, 100)]).astype(np.float32)


def test_mse_errs_least(tailed):
    one = spread(tailed)
    found = error(tailed, ranges.mse(one))
    tried = [error(tailed, top) for top in np.linspace(0.02, 1, 200) * ranges.minmax(one)]
    assert found < 1.02 * min(tried)
    assert found < 0.8 * error(tailed, ranges.minmax(one))


def test_a_percentile_leaves_so_much_out(tailed):
    for share in (50.0, 99.0, 99.9):
        top = ranges.percentile(spread(tailed), share)
        beyond = float((np.abs(tailed) > top).mean())
        assert beyond <= 1 - share / 100 + 1e-9
        assert beyond > 0.8 * (1 - share / 100) - 2e-5


def test_entropy_clips_a_tail_and_keeps_an_even_spread(tailed):
    one = spread(tailed)
    assert ranges.entropy(one) < 0.6 * ranges.minmax(one)
    even = spread(np.linspace(0, 0.999, 100_000).astype(np.float32))
    assert ranges.entropy(even) > 0.95
