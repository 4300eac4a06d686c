"""Where facedetctl connects to, and what it says when it can't."""

from __future__ import annotations

import argparse
import socket
import threading
from pathlib import Path

import pytest

from facedetctl.exits import CtlError, Exit, UsageError
from facedetctl.main import make_parser
from facedetctl.target import CA_FILE, SOCKET, Local, Remote, target_of

TOKEN = "t" * 40


def parsed(*argv: str) -> argparse.Namespace:
    return make_parser().parse_args([*argv, "stats"])


def token_file(folder: Path, text: str = TOKEN, mode: int = 0o600) -> str:
    path = folder / "token"
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_the_command_line_goes_before_the_environment() -> None:
    environ = {"FACEDETD_SOCKET": "/e.sock", "FACEDETCTL_ADDRESS": "192.0.2.1:9465"}
    assert target_of(parsed(), {}) == Local(Path(SOCKET))
    assert target_of(parsed(), {"FACEDETD_SOCKET": "/e.sock"}) == Local(Path("/e.sock"))
    assert str(target_of(parsed(), environ)) == "192.0.2.1:9465"
    assert target_of(parsed("--socket", "/s"), environ) == Local(Path("/s"))
    assert str(target_of(parsed("--address", "[::1]:1"), environ)) == "[::1]:1"
    after = make_parser().parse_args(["stats", "--address", "host:2", "--tls-ca", "/ca"])
    assert target_of(after, {}) == Remote("host", 2, "/ca", "", "", "")


def test_files_come_from_options_or_the_environment(tmp_path: Path) -> None:
    path = token_file(tmp_path, TOKEN + "\n")
    environ = {"FACEDETCTL_ADDRESS": "h:1", "FACEDETCTL_TLS_CERT": "/c", "FACEDETCTL_TLS_KEY": "/k"}
    assert target_of(parsed(), environ | {"FACEDETCTL_TOKEN_FILE": path}) == Remote("h", 1, CA_FILE, "/c", "/k", TOKEN)
    found = target_of(parsed("--tls-cert", "/x", "--tls-key", "/y", "--token-file", path), environ)
    assert found == Remote("h", 1, CA_FILE, "/x", "/y", TOKEN)
    assert TOKEN not in repr(found) + str(found)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--socket", "/s", "--address", "h:1"], "both given"),
        (["--address", "h"], "write HOST:PORT"),
        (["--address", ":1"], "write HOST:PORT"),
        (["--address", "h:0"], "the port must be"),
        (["--address", "h:1", "--tls-cert", "/c"], "belong together"),
        (["--address", "h:1", "--token-file", "/nosuch/token"], "can't read /nosuch/token"),
    ],
)
def test_what_does_not_fit_is_a_usage_error(argv: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        target_of(parsed(*argv), {})


@pytest.mark.parametrize(
    ("text", "mode", "message"),
    [
        (TOKEN, 0o644, "is open to everyone; run: chmod 600"),
        ("", 0o600, "must hold one token"),
        (f"admin:{TOKEN}", 0o600, "without admin: or read-only: before it"),
        (f"{TOKEN} {TOKEN}", 0o600, "must hold one token"),
    ],
)
def test_a_bad_token_file_is_told_without_the_token(tmp_path: Path, text: str, mode: int, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        target_of(parsed("--address", "h:1", "--token-file", token_file(tmp_path, text, mode)), {})
    assert TOKEN not in str(caught.value)


def probe(port: int, **files: str) -> CtlError:
    values = {"ca_file": "", "cert_file": "", "key_file": "", "token": ""} | files
    values["ca_file"] = values["ca_file"] or CA_FILE
    with pytest.raises(CtlError) as caught:
        Remote("127.0.0.1", port, **values).probe(20.0)
    return caught.value


def test_what_is_no_daemon_is_told(tmp_path: Path) -> None:
    authorities = tmp_path / "ca.pem"
    authorities.write_text("nothing")
    assert "--tls-ca" in str(probe(1, ca_file=str(authorities)))
    assert "--tls-ca" in str(probe(1, ca_file=str(tmp_path / "none")))


@pytest.mark.parametrize("host", ["a..b", "x" * 80])
def test_a_host_that_can_not_be_looked_up_is_told(host: str) -> None:
    with pytest.raises(CtlError, match="part of the host's name is empty, or too long") as caught:
        Remote(host, 1, CA_FILE, "", "", "").probe(20.0)
    assert caught.value.code is Exit.UNREACHABLE


@pytest.mark.parametrize(("answer", "message"), [(b"HTTP/1.1 400 Bad\r\n\r\n", "does not speak TLS"), (b"", "closed")])
def test_a_server_without_tls_is_told(tmp_path: Path, answer: bytes, message: str) -> None:
    from tests.certificates import Authority

    ca = str(Authority(tmp_path).ca)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            one, _ = server.accept()
            with one:
                one.recv(4096)
                one.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        port = server.getsockname()[1]
        error = probe(port, ca_file=ca)
        thread.join(20)
    assert error.code is Exit.UNREACHABLE and message in str(error)
    error = probe(port, ca_file=ca)
    assert error.code is Exit.UNREACHABLE and "no daemon answers on" in str(error)
