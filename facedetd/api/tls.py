"""The certificates of the TCP listener, read and judged before anyone connects.

Python's ssl decodes a certificate only for the peer of a connection, so the daemon makes a TLS connection with itself
in memory. That also proves that certificate and key work together.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from facedetd.config.files import read_text
from facedetd.config.issues import ConfigErrors, ConfigIssue

OPEN_TO_OTHERS = 0o027
"""Permission bits that a file with a secret may not have. Its group may read it: root:facedetd 0640 is common."""
WARN_S = 14 * 86400.0
_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME; the dates are judged here, with their own words
_RENEW = "put a new one in its place and run facedetctl reload"
_DAY_FORMAT = "%Y-%m-%d %H:%M UTC"


@dataclass(frozen=True, slots=True)
class Span:
    """When a certificate is valid, in seconds of UTC since 1970."""

    what: str
    begins: float
    ends: float


@dataclass(frozen=True, slots=True, repr=False)
class Tls:
    """PEM, and when each of the certificates is valid. No repr: it holds a private key."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None
    spans: tuple[Span, ...]

    def problem(self, now: float) -> tuple[str, str] | None:
        """(severity, message) when a certificate isn't valid or soon won't be. Clients refuse it by themselves; the
        daemon doesn't, since a machine whose clock is wrong at boot must still detect faces."""
        for span in self.spans:
            if now < span.begins:
                return "error", f"{span.what} is valid only from {_day(span.begins)}; it is {_day(now)} here"
            if now >= span.ends:
                return "error", f"{span.what} expired on {_day(span.ends)}; {_RENEW}"
        for span in self.spans:
            if now >= span.ends - WARN_S:
                return "warning", f"{span.what} expires on {_day(span.ends)}; {_RENEW}"
        return None


def read_tls(cert_file: str, key_file: str, client_ca_file: str) -> Tls:
    """Read and check them; ``client_ca_file`` may be empty.

    Raises ConfigErrors with everything that is wrong: a file that can't be read, isn't PEM or is open to others, a
    key of another certificate, or an authority that is none."""
    issues: list[ConfigIssue] = []
    certificate = _text(cert_file, "api.tls_cert_file", "CERTIFICATE", issues)
    key = _text(key_file, "api.tls_key_file", "PRIVATE KEY", issues, secret=True)
    client_ca = _text(client_ca_file, "api.client_ca_file", "CERTIFICATE", issues) if client_ca_file else ""
    spans = [
        _judge_pair(cert_file, key_file, certificate, issues) if certificate and key else None,
        _judge_ca(client_ca_file, client_ca, issues) if client_ca else None,
    ]
    if issues:
        raise ConfigErrors(issues)
    return Tls(certificate.encode(), key.encode(), client_ca.encode() or None, tuple(one for one in spans if one))


def read_setting(
    path: str, key: str, issues: list[ConfigIssue], *, secret: bool = False, max_bytes: int = 1 << 20
) -> str:
    """A file that the configuration's ``key`` names; empty, with the reason in ``issues``, where it can't be used."""
    try:
        found = read_text(Path(path), max_bytes=max_bytes)
    except ConfigErrors as errors:
        issues += [ConfigIssue(one.file, one.line, key, one.message) for one in errors.issues]
        return ""
    if secret and found.mode & OPEN_TO_OTHERS:
        message = f"found mode {found.mode:04o}, open to others; allowed: 0600 or 0640 (run chmod 600 {path})"
        issues.append(ConfigIssue(path, 0, key, message))
        return ""
    return found.text


def _text(path: str, key: str, kind: str, issues: list[ConfigIssue], *, secret: bool = False) -> str:
    known = len(issues)
    text = read_setting(path, key, issues, secret=secret)
    if len(issues) > known:
        return ""
    if "ENCRYPTED" in text and secret:
        issues.append(ConfigIssue(path, 0, key, "found an encrypted key; allowed: PEM without a passphrase"))
    elif f"{kind}-----" not in text:
        issues.append(ConfigIssue(path, 0, key, f"found no {kind.lower()}; allowed: PEM (-----BEGIN {kind}-----)"))
    else:
        return text
    return ""


def _judge_pair(cert_file: str, key_file: str, certificate: str, issues: list[ConfigIssue]) -> Span | None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        server.load_cert_chain(cert_file, key_file, password=lambda: b"")
        return Span("the certificate of the TCP listener (api.tls_cert_file)", *_dates(server, certificate))
    except (OSError, ValueError, LookupError) as error:
        reason = getattr(error, "reason", None) or "not usable"
        if reason == "KEY_VALUES_MISMATCH":
            message = f"found the key of another certificate; allowed: the key of {cert_file}"
            issues.append(ConfigIssue(key_file, 0, "api.tls_key_file", message))
        else:
            text = getattr(error, "verify_message", None) or reason.replace("_", " ").lower()
            message = f"this certificate and the key {key_file} can't serve TLS: {text}"
            issues.append(ConfigIssue(cert_file, 0, "api.tls_cert_file", message))
    return None


def _dates(server: ssl.SSLContext, certificate: str) -> tuple[float, float]:
    """From when to when the certificate that ``server`` shows is valid. Raises ssl.SSLError."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
    client.load_verify_locations(cadata=certificate)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = client.wrap_bio(to_client, to_server)
    there = server.wrap_bio(to_server, to_client, server_side=True)
    for end in (here, there, here):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return _span(here.getpeercert() or {})


def _judge_ca(path: str, text: str, issues: list[ConfigIssue]) -> Span | None:
    """The authority that is valid longest: while authorities change, the file holds both."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=text)
        dates = [_span(found) for found in context.get_ca_certs()]
    except (ssl.SSLError, ValueError):
        dates = []
    if dates:
        what = "the authority of client certificates (api.client_ca_file)"
        return Span(what, *max(dates, key=lambda one: one[1]))
    message = "found no certificate of an authority; allowed: PEM of a CA that signs clients' certificates"
    issues.append(ConfigIssue(path, 0, "api.client_ca_file", message))
    return None


def _span(certificate: Mapping[str, object]) -> tuple[float, float]:
    return (
        ssl.cert_time_to_seconds(str(certificate["notBefore"])),
        ssl.cert_time_to_seconds(str(certificate["notAfter"])),
    )


def _day(seconds: float) -> str:
    return time.strftime(_DAY_FORMAT, time.gmtime(seconds))
