"""Rules of a stream, and URLs with any password."""

from dataclasses import replace
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from facedetd.config.convert import show
from facedetd.config.streamcheck import check_login, check_spec, lift_userinfo, polygon_area
from facedetd.config.urls import redact_url, split_host_port, split_userinfo, url_with_credentials
from facedetd.types import Secret, StreamSpec

GOOD = StreamSpec("cam", "rtsp://h/1")
TRIANGLE = ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0))


def fields_of(spec: StreamSpec, *, files: bool = False) -> list[str]:
    return [violation.field for violation in check_spec(spec, allow_file_sources=files)]


@pytest.mark.parametrize(
    "url",
    [
        "rtsp://h",
        "rtsp://h/",
        "rtsps://cam-1.example.org:322/Streaming/Channels/101?x=y#z",
        "RTSP://10.0.0.1:65535/a",
        "rtsp://[2001:db8::1]/a",
        "rtsp://[fe80::1]:554/a",
        "rtsp://h/live@1",
        "rtsp://cam_1/user=a_password=b_channel=1.sdp",
        "rtsp://h/%E4%BD%A0",
    ],
)
def test_good_urls(url: str) -> None:
    assert check_spec(replace(GOOD, url=url), allow_file_sources=False) == []


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "found nothing"),
        ("h/1", "no scheme"),
        ("rtsp:/h/1", "no scheme"),
        ("rtmp://h/1", 'found "rtmp://"'),
        ("file:///x", "only with daemon.allow_file_sources"),
        ("rtsp:///1", "no host"),
        ("rtsp://:554/1", "no host"),
        ("rtsp://h:0/1", "from 1 to 65535"),
        ("rtsp://h:65536/1", "from 1 to 65535"),
        ("rtsp://h:/1", "from 1 to 65535"),
        ("rtsp://h:5a/1", "from 1 to 65535"),
        ("rtsp://h:\u0665/1", "from 1 to 65535"),
        ("rtsp://::1/1", "more than one ':'"),
        ("rtsp://[::1/1", "without its ']'"),
        ("rtsp://[::1]x/1", "may follow"),
        ("rtsp://[zz]/1", "an IPv6 address"),
        ("rtsp://ho$t/1", "a name of letters"),
        ("rtsp://-h/1", "a name of letters"),
        ("rtsp://h/a b", "space or control"),
        ("rtsp://h/a\n", "space or control"),
        ("rtsp://h/\x00", "space or control"),
        ("rtsp://h/\u2028", "space or control"),
        ("rtsp://h/\udcff", "space or control"),
        ("rtsp://h/" + "a" * 2048, "2057 characters"),
        ("rtsp://user@h/1", "it goes into username"),
        ("rtsp://u:hunter2@h/1", "password may stand"),
        ("rtsp://u:hunt/er2@h/1", "password may stand"),
        ("rtsp://u:123/hunter2@h/1", "password may stand"),
        ("rtsp://u:hun@ter2@h/1", "password may stand"),
    ],
)
def test_bad_urls(url: str, words: str) -> None:
    (violation,) = check_spec(replace(GOOD, url=url), allow_file_sources=False)
    assert violation.field == "url" and words in violation.message
    (violation,) = check_spec(replace(GOOD, sub_url=url or "x"), allow_file_sources=False)
    assert violation.field == "sub_url"
    assert "hunt" not in violation.message and "er2" not in violation.message


@pytest.mark.parametrize("url", ["file:///a.mp4", "file:///a%20b.mp4", "FILE:///a/b@c"])
def test_good_file_urls(url: str) -> None:
    assert fields_of(replace(GOOD, url=url), files=True) == []


@pytest.mark.parametrize(
    "url",
    ["file://a.mp4", "file://localhost/a.mp4", "file://", "file:///", "file:///a?b", "file:///a#b", "file:///%00"],
)
def test_bad_file_urls(url: str) -> None:
    assert fields_of(replace(GOOD, url=url), files=True) == ["url"]


