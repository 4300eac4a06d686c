"""load(): the whole table of bad configurations with the exact lines an operator sees."""

import os
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from facedetd.config.issues import ConfigErrors
from facedetd.config.load import load
from facedetd.config.model import Config
from facedetd.config.reference import render_toml
from facedetd.config.schema import KEYS, SECTIONS
from facedetd.types import DecodeMode, StreamSpec, Transport


def write(folder: Path, text: str, name: str = "f.toml") -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def errors_of(path: Path, **kwargs: object) -> list[str]:
    with pytest.raises(ConfigErrors) as caught:
        load(path, **kwargs)
    return str(caught.value).replace(f"{path.parent}/", "").split("\n")


S = '[[stream]]\nid = "a"\nurl = "rtsp://h/1"\n'

BAD = {
    # types
    "[capture]\nslots_per_stream = 9": ["f.toml:2: capture.slots_per_stream: found 9; allowed: an integer from 2 to 4"],
    '[capture]\nslots_per_stream = "4"': [
        'f.toml:2: capture.slots_per_stream: found "4" (a string); allowed: an integer from 2 to 4'
    ],
    "[capture]\nslots_per_stream = true": [
        "f.toml:2: capture.slots_per_stream: found true (a boolean); allowed: an integer from 2 to 4"
    ],
    "capture = { slots_per_stream = 3.0 }": [
        "f.toml:1: capture.slots_per_stream: found 3.0 (a number); allowed: an integer from 2 to 4"
    ],
    "[daemon]\nallow_file_sources = 1": [
        "f.toml:2: daemon.allow_file_sources: found 1 (an integer); allowed: true or false"
    ],
    "[daemon]\nstate_dir = 5": ["f.toml:2: daemon.state_dir: found 5 (an integer); allowed: a path (a string)"],
    "[model]\nmin_score = nan": ["f.toml:2: model.min_score: found nan; allowed: a number from 0 to 1"],
    "[model]\nmin_score = true": ["f.toml:2: model.min_score: found true (a boolean); allowed: a number from 0 to 1"],
    "[model]\nname = [1]": ["f.toml:2: model.name: found an array; allowed: a string"],
    "[model]\nname = 2026-01-01": ["f.toml:2: model.name: found a date or time; allowed: a string"],
    "model = 3": ["f.toml:1: model: found an integer; allowed: a table, written [model]"],
    # ranges and enums
    "[model]\n\nwidth = 650": ["f.toml:3: model.width: found 650; allowed: a multiple of 32 from 64 to 4096"],
    "[model]\nheight = 32": ["f.toml:2: model.height: found 32; allowed: a multiple of 32 from 64 to 4096"],
    '[daemon]\nlog_level = "loud"': [
        'f.toml:2: daemon.log_level: found "loud"; allowed: one of "debug", "info", "warning", "error"'
    ],
    '[daemon]\nstate_dir = "var/lib"': [
        'f.toml:2: daemon.state_dir: found "var/lib"; allowed: an absolute path, such as /var/lib/facedetd'
    ],
    '[model]\nname = "../etc"': [
        'f.toml:2: model.name: found "../etc"; allowed: a letter or digit, then up to 62 letters, digits, '
        "'.', '_' or '-'"
    ],
    "[inference]\ndevices = 0": ["f.toml:2: inference.devices: found 0 (an integer); allowed: an array of integers"],
    "[inference]\ndevices = [1, 1]": [
        "f.toml:2: inference.devices: found an array; allowed: 1 to 16 different integers from 0 to 255, such as [0, 1]"
    ],
    # the metrics listener
    '[metrics]\nlisten = "0.0.0.0:9464"': [
        'f.toml:2: metrics.listen: found "0.0.0.0:9464"; allowed: a loopback address (127.0.0.0/8, [::1] or '
        "localhost), because /metrics has no password and no TLS; put a proxy that has both in front of it"
    ],
    '[metrics]\nlisten = "127.0.0.1:0"': [
        'f.toml:2: metrics.listen: found "127.0.0.1:0"; allowed: "HOST:PORT", such as "127.0.0.1:9464", or "" for '
        "off; the port must be a number from 1 to 65535"
    ],
    '[metrics]\nlisten = "9464"': [
        'f.toml:2: metrics.listen: found "9464"; allowed: "HOST:PORT", such as "127.0.0.1:9464", or "" for off'
    ],
    # unknown keys
    "[capture]\nslot_per_stream = 4": [
        'f.toml:2: capture.slot_per_stream: unknown key; did you mean "slots_per_stream"?'
    ],
    "[capture]\nlog_level = 4": ["f.toml:2: capture.log_level: unknown key; did you mean daemon.log_level?"],
    "[metrics]\nzzz = 4": ["f.toml:2: metrics.zzz: unknown key; allowed: listen"],
    "[captur]\nx = 4": ['f.toml:1: captur: unknown table; did you mean "capture"?'],
    'log_level = "info"': ["f.toml:1: log_level: unknown key; did you mean daemon.log_level?"],
    "[[streams]]": ['f.toml:1: streams: unknown table; did you mean "stream"?'],
    # between keys
    "[inference]\nbatch_min = 3": [
        "f.toml:2: inference.batch_min: found batch_min 3, batch_preferred 1, batch_max 1; "
        "allowed: batch_min <= batch_preferred <= batch_max"
    ],
    "[capture]\nbackoff_max_s = 0.5": [
        "f.toml:2: capture.backoff_max_s: found backoff_initial_s 1.0, backoff_max_s 0.5; "
        "allowed: backoff_initial_s <= backoff_max_s"
    ],
    '[api]\nsocket = "/a"\nread_only_socket = "/a"': [
        'f.toml:3: api.read_only_socket: found "/a" for both sockets; allowed: two different paths'
    ],
    "[daemon]\nmax_streams = 1\n" + S + '[[stream]]\nid = "b"\nurl = "rtsp://h/2"': [
        "f.toml:2: daemon.max_streams: found 1, but 2 streams stand in these files; allowed: at least 2, or 0 for "
        "no cap"
    ],
    # streams
    "[stream]\nid = 'a'": ["f.toml:1: stream: found a table; allowed: tables, each under [[stream]]"],
    "stream = [1]": ["f.toml:1: stream[0]: found an integer; allowed: a table under [[stream]]"],
    '[[stream]]\nid = "a"': ["f.toml:1: stream[0].url: found nothing; it is required"],
    S + "url2 = 3\n": ['f.toml:4: stream[0].url2: unknown key; did you mean "url"?'],
    S + S: ['f.toml:5: stream[1].id: found "a", which already stands at f.toml:2; allowed: each id once'],
    S + "min_fps = 6": ["f.toml:4: stream[0].min_fps: found 6.0; allowed: at most target_fps, which is 5.0"],
    S + "priority = 101": ["f.toml:4: stream[0].priority: found 101; allowed: an integer from 0 to 100"],
    S + 'transport = "http"': ['f.toml:4: stream[0].transport: found "http"; allowed: one of "tcp", "udp"'],
    S + "rois = [\n [[0, 0], [1, 0],\n  [1, 2]],\n]": [
        "f.toml:6: stream[0].rois[0][2]: found [1, 2]; allowed: fractions from 0 to 1"
    ],
    S + "rois = [[[0, 0], [1, 0, 3], [1, 1]]]": [
        "f.toml:4: stream[0].rois[0][1]: found an array of 3; allowed: a point [x, y] in fractions of the picture"
    ],
    S + "[stream.labels]\nsite = 4": ["f.toml:5: stream[0].labels.site: found 4 (an integer); allowed: a string"],
    S + "[stream.labels]\n'a b' = ''": [
        "f.toml:4: stream[0].labels: found the name \"a b\"; allowed: letters, digits and '_', not beginning with a "
        "digit or '__', at most 64 characters"
    ],
    S.replace("rtsp:", "http:"): ['f.toml:3: stream[0].url: found "http://"; allowed: rtsp://, rtsps://'],
    S.replace("rtsp://h", "file://"): [
        "f.toml:3: stream[0].url: found file://; allowed: rtsp:// or rtsps:// (file:// only with "
        "daemon.allow_file_sources = true)"
    ],
    S.replace("//h", "//u:hunter2@h"): [
        "f.toml:3: stream[0].url: found an '@' after a ':', so a password may stand in the URL (not shown here); "
        "allowed: none: give it with credential = \"NAME\" in the TOML or `facedetctl --password-stdin`; an '@' in "
        "the path is %40"
    ],
    S + 'password = "hunter2"': [
        "f.toml:4: stream[0].password: unknown key; a password does not belong in this file: use "
        'credential = "NAME", which systemd loads'
    ],
    S + 'credential = "hunter2!"': [
        "f.toml:4: stream[0].credential: found a value that is not shown; allowed: the name of a systemd credential "
        "(letters, digits, '_', '.' and '-'), not the password itself"
    ],
    S + 'username = "u:hunter2"': [
        "f.toml:4: stream[0].username: found a name that is not shown; allowed: at most 256 characters, no ':' (it "
        "ends the name in basic authentication), no control characters"
    ],
    S.replace('"rtsp://h/1"', '["rtsp://u:hunter2@h"]'): ["f.toml:3: stream[0].url: found an array; allowed: a string"],
    # all at once, in order of their lines
    '[daemon]\nlog_level = "x"\nnope = 1\n[model]\nwidth = 1\n[[stream]]\nid = "*"\nurl = 3\npriority = -1': [
        'f.toml:2: daemon.log_level: found "x"; allowed: one of "debug", "info", "warning", "error"',
        "f.toml:3: daemon.nope: unknown key; allowed: state_dir, log_level, log_format, max_streams, "
        "allow_file_sources, heartbeat_timeout_s, stop_timeout_s",
        "f.toml:5: model.width: found 1; allowed: a multiple of 32 from 64 to 4096",
        'f.toml:7: stream[0].id: found "*"; allowed: a letter or digit, then up to 62 letters, digits, '
        "'.', '_' or '-'",
        "f.toml:8: stream[0].url: found an integer; allowed: a string",
        "f.toml:9: stream[0].priority: found -1; allowed: an integer from 0 to 100",
    ],
}


