"""Stream lists for `facedetctl import`, credentials of systemd."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from facedetd.config.credentials import CredentialError, read_credential
from facedetd.config.importfile import ImportFile, read_import
from facedetd.config.issues import ConfigErrors
from facedetd.types import Secret, StreamSpec, Transport


def write(folder: Path, name: str, text: str, mode: int = 0o600) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def errors_of(path: Path) -> list[str]:
    with pytest.raises(ConfigErrors) as caught:
        read_import(path)
    return str(caught.value).replace(f"{path.parent}/", "").split("\n")


ENTRIES = (
    (
        StreamSpec(
            "a",
            "rtsp://h/1",
            username="u",
            priority=7,
            target_fps=2.5,
            transport=Transport.UDP,
            tls_verify=False,
            rois=(((0.0, 0.0), (1.0, 0.0), (0.5, 1.0)), ((0.0, 0.0), (0.25, 0.0), (0.5, 0.5))),
            labels=(("site", "north, 1"), ("floor", "2")),
        ),
        Secret("p@:w"),
    ),
    (StreamSpec("b", "rtsp://h/2", username="admin"), Secret(" pass word")),
    (StreamSpec("c", "rtsp://h/3"), None),
)

TOML = """
[[stream]]
id = "a"
url = "rtsp://u:p%40%3Aw@h/1"
priority = 7
target_fps = 2.5
transport = "udp"
tls_verify = false
rois = [[[0, 0], [1, 0], [0.5, 1]], [[0, 0], [0.25, 0], [0.5, 0.5]]]
labels = { site = "north, 1", floor = "2" }
[[stream]]
id = "b"
url = "rtsp://h/2"
username = "admin"
password = " pass word"
[[stream]]
id = "c"
url = "rtsp://h/3"
"""

CSV = """id,url,username,password,priority,target_fps,transport,tls_verify,rois,labels
a,rtsp://u:p%40%3Aw@h/1,,,7,2.5,udp,no,"0,0 1,0 0.5,1; 0,0 0.25,0 0.5,0.5","site=north, 1; floor=2"

