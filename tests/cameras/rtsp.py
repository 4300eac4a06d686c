"""RTSP as a camera speaks it (RFC 2326): requests and answers as data. Pure; for the cameras written in Python."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    454: "Session Not Found",
    455: "Method Not Valid in This State",
    461: "Unsupported Transport",
    501: "Not Implemented",
}


@dataclass(frozen=True)
class Request:
    method: str
    url: str
    headers: Mapping[str, str]  # names in lower case
    connection: int  # from 1


@dataclass(frozen=True)
class Answer:
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def encode(self, cseq: str) -> bytes:
        lines = [f"RTSP/1.0 {self.status} {_REASONS.get(self.status, 'Refused')}", f"CSeq: {cseq}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        if self.body and "Content-Length" not in self.headers:
            lines.append(f"Content-Length: {len(self.body)}")
        return "\r\n".join([*lines, "", ""]).encode() + self.body


def interleaved(channel: int, packet: bytes, length: int | None = None) -> bytes:
    """A packet in the RTSP connection (RFC 2326, 10.12). ``length`` is what its header claims."""
    return struct.pack("!cBH", b"$", channel, len(packet) if length is None else length) + packet


def take_request(data: bytes, connection: int) -> tuple[Request | None, bytes]:
    """The first whole request in ``data`` and what comes after it; None while there is none. RTCP between requests is
    dropped, and so is a request's body. Raises ValueError for what isn't RTSP."""
    while data[:1] == b"$":
        end = 4 + int.from_bytes(data[2:4], "big")
        if len(data) < max(4, end):
            return None, data
        data = data[end:]
    head, ended, rest = data.partition(b"\r\n\r\n")
    if not ended:
        return None, data
    first, *lines = head.decode("utf-8", "replace").split("\r\n")
    words = first.split(" ", 2)
    if len(words) != 3:
        raise ValueError(f"{first[:80]!r} is no request; wanted METHOD URL RTSP/1.0")
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    claimed = headers.get("content-length", "0")
    if not (claimed.isascii() and claimed.isdigit()):
        raise ValueError(f"Content-Length {claimed[:80]!r} is no number of bytes")
    body = int(claimed)
    if len(rest) < body:
        return None, data
    return Request(words[0], words[1], headers, connection), rest[body:]
