"""facedetctl as a process in odd surroundings: closed, full or foreign streams. No traceback, the right exit code."""

import asyncio
import getpass
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from ctl_harness import Ctl
from fakes_control import FakeControl

from facedetctl import credentials, local
from facedetctl.exits import UsageError
from facedetd.api.server import ApiServer
from facedetd.config.model import ApiConfig
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


def test_an_error_has_its_exit_code_though_stderr_is_full(tmp_path):
    assert shell("2>/dev/full", "health", "--socket", str(tmp_path / "none")).returncode == 3


def test_ctrl_c_while_it_loads_has_no_traceback():
    code = (
        "import os, signal, sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'facedetctl.stats': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "from facedetctl.__main__ import main\n"
        "main()"
    )
    # As in test_ctl_commands.py: what a shell starts in the background ignores SIGINT
    command = ["env", "--default-signal=INT", sys.executable, "-c", code, "version"]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, b"", b"")


def test_an_empty_variable_is_as_none():
    assert b"/var/lib/facedetd" in shell("", "model", "show", "none", FACEDETD_STATE_DIR="").stderr
    assert b"/run/facedetd/facedetd.sock" in shell("", "health", FACEDETD_SOCKET="").stderr


def test_a_user_without_a_home_keeps_models_where_it_says(monkeypatch, tmp_path):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.delenv("FACEDETD_MODEL_STORE", raising=False)
    with pytest.raises(local.LocalDaemonError, match="FACEDETD_MODEL_STORE"):
        local.default_model_store()
    monkeypatch.setenv("FACEDETD_MODEL_STORE", str(tmp_path))
    assert local.default_model_store() == tmp_path


@pytest.mark.parametrize("option", ["--print-config", "--check"])
def test_the_daemon_tells_of_a_full_disk_behind_stdout(tmp_path, option):
    (tmp_path / "f.toml").write_text("")
    command = [sys.executable, "-m", "facedetd", "--config", str(tmp_path / "f.toml"), option]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (1, "facedetd: stdout: No space left on device\n")


def test_the_daemon_checks_a_file_whose_name_is_no_text(tmp_path):
    path = f"{tmp_path}/\udcff.toml"
    Path(path).write_text("")
    command = [sys.executable, "-m", "facedetd", "--check", "--config", path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and "\\udcff.toml: good, 0 streams" in done.stdout
    Path(path).write_text('[[stream]]\nid = "a"\nurl = "rtsp://h/"\n')
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and "\\udcff.toml: good, 1 stream\n" in done.stdout


def test_a_socket_may_lie_anywhere(tmp_path, monkeypatch):
    folder = tmp_path / "50%41 #1?\udcff"
    folder.mkdir()
    config = ApiConfig(folder / "a.sock", folder / "a-ro.sock")

    async def serve():
        server = ApiServer(FakeControl(), config)
        await server.start()
        done = await asyncio.to_thread(Ctl(monkeypatch), "health", "--socket", str(config.socket))
        await server.stop(0)
        return done

    done = asyncio.run(serve())
    assert (done.code, done.err) == (0, "") and not config.socket.exists()
