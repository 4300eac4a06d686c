"""H.264 and H.265 in RTP: NAL units, packets, and how SDP describes them. Pure; for the cameras written in Python."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

PAYLOAD_TYPE = 96
CLOCK = 90_000
"""RTP ticks a second, for both codecs."""
MTU = 1400
"""The longest payload, in bytes; with RTP's, UDP's and IP's headers it fits Ethernet's 1500."""


@dataclass(frozen=True)
class Codec:
    """``header``: bytes of a NAL unit's header. ``sprops``: SDP's names for parameter sets, and those sets' types."""

    name: str
    header: int
    kind: Callable[[bytes], int]
    vcl: Callable[[int], bool]
    key: frozenset[int]  # types of keyframes' slices and of parameter sets
    parameters: frozenset[int]
    sprops: Mapping[str, frozenset[int]]


H264 = Codec(
    "H264", 1, lambda n: n[0] & 31, lambda t: 1 <= t <= 5, frozenset({5, 7, 8}), frozenset({7, 8}),
    {"sprop-parameter-sets": frozenset({7, 8})},
)  # fmt: skip
H265 = Codec(
    "H265", 2, lambda n: n[0] >> 1 & 63, lambda t: t < 32, frozenset({*range(16, 24), 32, 33, 34}),
    frozenset({32, 33, 34}),
    {"sprop-vps": frozenset({32}), "sprop-sps": frozenset({33}), "sprop-pps": frozenset({34})},
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
    """RTP payloads of a NAL unit, of up to ``mtu`` bytes each: itself, or at least two fragments (FU-A of RFC 6184,
    5.8; FU of RFC 7798, 4.4.3)."""
    if len(nal) <= mtu:
        yield nal
        return
    if codec is H264:
        start, kind = bytes([nal[0] & 0xE0 | 28]), nal[0] & 31
    else:
        start, kind = bytes([nal[0] & 0x81 | 49 << 1, nal[1]]), nal[0] >> 1 & 63
    body = nal[codec.header :]
    room = mtu - len(start) - 1
    for at in range(0, len(body), room):
        flags = (0x80 if at == 0 else 0) | (0x40 if at + room >= len(body) else 0)
        yield start + bytes([flags | kind]) + body[at : at + room]


def sdp(codec: Codec, host: str, sets: Sequence[bytes]) -> str:
    """The description of a camera at ``host`` with one video track, "trackID=0" (RFC 4566; RFC 6184, 8.2.1; RFC 7798,
    7.2.1). ``sets`` are its parameter sets as NAL units; without any they are expected in the stream."""
    family = "IP6" if ":" in host else "IP4"
    lines = ["v=0", f"o=- 1 1 IN {family} {host}", "s=camera", "c=IN IP4 0.0.0.0", "t=0 0", "a=control:*"]
    lines += [f"m=video 0 RTP/AVP {PAYLOAD_TYPE}", f"a=rtpmap:{PAYLOAD_TYPE} {codec.name}/{CLOCK}"]
    fields = ["packetization-mode=1"] if codec is H264 else []
    for name, kinds in codec.sprops.items():
        coded = [base64.b64encode(nal).decode() for nal in sets if codec.kind(nal) in kinds]
        fields += [f"{name}={','.join(coded)}"] if coded else []
    lines += [f"a=fmtp:{PAYLOAD_TYPE} {';'.join(fields)}"] if fields else []
    return "\r\n".join([*lines, "a=control:trackID=0", ""])