b,rtsp://h/2,admin, pass word,,,,,,
c, rtsp://h/3 ,,,,,,,,
"""


def as_json() -> str:
    return json.dumps(
        [
            {
                "id": "a",
                "url": "rtsp://u:p%40%3Aw@h/1",
                "priority": 7,
                "target_fps": 2.5,
                "transport": "udp",
                "tls_verify": False,
                "rois": [[[0, 0], [1, 0], [0.5, 1]], [[0, 0], [0.25, 0], [0.5, 0.5]]],
                "labels": {"site": "north, 1", "floor": "2"},
            },
            {"id": "b", "url": "rtsp://h/2", "username": "admin", "password": " pass word"},
            {"id": "c", "url": "rtsp://h/3"},
        ],
        indent=1,
    )


@pytest.mark.parametrize(("name", "text"), [("l.toml", TOML), ("l.json", as_json()), ("l.CSV", CSV)])
def test_the_three_kinds_say_the_same(tmp_path: Path, name: str, text: str) -> None:
    found = read_import(write(tmp_path, name, text))
    assert found == ImportFile(ENTRIES, ())
    assert "p@:w" not in repr(found) and "pass word" not in repr(found)


def test_spreadsheets_of_other_countries(tmp_path: Path) -> None:
    path = write(tmp_path, "l.csv", "\ufeffid;url;paused\r\na;rtsp://h/1;TRUE\r\n")
    assert read_import(path).entries == ((StreamSpec("a", "rtsp://h/1", paused=True), None),)


def test_who_may_read_a_file_with_passwords(tmp_path: Path) -> None:
    assert errors_of(write(tmp_path, "l.toml", TOML, 0o644)) == [
        "l.toml: holds passwords and everyone may read it (mode 0644); allowed: mode 0600 (chmod 600)"
    ]
    path = write(tmp_path, "l.toml", TOML, 0o640)
    assert read_import(path).warnings == (
        f"{path}: holds passwords and its group may read it (mode 0640); mode 0600 is safer",
    )
    harmless = write(tmp_path, "l.json", '[{"id": "a", "url": "rtsp://u@h"}]', 0o644)
    assert read_import(harmless) == ImportFile(((StreamSpec("a", "rtsp://h", username="u"), None),), ())


BAD = {
    ("l.txt", ""): ["l.txt: found another kind of file; allowed: .toml, .json or .csv"],
    ("l.toml", '[daemon]\n[[stream]]\nid="a"\nurl="rtsp://h"\nurl2=""\n[[stream]]\nid="a"\nurl="rtsp://h"'): [
        "l.toml:1: daemon: unknown key; allowed: stream",
        'l.toml:5: stream[0].url2: unknown key; did you mean "url"?',
        'l.toml:7: stream[1].id: found "a", which already stands at l.toml:3; allowed: each id once',
    ],
    ("l.toml", '[[stream]]\nid="a"\nurl="rtsp://u:hunter2@h"\npassword="x"\ncredential="y"'): [
        "l.toml:4: stream[0].password: found another password in the URL; allowed: one for a stream",
        "l.toml:5: stream[0].credential: unknown key; credentials are for streams in the daemon's TOML: "
        "use password here",
    ],
    ("l.toml", "[stream]"): ["l.toml:1: stream: found a table; allowed: tables, each under [[stream]]"],
    ("l.toml", "="): ["l.toml:1: is not TOML: Invalid statement"],
    ("l.json", "{}"): ["l.json:1: found something else; allowed: a list of objects, [{...}, ...]"],
    ("l.json", '[\n{"id": "a"}\n,\n3]'): [
        "l.json:2: [0].url: found nothing; it is required",
        "l.json:4: [1]: found an integer; allowed: an object",
    ],
    ("l.json", '[{"id": "a",\n "url"}]'): ["l.json:2: is not JSON: Expecting ':' delimiter"],
    ("l.json", '[{"id": "a", "id": "b"}]'): ["l.json:1: [0]: found the key id twice; allowed: each key once"],
    ("l.json", '[{"id": "a", "url": "rtsp://h", "target_fps": NaN, "password": 5}]'): [
        "l.json:1: [0].target_fps: found nan; allowed: a number",
        "l.json:1: [0].password: found an integer; allowed: a string",
    ],
    ("l.json", '[{"id": "a", "url": "rtsp://h"},]'): ["l.json:1: is not JSON: found ']' after ','"],
    ("l.json", '[{"id": "a", "url": "rtsp://h"} 3]'): ["l.json:1: is not JSON: expected ',' or ']'"],
    ("l.json", '[{"id": "a", "url": "rtsp://h"}] 3'): ["l.json:1: is not JSON: found more after the list"],
    ("l.json", '[{"id": "a", "url": "rtsp://h"}'): ["l.json:1: is not JSON: expected ',' or ']'"],
    ("l.json", "[" * 100_000): ["l.json:1: is nested too deeply"],
    ("l.csv", ""): ["l.csv:1: found no header; allowed: a first row that names the columns"],
    ("l.csv", "id,ulr,id,credential\n"): [
        'l.csv:1: ulr: unknown column; did you mean "url"?',
        "l.csv:1: id: found this column twice; allowed: each once",
        "l.csv:1: credential: unknown column; allowed: id, url, sub_url, username, priority, target_fps, min_fps, "
        "transport, decode, tls_verify, ca_file, rois, labels, paused, password",
    ],
    ("l.csv", 'id,url,labels,priority\na,rtsp://h,"x=a\nb",high\nb,rtsp://h\nc,rtsp://h,x,1\nc,rtsp://h,,1'): [
        'l.csv:2: labels.x: found "a\\nb"; allowed: at most 128 characters, no control characters',
        'l.csv:2: priority: found "high" (a string); allowed: an integer',
        "l.csv:4: found 2 cells; allowed: 4, as in the header",
        'l.csv:5: labels: found "x"; allowed: name=value; name=value',
        'l.csv:6: id: found "c", which already stands at l.csv:5; allowed: each id once',
    ],
    ("l.csv", 'id,url,rois\na,rtsp://h,"0,0 1,x 1,1"'): [
        'l.csv:2: rois: found "0,0 1,x 1,1"; allowed: x,y x,y x,y; x,y ... in fractions of the picture',
    ],
    ("l.csv", 'id,url\n"a,rtsp://h\n'): ["l.csv:2: is not CSV: unexpected end of data"],
    ("l.csv", 'id,url\na,rtsp://h\nb,"rtsp://h\nc,rtsp://h\n'): [
        "l.csv:3: is not CSV: unexpected end of data in line 4, of the row that begins here"
    ],
}


@pytest.mark.parametrize(("name", "text"), BAD)
def test_bad_lists_give_exactly_these_lines(tmp_path: Path, name: str, text: str) -> None:
    lines = errors_of(write(tmp_path, name, text))
    assert sorted(lines) == sorted(BAD[name, text])
    assert "hunter2" not in "\n".join(lines)


def test_missing_file(tmp_path: Path) -> None:
    assert errors_of(tmp_path / "l.csv") == ["l.csv: there is no such file"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["l.toml", "l.json", "l.csv"]),
    text=st.one_of(
        st.text(max_size=60),
        st.lists(
            st.sampled_from(['[{"id":', '"a"', ",", "]", "}", "{", "id,url\n", "\n", '"url":', "1e999", "null"])
        ).map("".join),
    ),
)
def test_fuzz(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8", newline="")
    try:
        assert isinstance(read_import(path), ImportFile)
    except ConfigErrors as errors:
        assert errors.issues and all(issue.message for issue in errors.issues)


def test_credentials(tmp_path: Path) -> None:
    environment = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    (tmp_path / "door").write_text("p@ss \n")
    assert read_credential("door", environment) == Secret("p@ss ")
    (tmp_path / "door").write_text("p\r\n")
    assert read_credential("door", environment) == Secret("p")
    with pytest.raises(CredentialError, match='credential "yard" there is no such file; put LoadCredential=yard:FILE'):
        read_credential("yard", environment)
    with pytest.raises(CredentialError, match="systemd loaded none"):
        read_credential("door", {})
