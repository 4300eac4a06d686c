"""One connection's way from packet to slot: times, gate, decoder, sampler, age, scaler."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import av.error
from av import VideoFrame
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from facedetd.capture.gate import Gate, admit
from facedetd.capture.sampler import SamplerState, lead_ns, step
from facedetd.capture.scaler import Scaler
from facedetd.capture.timeline import (
    CaptureClock,
    PacketTime,
    TimeEvent,
    TimelineLimits,
    TimelineState,
    connected,
    observe,
    stamp,
)
from facedetd.capture.types import FrameSink, OnSnapshot, SampledFrame, Snapshot, StreamInfo

_S = 1_000_000_000
_RATE_NS = 2 * _S  # over so much media time, and so many frames, the source's rate is measured
_RATE_FRAMES = 10
_BAD_PICTURE = (av.error.FFmpegError, ValueError, MemoryError)
"""What decoding and scaling a picture may raise without being a fault of ours. ValueError comes from PyAV 19's decoder
too, at each packet once it couldn't be opened: FFmpeg then forgets the codec."""


class Pipeline:
    """Used by the stream's thread only, but for ``fps`` and ``snapshots``, which any thread may set or append to.

    Lives as long as its stream: numbers and the sampling grid go on over reconnects.
    """

    def __init__(
        self, sink: FrameSink, fps: float, max_age_s: float, clock: Callable[[], int], phase: float | None = None
    ):
        """``phase``: see lead_ns; None begins with the first frame."""
        self._phase = phase
        self._first_turn_ns: float | None = None
        self.fps = fps
        self.snapshots: deque[OnSnapshot] = deque()
        self.info = StreamInfo()
        self.events: list[TimeEvent] = []
        self._sink = sink
        self._clock = clock
        self._limits = TimelineLimits(int(max_age_s * _S))
        self._scaler = Scaler()
        self._timeline: TimelineState | None = None
        self._stamps: CaptureClock | None = None
        self._gate = Gate()
        self._sampler: SamplerState | None = None
        self._sequence = 0
        self._frame_number = 0
        self._rate_since: tuple[int, int] | None = None  # (media time, frame number)
        self._rate_from = 0
        self._late = False
        self._last_out: int | None = None

    def begin(self, codec: str, utc_ns: int, *, late: bool = False) -> None:
        """A new connection: its clock has nothing to do with the last one's. ``late``: see Source."""
        self._late, self._last_out = late, None
        self._first_turn_ns = None
        self._timeline, self._gate, self._sampler = None, Gate(), None
        self._stamps = connected(self._stamps, self._clock(), utc_ns)
        self.info = StreamInfo(codec)
        # RTSP's first packet comes without a PTS: the step to the second one is no measure
        self._rate_since, self._rate_from = None, self._frame_number + 1

    def feed(self, packet: Packet[VideoStream]) -> None:
        """Take one packet all the way. Damaged ones are counted and survived."""
        now = self._clock()
        # A late source gives a packet out when the next begins to come in: this one came when the last was given out.
        arrival = now if self._last_out is None else self._last_out
        if self._late:
            self._last_out = now
        context = packet.stream.codec_context
        if not packet.size:
            self._decode(packet, context, None)
            return
        self._sink.count(received=1, received_bytes=packet.size)
        self._timeline, time = observe(self._timeline, packet.pts, packet.time_base, arrival, self._limits)
        if time.event is not TimeEvent.NONE:
            self.events.append(time.event)
        was = self._gate.skipping
        self._gate, wanted = admit(
            self._gate,
            keyframe=packet.is_keyframe,
            age_ns=time.age_ns,
            arrival_ns=arrival,
            max_age_ns=self._limits.max_age_ns,
        )
        if not wanted:
            self._sink.count(skipped=1)
            return
        if was and context.is_open:
            context.flush_buffers()
        packet.opaque = time
        self._decode(packet, context, time)

    def _decode(self, packet: Packet[VideoStream], context: VideoCodecContext, time: PacketTime | None) -> None:
        try:
            frames = packet.decode()
        except _BAD_PICTURE:
            self._sink.count(decode_errors=1)
            return
        for frame in frames:
            carried = frame.opaque
            known = carried if isinstance(carried, PacketTime) else time
            if known is None:  # drained, and the decoder lost whose it was: nothing to date it by
                self._sink.count(not_sampled=1)
            else:
                self._frame(frame, context, known)

    def _frame(self, frame: VideoFrame, context: VideoCodecContext, time: PacketTime) -> None:
        number = self._frame_number
        self._frame_number += 1
        self._learn(frame, time.media_ns, number)
        if frame.is_corrupt:  # concealed as well as could be: it is counted, and used
            self._sink.count(decode_errors=1)
        sink = self._sink
        if not sink.attached:
            sink.count(not_sampled=1)
            return
        fps = self.fps
        if self._sampler is None and not self._is_turn(time.capture_mono_ns, fps):
            sink.count(not_sampled=1)
            return
        self._sampler, wanted = step(self._sampler, time.media_ns, fps)
        if not wanted:
            sink.count(not_sampled=1)
            return
        if self._clock() - time.capture_mono_ns > self._limits.max_age_ns:
            sink.count(not_sampled=1, stale=1)
            return
        self._hand_over(frame, context.sample_aspect_ratio, time, number)

    def _is_turn(self, capture_mono_ns: int, fps: float) -> bool:
        """Whether to begin sampling with this frame: the first one, or the first at the stream's phase."""
        if self._phase is None or fps <= 0:
            return True
        if self._first_turn_ns is None:
            self._first_turn_ns = capture_mono_ns + lead_ns(self._phase, capture_mono_ns, fps)
        return capture_mono_ns >= self._first_turn_ns

    def _hand_over(self, frame: VideoFrame, aspect: Fraction | None, time: PacketTime, number: int) -> None:
        sink = self._sink
        slot = sink.acquire()
        if slot is None:
            if sink.attached:
                self._sequence += 1
                sink.count(no_slot=1)
            else:
                sink.count(not_sampled=1)
            return
        try:
            scaled = self._scaler.scale(frame, aspect, slot)
        except Exception as error:
            sink.release(slot)
            sink.count(not_sampled=1, decode_errors=1)
            if isinstance(error, _BAD_PICTURE):
                return
            raise
        assert self._stamps is not None
        self._stamps, mono, utc = stamp(self._stamps, time.capture_mono_ns)
        sequence = self._sequence
        self._sequence += 1
        sink.submit(
            slot,
            SampledFrame(
                sequence, number, time.pts_ns, time.arrival_mono_ns, mono, utc,
                scaled.geometry, scaled.matrix, scaled.range,
            ),
        )  # fmt: skip
        if self.snapshots:
            try:
                picture = Snapshot(self._scaler.bgr(frame), sequence, number, utc)
            except _BAD_PICTURE:  # the frame itself is on its way: a later one may do
                return
            while self.snapshots:
                self.snapshots.popleft()(picture)

    def _learn(self, frame: VideoFrame, media_ns: int, number: int) -> None:
        """Keep ``info`` up to date: it is replaced when something new is known."""
        info = self.info
        if frame.width != info.width or frame.height != info.height:
            self.info = info = replace(info, width=frame.width, height=frame.height)
        if number < self._rate_from:
            return
        if self._rate_since is None or media_ns < self._rate_since[0]:
            self._rate_since = media_ns, number
            return
        passed, frames = media_ns - self._rate_since[0], number - self._rate_since[1]
        if passed >= _RATE_NS and frames >= _RATE_FRAMES:
            self._rate_since = media_ns, number
            fps = frames * _S / passed
            if abs(fps - info.fps) > 0.1 * info.fps:
                self.info = replace(info, fps=round(fps, 1))
