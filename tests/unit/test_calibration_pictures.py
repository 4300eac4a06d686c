"""python -m tests.calibration_pictures: the pictures docs/models.md is measured with."""

import hashlib
import sys

import av
import cv2
import numpy as np
import pytest

from tests import calibration_pictures as tool
from tests.calibration_pictures import SHEETS, SourceError, crop, find_sources, make, read_source, sheet


def photo(path, seed=0, size=(60, 80)):
    cv2.imwrite(str(path), np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8))
    return path


def clip(path, frames):
    """A GIF whose frames are of one grey each, brighter and brighter."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("gif", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "rgb8"
        for n in range(frames):
            grey = np.full((24, 32, 3), 255 * n // max(1, frames - 1), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, "rgb24")))
        container.mux(stream.encode())
    return path


def hashes(folder):
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())]


def test_the_same_seed_gives_the_same_pictures_and_a_longer_run_the_same_beginning(tmp_path):
    (tmp_path / "from").mkdir()
    photo(tmp_path / "from" / "a.png")
    clip(tmp_path / "from" / "b.gif", 3)
    for name, count, seed in (("one", 3, 1), ("same", 3, 1), ("more", 5, 1), ("other", 3, 2)):
        make([tmp_path / "from"], tmp_path / name, count, seed)
    one, same, more, other = (hashes(tmp_path / name) for name in ("one", "same", "more", "other"))
    assert one == same == more[:3] and len(more) == 5
    assert not set(one) & set(other)
    shapes = {cv2.imread(str(path)).shape[1::-1] for path in (tmp_path / "more").iterdir()}
    assert shapes <= set(SHEETS)


@pytest.mark.parametrize(("there", "taken"), [(1, 1), (12, 12), (13, 7), (30, 10)])
def test_frames_of_a_clip_are_spread_over_it(tmp_path, there, taken):
    frames = read_source(clip(tmp_path / "clip.gif", there))
    levels = [int(frame.mean()) for frame in frames]
    assert len(frames) == taken <= tool.CLIP_FRAMES
    assert levels == sorted(levels) and len(set(levels)) == taken
    assert there == 1 or levels[-1] > 190


def test_crops_fill_their_place_whatever_the_shapes():
    rng = np.random.default_rng(0)
    for size in ((1, 1), (3, 200), (200, 3), (50, 50)):
        picture = np.full((*size, 3), 200, np.uint8)
        made = crop(picture, 37, 11, rng)
        assert made.shape == (11, 37, 3) and (made == 200).all()


def test_a_sheet_has_no_empty_place():
    white = np.full((40, 40, 3), 255, np.uint8)
    for seed in range(20):
        made = sheet([white], np.random.default_rng(seed))
        assert made.shape[1::-1] in SHEETS and made.min() > 40  # the darkest light leaves a half of white, less noise


def test_what_is_no_source_is_named(tmp_path):
    with pytest.raises(SourceError, match="nowhere: no such"):
        find_sources([tmp_path / "nowhere"])
    with pytest.raises(SourceError, match="nothing in it ends in"):
        find_sources([tmp_path])
    for name, said in (("a.jpg", "not a picture"), ("b.mp4", "not a photo"), ("c.txt", "not a photo")):
        (tmp_path / name).write_text("no picture")
        with pytest.raises(SourceError, match=f"{name}: {said}"):
            read_source(tmp_path / name)
    photo(tmp_path / "d.png")
    with pytest.raises(SourceError, match="is not empty"):
        make([tmp_path / "d.png"], tmp_path, 1, 1)


def test_the_command(tmp_path, monkeypatch, capsys):
    source = photo(tmp_path / "a.png")
    words = ["calibration_pictures", "--from", str(source), "--output", str(tmp_path / "set"), "--count", "2"]
    monkeypatch.setattr(sys, "argv", words)
    assert tool.main() == 0 and len(list((tmp_path / "set").iterdir())) == 2
    assert tool.main() == 2 and "is not empty" in capsys.readouterr().err
