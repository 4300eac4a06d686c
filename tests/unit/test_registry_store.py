"""The state file: nothing short of losing the disk may lose a stream."""

import errno
import json
import os
import random
import signal
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facedetd.control import StorageError
from facedetd.registry import store
from facedetd.registry.codec import StateFileError, Stored, decode, encode
from facedetd.registry.lock import LockedError, lock_state_dir
from facedetd.registry.store import BACKUP, NAME, StateStore
from facedetd.types import DecodeMode, Secret, StreamSpec, Transport


def streams(count: int, mark: str = "x") -> Stored:
    return tuple((StreamSpec(f"cam{i}", f"rtsp://h/{mark}"), Secret(f"hunter2{mark}{i}")) for i in range(count))


OLDER, OLD, NEW = streams(1, "older"), streams(2, "old"), streams(3, "new")
NOW = datetime(2026, 11, 22, 10, 30, 0, tzinfo=timezone.utc)


def fresh(folder: Path) -> StateStore:
    return StateStore(folder, now=lambda: NOW)


def ready(folder: Path, *saves: Stored) -> StateStore:
    kept = fresh(folder)
    kept.load()
    for saved in saves:
        kept.save(saved)
    return kept


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_save_and_load(tmp_path: Path) -> None:
    assert fresh(tmp_path).load().streams == () and names(tmp_path) == set()
    ready(tmp_path, OLD, NEW)
    assert names(tmp_path) == {NAME, BACKUP}
    assert decode((tmp_path / BACKUP).read_bytes()) == OLD
    for name in names(tmp_path):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    assert fresh(tmp_path).load() == store.Loaded(NEW)


def test_mode_is_0600_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        ready(tmp_path, OLD)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / NAME).stat().st_mode) == 0o600


def test_save_needs_load(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="load"):
        fresh(tmp_path).save(OLD)


def test_a_mode_too_wide_is_put_right_and_said(tmp_path: Path) -> None:
    ready(tmp_path, OLD)
    (tmp_path / NAME).chmod(0o644)
    loaded = fresh(tmp_path).load()
    assert loaded.streams == OLD
    assert loaded.problems == (f"{tmp_path / NAME} holds passwords and had mode 0644; it is 0600 again",)
    assert stat.S_IMODE((tmp_path / NAME).stat().st_mode) == 0o600


# Corrupt files


def tampered(data: bytes, change: dict[str, Any]) -> bytes:
    return json.dumps(json.loads(data) | change).encode()


