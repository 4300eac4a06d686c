"""A clip made ready to be sent: each picture's RTP packets once, as one buffer in which only numbers change."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tests.cameras.rtp import CLOCK, H264, H265, PAYLOAD_TYPE, Codec, payloads
from tests.cameras.rtsp import interleaved

CODECS = {"h264": H264, "hevc": H265}
_CHANGING = np.dtype([("sequence", ">u2"), ("time", ">u4"), ("source", ">u4")])
"""What differs from camera to camera in an RTP header: its bytes 2 to 11 (RFC 3550, 5.1)."""
_RTP = 12


class Unit:
    """One access unit as interleaved RTP packets on channel 0, joined, to be sent at once.

    ``stamp`` changes the buffer in place: whoever can't send all of it at once must copy what is left.
    """

    def __init__(self, nals: Sequence[bytes], codec: Codec, key: bool):
        found = [payload for nal in nals for payload in payloads(nal, codec)]
        if not found:
            raise ValueError("a picture without a NAL unit")
        head = bytes([0x80, PAYLOAD_TYPE]) + bytes(_RTP - 2)
        packets = [bytearray(interleaved(0, head + payload)) for payload in found]
        packets[-1][5] |= 0x80  # the marker: a picture's last packet (RFC 6184, 5.1)
        begins = np.array([0, *itertools.accumulate(map(len, packets))][:-1])
        self.key = key
        self.packets = len(packets)
        self.payload_bytes = sum(map(len, found))
        self.data = np.frombuffer(b"".join(packets), np.uint8).copy()
        self._at = begins[:, None] + np.arange(6, 6 + _CHANGING.itemsize)
        self._order = np.arange(len(packets), dtype=np.uint16)
        self._numbers = np.empty(len(packets), _CHANGING)
        self._bytes = self._numbers.view(np.uint8).reshape(len(packets), _CHANGING.itemsize)

    def stamp(self, sequence: int, time: int, source: int) -> memoryview:
        """The buffer with these numbers: the first packet's sequence (the others count on), RTP time and SSRC."""
        self._numbers["sequence"] = self._order + np.uint16(sequence & 0xFFFF)
        self._numbers["time"] = time & 0xFFFFFFFF
        self._numbers["source"] = source
        self.data[self._at] = self._bytes
        return self.data.data


@dataclass(frozen=True)
class Loop:
    """A clip's access units in decoding order, played over and over at ``fps``.

    ``shown[i]``: the i-th unit's place in display order. ``lead``: so many frames the farthest-ahead picture is sent
    before its turn (B-frames). ``sets``: the parameter sets, which every keyframe's unit begins with.
    """

    codec: Codec
    units: tuple[Unit, ...]
    shown: tuple[int, ...]
    lead: int
    sets: tuple[bytes, ...]
    fps: Fraction

    def at_ns(self, n: int) -> int:
        """When frame ``n`` (counted on over loops) is sent, in ns after frame 0."""
        return n * 1_000_000_000 * self.fps.denominator // self.fps.numerator

    def ticks(self, n: int) -> int:
        """RTP ticks from display frame 0 to ``n``."""
        return n * CLOCK * self.fps.denominator // self.fps.numerator

    def display(self, n: int) -> int:
        """The place in display order, counted on over loops, of the ``n``-th unit sent."""
        loop, unit = divmod(n, len(self.units))
        return loop * len(self.units) + self.shown[unit]

    @property
    def largest(self) -> int:
        """Bytes of the largest unit as it is sent."""
        return max(unit.data.size for unit in self.units)


def load(path: Path, fps: Fraction | None = None) -> Loop:
    """Reads a file of H.264 or H.265 (mp4, mkv, ts or Annex B); ``fps`` None: as the file says.

    Raises ValueError for what can't be played, OSError for what can't be read.
    """
    try:
        with av.open(str(path)) as file:
            if not file.streams.video:
                raise ValueError(f"{path}: no video in it")
            video = file.streams.video[0]
            name = video.codec_context.name
            if name not in CODECS:
                raise ValueError(f"{path}: {name} in it, allowed are {', '.join(CODECS)}")
            codec, extradata = CODECS[name], video.codec_context.extradata or b""
            fps = fps or video.average_rate
            packets = [(bytes(p), p.is_keyframe, p.pts) for p in file.demux(video) if p.size]
    except av.error.InvalidDataError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    if not packets or not packets[0][1]:
        raise ValueError(f"{path}: doesn't begin with a keyframe")
    if not fps or fps <= 0:
        raise ValueError(f"{path}: says no frame rate; give one")
    size, sets = _head(extradata, codec)
    units = []
    for data, key, _ in packets:
        nals = split(data, size)
        if key:  # mp4 keeps the sets beside the pictures; somebody who joins needs them
            sets = [nal for nal in nals if codec.kind(nal) in codec.parameters] or sets
            nals = [*sets, *(nal for nal in nals if codec.kind(nal) not in codec.parameters)]
        units.append(Unit(nals, codec, key))
    times = [pts for _, _, pts in packets if pts is not None]
    shown = list(range(len(packets)))
    if len(times) == len(packets):  # raw streams carry none, and are in display order if they have no B-frames
        for place, i in enumerate(sorted(range(len(times)), key=lambda i: times[i])):
            shown[i] = place
    lead = max(place - i for i, place in enumerate(shown))
    return Loop(codec, tuple(units), tuple(shown), lead, tuple(sets), Fraction(fps))


def split(data: bytes, size: int) -> list[bytes]:
    """The NAL units of an access unit: each with its length before it in ``size`` bytes (ISO/IEC 14496-15), or, with
    ``size`` 0, with start codes (H.264, annex B). Raises ValueError for a length that leads past the end."""
    if size == 0:
        return [nal for part in re.split(rb"\x00\x00\x01", data)[1:] if (nal := part.rstrip(b"\0"))]
    nals, at = [], 0
    while at < len(data):
        begin = at + size
        at = begin + int.from_bytes(data[at:begin], "big")
        if at > len(data):
            raise ValueError(f"a NAL unit of {at - begin} bytes where {len(data) - begin} are left")
        if at > begin:
            nals.append(data[begin:at])
    return nals


def _head(extradata: bytes, codec: Codec) -> tuple[int, list[bytes]]:
    """(bytes of a NAL unit's length, parameter sets) from an mp4's avcC or hvcC (ISO/IEC 14496-15, 5.3.3 and 8.3.3), or
    from Annex B, which has no lengths: 0."""
    if extradata[:1] != b"\1":
        return 0, split(extradata, 0)
    sets: list[bytes] = []

    def take(at: int, count: int) -> int:
        for _ in range(count):
            end = at + 2 + int.from_bytes(extradata[at : at + 2], "big")
            sets.append(extradata[at + 2 : end])
            at = end
        return at

    if codec is H264:
        at = take(6, extradata[5] & 31)
        take(at + 1, extradata[at])
        return (extradata[4] & 3) + 1, sets
    at = 23
    for _ in range(extradata[22]):
        at = take(at + 3, int.from_bytes(extradata[at + 1 : at + 3], "big"))
    return (extradata[21] & 3) + 1, [nal for nal in sets if codec.kind(nal) in codec.parameters]
