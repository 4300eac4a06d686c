"""What the files of a TCP listener may hold, and who is let in by them."""

from __future__ import annotations

import base64
import re
import secrets
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facedetd.api.access import Access, Tcp, bearer, certificate_names, check_api, read_tcp
from facedetd.api.errors import AuthError, DeniedError
from facedetd.api.roles import Role
from facedetd.api.tls import WARN_S, read_tls
from facedetd.config.issues import ConfigErrors
from facedetd.config.load import load
from facedetd.config.model import ApiConfig
from tests.certificates import Authority, Pair

ADMIN, READER = base64.b64encode(b"a" * 32).decode(), base64.b64encode(b"r" * 32).decode()
DAY = 86400.0


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def server(authority: Authority) -> Pair:
    return authority.sign("server")


def token_file(folder: Path, text: str, mode: int = 0o600) -> str:
    path = folder / "tokens"
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def tokens(server: Pair, folder: Path, text: str, mode: int = 0o600) -> Tcp:
    config = ApiConfig(
        listen="127.0.0.1:9465",
        tls_cert_file=str(server.cert),
        tls_key_file=str(server.key),
        token_file=token_file(folder, text, mode),
    )
    found = read_tcp(config)
    assert found
    return found


# --- tokens ---


def test_a_token_has_the_role_of_its_line(server: Pair, tmp_path: Path) -> None:
    access = tokens(server, tmp_path, f"# us\n\nadmin:{ADMIN}\n read-only : {READER} \n").access
    assert access.caller(ADMIN, None).role is Role.ADMIN
    found = access.caller(READER, None)
    assert (found.role, found.name) == (Role.READ_ONLY, "the read-only token of line 4")
    for wrong in (None, "", ADMIN[:-1], ADMIN + "=", ADMIN.lower(), "admin:" + ADMIN, "ä" * 40):
        with pytest.raises(AuthError, match="token"):
            access.caller(wrong, None)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 0, "found no token"),
        ("# nothing\n\n", 0, "found no token"),
        (ADMIN, 1, "without a role; allowed: admin:TOKEN or read-only:TOKEN"),
        (f"admin:{ADMIN}\nroot:{READER}", 2, "without a role"),
        ("admin:short", 1, "found 5 characters that are no token; allowed: 22 to 256"),
        ("admin:", 1, "found 0 characters"),
        (f"admin:{ADMIN} {ADMIN}", 1, "that are no token"),
        (f"admin:{ADMIN}\nread-only:{ADMIN}", 2, "stands above already"),
    ],
)
def test_a_bad_token_file_is_refused_and_shows_no_token(
    server: Pair, tmp_path: Path, text: str, line: int, message: str
) -> None:
    with pytest.raises(ConfigErrors) as caught:
        tokens(server, tmp_path, text)
    assert [issue.line for issue in caught.value.issues] == [line]
    said = str(caught.value)
    assert message in said and "api.token_file" in said and str(tmp_path) in said
    assert ADMIN not in said and READER not in said and "short" not in said


@pytest.mark.parametrize(
    ("mode", "good"), [(0o600, True), (0o640, True), (0o644, False), (0o660, False), (0o602, False)]
)
def test_a_token_file_that_others_may_read_is_refused(server: Pair, tmp_path: Path, mode: int, good: bool) -> None:
    if good:
        tokens(server, tmp_path, f"admin:{ADMIN}", mode)
        return
    with pytest.raises(ConfigErrors, match=rf"found mode 0{mode:o}, open to others; allowed: 0600 or 0640"):
        tokens(server, tmp_path, f"admin:{ADMIN}", mode)


def test_no_repr_holds_a_secret(server: Pair, tmp_path: Path) -> None:
    found = tokens(server, tmp_path, f"admin:{ADMIN}")
    assert ADMIN not in repr(found) and "PRIVATE" not in repr(found)


@given(st.text(max_size=60))
def test_only_a_bearer_token_is_taken_from_the_metadata(text: str) -> None:
    assert bearer([("authorization", f"Bearer {text}")]) == text.strip()
    assert bearer([("x", "Bearer t"), ("authorization", f"Basic {text}")]) is None
    assert bearer([("authorization-bin", b"Bearer t")]) is None
    assert bearer(None) is None


