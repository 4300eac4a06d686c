"""facedetctl's stream commands, as text and JSON, with their exit codes."""

import dataclasses
import json

import pytest
from api_harness import serving
from ctl_harness import Ctl
from fakes_control import JPEG, FakeControl, view_of

from facedetd import control
from facedetd.types import DecodeMode, Origin, StreamSpec, Transport


@pytest.fixture
def served():
    with serving(FakeControl(max_streams=4)) as running:
        yield running


@pytest.fixture
def ctl(served, monkeypatch):
    return Ctl(monkeypatch, served)


@pytest.fixture
def streams(served):
    return served.control.streams


def put(streams, name, **fields):
    streams[name] = view_of(StreamSpec(name, "rtsp://cam/1", **fields))


def test_add_sends_everything_given(ctl, streams, served):
    done = ctl(
        "add-stream", "cam1", "rtsps://cam:554/1", "--sub-url", "rtsps://cam:554/2", "--priority", "80",
        "--target-fps", "8", "--min-fps", "2.5", "--transport", "udp", "--decode", "cpu",
        "--roi", "0,0 1,0 1,1", "--roi", "0.1,0.1 0.2,0.1 0.2,0.2 0.1,0.2", "--label", "site=n", "--label", "a=b=c",
        "--username", "u", "--password-stdin", "--ca-file", "/etc/ca.pem", "--no-tls-verify", "--paused",
        stdin="pä ss:@/%\n",
    )  # fmt: skip
    assert (done.code, done.out, done.err) == (0, "cam1 added\n", "")
    assert streams["cam1"].spec == StreamSpec(
        id="cam1", url="rtsps://cam:554/1", sub_url="rtsps://cam:554/2", username="u", priority=80, target_fps=8.0,
        min_fps=2.5, transport=Transport.UDP, decode=DecodeMode.CPU, tls_verify=False, ca_file="/etc/ca.pem",
        rois=(((0, 0), (1, 0), (1, 1)), ((0.1, 0.1), (0.2, 0.1), (0.2, 0.2), (0.1, 0.2))),
        labels=(("a", "b=c"), ("site", "n")), paused=True,
    )  # fmt: skip
    assert served.control.secrets["cam1"].value == "pä ss:@/%"


def test_add_with_nothing_more_takes_the_daemons_defaults(ctl, streams):
    assert ctl("add-stream", "cam1", "rtsp://cam/").code == 0
    assert streams["cam1"].spec == StreamSpec("cam1", "rtsp://cam/")


def test_add_dry_run_json_and_warnings(ctl, streams):
    done = ctl("add-stream", "cam1", "rtsp://cam/", "--min-fps", "9", "--dry-run", "--json")
    assert done.code == 0 and streams == {}
    assert done.json["stream"]["spec"]["id"] == "cam1"
    assert done.json["warnings"] == ["min_fps is over target_fps"]
    done = ctl("add-stream", "cam1", "rtsp://cam/", "--min-fps", "9", "--dry-run")
    assert (done.out, done.err) == ("cam1 would be added\n", "facedetctl: warning: min_fps is over target_fps\n")


def test_a_user_in_the_url_becomes_the_username(ctl, streams):
    assert ctl("add-stream", "cam1", "rtsp://admin@cam/1").code == 0
    assert (streams["cam1"].spec.url, streams["cam1"].spec.username) == ("rtsp://cam/1", "admin")
    assert ctl("add-stream", "cam2", "rtsp://admin@cam/1", "--username", "other").code == 2


def test_errors_have_one_line_their_fields_and_their_code(ctl, streams):
    put(streams, "cam1")
    done = ctl("add-stream", "cam1", "rtsp://cam/")
    assert (done.code, done.out, done.err) == (5, "", "facedetctl: stream 'cam1' already exists\n")
    done = ctl("add-stream", "cam2", "http://cam/", "--priority", "300")
    assert done.code == 1
    assert done.err == (
        "facedetctl: refused: 2 bad values\n"
        "  spec.url: not rtsp://, rtsps:// or file://\n"
        "  spec.priority: 300 is not between 0 and 100\n"
    )
    for name in ("a", "b", "c"):
        put(streams, name)
    assert ctl("add-stream", "cam9", "rtsp://cam/").code == 9


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (control.StorageError("the state file can't be written: no space left"), 1),
        (control.UnavailableError("the daemon is stopping"), 7),
        (control.ReadOnlyError("in the TOML"), 1),
        (RuntimeError("secret thing"), 1),
    ],
)
def test_other_errors_have_their_codes_too(ctl, served, error, code):
    served.control.fail = error
    done = ctl("add-stream", "cam1", "rtsp://cam/")
    assert done.code == code and done.err.count("\n") == 1
    assert "secret thing" not in done.err