def test_sub_url_is_of_the_same_family() -> None:
    assert fields_of(replace(GOOD, sub_url="rtsps://h/2")) == []
    assert fields_of(replace(GOOD, sub_url="file:///a"), files=True) == ["sub_url"]


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({"id": ""}, ["id"]),
        ({"id": "a" * 64}, ["id"]),
        ({"id": "a\n"}, ["id"]),
        ({"id": "../a"}, ["id"]),
        ({"priority": -1}, ["priority"]),
        ({"priority": 101}, ["priority"]),
        ({"target_fps": 0.0}, ["target_fps"]),
        ({"target_fps": 121.0}, ["target_fps"]),
        ({"target_fps": float("nan")}, ["target_fps"]),
        ({"min_fps": 0.0}, ["min_fps"]),
        ({"min_fps": float("nan")}, ["min_fps"]),
        ({"min_fps": 5.1}, ["min_fps"]),
        ({"username": "a:b"}, ["username"]),
        ({"username": "a\x07"}, ["username"]),
        ({"credential": "../x"}, ["credential"]),
        ({"ca_file": "ca.pem"}, ["ca_file"]),
        ({"rois": ((),)}, ["rois[0]"]),
        ({"rois": (TRIANGLE[:2],)}, ["rois[0]"]),
        ({"rois": (TRIANGLE, ((0.0, 0.0), (0.5, 0.5), (1.0, 1.0)))}, ["rois[1]"]),
        ({"rois": (((0.0, 0.0), (1.5, 0.0), (float("nan"), 1.0)),)}, ["rois[0][1]", "rois[0][2]"]),
        ({"rois": (TRIANGLE,) * 17}, ["rois"]),
        ({"rois": (TRIANGLE * 22,)}, ["rois[0]"]),
        ({"labels": (("a", "b"), ("a", "c"))}, ["labels"]),
        ({"labels": (("1a", "b"),)}, ["labels"]),
        ({"labels": (("__a", "b"),)}, ["labels"]),
        ({"labels": (("a", "b" * 129),)}, ["labels.a"]),
        ({"labels": (("a", "b\n"),)}, ["labels.a"]),
        ({"labels": tuple((f"l{i}", "") for i in range(17))}, ["labels"]),
        ({"rois": (TRIANGLE,) * 16, "labels": (("a_B1", "ü b"),), "ca_file": "/ca.pem", "min_fps": 5.0}, []),
    ],
)
def test_rules(change: dict[str, object], fields: list[str]) -> None:
    assert [v.field for v in check_spec(replace(GOOD, **change), allow_file_sources=False)] == fields


def test_area() -> None:
    assert polygon_area(TRIANGLE) == pytest.approx(0.5)
    assert polygon_area(TRIANGLE[::-1]) == pytest.approx(0.5)


def test_lift_userinfo() -> None:
    spec = replace(GOOD, url="rtsp://u:p%40@h/1", sub_url="rtsp://u:p%40@h/2")
    assert lift_userinfo(spec) == (replace(GOOD, sub_url="rtsp://h/2", username="u"), Secret("p@"), [])
    assert lift_userinfo(GOOD) == (GOOD, None, [])
    for url, sub_url, name in [
        ("rtsp://u@h", "rtsp://v@h", ""),
        ("rtsp://u@h", "", "v"),
        ("rtsp://u:x@h", "rtsp://u:y@h", ""),
    ]:
        violations = lift_userinfo(replace(GOOD, url=url, sub_url=sub_url, username=name))[2]
        assert len(violations) == 1


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("rtsp://u:p@h/1", ("rtsp://h/1", "u", "p")),
        ("rtsp://u:p:q@h", ("rtsp://h", "u", "p:q")),
        ("rtsp://u:p@q@h?x@y", ("rtsp://h?x@y", "u", "p@q")),
        ("rtsp://u:%2F%3F%23%25%C3%BC%zz@h/1", ("rtsp://h/1", "u", "/?#%ü%zz")),
        ("rtsp://u@h", ("rtsp://h", "u", None)),
        ("rtsp://u:@h", ("rtsp://h", "u", "")),
        ("rtsp://:p@h", ("rtsp://h", "", "p")),
        ("rtsp://h/a@b", ("rtsp://h/a@b", "", None)),
        ("RtSp://h", ("RtSp://h", "", None)),
        ("no url", ("no url", "", None)),
    ],
)
def test_split_userinfo(url: str, expected: tuple[str, str, str | None]) -> None:
    assert split_userinfo(url) == expected


