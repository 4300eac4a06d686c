"""Many decoders that open on a GPU at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from facedetd.degradation.opening import Opening

NONE: frozenset[str] = frozenset()


def names(n: int) -> frozenset[str]:
    return frozenset(f"cam{i}" for i in range(n))


def test_a_start_settles_after_the_last_one_opened() -> None:
    opening = Opening()
    assert opening.many(NONE, names(40), 0.0)
    assert opening.many(names(20), names(40) - names(20), 1.0)
    assert opening.many(names(40), NONE, 2.0)
    assert opening.many(names(40), NONE, 5.5)
    assert not opening.many(names(40), NONE, 6.5)
    assert not opening.many(names(40), NONE, 100.0)


def test_a_few_of_many_are_no_start() -> None:
    opening = Opening()
    for second in range(10):
        opening.many(names(100), NONE, float(second))
    assert not opening.many(names(97), NONE, 11.0)
    assert not opening.many(names(100), NONE, 12.0)  # three came back
    assert not Opening().many(NONE, names(2), 0.0)


@given(st.lists(st.tuples(st.sets(st.integers(0, 30)), st.sets(st.integers(0, 30))), min_size=60, max_size=90))
def test_it_ends_whatever_cameras_do(seconds: list[tuple[set[int], set[int]]]) -> None:
    opening = Opening()
    said = []
    for second, (there, coming) in enumerate(seconds):
        said.append(opening.many({str(i) for i in there}, {str(i) for i in coming - there}, float(second)))
    assert not all(said)
