"""What a camera's packets tell of its video without decoding them: rates, keyframes, and which frames others need."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from facedetd.capture.types import StreamInfo

_S = 1_000_000_000
_WINDOW_NS = 2 * _S  # over so much media time, and so many packets, figures are measured
_WINDOW_PACKETS = 10
_FIRST_NS, _LONGEST_NS = 4 * _S, 10 * _S  # so long a window waits for a keyframe to end at
_HEAD = 4096
"""Bytes of a packet that are searched for its first slice: before it stand parameter sets and SEI only."""
_SLICES = {"h264": range(1, 6), "hevc": range(32)}


def nal_length_of(codec: str, extradata: bytes | None) -> int:
    """Bytes of the length field before each NAL unit, 0 where start codes divide them. ``extradata`` is the decoder's;
    ISO/IEC 14496-15's avcC and hvcC begin with version 1, and hold it in byte 4 and byte 21."""
    at = 21 if codec == "hevc" else 4
    if codec not in _SLICES or not extradata or extradata[0] != 1 or len(extradata) <= at:
        return 0
    return (extradata[at] & 3) + 1


def is_needed(data: memoryview, codec: str, nal_length: int, top_layer: int) -> tuple[bool, int]:
    """(whether other frames need a packet's, its temporal layer), by the NAL unit header of its first slice. FFmpeg's
    flag for it stays unset over RTSP.

    ``top_layer``: the highest temporal layer that the stream has shown so far.
    H.264: nal_ref_idc isn't 0 (ITU-T H.264 7.4.1). H.265: all but a sub-layer non-reference picture (ITU-T H.265 table
    7-1) of the top layer; only higher layers may refer to one. Other codecs, and packets without a slice: needed.
    """
    slices = _SLICES.get(codec)
    if slices is None:
        return True, 0
    head, at = bytes(data[:_HEAD]), 0
    while True:  # NAL unit by NAL unit
        size = 0
        if nal_length:
            size = int.from_bytes(head[at : at + nal_length], "big")
            at += nal_length
        elif (at := head.find(b"\0\0\1", at) + 3) < 3:
            return True, 0
        if at + 1 >= len(head):
            return True, 0
        first = head[at]
        if codec == "h264":
            if first & 31 in slices:
                return bool(first & 0x60), 0
        elif (kind := first >> 1 & 63) in slices:
            layer = max(0, (head[at + 1] & 7) - 1)
            return kind >= 16 or kind % 2 == 1 or layer < top_layer, layer
        at += size


class Meter(NamedTuple):
    """Begin with ``Meter()`` at each connection. Times are media times in ns; sums are of the window that began at
    ``since_ns``, after the packet that stood there. ``keyframe_ns`` is a running mean, ``windows`` those measured."""

    since_ns: int | None = None
    top_ns: int = 0
    packets: int = 0
    size: int = 0
    needed: int = 0
    keyframe_at_ns: int | None = None
    keyframe_ns: float = 0.0
    windows: int = 0
    fps: float = 0.0
    bits_per_s: float = 0.0
    reference_share: float = 1.0

    @property
    def keyframe_s(self) -> float:
        """From keyframe to keyframe; at least the time without one, 0 while not even that says anything."""
        waiting = self.top_ns - self.keyframe_at_ns if self.keyframe_at_ns is not None else 0
        if waiting > max(2 * self.keyframe_ns, _WINDOW_NS):
            return waiting / _S
        return self.keyframe_ns / _S


def metered(meter: Meter, media_ns: int, size: int, *, keyframe: bool, needed: bool) -> Meter:
    """Take a packet of ``size`` bytes into account, decoded or not. ``windows`` goes up when there are new figures.

    A window ends at a keyframe where one comes in time: with B-frames, packets between any two others aren't as many as
    frames in the time between them, and bits depend on how many keyframes are among them.
    """
    since, top, packets, total, used, key_at, between, windows, fps, bits_per_s, reference_share = meter
    if keyframe:
        if key_at is not None and media_ns > key_at:
            between = 0.75 * between + 0.25 * (media_ns - key_at) if between else float(media_ns - key_at)
        key_at = media_ns
    if since is None or media_ns < since:
        return meter._replace(
            since_ns=media_ns, top_ns=media_ns, packets=0, size=0, needed=0, keyframe_at_ns=key_at, keyframe_ns=between
        )
    packets, total, used, passed = packets + 1, total + size, used + needed, media_ns - since
    full = passed >= _WINDOW_NS and packets >= _WINDOW_PACKETS and media_ns > top
    if full and (keyframe or passed >= (_LONGEST_NS if windows else _FIRST_NS)):
        return Meter(
            media_ns, media_ns, 0, 0, 0, key_at, between, windows + 1,
            packets * _S / passed, 8 * total * _S / passed, used / packets,
        )  # fmt: skip
    return Meter(
        since, max(top, media_ns), packets, total, used, key_at, between, windows, fps, bits_per_s, reference_share,
    )  # fmt: skip


def with_figures(info: StreamInfo, meter: Meter) -> StreamInfo:
    """``info`` with the figures of the meter's last window; the same object unless one has changed enough to be worth
    a message. The first window is cut short, so what the second says counts if it differs at all."""
    drift = 0.02 if meter.windows == 2 else 0.1
    figures = (
        (info.fps, meter.fps, drift),
        (info.keyframe_s, meter.keyframe_s, 2 * drift),
        (info.bits_per_s, meter.bits_per_s, 2 * drift),
        (info.reference_share, meter.reference_share, drift),
    )
    if not any(abs(new - old) > share * old for old, new, share in figures):
        return info
    return replace(
        info,
        fps=round(meter.fps, 1),
        keyframe_s=round(meter.keyframe_s, 2),
        bits_per_s=float(round(meter.bits_per_s)),
        reference_share=round(meter.reference_share, 2),
    )