def test_update_changes_only_what_is_named(ctl, streams, served):
    ctl("add-stream", "cam1", "rtsp://cam/", "--label", "a=b", "--roi", "0,0 1,0 1,1", "--password-stdin", stdin="old")
    before = streams["cam1"].spec
    done = ctl("update-stream", "cam1", "--priority", "7")
    assert (done.code, done.out) == (0, "cam1 updated\n")
    assert streams["cam1"].spec == dataclasses.replace(before, priority=7)
    assert served.control.secrets["cam1"].value == "old"
    done = ctl("update-stream", "cam1", "--no-roi", "--no-labels", "--sub-url", "", "--no-tls-verify", "--json")
    assert done.json["stream"]["spec"]["labels"] == {}
    assert streams["cam1"].spec == dataclasses.replace(before, priority=7, rois=(), labels=(), tls_verify=False)
    assert ctl("update-stream", "cam1", "--username", "u", "--password-stdin", stdin="new").code == 0
    assert (served.control.secrets["cam1"].value, streams["cam1"].spec.username) == ("new", "u")
    assert ctl("update-stream", "cam1", "--no-password").code == 0
    assert served.control.secrets == {}
    assert ctl("update-stream", "cam1", "--url", "rtsp://other/").code == 0
    assert streams["cam1"].spec.url == "rtsp://other/"
    assert ctl("update-stream", "zz", "--priority", "1").code == 4


@pytest.mark.parametrize(
    "argv",
    [
        (),
        ("--no-roi", "--roi", "0,0 1,0 1,1"),
        ("--no-labels", "--label", "a=b"),
        ("--no-password", "--password-stdin"),
        ("--label", "a=b", "--label", "a=c"),
        ("--priority", "99999999999"),
    ],
)
def test_update_refuses_what_makes_no_sense(ctl, streams, argv):
    put(streams, "cam1")
    before = dict(streams)
    assert ctl("update-stream", "cam1", *argv, stdin="x").code == 2
    assert streams == before


def test_streams_of_the_toml_are_read_only(ctl, streams):
    streams["t"] = view_of(StreamSpec("t", "rtsp://cam/"), origin=Origin.CONFIG)
    done = ctl("remove-stream", "t")
    assert done.code == 1 and "stands in the TOML" in done.err
    assert "config" in ctl("list-streams").out


def test_remove_pause_and_resume_go_on_after_an_error(ctl, streams):
    for name in ("a", "b"):
        put(streams, name)
    done = ctl("pause-stream", "a", "zz", "b")
    assert (done.code, done.out, done.err) == (4, "a paused\nb paused\n", "facedetctl: zz: no stream 'zz'\n")
    assert all(view.spec.paused for view in streams.values())
    done = ctl("resume-stream", "a", "--json")
    assert done.code == 0 and done.json == {"resumed": ["a"], "failed": {}}
    assert not streams["a"].spec.paused
    done = ctl("remove-stream", "a", "zz", "--json")
    assert done.code == 4 and done.json == {"removed": ["a"], "failed": {"zz": "no stream 'zz'"}}
    assert list(streams) == ["b"]


def test_list_is_aligned_and_filtered(ctl, streams):
    put(streams, "a", labels=(("site", "n"),))
    put(streams, "front-door", labels=(("site", "s"),), paused=True)
    assert ctl("list-streams").out == (
        "STREAM      STATE      FPS  PRIO  FROM  URL           LABELS\n"
        "a           streaming    5    50  api   rtsp://cam/1  site=n\n"
        "front-door  paused       5    50  api   rtsp://cam/1  site=s\n"
    )
    found = ctl("list-streams", "--label", "site=s", "--json").json
    assert [stream["spec"]["id"] for stream in found["streams"]] == ["front-door"]
    done = ctl("list-streams", "--label", "site=x")
    assert (done.code, done.out, done.err) == (0, "", "facedetctl: no streams with these labels\n")


