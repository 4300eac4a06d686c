"""facedetd/files.py: files that are whole or aren't there."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from facedetd.files import staged, write_whole


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def moves(monkeypatch):
    """Names of the files in the order in which they came into their places."""
    seen: list[str] = []
    real = Path.replace

    def replace(self, target):
        seen.append(Path(target).name)
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    return seen


def test_files_are_written_and_nothing_beside_them(tmp_path):
    write_whole({tmp_path / "model": b"one", tmp_path / "manifest": b"two"})
    assert names(tmp_path) == ["manifest", "model"]
    assert (tmp_path / "model").read_bytes() == b"one" and (tmp_path / "manifest").read_bytes() == b"two"


def test_what_was_there_is_replaced_not_written_into(tmp_path):
    path = tmp_path / "model"
    path.write_bytes(b"a longer one")
    with path.open("rb") as reader:
        write_whole({path: b"new"})
        assert reader.read() == b"a longer one"  # who reads the old one goes on reading it
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("umask", [0o077, 0o000])
def test_all_may_read_them_whatever_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_whole({tmp_path / "model": b"one"})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == 0o644


def test_they_come_in_their_order(tmp_path, moves):
    order = ["model", "tables", "a-manifest"]
    write_whole({tmp_path / name: b"x" for name in order})
    assert moves == order


def test_none_is_in_its_place_before_all_are_complete_and_synced(tmp_path, monkeypatch, moves):
    synced: list[int] = []
    real = os.fsync

    def fsync(descriptor):
        assert not moves
        synced.append(os.fstat(descriptor).st_size)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_whole({tmp_path / "model": b"four", tmp_path / "manifest": b"sixsix"})
    assert synced == [4, 6]


@pytest.mark.parametrize("there", [{}, {"model": b"old"}], ids=["nothing there", "an old one there"])
@pytest.mark.parametrize("failing", [0, 1, 2])
def test_an_error_while_writing_changes_nothing(tmp_path, monkeypatch, there, failing):
    for name, data in there.items():
        (tmp_path / name).write_bytes(data)
    calls = iter(range(3))
    real = os.fsync

    def fsync(descriptor):
        if next(calls) == failing:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space left"):
        write_whole({tmp_path / name: b"new" for name in ("model", "tables", "manifest")})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == there


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_block_that_raises_changes_nothing(tmp_path, error):
    path = tmp_path / "model"
    path.write_bytes(b"old")
    with pytest.raises(error), staged({path: b"new", tmp_path / "manifest": b"new"}):
        assert path.read_bytes() == b"old"
        raise error
    assert names(tmp_path) == ["model"] and path.read_bytes() == b"old"


def test_an_error_on_the_way_into_place_leaves_whole_files_and_no_strays(tmp_path):
    (tmp_path / "manifest").mkdir()  # a folder can't be replaced by a file
    with pytest.raises(OSError):
        write_whole({tmp_path / "model": b"new", tmp_path / "manifest": b"new", tmp_path / "last": b"new"})
    assert names(tmp_path) == ["manifest", "model"]
    assert (tmp_path / "model").read_bytes() == b"new"


def test_no_folder_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_whole({tmp_path / "model": b"new", tmp_path / "nowhere" / "manifest": b"new"})
    assert names(tmp_path) == []


def test_files_of_several_folders(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with staged({tmp_path / "a" / "x": b"1", tmp_path / "b" / "y": b"2"}):
        assert not (tmp_path / "a" / "x").exists() and not (tmp_path / "b" / "y").exists()
    assert names(tmp_path / "a") == ["x"] and names(tmp_path / "b") == ["y"]
