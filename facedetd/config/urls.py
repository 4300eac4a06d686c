"""URLs of cameras: keep passwords out of them, and put them back for the one call that needs them.

The parts are cut by hand, not by ``urllib.parse.urlsplit``: that one silently drops control characters and would
disagree with FFmpeg about the host.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote, unquote

MAX_USERINFO = 127
"""Bytes of ``user:password`` in a URL, encoded. FFmpeg's RTSP keeps so many and drops the rest without a word."""

_AUTHORITY_END = re.compile(r"[/?#]")
_BRACKETED_HOST = re.compile(r"\[[0-9A-Fa-f:.%\w]*\]")
# Some cheap cameras take the password in the path or query only: rtsp://cam/user=a_password=b_channel=1
_PASSWORD_IN_PATH = re.compile(r"(?i)\b((?:[a-z0-9]+[_&;])*(?:password|passwd|passwort|pass|pwd|token)=)[^&;/?#]*")


def split_authority(url: str) -> tuple[str, str, str]:
    """``scheme://authority/rest`` as (scheme in lower case, authority, rest with its leading ``/``, ``?`` or ``#``).

    The scheme is empty where there is no ``://``."""
    scheme, found, rest = url.partition("://")
    if not found:
        return "", "", url
    end = _AUTHORITY_END.search(rest)
    cut = len(rest) if end is None else end.start()
    return scheme.lower(), rest[:cut], rest[cut:]


def split_userinfo(url: str) -> tuple[str, str, str | None]:
    """(url without userinfo, username, password or None where there is none), both percent-decoded.

    The last ``@`` of the authority ends the userinfo, the first ``:`` in it ends the username, as FFmpeg has it.
    Escapes that aren't UTF-8 come back as lone surrogates, so that encoding gives the same bytes again."""
    scheme, authority, rest = split_authority(url)
    userinfo, found, host = authority.rpartition("@")
    if not scheme or not found:
        return url, "", None
    username, colon, password = userinfo.partition(":")
    bare = f"{url[: len(scheme)]}://{host}{rest}"
    return bare, _decoded(username), _decoded(password) if colon else None


def url_with_credentials(url: str, username: str, password: str | None) -> str:
    """``url`` with this userinfo in place of any it had, encoded so that :func:`split_userinfo` gives the same back.

    For the decoder's open call only: the result must reach no log, error or argv."""
    bare = split_userinfo(url)[0]
    if not username and password is None:
        return bare
    scheme, authority, rest = split_authority(bare)
    return f"{bare[: len(scheme)]}://{_userinfo(username, password)}@{authority}{rest}"


def login_problem(username: str, password: str | None) -> str:
    """Why FFmpeg can't log in with these, empty where it can. Shows neither."""
    if "\0" in f"{username}{password}":
        return "found a NUL character; allowed: any other"
    try:
        size = len(_userinfo(username, password).encode(errors="surrogateescape"))
    except UnicodeEncodeError:  # half a surrogate pair, which JSON lets through
        return "found a character that isn't one; allowed: what UTF-8 can express"
    if size > MAX_USERINFO:
        return (
            f"found a user name and password that take {size} bytes together; allowed: at most {MAX_USERINFO}, "
            "where '%', '/', '?', '#', '@', spaces and control characters take three or more"
        )
    return ""


def _userinfo(username: str, password: str | None) -> str:
    return _encoded(username, ":") + ("" if password is None else ":" + _encoded(password))


def may_hold_password(url: str) -> bool:
    """Whether what stands before the last ``@`` could be ``user:password``.

    Also true where a raw ``/``, ``?`` or ``#`` of the password ended the authority early."""
    _, found, rest = url.partition("://")
    before = (rest if found else url).rpartition("@")[0]
    return ":" in _BRACKETED_HOST.sub("", before, count=1)


def redact_url(url: str) -> str:
    """``url`` fit to be shown: a password becomes ``***``. Takes any string, hides too much rather than too little."""
    scheme, found, rest = url.partition("://")
    if not found:
        scheme, rest = "", url
    shown = f"{scheme}{found}"
    if may_hold_password(url):
        before, _, rest = rest.rpartition("@")
        username = before.partition(":")[0]
        shown += f"{username if not _AUTHORITY_END.search(username) else '***'}:***@"
    return shown + _PASSWORD_IN_PATH.sub(r"\1***", rest)


def grpc_unix(path: Path) -> str:
    """A socket file as gRPC wants it named: it takes the name apart as a URI, so '%', '?' and '#' must be escaped."""
    return f"unix:{quote(os.fsencode(path), safe='/')}"


def split_host_port(text: str) -> tuple[str, int | None]:
    """``host:port``, ``[v6]:port`` or a bare host as (host without brackets, port or None).

    Raises:
        ValueError: bad brackets or a port that isn't 1-65535; the message says which."""
    if text.startswith("["):
        host, bracket, tail = text[1:].partition("]")
        if not bracket:
            raise ValueError("a '[' without its ']'")
        if tail and not tail.startswith(":"):
            raise ValueError("only ':port' may follow ']'")
        colon, port = tail[:1], tail[1:]
    else:
        host, colon, port = text.partition(":")
        if ":" in port:
            raise ValueError("more than one ':'; write an IPv6 address in brackets, such as [::1]:554")
    if not colon:
        return host, None
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535):
        raise ValueError("the port must be a number from 1 to 65535")
    return host, int(port)


def _decoded(text: str) -> str:
    return unquote(text, errors="surrogateescape")


def _encoded(text: str, more: str = "") -> str:
    """Only what would end the userinfo, or a word in a log, is encoded: there is little room (MAX_USERINFO)."""
    return "".join(quote(c, safe="", errors="surrogateescape") if _must_go(c) or c in more else c for c in text)


def _must_go(c: str) -> bool:
    return c in "%/?#@" or c.isspace() or not c.isprintable()