# --- certificates ---


def test_a_certificate_has_the_role_of_its_names() -> None:
    access = Access(None, {"ops": Role.ADMIN, "wall.example": Role.READ_ONLY})
    assert access.caller(None, ["ops"]).role is Role.ADMIN
    assert access.caller(None, ["x", "wall.example"]).role is Role.READ_ONLY
    assert access.caller(None, ["ops", "wall.example"]).role is Role.READ_ONLY
    for names in ([], [""], ["OPS"], ["ops.example"]):
        with pytest.raises(DeniedError, match="valid, but has no role"):
            access.caller(None, names)


def test_where_both_are_needed_the_lower_role_counts(server: Pair, tmp_path: Path) -> None:
    some = tokens(server, tmp_path, f"admin:{ADMIN}\nread-only:{READER}").access.tokens
    access = Access(some, {"ops": Role.ADMIN, "wall": Role.READ_ONLY})
    assert access.caller(ADMIN, ["ops"]).role is Role.ADMIN
    assert access.caller(READER, ["ops"]).role is Role.READ_ONLY
    assert access.caller(ADMIN, ["wall"]).role is Role.READ_ONLY
    assert access.caller(READER, None).role is Role.READ_ONLY  # before the certificate was looked at
    with pytest.raises(AuthError):
        access.caller(None, ["ops"])
    with pytest.raises(DeniedError):
        access.caller(ADMIN, ["stranger"])


def test_all_names_of_a_certificate_count() -> None:
    context = {
        "x509_common_name": [b"ops"],
        "x509_subject_alternative_name": [b"a.example", b"b@c"],
        "peer_dns": [b"z"],
    }
    assert certificate_names(context) == ["ops", "a.example", "b@c"]
    assert certificate_names({}) == []


def judged(authority: Authority, server: Pair, **changed: Path) -> str:
    files = {"cert": server.cert, "key": server.key, "ca": authority.ca} | changed
    with pytest.raises(ConfigErrors) as caught:
        read_tls(str(files["cert"]), str(files["key"]), str(files["ca"]))
    return str(caught.value)


def test_good_certificates_are_good(authority: Authority, server: Pair) -> None:
    found = read_tls(str(server.cert), str(server.key), str(authority.ca))
    now = time.time()
    assert found.client_ca == authority.ca.read_bytes()
    assert [round((span.ends - now) / DAY) for span in found.spans] == [10, 30]
    assert read_tls(str(server.cert), str(server.key), "").client_ca is None


def test_each_bad_file_is_told_with_its_key(authority: Authority, server: Pair, tmp_path: Path) -> None:
    other = authority.sign("other")
    nothing, noise, opened = tmp_path / "none", tmp_path / "noise.pem", tmp_path / "open.key"
    noise.write_text("-----BEGIN CERTIFICATE-----\nbm90aGluZw==\n-----END CERTIFICATE-----\n")
    opened.write_bytes(server.key.read_bytes())
    opened.chmod(0o644)
    assert "api.tls_cert_file: there is no such file" in judged(authority, server, cert=nothing)
    assert "api.tls_key_file: there is no such file" in judged(authority, server, key=nothing)
    assert "api.tls_key_file: found the key of another certificate" in judged(authority, server, key=other.key)
    assert "api.tls_key_file: found no private key" in judged(authority, server, key=make_private(tmp_path, server))
    assert "api.tls_key_file: found mode 0644" in judged(authority, server, key=opened)
    assert "api.tls_cert_file: this certificate and the key" in judged(authority, server, cert=noise)
    assert "api.tls_cert_file: is a directory" in judged(authority, server, cert=tmp_path)
    assert "api.client_ca_file: found no certificate of an authority" in judged(authority, server, ca=noise)
    assert "api.client_ca_file: found no certificate of an authority" in judged(authority, server, ca=server.cert)
    several = judged(authority, server, cert=nothing, key=opened, ca=noise)
    assert len(several.split("\n")) == 3