_urls = st.sampled_from(["rtsp://h", "rtsp://h:554/a@b:c?d#e", "RTSPS://[::1]:1/x%40", "rtsp://old:word@h/1"])


@given(url=_urls, username=st.text(), password=st.none() | st.text())
@example("rtsp://h", "a", "@:/%#? ü%41")
def test_credentials_round_trip(url: str, username: str, password: str | None) -> None:
    whole = url_with_credentials(url, username, password)
    assert split_userinfo(whole) == (split_userinfo(url)[0], username, password)
    assert whole.isprintable() and " " not in whole


@pytest.mark.parametrize(
    ("password", "fits"),
    [("a" * 125, True), ("a" * 126, False), ("#" * 41, True), ("#" * 42, False), ("ü" * 62, True), ("ü" * 63, False),
     ("a\nb", True), ("a\0b", False), ("", True), ("p@ss:w/ö rd%2F\"'\\$#?&", True)],
)  # fmt: skip
def test_a_password_that_ffmpeg_would_cut_is_refused(password: str, fits: bool) -> None:
    found = check_login("u", Secret(password))
    assert [v.field for v in found] == ([] if fits else ["password"])
    assert not password or all(password not in v.message for v in found)


def test_a_path_has_a_largest_length() -> None:
    """What is taken must fit a message to a decoder."""
    assert not check_spec(replace(GOOD, ca_file="/" + "a" * 4095), allow_file_sources=False)
    found = check_spec(replace(GOOD, ca_file="/" + "a" * 4096), allow_file_sources=False)
    assert [v.field for v in found] == ["ca_file"]


@given(raw=st.binary(max_size=12))
def test_escapes_that_are_not_utf8_survive(raw: bytes) -> None:
    escaped = "".join(f"%{byte:02X}" for byte in raw)
    _, _, password = split_userinfo(f"rtsp://u:{escaped}@h")
    again = url_with_credentials("rtsp://h", "u", password)
    assert unquote_to_bytes(again.partition("u:")[2].rpartition("@")[0]) == raw


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://h:554/1?a=b", "rtsp://h:554/1?a=b"),
        ("rtsp://u:p@h:554/1", "rtsp://u:***@h:554/1"),
        ("rtsp://u:p/w@h/1", "rtsp://u:***@h/1"),
        ("rtsp://u@h/1", "rtsp://u@h/1"),
        ("rtsp://h/live@1", "rtsp://h/live@1"),
        ("u:p@h", "u:***@h"),
        ("rtsp://h/user=a&password=b&channel=1", "rtsp://h/user=a&password=***&channel=1"),
        ("rtsp://h/user=a_password=b_channel=1.sdp", "rtsp://h/user=a_password=***"),
        ("rtsp://h/1?user=a&pwd=b", "rtsp://h/1?user=a&pwd=***"),
        ("", ""),
    ],
)
def test_redact_url(url: str, shown: str) -> None:
    assert redact_url(url) == shown
    assert redact_url(shown) == shown


@given(
    username=st.text(alphabet="ab", max_size=3),
    password=st.text(alphabet="@:/%#?S ", max_size=9),
    encoded=st.booleans(),
)
def test_no_part_of_a_password_is_shown(username: str, password: str, encoded: bool) -> None:
    password = f"SECRET{password}SECRET"
    url = url_with_credentials("rtsp://h/1", username, password) if encoded else f"rtsp://{username}:{password}@h/1"
    for shown in (
        redact_url(url),
        show(url),
        *[v.message for v in check_spec(replace(GOOD, url=url), allow_file_sources=True)],
    ):
        assert "SECRET" not in shown and "CRET" not in shown
    assert redact_url(url).endswith("@h/1")


def test_split_host_port() -> None:
    assert split_host_port("127.0.0.1:1") == ("127.0.0.1", 1)
    assert split_host_port("[::1]:65535") == ("::1", 65535)
    assert split_host_port("h") == ("h", None)