@pytest.mark.parametrize("text", BAD)
def test_bad_config_gives_exactly_these_lines(tmp_path: Path, text: str) -> None:
    lines = errors_of(write(tmp_path, text))
    assert lines == BAD[text]
    assert "hunter2" not in "\n".join(lines)


def test_syntax_errors_have_file_and_line(tmp_path: Path) -> None:
    assert errors_of(write(tmp_path, "[daemon]\n\nlog_level = = 3")) == ["f.toml:3: is not TOML: Invalid value"]
    assert errors_of(write(tmp_path, "[daemon]\nlog_level = '''x\n\n"))[0].startswith("f.toml:2: is not TOML: ")
    assert errors_of(write(tmp_path, "[daemon]\nx = 1\nx = 2"))[0].startswith("f.toml:3: is not TOML: ")
    assert len(errors_of(write(tmp_path, "x = " + "[" * 50_000))) == 1
    assert len(errors_of(write(tmp_path, "x = " + "1" * 5_000))) == 1
    assert errors_of(write(tmp_path, "[model]\nwidth = 0x" + "f" * 9_000)) == [
        "f.toml:2: model.width: found a huge integer; allowed: a multiple of 32 from 64 to 4096"
    ]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert errors_of(tmp_path / "f.toml") == ["f.toml: there is no such file"]
    assert errors_of(write(tmp_path, "x", "g.toml").parent / "g.toml" / "f") == ["f: can't be read: Not a directory"]
    (tmp_path / "d.toml").mkdir()
    assert errors_of(tmp_path / "d.toml") == ["d.toml: is a directory; allowed: a text file"]
    os.mkfifo(tmp_path / "pipe.toml")
    assert errors_of(tmp_path / "pipe.toml") == ["pipe.toml: is not a regular file; allowed: a text file"]
    (tmp_path / "latin.toml").write_bytes(b"# ok\n\n# caf\xe9\n")
    assert errors_of(tmp_path / "latin.toml") == [
        "latin.toml:3: is not UTF-8: found the byte 0xe9; allowed: UTF-8 text"
    ]
    (tmp_path / "bom.toml").write_bytes(b"\xef\xbb\xbf")
    assert errors_of(tmp_path / "bom.toml") == ["bom.toml:1: begins with a byte order mark; allowed: UTF-8 without one"]
    big = write(tmp_path, "#" * (1 << 20) + "\n", "big.toml")
    assert errors_of(big) == ["big.toml: is too large: more than 1048576 bytes; allowed: up to 1048576 bytes"]
    big.write_text("#" * ((1 << 20) - 1) + "\n")
    assert load(big) == Config()
    assert errors_of(Path("/nul\0l")) == ["/nul\0l: can't be read: the path is not valid"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path: Path) -> None:
    path = write(tmp_path, "")
    path.chmod(0)
    assert errors_of(path) == ["f.toml: can't be read: Permission denied"]