def make_private(folder: Path, server: Pair) -> Path:
    path = folder / "cert-as-key.pem"
    path.write_bytes(server.cert.read_bytes())
    path.chmod(0o600)
    return path


def test_certificates_that_run_out_are_told_and_do_not_stop_the_daemon(authority: Authority) -> None:
    month = authority.sign("month", days=25)
    found = read_tls(str(month.cert), str(month.key), str(authority.ca))
    end = found.spans[0].ends
    assert found.problem(end - WARN_S - 1) is None
    severity, message = found.problem(end - WARN_S) or ("", "")
    assert severity == "warning" and "expires on" in message and "facedetctl reload" in message
    severity, message = found.problem(end) or ("", "")
    assert severity == "error" and "api.tls_cert_file) expired on" in message
    severity, message = found.problem(0.0) or ("", "")  # a machine without a clock
    assert severity == "error" and "valid only from" in message and "1970-01-01" in message
    expired = authority.sign("late", days=-1)
    assert read_tls(str(expired.cert), str(expired.key), "").problem(time.time())


def test_check_tells_of_groups_that_are_not_there() -> None:
    with pytest.raises(ConfigErrors, match=r'api\.read_only_group: found no group "no-such-group"'):
        check_api(ApiConfig(group="root", read_only_group="no-such-group"))
    assert check_api(ApiConfig(group="root")) == []


# --- the configuration ---

TLS = 'tls_cert_file = "/c"\ntls_key_file = "/k"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('listen = "0.0.0.0:9465"', "without tls_cert_file, tls_key_file, client_ca_file or token_file; allowed: TLS"),
        ('listen = "0.0.0.0:9465"\ntoken_file = "/t"', "without tls_cert_file, tls_key_file; allowed"),
        ('listen = "0.0.0.0:9465"\n' + TLS, "without client_ca_file or token_file; allowed"),
        ('listen = "[::]:9465"\ntoken_file = "/t"\ntls_cert_file = "/c"', "without tls_key_file; allowed"),
        ('client_ca_file = "/a"', "found an authority, but nobody has a role"),
        ('admin_clients = ["ops"]', "found names of client certificates without client_ca_file"),
        ('client_ca_file = "/a"\nadmin_clients = ["x"]\nread_only_clients = ["x"]', 'found "x" in admin_clients too'),
        ('listen = "localhost:9465"', "an IP address of this host"),
        ('listen = "0.0.0.0"', "an IP address of this host"),
        ('listen = "::1:9465"', "an IP address of this host"),
        ('token_file = "tokens"', "the absolute path of a file"),
        ('admin_clients = ["a", 1]', "admin_clients[1]: found 1 (an integer); allowed: a string"),
        ('admin_clients = [" a"]', "names as they stand in certificates"),
        ('admin_clients = "a"', "allowed: an array of strings"),
        ('group = "a b"', "the name of a group"),
        ("max_calls_per_s = 0", "an integer from 1 to 100000"),
    ],
)
def test_half_a_listener_is_one_clear_error(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "facedetd.toml"
    path.write_text(f"[api]\n{text}\n")
    with pytest.raises(ConfigErrors) as caught:
        load(path)
    assert len(caught.value.issues) == 1, caught.value
    assert message in str(caught.value)
    assert re.match(rf"{path}:\d+: api\.", str(caught.value))


def test_whole_listeners_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "facedetd.toml"
    ways = ('token_file = "/t"', 'client_ca_file = "/a"\nadmin_clients = ["ops"]')
    for listen in ("0.0.0.0:9465", "[::1]:1"):
        for way in (*ways, "\n".join(ways)):
            path.write_text(f'[api]\nlisten = "{listen}"\n{TLS}{way}\n')
            assert load(path).api.listen == listen


def test_tokens_of_openssl_and_python_are_taken(server: Pair, tmp_path: Path) -> None:
    for token in (secrets.token_urlsafe(32), secrets.token_hex(16), base64.b64encode(secrets.token_bytes(32)).decode()):
        assert tokens(server, tmp_path, f"admin:{token}").access.caller(token, None).role is Role.ADMIN