CORRUPT = {
    "torn": (lambda data: data[: len(data) // 2], "it is not whole JSON"),
    "empty": (lambda data: b"", "it is not whole JSON"),
    "zeros": (lambda data: b"\0" * len(data), "it is not whole JSON"),
    "nested": (lambda data: b"[" * 100_000, "it is not whole JSON"),
    "bit": (lambda data: data.replace(b"rtsp://h/new", b"rtsp://i/new", 1), "its checksum does not fit its contents"),
    "foreign": (lambda data: b'{"streams": []}', "it is not a list of facedetd's streams"),
    "list": (lambda data: b"[]", "it is not a list of facedetd's streams"),
    "version": (
        lambda data: tampered(data, {"version": 2}),
        "it is of another version of the format; this facedetd reads version 1",
    ),
    "emptied": (lambda data: tampered(data, {"streams": []}), "its checksum does not fit its contents"),
}


@pytest.mark.parametrize("kind", CORRUPT)
def test_a_corrupt_file_is_set_aside_and_the_copy_before_it_used(tmp_path: Path, kind: str) -> None:
    ready(tmp_path, OLD, NEW)
    spoil, reason = CORRUPT[kind]
    spoiled = spoil((tmp_path / NAME).read_bytes())
    (tmp_path / NAME).write_bytes(spoiled)
    kept = fresh(tmp_path)
    loaded = kept.load()
    aside = tmp_path / "streams.json.corrupt-20261122T103000Z"
    assert loaded.streams == OLD
    assert loaded.problems == (
        f"{tmp_path / NAME} can't be used: {reason}; it was set aside as {aside}",
        f"{tmp_path / BACKUP} is used in its place: 2 streams, without the last change",
    )
    assert aside.read_bytes() == spoiled
    assert "hunter2" not in "".join(loaded.problems)
    assert fresh(tmp_path).load() == store.Loaded(OLD)  # healed
    kept.save(NEW)
    assert fresh(tmp_path).load() == store.Loaded(NEW)


def test_both_corrupt_is_said_and_nothing_is_thrown_away(tmp_path: Path) -> None:
    ready(tmp_path, OLD, NEW)
    (tmp_path / NAME).write_bytes(b"1")
    (tmp_path / BACKUP).write_bytes(b"2")
    (tmp_path / "streams.json.corrupt-20261122T103000Z").write_bytes(b"earlier")
    kept = fresh(tmp_path)
    loaded = kept.load()
    assert loaded.streams == () and len(loaded.problems) == 3
    assert loaded.problems[2] == f"no streams of the API are known: {tmp_path / NAME} and its backup are lost"
    found = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    assert found == {
        "streams.json.corrupt-20261122T103000Z": b"earlier",
        "streams.json.corrupt-20261122T103000Z-1": b"1",
        "streams.json.bak.corrupt-20261122T103000Z": b"2",
    }
    kept.save(NEW)
    assert fresh(tmp_path).load() == store.Loaded(NEW)


def test_a_missing_file_with_a_backup_is_said(tmp_path: Path) -> None:
    ready(tmp_path, OLD, NEW)
    (tmp_path / NAME).unlink()
    loaded = fresh(tmp_path).load()
    assert loaded.streams == OLD
    assert loaded.problems[0] == f"{tmp_path / NAME} is missing"


@pytest.mark.parametrize("kind", ["directory", "link", "pipe"])
def test_what_cannot_be_read_is_not_taken_for_empty(tmp_path: Path, kind: str) -> None:
    path = tmp_path / NAME
    if kind == "directory":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("/etc/hostname")
    else:
        os.mkfifo(path)
    with pytest.raises(StorageError, match="can't read"):
        fresh(tmp_path).load()


def test_no_state_directory(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"can't open the state directory .*: No such file"):
        fresh(tmp_path / "no").load()


# The bytes

_texts = st.text(max_size=8)
_specs = st.builds(
    StreamSpec,
    id=st.uuids().map(str),
    url=_texts,
    username=_texts,
    priority=st.integers(0, 100),
    target_fps=st.floats(0.1, 120),
    transport=st.sampled_from(Transport),
    decode=st.sampled_from(DecodeMode),
    rois=st.lists(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=3).map(tuple), max_size=2).map(tuple),
    labels=st.dictionaries(_texts, _texts, max_size=3).map(lambda d: tuple(d.items())),
    paused=st.booleans(),
)
_stored = st.lists(
    st.tuples(_specs, st.none() | st.text(alphabet=st.characters(), max_size=8).map(Secret)),
    max_size=3,
    unique_by=lambda entry: entry[0].id,
).map(tuple)


@given(saved=_stored)
def test_encode_decode_round_trip(saved: Stored) -> None:
    assert decode(encode(saved)) == saved


@given(position=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_any_changed_byte_is_noticed_or_harmless(position: int, byte: int) -> None:
    data = bytearray(encode(NEW))
    data[position % len(data)] = byte
    try:
        assert decode(bytes(data)) == NEW  # white space only
    except StateFileError as error:
        assert "hunter2" not in str(error)


@given(data=st.binary(max_size=60))
def test_any_bytes_end_in_an_error(data: bytes) -> None:
    with pytest.raises(StateFileError):
        decode(data)


# Failing and dying between any two steps


class Killed(BaseException):
    pass


class FaultyOs:
    """``os`` whose n-th call fails, or after which nothing more happens, as after SIGKILL. Counts only calls that
    reach the disk."""

    counted = frozenset({"open", "write", "fsync", "link", "rename", "unlink"})

    def __init__(self, fail_at: int, *, kill: bool = False, half_write: bool = False):
        self.fail_at, self.kill, self.half_write = fail_at, kill, half_write
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return self._counting(name, real) if name in self.counted else real

    def _counting(self, name: str, real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            if self.kill and len(self.calls) > self.fail_at:
                if name == "write" and self.half_write and len(self.calls) == self.fail_at + 1:
                    real(args[0], bytes(args[1])[: len(args[1]) // 2])
                raise Killed
            if not self.kill and len(self.calls) == self.fail_at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*args, **kwargs)

        return call


def steps_of_a_save(tmp_path: Path) -> int:
    tmp_path.mkdir()
    kept = ready(tmp_path, OLDER, OLD)
    faulty = FaultyOs(10**9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "os", faulty)
        kept.save(NEW)
    # The bytes are on the disk before they get their name, and the name before save() returns: a power cut can't be
    # made here, so the order is what is checked.
    durable = [name for name in faulty.calls if name in {"write", "fsync", "link", "rename"}]
    assert durable == ["write", "fsync", "link", "rename", "rename", "fsync"]
    return len(faulty.calls)


@pytest.fixture
def each_step(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    def folders() -> Iterator[tuple[int, Path]]:
        for step in range(1, steps_of_a_save(tmp_path / "count") + 1):
            folder = tmp_path / str(step)
            folder.mkdir()
            yield step, folder

    return folders()


def test_a_failure_at_any_step_changes_nothing(
    each_step: Iterator[tuple[int, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = 0
    for step, folder in each_step:
        kept = ready(folder, OLDER, OLD)
        monkeypatch.setattr(store, "os", FaultyOs(step))
        try:
            kept.save(NEW)
            expected = NEW
        except StorageError as error:
            failures += 1
            expected = OLD
            assert "No space left on device" in str(error) and "hunter2" not in str(error)
        monkeypatch.setattr(store, "os", os)
        assert names(folder) == {NAME, BACKUP}, step
        assert fresh(folder).load() == store.Loaded(expected)
        kept.save(NEW)  # the store goes on
        assert names(folder) == {NAME, BACKUP}, step
        assert fresh(folder).load() == store.Loaded(NEW)
    assert failures >= 6


@pytest.mark.parametrize("half_write", [False, True])
def test_a_kill_between_any_two_steps_leaves_old_or_new(
    each_step: Iterator[tuple[int, Path]], monkeypatch: pytest.MonkeyPatch, half_write: bool
) -> None:
    outcomes = []
    for step, folder in each_step:
        kept = ready(folder, OLDER, OLD)
        monkeypatch.setattr(store, "os", FaultyOs(step - 1, kill=True, half_write=half_write))
        with pytest.raises(Killed):
            kept.save(NEW)
        monkeypatch.setattr(store, "os", os)
        loaded = fresh(folder).load()
        assert loaded.problems == () and loaded.streams in (OLD, NEW)
        outcomes.append(loaded.streams == NEW)
        assert names(folder) == {NAME, BACKUP}
    assert outcomes == sorted(outcomes) and set(outcomes) == {False, True}


def test_a_kill_while_a_corrupt_file_is_put_aside_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in range(40):
        folder = tmp_path / str(step)
        folder.mkdir()
        ready(folder, OLD, NEW)
        (folder / NAME).write_bytes(b"torn")
        monkeypatch.setattr(store, "os", FaultyOs(step, kill=True))
        try:
            fresh(folder).load()
            finished = True
        except Killed:
            finished = False
        monkeypatch.setattr(store, "os", os)
        assert fresh(folder).load().streams == OLD
        assert any((folder / name).read_bytes() == b"torn" for name in names(folder))
        if finished:
            return
    pytest.fail("load() never ended")


def test_a_bad_file_that_cannot_be_set_aside_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = ready(tmp_path, OLD)
    (tmp_path / NAME).write_bytes(b"torn")

    class NoLinks:
        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def link(self, *args: Any, **kwargs: Any) -> None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(store, "os", NoLinks())
    kept = fresh(tmp_path)
    loaded = kept.load()
    assert loaded.streams == () and "could not be set aside: Read-only file system" in loaded.problems[0]
    with pytest.raises(StorageError):
        kept.save(NEW)
    assert (tmp_path / NAME).read_bytes() == b"torn" and names(tmp_path) == {NAME}


WRITER = """
    import sys
    from pathlib import Path
    from facedetd.registry.store import StateStore
    from facedetd.types import Secret, StreamSpec
    kept = StateStore(Path(sys.argv[1]))
    first = len(kept.load().streams)
    for count in range(first + 1, 1_000_000):
        kept.save(tuple((StreamSpec(f"cam{i}", "rtsp://h/1"), Secret("p" * 500)) for i in range(count)))
        print(count, flush=True)
"""


def test_sigkill_at_random_moments(tmp_path: Path) -> None:
    """Each writer goes on from what the one before it left; no acknowledged change may be missing."""
    dice = random.Random(7)
    acknowledged = 0
    for _ in range(20):
        writer = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        try:
            for _ in range(dice.randint(1, 6)):
                line = writer.stdout.readline()
                assert line, "the writer ended by itself"
                acknowledged = int(line)
            for _ in range(dice.randint(0, 20_000)):  # some way into the next save
                pass
        finally:
            writer.send_signal(signal.SIGKILL)
            rest = writer.communicate()[0].split()
        acknowledged = int(rest[-1]) if rest else acknowledged
        loaded = fresh(tmp_path).load()
        assert loaded.problems == ()
        assert len(loaded.streams) in (acknowledged, acknowledged + 1)
    assert acknowledged >= 20


# A full disk


def test_file_size_limit(tmp_path: Path) -> None:
    """RLIMIT_FSIZE fails the real write() half-way."""
    ready(tmp_path, OLD)
    code = """
        import resource, signal, sys
        from pathlib import Path
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
        from facedetd.control import StorageError
        from facedetd.registry.store import StateStore
        from facedetd.types import Secret, StreamSpec
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        kept = StateStore(Path(sys.argv[1]))
        kept.load()
        try:
            kept.save(tuple((StreamSpec(f"cam{i}", "rtsp://h/1"), Secret("hunter2")) for i in range(100)))
        except StorageError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-B", "-c", textwrap.dedent(code), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"can't write {tmp_path / NAME}: File too large\n"
    assert names(tmp_path) == {NAME}
    assert fresh(tmp_path).load() == store.Loaded(OLD)


def test_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k,mode=700", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root may mount a small disk")
    try:
        kept = ready(disk, OLD)
        with pytest.raises(StorageError, match="No space left on device"):
            kept.save(streams(2000))
        assert names(disk) == {NAME}
        assert fresh(disk).load() == store.Loaded(OLD)
        kept.save(NEW)
        assert fresh(disk).load() == store.Loaded(NEW)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# One daemon


def test_lock(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "deep"
    with lock_state_dir(folder):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "lock").stat().st_mode) == 0o600
        with pytest.raises(LockedError) as caught:
            lock_state_dir(folder)
        assert caught.value.pid == os.getpid()
        assert str(caught.value) == (
            f"{folder} is in use by the process {os.getpid()}; only one facedetd may run on a state directory"
        )
    lock_state_dir(folder).close()


def test_lock_of_another_process_ends_with_it(tmp_path: Path) -> None:
    code = """
        import sys, time
        from pathlib import Path
        from facedetd.registry.lock import lock_state_dir
        held = lock_state_dir(Path(sys.argv[1]))
        print("locked", flush=True)
        time.sleep(60)
    """
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "locked\n"
        with pytest.raises(LockedError, match=f"by the process {holder.pid};"):
            lock_state_dir(tmp_path)
    finally:
        holder.kill()
        holder.communicate()
    lock_state_dir(tmp_path).close()


def test_lock_where_no_directory_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="can't lock the state directory"):
        lock_state_dir(tmp_path / "file" / "x")