def test_list_reads_all_pages(ctl, streams, monkeypatch):
    from facedetctl import streams as module

    monkeypatch.setattr(module, "PAGE", 3)
    names = [f"s{i}" for i in range(10)]
    for name in names:
        put(streams, name)
    assert [s["spec"]["id"] for s in ctl("list-streams", "--json").json["streams"]] == names


def test_json_of_a_stream_has_its_documented_shape(ctl, streams):
    put(streams, "a")
    stream = ctl("list-streams", "--json").json["streams"][0]
    assert set(stream) == {"spec", "status", "origin", "has_password"}
    status = stream["status"]
    assert (status["state"], stream["origin"]) == ("streaming", "api")
    assert status["state_since"] == "2026-05-28T20:26:40.123456789Z"
    assert status["latency"] == {"mean_s": 0.09, "p50_s": 0.082, "p95_s": 0.143, "p99_s": 0.2}
    assert status["frames_dropped"] == {"replaced": 3} and status["frames_received"] == 2500
    put(streams, "a", paused=True)
    assert ctl("list-streams", "--json").json["streams"][0]["status"]["latency"] is None


def test_import_is_all_or_nothing(ctl, streams, tmp_path):
    file = tmp_path / "cams.json"
    file.write_text(json.dumps([{"id": "a", "url": "rtsp://cam/1"}, {"id": "b", "url": "rtsp://cam/2"}]))
    done = ctl("import", str(file), "--dry-run")
    assert (done.code, done.out, streams) == (0, "a would be added\nb would be added\n", {})
    done = ctl("import", str(file))
    assert (done.code, done.out, done.err) == (0, "a added\nb added\n", "")
    assert ctl("import", str(file), "--json").json == {"created": [], "unchanged": ["a", "b"], "warnings": []}
    file.write_text(json.dumps([{"id": "c", "url": "rtsp://cam/1"}, {"id": "b", "url": "rtsp://other/"}]))
    assert ctl("import", str(file)).code == 5
    assert set(streams) == {"a", "b"}


def test_import_brings_passwords_and_tells_errors_by_line(ctl, served, tmp_path):
    file = tmp_path / "cams.csv"
    file.write_text("id,url,username,password\na,rtsp://cam/1,u,hunter2\n")
    file.chmod(0o600)
    done = ctl("import", str(file))
    assert done.code == 0 and served.control.secrets["a"].value == "hunter2"
    file.write_text("id,url,priority\nb,rtsp://cam/1,high\nc,gopher://x,1\n")
    done = ctl("import", str(file))
    assert done.code == 2 and f"{file}: 2 errors" in done.err
    assert f"  {file}:2: " in done.err and f"  {file}:3: " in done.err
    assert set(served.control.streams) == {"a"}
    assert ctl("import", str(tmp_path / "none.csv")).code == 2


def test_snapshot_goes_to_a_file_or_a_pipe(ctl, streams, tmp_path):
    put(streams, "a")
    file = tmp_path / "a.jpg"
    done = ctl("snapshot", "a", "-o", str(file))
    assert (done.code, done.out, file.read_bytes()) == (0, f"{file}: 1920x1080, 2 faces\n", JPEG)
    done = ctl("snapshot", "a", "-o", str(file), "--plain", "--json")
    assert done.json == {
        "file": str(file), "capture_time": "2026-05-28T20:26:40.123456789Z", "sequence": 7,
        "width": 1920, "height": 1080, "faces": 0,
    }  # fmt: skip
    assert ctl("snapshot", "a").code == 0 and ctl.raw == JPEG
    assert ctl("snapshot", "a", "--json").code == 2
    put(streams, "b", paused=True)
    done = ctl("snapshot", "b", "-o", str(file))
    assert done.code == 7 and "it is paused" in done.err
    assert ctl("snapshot", "a", "-o", str(tmp_path / "no" / "a.jpg")).code == 1


def test_the_read_only_socket_is_told_apart(ctl, served, streams):
    put(streams, "a")
    read_only = str(served.config.read_only_socket)
    assert ctl("list-streams", "--socket", read_only).code == 0
    done = ctl("remove-stream", "a", "--socket", read_only)
    assert done.code == 8 and "not allowed on the read-only socket" in done.err
    assert "a" in streams
