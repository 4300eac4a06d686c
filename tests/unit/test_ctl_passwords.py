"""Passwords come from stdin or a file, and never show."""

import io

import pytest
from api_harness import serving
from ctl_harness import Ctl
from hypothesis import given
from hypothesis import strategies as st

from facedetctl import credentials
from facedetctl.exits import UsageError


@pytest.fixture
def served():
    with serving() as running:
        yield running


@pytest.fixture
def ctl(served, monkeypatch):
    return Ctl(monkeypatch, served)


@pytest.mark.parametrize(
    "argv",
    [
        ("add-stream", "a", "rtsp://u:hunter2@cam/1"),
        ("add-stream", "a", "rtsp://u:hunter2/x@cam/1"),
        ("add-stream", "a", "rtsp://u:hunter2#x@cam/1"),
        ("add-stream", "a", "rtsp://cam/1", "--sub-url", "rtsp://u:hunter2@cam/2"),
        ("add-stream", "a", "rtsp://cam/1", "--password", "hunter2"),
        ("add-stream", "a", "rtsp://cam/1", "--password=hunter2"),
        ("update-stream", "a", "--url", "rtsp://u:hunter2@cam/1"),
        ("update-stream", "a", "--password", "hunter2"),
        ("add-stream", "a", "b", "rtsp://u:hunter2@cam/1"),
        ("rtsp://u:hunter2@cam/1",),
        ("add-stream", "a", "b", "rtsp://u: hunter2\n@cam/1"),
        ("add-stream", "a", "b", "--password-stdin=hunter2"),
        ("add-stream", "a", "b", "--passwd", "hunter2"),
        ("add-stream", "a", "b", "-pass=hun\nhunter2"),
        ("update-stream", "a", "b", "--no-password=hunter2"),
    ],
)
def test_a_password_on_the_command_line_is_refused_unseen(ctl, served, argv):
    done = ctl(*argv)
    assert done.code == 2 and done.out == ""
    assert "hunter2" not in done.err
    if len(argv) > 1 and argv[2] != "b":
        assert "--password-stdin" in done.err
    assert served.control.streams == {}


@pytest.mark.parametrize(
    ("content", "login"),
    [
        ("user:pass:word\n", ("user", "pass:word")),
        ("user:p", ("user", "p")),
        (":only a password\n", ("", "only a password")),
        ("user\npass:word\n", ("user", "pass:word")),
        ("user\r\n pass word \r\n", ("user", " pass word ")),
        ('username = "u"\npassword = "p\\u00e4"\n', ("u", "pä")),
        ('password = "p"', ("", "p")),
    ],
)
def test_credentials_files_have_three_forms(ctl, served, tmp_path, content, login):
    file = tmp_path / "cred"
    file.write_bytes(content.encode())
    file.chmod(0o640)
    done = ctl("add-stream", "a", "rtsp://cam/", "--credentials-file", str(file))
    assert (done.code, done.err) == (0, "")
    assert (served.control.streams["a"].spec.username, served.control.secrets["a"].value) == login


@pytest.mark.parametrize(
    ("content", "mode", "says"),
    [
        ("user:hunter2", 0o644, "open to everyone; run: chmod 600"),
        ("user:hunter2", 0o602, "open to everyone"),
        ("hunter2", 0o600, "write user:password"),
        ("user\nhunter2\nmore\n", 0o600, "write user:password"),
        ("user:", 0o600, "write user:password"),
        ("", 0o600, "write user:password"),
        ("user:hunter2\xff", 0o600, "is not UTF-8"),
        ("user:hunter2" + "x" * 70000, 0o600, "longer than 65536 bytes"),
    ],
)
def test_bad_credentials_files_are_refused_unseen(ctl, served, tmp_path, content, mode, says):
    file = tmp_path / "cred"
    file.write_bytes(content.encode("latin-1"))
    file.chmod(mode)
    done = ctl("add-stream", "a", "rtsp://cam/", "--credentials-file", str(file))
    assert done.code == 2 and says in done.err and "hunter2" not in done.err
    assert served.control.streams == {}


def test_a_toml_file_must_be_whole(ctl, tmp_path):
    file = tmp_path / "cred.toml"
    file.write_text('user = "u"\npassword = "hunter2"\n')
    file.chmod(0o600)
    done = ctl("add-stream", "a", "rtsp://cam/", "--credentials-file", str(file))
    assert done.code == 2 and "must hold username" in done.err and "hunter2" not in done.err


def test_missing_and_contradictory_credentials(ctl, tmp_path):
    done = ctl("add-stream", "a", "rtsp://cam/", "--credentials-file", str(tmp_path / "none"))
    assert done.code == 2 and "can't read" in done.err
    file = tmp_path / "cred"
    file.write_text("u:p")
    file.chmod(0o600)
    assert ctl("add-stream", "a", "rtsp://cam/", "--credentials-file", str(file), "--username", "v").code == 2
    assert ctl("add-stream", "a", "rtsp://cam/", "--credentials-file", str(file), "--password-stdin").code == 2
    done = ctl("add-stream", "a", "rtsp://cam/", "--password-stdin", stdin="\n")
    assert done.code == 2 and "is empty" in done.err


def test_a_wrong_url_is_told_before_the_password_is_read(ctl, monkeypatch):
    monkeypatch.setattr(credentials, "from_stdin", lambda stream: pytest.fail("asked for a password"))
    assert ctl("add-stream", "a", "rtsp://u:x@cam/", "--password-stdin").code == 2


def test_a_terminal_is_asked_without_echo(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(credentials.getpass, "getpass", lambda prompt: "typed")
    assert credentials.from_stdin(Terminal()) == "typed"


@given(st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=1, max_size=60))
def test_passwords_of_any_characters_come_through_stdin(password):
    assert credentials.from_stdin(io.StringIO(password + "\n")) == password


@given(
    st.text(st.characters(codec="utf-8", exclude_characters=":\r\n=", exclude_categories=["C"]), max_size=20),
    st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=1, max_size=40),
)
def test_both_plain_forms_of_a_file_hold_any_password(user, password):
    for content in (f"{user}:{password}\n", f"{user}\n{password}\n"):
        login = credentials.parse(content, "file")
        assert (login.username, login.password) == (user, password)


def test_logins_do_not_show_themselves():
    assert "hunter2" not in repr(credentials.Login("u", "hunter2"))
    with pytest.raises(UsageError) as caught:
        credentials.parse("hunter2", "file")
    assert "hunter2" not in str(caught.value)
