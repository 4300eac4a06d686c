"""What is said to whoever adds streams: nothing while all fits, then that rates fall, then that minima don't fit."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from facedetd.degradation.admission import Room, shortfall
from facedetd.degradation.levels import StreamLevels, levels_of
from facedetd.types import Video

SMALL = levels_of(Video("h264", 640, 360, 10.0, 2.0, 1.0, 5e5))


def wall(count, target=5.0, least=1.0, levels=SMALL):
    return [StreamLevels(f"s{n}", 50, least, target, levels) for n in range(count)]


def test_nothing_is_said_while_all_fits():
    assert shortfall(wall(4), Room(2.0, 30.0, 0.05)) == ""
    assert shortfall([], Room(2.0)) == ""


def test_the_engine_is_too_slow():
    said = shortfall(wall(10), Room(16.0, 30.0))
    assert "50 detections/s" in said and "30 detections/s" in said and "lowest priority first" in said


def test_the_cpu_is_too_small():
    said = shortfall(wall(20, levels=levels_of(Video("h264", 1920, 1080, 25.0, 1.0))), Room(2.0))
    assert "2 cores" in said and "lowest priority first" in said


def test_not_even_the_minima_fit():
    assert "not even min_fps" in shortfall(wall(40), Room(16.0, 30.0))


@given(st.integers(0, 60), st.floats(0.5, 64), st.floats(1, 500), st.floats(0, 0.2))
def test_more_room_never_makes_it_worse(count, cores, fps, each):
    def badness(room):
        said = shortfall(wall(count), room)
        return 0 if not said else 2 if said.startswith("not even") else 1

    room = Room(cores, fps, each)
    for better in (
        replace(room, host_cores=2 * cores),
        replace(room, engine_fps=2 * fps),
        replace(room, cores_per_fps=each / 2),
    ):
        assert badness(better) <= badness(room)
