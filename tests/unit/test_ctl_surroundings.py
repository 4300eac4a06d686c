"""facedetctl as a process in odd surroundings: closed, full or foreign streams. No traceback, the right exit code."""

import getpass
import json
import subprocess
import sys

import pytest

from facedetctl import credentials
from facedetctl.exits import UsageError
from facedetd.models import ModelStore

FACTS = {"head": "yunet", "licence": "MIT", "source_sha256": "00"}


def shell(tail, *argv, **env):
    """``facedetctl ARGV`` with ``tail`` behind it in a shell."""
    words = ["sh", "-c", f'exec "$0" -m facedetctl "$@" {tail}', sys.executable, *argv]
    environ = {"PATH": "/usr/bin:/bin", **env}
    done = subprocess.run(words, capture_output=True, timeout=60, env=environ, check=False)
    assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr, done.stderr
    return done


@pytest.fixture
def state(tmp_path):
    ModelStore(tmp_path / "models").put("m", b"weights", source="Käthe → 目", **FACTS)
    return str(tmp_path)


def test_a_full_disk_behind_stdout_is_told(state):
    done = shell(">/dev/full", "model", "list", "--state-dir", state)
    assert done.returncode == 1 and b"No space left" in done.stderr


def test_a_full_disk_does_not_hide_an_error(tmp_path):
    done = shell(">/dev/full", "version", "--socket", str(tmp_path / "none"))
    assert done.returncode in (1, 3) and b"facedetctl: " in done.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_closed_streams_are_like_empty_ones(state, closed):
    assert shell(closed, "model", "list", "--state-dir", state).returncode == 0
    assert shell(closed, "model", "show", "nosuch", "--state-dir", state).returncode == 4


def test_a_password_from_a_closed_stdin_is_missing():
    done = shell("<&-", "add-stream", "a", "rtsp://cam/1", "--password-stdin")
    assert done.returncode == 2 and b"is empty" in done.stderr


def test_end_of_input_at_the_password_prompt_is_no_password(monkeypatch):
    class Terminal:
        def isatty(self):
            return True

    def hang_up(_):
        raise EOFError

    monkeypatch.setattr(getpass, "getpass", hang_up)
    with pytest.raises(UsageError, match="empty"):
        credentials.from_stdin(Terminal())


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_encoding_will_do(state, encoding):
    done = shell("", "model", "list", "--state-dir", state, PYTHONIOENCODING=encoding)
    assert done.returncode == 0 and b"yunet" in done.stdout
    done = shell("", "--json", "model", "list", "--state-dir", state, PYTHONIOENCODING=encoding)
    assert json.loads(done.stdout.decode(encoding))["models"][0]["source"] == "Käthe → 目"


def test_a_path_that_is_no_text_is_shown_all_the_same(tmp_path):
    done = shell("", "model", "list", "--state-dir", str(tmp_path) + "/\udcff")
    assert done.returncode == 0


def test_a_store_that_can_not_be_read_is_told(tmp_path):
    (tmp_path / "models").symlink_to("models")
    done = shell("", "model", "show", "m", "--state-dir", str(tmp_path))
    assert done.returncode == 1 and b"can't read the model store" in done.stderr
