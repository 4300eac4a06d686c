"""Decode levels on one connection: what a level means for the source in use, and the decoder that changes with it, also
from the CPU to NVDEC and back."""

from __future__ import annotations

from dataclasses import dataclass

import av
import av.error
from av import VideoFrame
from av.codec.context import Flags
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from facedetd.capture.nvdec import Nvdec
from facedetd.capture.source import MAX_PIXELS
from facedetd.cuda.driver import CudaError
from facedetd.types import NVDEC_CODECS, DecodeDevice, DecodeLevel

BAD_PICTURE = (av.error.FFmpegError, ValueError, MemoryError)
"""What decoding and scaling a picture may raise without being a fault of ours. ValueError comes from PyAV 19's decoder
too, at each packet once it couldn't be opened: FFmpeg then forgets the codec."""

_LOOP_FILTER = {"h264", "hevc"}
_SUB_LEVELS = {DecodeLevel.SUB_STREAM, DecodeLevel.KEYFRAMES, DecodeLevel.OFF}
_MAX_REFUSALS = 3
_MAX_ERRORS = 3


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
    another decoder, from a keyframe on; so does one between CPU and NVDEC. What an open GOP shows before that keyframe
    is lost then: FFmpeg's decoders of H.264 and H.265 leave out frames that refer to what they haven't seen. Methods
    raise BAD_PICTURE.

    ``problem`` says why NVDEC isn't used though it was asked for; while it stands, NVDEC isn't tried.
    """

    def __init__(self, context: VideoCodecContext, nvdec: Nvdec | None = None, problem: str = ""):
        self._template = self._context = context
        self._name = context.name
        self._proven: _Proven | None = None  # the one before, until the new one has taken its first packet
        self._nvdec = nvdec
        self._holds = False
        self._refusals = self._errors = 0
        self.loop_filter = True
        self.device = DecodeDevice.CPU
        self.problem = problem

    @property
    def context(self) -> VideoCodecContext:
        return self._context

    @property
    def has_lever(self) -> bool:
        """Whether there is a loop filter to leave out."""
        return self._name in _LOOP_FILTER and self.device is DecodeDevice.CPU

    def would_renew(self, *, loop_filter: bool, device: DecodeDevice = DecodeDevice.CPU) -> bool:
        """Whether this is a change for :meth:`renew`."""
        if self._possible(device) is not self.device:
            return self._refusals < _MAX_REFUSALS or bool(self.problem)
        return self.has_lever and loop_filter != self.loop_filter and self._refusals < _MAX_REFUSALS

    def _possible(self, device: DecodeDevice) -> DecodeDevice:
        able = self._nvdec is not None and not self.problem and self._name in NVDEC_CODECS
        return device if able else DecodeDevice.CPU

    def decode(self, packet: Packet[VideoStream]) -> list[VideoFrame]:
        self._holds = True
        proven, self._proven = self._proven, None
        try:
            frames = self._context.decode(packet)
        except BAD_PICTURE as error:
            if proven is None:
                self._note_error(error)
                raise
            # The parameter sets came earlier and only once, or the packet is damaged: the one before knows them. Or
            # NVDEC won't have it
            if self.device is DecodeDevice.NVDEC and proven.device is DecodeDevice.CPU:
                self._blame(f"NVDEC refuses it: {_words(error)}")
            else:
                self._refusals += 1
            self._context, self.loop_filter, self.device = proven.context, proven.loop_filter, proven.device
            return self._context.decode(packet)
        self._errors = 0
        return frames

    def _note_error(self, error: Exception) -> None:
        """A damaged packet is no news, but NVDEC that gives nothing more is."""
        self._errors += 1
        if self.device is DecodeDevice.NVDEC and self._errors >= _MAX_ERRORS:
            self._blame(f"NVDEC gave {self._errors} errors in a row: {_words(error)}")

    def _blame(self, problem: str) -> None:
        assert self._nvdec is not None
        self._nvdec.look()
        self.fail(self._nvdec.lost or problem)

    def fail(self, problem: str) -> None:
        """NVDEC can't go on with this stream; the CPU does, from the next keyframe on."""
        self.problem = self.problem or problem

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

    def renew(self, *, loop_filter: bool, device: DecodeDevice = DecodeDevice.CPU) -> None:
        """Decode on this device, with or without the loop filter, from the keyframe that comes next; drain it before.
        Where NVDEC can't be had it stays as it is, and says why."""
        device = self._possible(device)
        try:
            fresh = self._opened(device)
        except CudaError as error:
            self.problem = str(error)
            return
        if self._template.extradata:
            fresh.extradata = self._template.extradata
        if self._context.sample_aspect_ratio:  # a container may be the only one to tell it
            fresh.sample_aspect_ratio = self._context.sample_aspect_ratio
        fresh.thread_count = 1
        fresh.flags |= Flags.copy_opaque
        fresh.options = {"max_pixels": str(MAX_PIXELS)}
        if device is DecodeDevice.NVDEC:
            loop_filter = True  # it costs nothing there, and can't be left out
        elif not loop_filter:
            fresh.options["skip_loop_filter"] = "all"
        # A decoder that failed has proven nothing
        self._proven = None if self.problem else _Proven(self._context, self.loop_filter, self.device)
        self._context, self.loop_filter, self.device = fresh, loop_filter, device
        self._errors = 0

    def _opened(self, device: DecodeDevice) -> VideoCodecContext:
        if device is DecodeDevice.NVDEC:
            assert self._nvdec is not None
            return self._nvdec.open(self._name)
        fresh = av.CodecContext.create(self._name, "r")
        assert isinstance(fresh, VideoCodecContext)
        return fresh

    def go_on_from(self, before: Decoder) -> None:
        """The container began anew with the same video: what was opened on NVDEC is still good."""
        old, new = before._template, self._template
        if before.device is DecodeDevice.NVDEC and (before._name, old.extradata) == (self._name, new.extradata):
            self._context, self.device, self._holds = before._context, before.device, before._holds


@dataclass(frozen=True, slots=True)
class _Proven:
    context: VideoCodecContext
    loop_filter: bool
    device: DecodeDevice


def _words(error: Exception) -> str:
    """The kind only: nothing of a camera's, or of its URL, goes on from here."""
    return type(error).__name__
