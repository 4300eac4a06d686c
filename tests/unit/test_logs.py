"""Log lines as they leave a process: formats, priorities, and no userinfo anywhere."""

import io
import json
import logging
import os
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facedetd import logs
from facedetd.logs import JsonFormatter, TextFormatter, on_journal, redact

URL = "rtsp://admin:s3cr3t@10.0.0.1:554/ch1"


def line(formatter, message="hello %s", *args, level=logging.INFO, exc_info=None, **extra):
    record = logging.getLogger("facedetd.test").makeRecord(
        "facedetd.test", level, __file__, 1, message, args, exc_info, extra=extra
    )
    record.created = 1_700_000_000.9999
    return formatter.format(record)


def test_text_has_time_level_logger_message_and_extras():
    got = line(TextFormatter(False, {"worker": "decoder-0"}), "hello %s", "you", stream="cam1", note="two words", n=3)
    assert got == (
        '2023-11-14T22:13:20.999Z INFO    facedetd.test: hello you worker=decoder-0 stream=cam1 note="two words" n=3'
    )


def test_json_is_one_object_a_line():
    got = line(
        JsonFormatter(False, {"worker": "w"}), "a\n%s", "b", stream="cam1", ratio=float("nan"), obj=[1], level=40
    )
    assert "\n" not in got
    assert json.loads(got) == {
        "time": "2023-11-14T22:13:20.999Z",
        "level": "error",
        "logger": "facedetd.test",
        "message": "a\nb",
        "pid": os.getpid(),
        "worker": "w",
        "stream": "cam1",
        "ratio": "nan",
        "obj": "[1]",
    }


@pytest.mark.parametrize(("level", "priority"), [(10, 7), (20, 6), (30, 4), (40, 3), (50, 2)])
def test_the_journal_gets_priorities_in_both_formats(level, priority):
    text = line(TextFormatter(True, {}), "x", level=level)
    assert text.startswith(f"<{priority}>")
    assert "2023" not in text  # the journal has its own time
    as_json = line(JsonFormatter(True, {}), "x", level=level)
    assert json.loads(as_json.removeprefix(f"<{priority}>"))["message"] == "x"


def failure(text):
    try:
        raise RuntimeError(text)
    except RuntimeError:
        return sys.exc_info()


def test_each_line_of_a_traceback_has_its_priority():
    got = line(TextFormatter(True, {}), "x", level=40, exc_info=failure("first\nsecond"))
    assert all(each.startswith("<3>") for each in got.split("\n"))
    assert "RuntimeError: first" in got


@pytest.mark.parametrize("formatter", [TextFormatter(False, {}), JsonFormatter(False, {})])
def test_userinfo_leaves_by_no_way(formatter):
    got = line(
        formatter, "opening %s", URL, exc_info=failure(f"can't open '{URL}'"), url=URL, tried=[URL], by={"u": URL}
    )
    assert "s3cr3t" not in got
    assert "admin" not in got
    assert got.count("rtsp://***@10.0.0.1:554/ch1") == 5


def test_what_a_camera_says_forges_no_line_and_moves_no_cursor():
    nasty = "ok\n<0>forged\r\x1b[2J\x9b\x7f"
    text = line(TextFormatter(True, {}), "%s", nasty, said=nasty)
    assert text.isprintable()
    as_json = line(JsonFormatter(True, {}), "%s", nasty, said=nasty)
    assert as_json.isprintable()
    assert json.loads(as_json[3:])["said"] == nasty


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("see rtsp://u:p@h/1 and rtsps://u2:p2@h2", "see rtsp://***@h/1 and rtsps://***@h2"),
        ("rtsp://user@h", "rtsp://***@h"),
        ("rtsp://u:p@ss/w?o#r@d@h:554/x", "rtsp://***@h:554/x"),
        ("('http://u:p@h/',)", "('http://***@h/',)"),
        ("rtsp://h/1 was not found", "rtsp://h/1 was not found"),
        ("mail a@b, see http://h/", "mail a@b, see http://h/"),
        ("a@b://h", "a@b://h"),
        ("", ""),
    ],
)
def test_redact(text, clean):
    assert redact(text) == clean


