"""RTP packets of H.264 and H.265, for the rogue camera."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

MTU = 1400


@dataclass(frozen=True)
class Codec:
    """``header``: bytes of a NAL unit's header."""

    name: str
    header: int
    kind: Callable[[bytes], int]
    vcl: Callable[[int], bool]
    key: frozenset[int]  # types of keyframes' slices and of parameter sets
    parameters: frozenset[int]


H264 = Codec("H264", 1, lambda n: n[0] & 31, lambda t: 1 <= t <= 5, frozenset({5, 7, 8}), frozenset({7, 8}))
H265 = Codec(
    "H265", 2, lambda n: n[0] >> 1 & 63, lambda t: t < 32, frozenset({*range(16, 24), 32, 33, 34}),
    frozenset({32, 33, 34}),
)  # fmt: skip


def pictures(data: bytes, codec: Codec) -> list[list[bytes]]:
    """The NAL units of an Annex B stream, picture by picture."""
    nals = [n.rstrip(b"\0") for n in re.split(rb"\x00\x00\x01", data)[1:]]
    found: list[list[bytes]] = [[]]
    has_slice = False
    for nal in filter(None, nals):
        is_slice = codec.vcl(codec.kind(nal))
        first = is_slice and len(nal) > codec.header and bool(nal[codec.header] & 0x80)  # first slice of its picture
        if has_slice and (first or not is_slice):
            found.append([])
            has_slice = False
        found[-1].append(nal)
        has_slice = has_slice or is_slice
    return found


def payloads(nal: bytes, codec: Codec, mtu: int = MTU) -> Iterator[bytes]:
    """RTP payloads of a NAL unit: itself, or fragments (FU-A of RFC 6184, 5.8; FU of RFC 7798, 4.4.3)."""
    if len(nal) <= mtu:
        yield nal
        return
    if codec is H264:
        start, kind = bytes([nal[0] & 0xE0 | 28]), nal[0] & 31
    else:
        start, kind = bytes([nal[0] & 0x81 | 49 << 1, nal[1]]), nal[0] >> 1 & 63
    body = nal[codec.header :]
    for at in range(0, len(body), mtu):
        flags = (0x80 if at == 0 else 0) | (0x40 if at + mtu >= len(body) else 0)
        yield start + bytes([flags | kind]) + body[at : at + mtu]
