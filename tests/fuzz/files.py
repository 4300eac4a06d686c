"""What operators and disks hand to the daemon: its TOML, stream lists, the state file, URLs."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote

from facedetd.api.errors import redacted
from facedetd.config.credentials import CredentialError, read_credential
from facedetd.config.importfile import read_import
from facedetd.config.issues import ConfigErrors
from facedetd.config.load import load
from facedetd.config.reference import render_toml
from facedetd.config.urls import redact_url, split_host_port, split_userinfo, url_with_credentials
from facedetd.control import ConflictError
from facedetd.logs import redact
from facedetd.registry import codec
from facedetd.registry.registry import Registry
from facedetd.registry.store import BACKUP, NAME, StateStore
from facedetd.types import DecodeMode, Secret, StreamSpec, Transport
from tests.fuzz.mutate import NUMBERS, mutate
from tests.fuzz.target import Fed, Target, expect

SECRET = "Qx7Marker9z"
SPEC = StreamSpec(
    "door",
    "rtsp://camera/main?a=1",
    sub_url="rtsps://[::1]:322/sub",
    username="viewer",
    priority=7,
    target_fps=12.5,
    transport=Transport.UDP,
    decode=DecodeMode.CPU,
    rois=(((0.0, 0.0), (1.0, 0.0), (0.5, 1.0)),),
    labels=(("site", "north"), ("floor", "ü")),
)
TOML = """
[model]
name = "centerface"
min_score = 0.5
[daemon]
max_streams = 10
[[stream]]
id = "door"
url = "rtsp://camera/main"
credential = "door"
target_fps = 5
rois = [[[0, 0], [1, 0], [0.5, 1]]]
labels = { site = "north", floor = '''ü''' }
[[stream]]
id = "yard"
url = "rtsp://[::1]:8554/x"
transport = "udp"
"""
LISTS = {
    ".toml": f'[[stream]]\nid = "a"\nurl = "rtsp://u:{SECRET}@cam/1"\nrois = [[[0,0],[1,0],[1,1]]]\n'
    f'[[stream]]\nid = "b"\nurl = "rtsp://cam/2"\npassword = "{SECRET}"\nlabels = {{ a = "b" }}\n',
    ".json": json.dumps(
        [{"id": "a", "url": f"rtsp://u:{SECRET}@cam/1", "labels": {"site": "x"}},
         {"id": "b", "url": "rtsp://cam/2", "password": SECRET, "rois": [[[0, 0], [1, 0], [1, 1]]]}], indent=1),
    ".csv": f'id,url,password,rois,labels,paused\na,rtsp://cam/1,{SECRET},"0,0 1,0 1,1",site=x; y=z,true\n'
    f'b,rtsp://u@cam/2,"quoted ""{SECRET}""",,,\n',
}  # fmt: skip
URLS = (b"rtsp://u:p@cam:554/x?y#z", b"rtsps://[fe80::1%25eth0]:322/", "p@ss:w/ö rd%2F\"'\\$#?&".encode())
WORDS = (
    b"[[stream]]\n", b"[daemon]\n", b"id", b"url", b"=", b"'''", b'"""', b"[" * 500, b"{", b"}", b"]", b"\\u0000",
    b"\\ud800", b"\r", b"\xef\xbb\xbf", b"\x00", b"\xff", b"1979-05-27T07:32:00Z", b"nan", b"inf", b"1e999", b"0x10",
    b"rtsp://", b"file:///", b"://", b"@", b"%00", b"%", b"\n", b";", b",", b'"', b"null", b"true", b"{\"a\":" * 300,
)  # fmt: skip


class _Config:
    def __init__(self, folder: Path):
        self._file = folder / "facedetd.toml"

    def feed(self, data: bytes) -> None:
        self._file.write_bytes(data)
        try:
            load(self._file)
        except ConfigErrors as errors:
            expect(errors.issues, "errors without an issue")
            expect(all(str(issue).isprintable() for issue in errors.issues), "an issue that isn't one printable line")

    def good(self) -> None:
        self._file.write_text(TOML)
        expect(len(load(self._file).streams) == 2, "the good configuration isn't read")


