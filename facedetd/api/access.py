"""Who is let in over TCP: tokens of a file, names of client certificates, and what each of them may do.

Tokens are kept as SHA-256 only, and compared without telling by time how much of one was right.
"""

from __future__ import annotations

import grp
import hashlib
import hmac
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from facedetd.api.errors import AuthError, DeniedError
from facedetd.api.roles import ROLE_WORDS, Caller, Role
from facedetd.api.tls import Tls, read_setting, read_tls
from facedetd.config.convert import show
from facedetd.config.issues import ConfigErrors, ConfigIssue
from facedetd.config.model import ApiConfig

_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{22,256}")  # RFC 6750's b64token; 22 characters of base64 are 128 bits
_ALLOWED = "22 to 256 letters, digits and . _ ~ + / = -, as `openssl rand -base64 32` makes"
MAX_TOKEN_FILE_BYTES = 65536
_BEARER = "bearer "
UNPROVEN = "clients of the TCP listener that proved nothing"


@dataclass(frozen=True, slots=True)
class Token:
    digest: bytes
    caller: Caller


@dataclass(frozen=True, slots=True)
class Access:
    """``tokens`` None: none are needed; ``clients`` None: no certificate is needed. At least one is."""

    tokens: tuple[Token, ...] | None
    clients: Mapping[str, Role] | None

    def caller(self, token: str | None, names: Iterable[str] | None) -> Caller:
        """Who calls. ``names`` are those of the certificate, which TLS has verified; None: not looked at yet, so that
        the role is the highest there could be. Where both are needed, the lower role counts.

        Raises AuthError without a good token, DeniedError for a certificate without a role."""
        found = []
        if self.tokens is not None:
            found.append(self._by_token(self.tokens, token))
        if self.clients is not None and names is not None:
            found.append(_by_name(self.clients, names))
        if not found:
            return Caller(UNPROVEN, Role.ADMIN)
        return Caller(" and ".join(one.name for one in found), min(one.role for one in found))

    @staticmethod
    def _by_token(tokens: tuple[Token, ...], token: str | None) -> Caller:
        if token is None:
            raise AuthError("no token was given; send the metadata `authorization: Bearer TOKEN`")
        digest = hashlib.sha256(token.encode(errors="replace")).digest()
        matching = [known for known in tokens if hmac.compare_digest(known.digest, digest)]
        if not matching:
            raise AuthError("the token is not one of api.token_file")
        return matching[0].caller


def _by_name(clients: Mapping[str, Role], names: Iterable[str]) -> Caller:
    names = sorted(set(names))
    known = [name for name in names if name in clients]
    if not known:
        shown = ", ".join(repr(name[:80]) for name in names[:5]) or "no name"
        raise DeniedError(
            f"the certificate is valid, but has no role: it holds {shown}; the daemon's api.admin_clients and "
            "api.read_only_clients name those that have"
        )
    return Caller(f"the certificate of {', '.join(known)}", min(clients[name] for name in known))


def bearer(metadata: Iterable[tuple[str, str | bytes]] | None) -> str | None:
    """The token of a call's metadata, if there is one."""
    for key, value in metadata or ():
        if key == "authorization" and isinstance(value, str) and value[: len(_BEARER)].lower() == _BEARER:
            return value[len(_BEARER) :].strip()
    return None


def certificate_names(auth_context: Mapping[str, Iterable[bytes]]) -> list[str]:
    """Common name and all alternative names of the peer's certificate, from gRPC's AuthContext."""
    keys = ("x509_common_name", "x509_subject_alternative_name")
    return [value.decode(errors="replace") for key in keys for value in auth_context.get(key, ())]


@dataclass(frozen=True, slots=True)
class Tcp:
    """What the TCP listener needs besides its address."""

    tls: Tls
    access: Access


def read_tcp(config: ApiConfig) -> Tcp | None:
    """Read what the listener's keys name; None where there is no listener.

    Raises ConfigErrors with everything that is wrong."""
    if not config.listen:
        return None
    issues: list[ConfigIssue] = []
    tls = None
    try:
        tls = read_tls(config.tls_cert_file, config.tls_key_file, config.client_ca_file)
    except ConfigErrors as errors:
        issues += errors.issues
    tokens = _read_tokens(config.token_file, issues) if config.token_file else None
    clients = client_roles(config) if config.client_ca_file else None
    if issues or tls is None:
        raise ConfigErrors(issues)
    return Tcp(tls, Access(tokens, clients))


def check_api(config: ApiConfig) -> list[str]:
    """What the daemon would find wrong with the files and groups that [api] names; the warnings are returned.

    Raises ConfigErrors with everything that would keep it from starting."""
    issues = [
        ConfigIssue("/etc/group", 0, f"api.{key}", f"found no group {show(name)}; allowed: one that is there")
        for key, name in (("group", config.group), ("read_only_group", config.read_only_group))
        if name and not _is_group(name)
    ]
    tcp = None
    try:
        tcp = read_tcp(config)
    except ConfigErrors as errors:
        issues += errors.issues
    if issues:
        raise ConfigErrors(issues)
    problem = tcp.tls.problem(time.time()) if tcp else None
    return [problem[1]] if problem else []


def _is_group(name: str) -> bool:
    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True


def client_roles(config: ApiConfig) -> dict[str, Role]:
    return dict.fromkeys(config.admin_clients, Role.ADMIN) | dict.fromkeys(config.read_only_clients, Role.READ_ONLY)


def _read_tokens(path: str, issues: list[ConfigIssue]) -> tuple[Token, ...]:
    """Lines ``admin:TOKEN`` or ``read-only:TOKEN``; empty lines and those that begin with # are left out."""
    known = len(issues)
    text = read_setting(path, "api.token_file", issues, secret=True, max_bytes=MAX_TOKEN_FILE_BYTES)
    if len(issues) > known:
        return ()
    tokens: list[Token] = []
    for number, line in enumerate(text.split("\n"), 1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        word, colon, token = entry.partition(":")
        digest = hashlib.sha256(token.strip().encode()).digest()
        # What stands in the line is never shown: it may be a token without its role.
        if not colon or word.strip() not in ROLE_WORDS:
            problem = "found a line without a role; allowed: admin:TOKEN or read-only:TOKEN"
        elif not _TOKEN.fullmatch(token.strip()):
            problem = f"found {len(token.strip())} characters that are no token; allowed: {_ALLOWED}"
        elif any(one.digest == digest for one in tokens):
            problem = "found a token that stands above already; allowed: each once"
        else:
            tokens.append(Token(digest, Caller(f"the {word.strip()} token of line {number}", ROLE_WORDS[word.strip()])))
            continue
        issues.append(ConfigIssue(path, number, "api.token_file", problem))
    if not tokens and len(issues) == known:
        issues.append(ConfigIssue(path, 0, "api.token_file", "found no token; allowed: lines admin:TOKEN"))
    return tuple(tokens)