def test_a_good_file(tmp_path: Path) -> None:
    text = """
        daemon.max_streams = 0x10
        [model]
        min_score = 1
        "width" = 96
        [[stream]]
        id = "door"
        url = "rtsp://admin@[::1]:8554/live?x=1"
        credential = "door-password"
        target_fps = 10
        transport = "udp"
        decode = "cpu"
        rois = [[[0, 0], [1, 0], [0.5, 1]]]
        labels = { site = "north" }
        [[stream]]
        id = "yard"
        url = "RTSPS://cam.example/1"
        """
    config = load(write(tmp_path, text))
    assert config.daemon.max_streams == 16
    assert config.model.width == 96
    assert config.model.min_score == 1.0 and isinstance(config.model.min_score, float)
    assert config.streams == (
        StreamSpec(
            "door",
            "rtsp://[::1]:8554/live?x=1",
            username="admin",
            credential="door-password",
            target_fps=10.0,
            transport=Transport.UDP,
            decode=DecodeMode.CPU,
            rois=(((0.0, 0.0), (1.0, 0.0), (0.5, 1.0)),),
            labels=(("site", "north"),),
        ),
        StreamSpec("yard", "RTSPS://cam.example/1"),
    )


def test_conf_d_is_read_in_order_and_streams_add_up(tmp_path: Path) -> None:
    main = write(tmp_path, "[model]\nwidth = 64\nheight = 64\n" + S)
    write(tmp_path, "[model]\nwidth = 128\n", "conf.d/20-b.toml")
    write(tmp_path, '[model]\nwidth = 96\n[[stream]]\nid = "b"\nurl = "rtsp://h/2"', "conf.d/10-a.toml")
    write(tmp_path, "not toml", "conf.d/.hidden.toml")
    write(tmp_path, "not toml", "conf.d/README")
    config = load(main)
    assert (config.model.width, config.model.height) == (128, 64)
    assert [spec.id for spec in config.streams] == ["a", "b"]


