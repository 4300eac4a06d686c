"""Decode levels on one connection: what a level means for the source in use, and the decoder that changes with it."""

from __future__ import annotations

import av
import av.error
from av import VideoFrame
from av.codec.context import Flags
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from facedetd.capture.source import MAX_PIXELS
from facedetd.types import DecodeLevel

BAD_PICTURE = (av.error.FFmpegError, ValueError, MemoryError)
"""What decoding and scaling a picture may raise without being a fault of ours. ValueError comes from PyAV 19's decoder
too, at each packet once it couldn't be opened: FFmpeg then forgets the codec."""

_LOOP_FILTER = {"h264", "hevc"}
_SUB_LEVELS = {DecodeLevel.SUB_STREAM, DecodeLevel.KEYFRAMES, DecodeLevel.OFF}
_MAX_REFUSALS = 3


def asks_for_sub(level: DecodeLevel, has_sub: bool) -> bool:
    """Whether a stream at this level is to be had from its sub-stream."""
    return has_sub and level in _SUB_LEVELS


def level_on(sub: bool, level: DecodeLevel) -> DecodeLevel:
    """How to decode the source in use while ``level`` is asked for: it may be the other one that is asked for, which
    isn't there yet or can't be had."""
    if sub:
        return level if level in _SUB_LEVELS else DecodeLevel.SUB_STREAM
    return DecodeLevel.NO_LOOP_FILTER if level is DecodeLevel.SUB_STREAM else level


def is_chain(level: DecodeLevel) -> bool:
    """Whether frames are decoded that refer to others, so that it must begin at a keyframe."""
    return level not in (DecodeLevel.KEYFRAMES, DecodeLevel.OFF)


def with_loop_filter(level: DecodeLevel) -> bool:
    return level in (DecodeLevel.FULL, DecodeLevel.SUB_STREAM)


class Decoder:
    """The decoder of one stream of a container; one thread's.

    FFmpeg takes ``skip_loop_filter`` only when a decoder is opened (PyAV has no way to set it later), so a change means
    another decoder, from a keyframe on. What an open GOP shows before that keyframe is lost then: FFmpeg's decoders of
    H.264 and H.265 leave out frames that refer to what they haven't seen. Methods raise BAD_PICTURE.
    """

    def __init__(self, context: VideoCodecContext):
        self._template = self._context = context
        self._proven: VideoCodecContext | None = None  # the one before, until the new one has taken its first packet
        self._holds = False
        self._refusals = 0
        self.loop_filter = True

    @property
    def context(self) -> VideoCodecContext:
        return self._context

    @property
    def has_lever(self) -> bool:
        """Whether there is a loop filter to leave out."""
        return self._template.name in _LOOP_FILTER

    def would_renew(self, *, loop_filter: bool) -> bool:
        """Whether this is a change for :meth:`renew`."""
        return self.has_lever and loop_filter != self.loop_filter and self._refusals < _MAX_REFUSALS

    def decode(self, packet: Packet[VideoStream]) -> list[VideoFrame]:
        self._holds = True
        proven, self._proven = self._proven, None
        if proven is None:
            return self._context.decode(packet)
        try:
            return self._context.decode(packet)
        except BAD_PICTURE:
            # The parameter sets came earlier and only once, or the packet is damaged: the one before knows them
            self._refusals += 1
            self._context, self.loop_filter = proven, not self.loop_filter
            return self._context.decode(packet)

    def drain(self) -> list[VideoFrame]:
        """The frames it holds back. It must begin at a keyframe after this."""
        if not self._holds:
            return []
        self._holds = False
        try:
            return self._context.decode(None)
        finally:
            self._context.flush_buffers()

    def flush(self) -> None:
        """Forget the frames it holds: it begins anew at a keyframe."""
        if self._holds:
            self._holds = False
            self._context.flush_buffers()

    def renew(self, *, loop_filter: bool) -> None:
        """Decode with or without the loop filter, from the keyframe that comes next; drain it before."""
        fresh = av.CodecContext.create(self._template.name, "r")
        assert isinstance(fresh, VideoCodecContext)
        if self._template.extradata:
            fresh.extradata = self._template.extradata
        if self._context.sample_aspect_ratio:  # a container may be the only one to tell it
            fresh.sample_aspect_ratio = self._context.sample_aspect_ratio
        fresh.thread_count = 1
        fresh.flags |= Flags.copy_opaque
        fresh.options = {"max_pixels": str(MAX_PIXELS)}
        if not loop_filter:
            fresh.options["skip_loop_filter"] = "all"
        self._proven, self._context, self.loop_filter = self._context, fresh, loop_filter