class _Import:
    """The first byte chooses the kind of file."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._lists = list(LISTS)

    def feed(self, data: bytes) -> None:
        self._read(self._lists[data[0] % 3] if data else ".toml", data[1:])

    def _read(self, suffix: str, data: bytes) -> int:
        file = self._folder / f"list{suffix}"
        file.touch(0o600)
        file.write_bytes(data)
        try:
            return len(read_import(file).entries)
        except ConfigErrors as errors:
            expect(all(str(issue).isprintable() for issue in errors.issues), "an issue that isn't one printable line")
            return 0

    def good(self) -> None:
        for suffix, text in LISTS.items():
            expect(self._read(suffix, text.encode()) == 2, f"the good {suffix} isn't read")


class _State:
    """A damaged state file beside a good backup, and a damaged backup without a state file."""

    def __init__(self, folder: Path):
        self._folder = folder / "state"
        self._good = codec.encode(((SPEC, Secret(SECRET)),))

    def feed(self, data: bytes) -> None:
        try:
            kept = codec.decode(data)
        except codec.StateFileError as error:
            expect(SECRET not in str(error), "the error shows a password")
            kept = None
        self._load({NAME: data, BACKUP: self._good}, kept if kept is not None else codec.decode(self._good), data, kept)
        self._load({BACKUP: data}, kept if kept is not None else (), data, kept)
        if kept is not None:
            self._usable(kept)

    def _load(self, files: dict[str, bytes], wanted: codec.Stored, data: bytes, kept: codec.Stored | None) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(mode=0o700)
        for name, content in files.items():
            (self._folder / name).write_bytes(content)
            (self._folder / name).chmod(0o600)
        store = StateStore(self._folder)
        loaded = store.load()
        expect(loaded.streams == wanted, "other streams were loaded than those that were saved")
        if kept is None:
            aside = list(self._folder.glob("*.corrupt-*"))
            expect(len(aside) == 1 and aside[0].read_bytes() == data, "the damaged file was not set aside whole")
            expect(loaded.problems, "nothing is said of the damage")
        store.save(loaded.streams)
        again = StateStore(self._folder).load()
        expect(again.streams == loaded.streams and not again.problems, "what was saved isn't what is loaded")

    @staticmethod
    def _usable(kept: codec.Stored) -> None:
        try:
            registry = Registry.build([], kept)
        except ConflictError:
            return
        blocked = registry.blocked()
        for entry in registry.entries():
            expect(entry.spec.id in blocked or entry.spec.url, "a stream without a URL is not blocked")

    def good(self) -> None:
        self.feed(self._good)


def make_state(rng: Random, seeds: Sequence[bytes]) -> bytes:
    """Wrong values under a right checksum: what a newer or a broken facedetd would have written."""
    whole = json.loads(rng.choice(seeds))
    listed = whole["streams"]
    for _ in range(rng.choice((1, 1, 2, 4))):
        table = rng.choice(listed) if listed else {}
        if rng.random() < 0.2:
            listed.append(copy.deepcopy(table))
        elif rng.random() < 0.1:
            listed.append(_value(rng))
        elif isinstance(table, dict):
            key = rng.choice([*table, "password", "unknown"])
            if rng.random() < 0.2:
                table.pop(key, None)
            else:
                table[key] = _value(rng)
    whole["sha256"] = codec._checksum(listed)
    return json.dumps(whole).encode()


def _value(rng: Random, depth: int = 0) -> Any:
    kind = rng.randrange(9 if depth < 4 else 6)
    if kind < 2:
        return rng.choice((*NUMBERS, 1.5, -0.0, 1e308, 10**400, float("nan"), float("inf")))
    if kind < 5:
        return rng.choice(("", "x", "\ud800", "\0", "rtsp://cam/1", "file:///etc/passwd", "tcp", "a" * 5000, "ü\n"))
    if kind == 5:
        return rng.choice((None, True, False))
    if kind == 6:
        return {rng.choice(("a", "", "\ud800")): _value(rng, depth + 1)}
    return [_value(rng, depth + 1) for _ in range(rng.randrange(4))]


class _Urls:
    """Any text as a URL, and as a password in one: nothing raises, the password comes back and is never shown."""

    def __init__(self, folder: Path):
        self._folder = folder

    def feed(self, data: bytes) -> None:
        text = data.decode(errors="surrogateescape")
        for show in (redact_url, redact, redacted):
            show(text)
        split_userinfo(text)
        try:
            split_host_port(text)
        except ValueError as error:
            expect(type(error) is ValueError, f"a {type(error).__name__}, not a ValueError")
        password = SECRET + text + SECRET
        url = url_with_credentials("rtsp://cam:8554/x", "user", password)
        expect(split_userinfo(url) == ("rtsp://cam:8554/x", "user", password), "the password doesn't come back")
        for shown in (redact_url(url), redact(f"open {url} failed"), redacted(f"open {url} failed")):
            expect(SECRET not in shown, "a URL is shown with its password")
        raw = f"rtsp://user:{SECRET}@cam/{quote(text, errors='surrogateescape')}"
        for shown in (redact_url(raw), redact(raw), redacted(raw)):
            expect(SECRET not in shown, "a URL is shown with its password")
        (self._folder / "credential").write_bytes(data)
        with suppress(CredentialError):
            read_credential("credential", {"CREDENTIALS_DIRECTORY": str(self._folder)})

    def good(self) -> None:
        expect(redact_url("rtsp://u:p@cam/x") == "rtsp://u:***@cam/x", "redact_url")


@contextmanager
def _config(folder: Path) -> Iterator[Fed]:
    yield _Config(folder)


@contextmanager
def _import(folder: Path) -> Iterator[Fed]:
    yield _Import(folder)


@contextmanager
def _state(folder: Path) -> Iterator[Fed]:
    yield _State(folder)


@contextmanager
def _urls(folder: Path) -> Iterator[Fed]:
    yield _Urls(folder)


def _make_config(rng: Random, seeds: Sequence[bytes]) -> bytes:
    """Whole lines change places, and values: stays TOML more often."""
    lines = rng.choice(seeds).splitlines()
    for _ in range(rng.choice((1, 2, 5))):
        at = rng.randrange(len(lines))
        name, equals, value = lines[at].partition(b" = ")
        if equals and rng.random() < 0.8:
            other = rng.choice(lines).partition(b" = ")[2]
            lines[at] = name + equals + rng.choice((other, mutate(rng, [value], WORDS), b"-1", b"[]", b"{}", b"nan"))
        else:
            lines.insert(at, rng.choice(lines))
    return b"\n".join(lines)


def _state_seeds() -> Sequence[bytes]:
    other = StreamSpec("yard", "rtsp://camera/yard")
    return [codec.encode(()), codec.encode(((SPEC, Secret(SECRET)), (other, None)))]


TARGETS = {
    "config": Target(_config, lambda: [TOML.encode(), render_toml().encode()], WORDS, _make_config),
    "import": Target(_import, lambda: [bytes([i]) + t.encode() for i, t in enumerate(LISTS.values())], WORDS),
    "state": Target(_state, _state_seeds, WORDS, make_state),
    "urls": Target(_urls, lambda: URLS, WORDS),
}  # fmt: skip