def test_errors_of_all_files_show_and_an_overridden_bad_value_is_still_one(tmp_path: Path) -> None:
    main = write(tmp_path, "[model]\nwidth = 1\n" + S)
    write(tmp_path, "[model]\nwidth = 96\n\n" + S, "conf.d/a.toml")
    write(tmp_path, "=", "conf.d/b.toml")
    lines = errors_of(main)
    assert [line.split(": ")[0] for line in lines] == ["conf.d/b.toml:1", "f.toml:2", "conf.d/a.toml:5"]
    assert 'found "a", which already stands at f.toml:4' in lines[2]


def test_a_rule_between_keys_of_two_files_names_the_file_that_set_the_key(tmp_path: Path) -> None:
    main = write(tmp_path, "[inference]\nbatch_max = 2\n")
    write(tmp_path, "\n[inference]\nbatch_preferred = 3\n", "conf.d/a.toml")
    assert errors_of(main)[0].startswith("conf.d/a.toml:3: inference.batch_preferred: found batch_min 1")


def test_file_sources_may_be_allowed_in_another_file(tmp_path: Path) -> None:
    main = write(tmp_path, '[[stream]]\nid = "a"\nurl = "file:///v.mp4"\n')
    assert len(errors_of(main)) == 1
    write(tmp_path, "daemon.allow_file_sources = true", "conf.d/a.toml")
    assert load(main).streams[0].url == "file:///v.mp4"


