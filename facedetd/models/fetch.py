"""Downloads with a size cap, an end in time, and errors fit for an operator."""

from __future__ import annotations

import base64
import http.client
import os
import re
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO

from facedetd.models.timed import Patience, handlers

Progress = Callable[[int, int | None], None]
"""Called with the bytes fetched so far and, where the server says it, how many there will be."""

_CHUNK = 64 * 1024
_USER_AGENT = "facedetd"


class FetchError(Exception):
    """A download failed; the message says why and names the URL, without any password."""


@dataclass(frozen=True, slots=True)
class Limits:
    """``idle_s`` bounds each wait for bytes, ``total_s`` the whole download, from the first word on."""

    max_bytes: int = 64 * 1024 * 1024
    idle_s: float = 20.0
    total_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Fetched:
    """``url`` is where the body came from after redirects."""

    body: bytes
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)


def redact(text: str) -> str:
    """The text with the user and password of every URL in it hidden."""
    return re.sub(r"(\w+://)[^/\s@]+@", r"\1***@", text)


class _SameKind(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from https to a plain connection, and drops credentials for another host."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        old, new = urllib.parse.urlsplit(req.full_url), urllib.parse.urlsplit(newurl)
        if new.scheme not in ("http", "https") or (old.scheme == "https" and new.scheme != "https"):
            raise FetchError(f"{redact(req.full_url)}: redirects to {redact(newurl)}, which is not allowed")
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None and new.netloc != old.netloc:
            request.remove_header("Authorization")
        fp.close()  # urllib would read all of what comes with a redirect, and that may have no end
        return request


def fetch(
    url: str,
    limits: Limits = Limits(),
    progress: Progress | None = None,
    headers: Mapping[str, str] | None = None,
    now: Callable[[], float] = time.monotonic,
) -> Fetched:
    """Fetch an http, https or file URL; ``user:password@`` in it is sent as basic authentication.

    Raises FetchError for anything but a whole body of at most ``limits.max_bytes``.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https", "file"):
            raise FetchError(f"{redact(url)}: scheme {parts.scheme!r}; allowed: https, http, file")
        return _fetch(parts, limits, progress, headers or {}, now)
    except FetchError:
        raise
    except urllib.error.HTTPError as error:
        raise FetchError(f"{redact(url)}: the server answered {error.code} {error.reason}") from None
    except (TimeoutError, socket.timeout):  # noqa: UP041 (one class only from 3.10 on)
        raise FetchError(f"{redact(url)}: no byte came within {limits.idle_s:g} s") from None
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        if isinstance(reason, TimeoutError):
            reason = f"no answer within {limits.idle_s:g} s"
        if isinstance(error, http.client.IncompleteRead):
            reason = "the connection ended before the whole file had come"
        raise FetchError(f"{redact(url)}: {redact(str(reason)) or type(reason).__name__}") from None


def _fetch(
    parts: urllib.parse.SplitResult,
    limits: Limits,
    progress: Progress | None,
    headers: Mapping[str, str],
    now: Callable[[], float],
) -> Fetched:
    host = parts.netloc.rpartition("@")[2]
    url = urllib.parse.urlunsplit(parts._replace(netloc=host))
    request = urllib.request.Request(url, headers={"User-Agent": _USER_AGENT, **headers})  # noqa: S310 (checked)
    if parts.username is not None:
        pair = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        request.add_header("Authorization", "Basic " + base64.b64encode(pair.encode()).decode())
    tls = ssl.create_default_context(cafile=os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE") or None)
    patience = Patience(now() + limits.total_s, limits.idle_s, now)
    opener = urllib.request.build_opener(_SameKind(), *handlers(patience, tls))
    body = bytearray()
    try:
        with opener.open(request) as answer:
            length = answer.headers.get("Content-Length")
            total = int(length) if length and length.isdigit() else None
            if total is not None and total > limits.max_bytes:
                raise FetchError(f"{redact(url)}: {total} bytes; at most {limits.max_bytes} are taken")
            while chunk := answer.read1(_CHUNK) if hasattr(answer, "read1") else answer.read(_CHUNK):
                body += chunk
                if len(body) > limits.max_bytes:
                    raise FetchError(f"{redact(url)}: more than {limits.max_bytes} bytes, which is all that is taken")
                if progress is not None:
                    progress(len(body), total)
            if total is not None and len(body) != total:
                raise FetchError(f"{redact(url)}: the connection ended after {len(body)} of {total} bytes")
            return Fetched(bytes(body), answer.geturl(), dict(answer.headers.items()))
    except OSError as error:
        if patience.left_s > 0 or isinstance(error, urllib.error.HTTPError):
            raise
        raise FetchError(f"{redact(url)}: not done after {limits.total_s:g} s, {len(body)} bytes had come") from None
