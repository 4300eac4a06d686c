"""The store: whole entries or none, and a damaged one is said."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import subprocess
import sys
from datetime import datetime, timedelta, timezone

import pytest

from facedetd.models import ModelError, ModelStore
from facedetd.models import store as store_module

FACTS = {"head": "yunet", "licence": "MIT", "source": "a test", "source_sha256": "00"}


@pytest.fixture
def store(tmp_path):
    return ModelStore(tmp_path / "models", now=lambda: datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc))


def leftovers(store):
    return list(store.root.rglob(".*"))


def test_what_is_put_is_got(store):
    entry = store.put("front-door.v1", b"weights", width=640, height=480, **FACTS)
    assert entry == store.get("front-door.v1")
    assert store.list() == (entry,)
    assert entry.sha256 == hashlib.sha256(b"weights").hexdigest()
    assert entry.version == entry.sha256[:12]
    assert entry.path == store.root / "front-door.v1" / entry.version / "model.onnx"
    assert entry.path.read_bytes() == b"weights"
    assert (entry.head, entry.licence, entry.source, entry.width, entry.height) == ("yunet", "MIT", "a test", 640, 480)
    assert entry.stored_utc == "2026-01-02T03:04:05Z"
    assert leftovers(store) == []
    # the daemon is another user than the one who pulls
    assert stat.S_IMODE(entry.path.stat().st_mode) == 0o644
    assert stat.S_IMODE(entry.path.parent.stat().st_mode) == 0o755


def test_the_last_one_put_is_current(store):
    first = store.put("m", b"1", **FACTS)
    second = store.put("m", b"2", **FACTS)
    assert store.get("m") == second
    assert store.get("m", first.version) == first
    assert {e.version for e in store.list()} == {first.version, second.version}
    assert store.put("m", b"1", **FACTS) == first  # again: nothing new, but chosen
    assert store.get("m") == first
    assert len(store.list()) == 2


def test_without_a_choice_the_newest_is_taken(tmp_path):
    times = iter([datetime(2026, 1, 1, tzinfo=timezone.utc) + timedelta(days=d) for d in (5, 1)])
    store = ModelStore(tmp_path, now=lambda: next(times))
    newest = store.put("m", b"1", **FACTS)
    store.put("m", b"2", **FACTS)
    for torn in (None, "", "gone"):
        (tmp_path / "m" / "current").unlink(missing_ok=True)
        if torn is not None:
            (tmp_path / "m" / "current").write_text(torn)
        assert store.get("m") == newest


def test_an_empty_store_says_what_to_do(store):
    assert store.list() == ()
    assert store.check() == ()
    with pytest.raises(ModelError, match=r"no model 'centerface' .*there: none.*model pull centerface"):
        store.get("centerface")
    store.put("m", b"1", **FACTS)
    with pytest.raises(ModelError, match="there: m"):
        store.get("centerface")
    with pytest.raises(ModelError, match=r"there: m\); run `facedetctl model import FILE --name wall`$"):
        store.get("wall")  # nothing that could be pulled
    with pytest.raises(ModelError, match="no version 'ffffffffffff' of model 'm'"):
        store.get("m", "ffffffffffff")


@pytest.mark.parametrize("name", ["", "../etc", "a/b", ".hidden", "x" * 64, "a\n"])
def test_bad_names_are_refused(store, name):
    for call in (store.get, lambda n: store.put(n, b"1", **FACTS)):
        with pytest.raises(ModelError, match=r"model name .*allowed are"):
            call(name)
    assert not store.root.exists()


def tear_model(entry):
    entry.path.write_bytes(b"wei")
    return "damaged: its sha256"


def lose_model(entry):
    entry.path.unlink()
    return "model file is missing"


def tear_manifest(entry):
    manifest = entry.path.with_name("manifest.json")
    manifest.write_bytes(manifest.read_bytes()[:40])
    return "damaged manifest"


def lose_manifest(entry):
    entry.path.with_name("manifest.json").unlink()
    return "damaged manifest"


def lose_key(entry):
    manifest = entry.path.with_name("manifest.json")
    data = json.loads(manifest.read_text())
    del data["head"]
    manifest.write_text(json.dumps(data))
    return "no key 'head'"


def newer_format(entry):
    manifest = entry.path.with_name("manifest.json")
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 2}))
    return "format 2, this build reads 1"


def swapped(entry):
    manifest = entry.path.with_name("manifest.json")
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "name": "other"}))
    return "is of 'other'"


@pytest.mark.parametrize(
    "damage", [tear_model, lose_model, tear_manifest, lose_manifest, lose_key, newer_format, swapped]
)
def test_a_damaged_entry_is_refused_said_and_healed(store, damage):
    good = store.put("good", b"1", **FACTS)
    entry = store.put("m", b"weights", **FACTS)
    message = damage(entry)
    with pytest.raises(ModelError, match=message) as caught:
        store.get("m")
    assert "pull or import model 'm' again" in str(caught.value)
    assert str(entry.path.parent) in str(caught.value)
    assert store.check() == (str(caught.value),)
    assert store.get("good") == good
    assert store.put("m", b"weights", **FACTS) == entry
    assert store.get("m") == entry
    assert store.check() == ()
    assert leftovers(store) == []


def test_a_store_that_cannot_be_written_is_left_as_it_was(store, monkeypatch):
    before = store.put("m", b"1", **FACTS)

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ModelError, match=r"can't store model 'm' in .*: No space left on device"):
        store.put("m", b"2", **FACTS)
    monkeypatch.undo()
    assert store.list() == (before,)
    assert store.get("m") == before
    assert leftovers(store) == []


def test_what_a_kill_left_behind_is_no_entry(store):
    entry = store.put("m", b"1", **FACTS)
    half = store.root / "m" / ".new-abc"
    half.mkdir()
    (half / "model.onnx").write_bytes(b"hal")
    assert store.list() == (entry,)
    assert store.check() == ()


def test_what_a_kill_left_behind_goes_after_a_day(store, tmp_path):
    store.put("m", b"1", **FACTS)
    home = store.root / "m"
    (home / ".new-old").mkdir()
    (home / ".new-old" / "model.onnx").write_bytes(b"hal")
    (home / ".new-choice").write_bytes(b"abc")
    (tmp_path / "elsewhere").mkdir()
    (home / ".new-link").symlink_to(tmp_path / "elsewhere")
    (home / ".new-now").mkdir()
    for name in (".new-old", ".new-choice", ".new-link"):
        os.utime(home / name, (1, 1), follow_symlinks=False)
    store.put("m", b"2", **FACTS)
    assert leftovers(store) == [home / ".new-now"]
    assert (tmp_path / "elsewhere").is_dir()


def test_the_store_is_light_to_import():
    # the supervisor looks models up: it must not carry onnx or an engine
    code = "import sys, facedetd.models; print([m for m in ('onnx', 'onnxruntime', 'cv2') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_daemon_may_read_what_a_careful_root_has_put(store):
    before = os.umask(0o077)
    try:
        entry = store.put("m", b"weights", **FACTS)
    finally:
        os.umask(before)
    for folder in (store.root, store.root / "m", entry.path.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert stat.S_IMODE((store.root / "m" / "current").stat().st_mode) == 0o644


def test_a_model_that_has_not_changed_is_read_once_and_one_that_has_again(store, monkeypatch):
    entry = store.put("m", b"weights", **FACTS)
    os.utime(entry.path, (1, 1))
    read = []
    monkeypatch.setattr(
        store_module, "_sha256", lambda path: read.append(path) or hashlib.sha256(path.read_bytes()).hexdigest()
    )
    monkeypatch.setattr(store_module, "_SETTLED_NS", -1)
    for _ in range(3):
        store.get("m")
    assert len(read) == 1
    entry.path.write_bytes(b"weightz")
    for _ in range(2):
        with pytest.raises(ModelError, match="damaged"):
            store.get("m")
    assert len(read) == 2


def test_a_model_that_was_written_just_now_is_read_again(store, monkeypatch):
    """Another change within the same tick of the clock would not show."""
    monkeypatch.setattr(store_module, "_SETTLED_NS", 3600 * 10**9)
    entry = store.put("m", b"weights", **FACTS)
    store.get("m")
    entry.path.write_bytes(b"weightz")
    with pytest.raises(ModelError, match="damaged"):
        store.get("m")
    assert store._hashes == {}


@pytest.mark.parametrize("first", [True, False])
def test_what_could_not_be_stored_is_not_there_wherever_the_disk_failed(store, monkeypatch, first):
    before = () if first else (store.put("m", b"old", **FACTS),)
    real, calls = os.fsync, 0

    def until_the_disk_fails(descriptor):
        nonlocal calls
        calls += 1
        if calls == failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    for failing in range(1, 100):  # noqa: B007 - the function above reads it
        calls = 0
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", until_the_disk_fails)
            try:
                store.put("m", b"new", **FACTS)
            except ModelError as error:
                assert "No space left" in str(error)
            else:
                break
        assert store.list() == before
        assert leftovers(store) == []
        if not first:
            assert store.get("m") == before[0]
    assert failing > 5
    assert store.get("m").path.read_bytes() == b"new"