def test_an_explicit_conf_d_must_exist(tmp_path: Path) -> None:
    main = write(tmp_path, "")
    assert load(main) == Config()
    assert errors_of(main, conf_d=tmp_path / "nope") == ["nope: there is no such directory"]
    assert errors_of(main, conf_d=main) == ["f.toml: can't be read as a directory: Not a directory"]


def test_reference_loads_to_the_defaults_and_so_does_every_setting_in_it(tmp_path: Path) -> None:
    text = render_toml()
    assert load(write(tmp_path, text)) == Config()
    switched_on = re.sub(r"(?m)^#(?! |$)", "", text)
    config = load(write(tmp_path, switched_on))
    assert config.streams == (StreamSpec("door-north", "rtsp://192.0.2.10/stream1"),)
    assert config == Config(streams=config.streams)
    for section, keys in KEYS.items():
        for name in keys:
            assert re.search(rf"(?m)^#{name} = ", text), (section, name)
    assert max(map(len, text.split("\n"))) <= 120


def test_the_table_of_keys_is_that_of_the_dataclasses() -> None:
    assert {name: list(keys) for name, keys in KEYS.items()} == {
        **{name: list(cls.__dataclass_fields__) for name, cls in SECTIONS.items()},
        "stream": list(StreamSpec.__dataclass_fields__),
    }
    assert [*SECTIONS, "streams"] == list(Config.__dataclass_fields__)


# Fuzz: whatever stands in the file, the answer is a Config or ConfigErrors that name lines of the file.

_names = st.sampled_from([*SECTIONS, "stream", "x", *[name for keys in KEYS.values() for name in keys]])
_VALUES = """1 -1 0.5 inf true "x" "rtsp://h" [] {} [[[0,0],[1,0],[1,1]]] {a='b'} 1e400 2020-01-01 [1,[2]] "tcp"
    99999999999999999999 '/x' {x={y=[{}]}}"""
_values = st.sampled_from([*_VALUES.split(), "", '"""a\nb"""'])
_lines = st.one_of(
    st.builds("{} = {}".format, _names, _values),
    st.builds("{}.{} = {}".format, _names, _names, _values),
    st.builds("[{}]".format, _names),
    st.builds("[{}.{}]".format, _names, _names),
    st.builds("[[{}]]".format, _names),
    st.text(max_size=20),
)


def check_load(path: Path, size: int) -> None:
    try:
        assert isinstance(load(path), Config)
    except ConfigErrors as errors:
        assert errors.issues
        for issue in errors.issues:
            assert issue.file == str(path) and issue.message and "\n" not in str(issue)
            assert 0 <= issue.line <= size


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(_lines, max_size=12))
def test_fuzz_toml(tmp_path: Path, lines: list[str]) -> None:
    text = "\n".join(lines)
    path = tmp_path / "f.toml"
    path.write_text(text, encoding="utf-8", errors="replace", newline="")
    check_load(path, text.count("\n") + 1)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200))
def test_fuzz_bytes(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "f.toml"
    path.write_bytes(data)
    check_load(path, data.count(b"\n") + 1)