visible = st.characters(exclude_categories=["Z", "C"])


@given(st.text(), st.text(visible, min_size=1), st.text(visible), st.sampled_from(["rtsp", "rtsps", "http", "x+y"]))
def test_no_password_survives_whatever_it_holds(before, user, password, scheme):
    marked = f"{user}:\u2603{password}\u2603"  # a mark that tells the secret from what stands around it
    got = redact(f"{before.replace(chr(0x2603), '')} {scheme}://{marked}@host/path tail")
    assert "\u2603" not in got
    assert got.endswith("@host/path tail")


@given(st.text())
def test_text_without_userinfo_is_untouched(text):
    assert redact(text.replace("@", "")) == text.replace("@", "")


def test_the_journal_is_known_by_device_and_inode(tmp_path):
    with (tmp_path / "f").open("w") as file:
        status = os.fstat(file.fileno())
        right = f"{status.st_dev}:{status.st_ino}"
        assert on_journal(file.fileno(), {"JOURNAL_STREAM": right})
        assert not on_journal(file.fileno(), {"JOURNAL_STREAM": right + "0"})
        assert not on_journal(file.fileno(), {})
    assert not on_journal(10_000, {"JOURNAL_STREAM": right})


@pytest.fixture
def untouched_logging():
    root = logging.getLogger()
    before = root.handlers[:], root.level, sys.excepthook, threading.excepthook
    yield
    root.handlers[:], level, sys.excepthook, threading.excepthook = before
    root.setLevel(level)
    logging.captureWarnings(False)


def test_setup_twice_logs_once_and_the_last_level_counts(untouched_logging, monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    logs.setup("debug", "text")
    logs.setup("warning", "json", "inference-0")
    logging.getLogger("facedetd.x").info("quiet")
    logging.getLogger("facedetd.x").warning("loud")
    lines = sys.stderr.getvalue().splitlines()
    assert [json.loads(each)["message"] for each in lines] == ["loud"]
    assert json.loads(lines[0])["worker"] == "inference-0"


@pytest.mark.parametrize(("level", "fmt", "found"), [("loud", "text", "'loud'"), ("info", "xml", "'xml'")])
def test_a_bad_level_or_format_is_told(level, fmt, found):
    with pytest.raises(ValueError, match=f"{found}; allowed: "):
        logs.setup(level, fmt)


PROGRAM = """
import logging, os, sys, threading
from facedetd import logs
if sys.argv[1] == "journal":
    status = os.fstat(2)
    os.environ["JOURNAL_STREAM"] = f"{status.st_dev}:{status.st_ino}"
logs.setup("info", "auto", worker="decoder-1")
logging.getLogger("facedetd").info("up", extra={"stream": "cam1"})
def fail():
    raise RuntimeError("no rtsp://u:s3cr3t@h/1")
thread = threading.Thread(target=fail)
thread.start()
thread.join()
fail()
"""


@pytest.mark.parametrize("where", ["journal", "file"])
def test_a_whole_process_in_auto_format(where):
    env = {key: value for key, value in os.environ.items() if key != "JOURNAL_STREAM"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, where], check=False, capture_output=True, text=True, env=env, timeout=60
    )
    assert done.returncode == 1
    assert "s3cr3t" not in done.stderr
    assert done.stderr.count("RuntimeError: no rtsp://***@h/1") == 2
    if where == "journal":
        lines = done.stderr.splitlines()
        assert [each[:3] for each in lines] == ["<6>", "<2>", "<2>"]
        assert json.loads(lines[0][3:])["stream"] == "cam1"
        assert "RuntimeError" in json.loads(lines[2][3:])["exception"]
    else:
        assert "INFO    facedetd: up worker=decoder-1 stream=cam1" in done.stderr
