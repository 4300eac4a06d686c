"""A camera that says what it is told, byte by byte, and the packets of a good one."""

from __future__ import annotations

import base64
import contextlib
import re
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from types import TracebackType

_MTU = 1200
_PAYLOAD_TYPE = 96
QUIET_S, PATIENT_S = 0.15, 60.0
_CSEQ = re.compile(rb"(?i)\r\ncseq:\s*(\d+)")


def annex_b_units(data: bytes) -> list[bytes]:
    """NAL units of a byte stream (ITU-T H.264 annex B), without their start codes."""
    return [unit for unit in re.split(rb"\x00?\x00\x00\x01", data) if unit]


def payloads(codec: str, unit: bytes) -> Iterator[bytes]:
    """RTP payloads of a NAL unit: single, or fragments (RFC 6184 5.8 FU-A, RFC 7798 4.4.3)."""
    if len(unit) <= _MTU:
        yield unit
        return
    if codec == "H264":
        head, kind, body = bytes([unit[0] & 0xE0 | 28]), unit[0] & 0x1F, unit[1:]
    else:
        head, kind, body = bytes([unit[0] & 0x81 | 49 << 1, unit[1]]), unit[0] >> 1 & 0x3F, unit[2:]
    for at in range(0, len(body), _MTU):
        flags = (0x80 if at == 0 else 0) | (0x40 if at + _MTU >= len(body) else 0)
        yield head + bytes([flags | kind]) + body[at : at + _MTU]


def is_picture(codec: str, unit: bytes) -> bool:
    return 1 <= unit[0] & 0x1F <= 5 if codec == "H264" else unit[0] >> 1 & 0x3F < 32


def interleaved(codec: str, units: Sequence[bytes]) -> bytes:
    """RTP packets (RFC 3550) inside RTSP (RFC 2326 10.12), 25 pictures a second of one slice each."""
    out, sequence, ticks = bytearray(), 0, 90000
    for unit in units:
        parts = list(payloads(codec, unit))
        picture = is_picture(codec, unit)
        for i, part in enumerate(parts):
            marker = 0x80 if picture and i == len(parts) - 1 else 0
            packet = struct.pack(">BBHII", 0x80, marker | _PAYLOAD_TYPE, sequence, ticks, 7) + part
            out += struct.pack(">cBH", b"$", 0, len(packet)) + packet
            sequence += 1
        ticks += 3600 if picture else 0
    return bytes(out)


def conversation(codec: str, units: Sequence[bytes]) -> bytes:
    """A whole visit as one input: answers to OPTIONS, DESCRIBE, SETUP, PLAY, then what is sent."""
    sets = [unit for unit in units if not is_picture(codec, unit)][:3]
    if codec == "H264":
        known = ",".join(base64.b64encode(u).decode() for u in sets if u[0] & 0x1F in (7, 8))
        fmtp = f"packetization-mode=1;sprop-parameter-sets={known}"
    else:
        names = {32: "sprop-vps", 33: "sprop-sps", 34: "sprop-pps"}
        fmtp = ";".join(f"{names[u[0] >> 1]}={base64.b64encode(u).decode()}" for u in sets if u[0] >> 1 in names)
    sdp = (
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\na=range:npt=now-\r\n"
        f"m=video 0 RTP/AVP 96\r\na=rtpmap:96 {codec}/90000\r\na=fmtp:96 {fmtp}\r\na=control:track0\r\n"
    )
    ok = "RTSP/1.0 200 OK\r\nCSeq: {cseq}\r\n"
    answers = (
        f"{ok}Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n\r\n",
        f"{ok}Content-Type: application/sdp\r\nContent-Length: {len(sdp)}\r\n\r\n{sdp}",
        f"{ok}Session: 12345;timeout=60\r\nTransport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n\r\n",
        f"{ok}Session: 12345\r\nRTP-Info: url=track0;seq=0;rtptime=90000\r\n\r\n",
    )
    return Wire.SEPARATOR.join((*(answer.encode() for answer in answers), interleaved(codec, units)))


class Wire:
    """Listens on the loopback; each connection is answered from ``script``, request by request. Closes when all is
    said, or when the other end says nothing for ``quiet_s``: most lies make it wait for more, and it isn't waited for
    long. PATIENT_S is for a conversation that must come to its end, on a machine that may stop for seconds."""

    SEPARATOR = b"\n--part--\n"

    def __init__(self) -> None:
        self.script = b""
        self.quiet_s = QUIET_S
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._serve, daemon=True)

    @classmethod
    def split(cls, script: bytes) -> list[bytes]:
        parts = script.split(cls.SEPARATOR, 4)
        return parts + [b""] * (5 - len(parts))

    @staticmethod
    def frames(stream: bytes) -> Iterator[bytes]:
        at = 0
        while at + 4 <= len(stream):
            end = at + 4 + struct.unpack_from(">H", stream, at + 2)[0]
            yield stream[at:end]
            at = end

    def __enter__(self) -> Wire:
        self._thread.start()
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        # close() alone doesn't wake a thread in accept()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        connection.settimeout(self.quiet_s)
        *answers, stream = self.split(self.script)
        for i, answer in enumerate(answers):
            request = b""
            while b"\r\n\r\n" not in request:
                part = connection.recv(65536)
                if not part:
                    return
                request += part
            number = _CSEQ.search(request)
            connection.sendall(answer.replace(b"{cseq}", number[1] if number else b"1"))
            if i == len(answers) - 1:
                connection.sendall(stream)
