"""One connection's way from packet to slot: times, gate, decoder, sampler, age, scaler."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

from av import VideoFrame
from av.packet import Packet
from av.video.stream import VideoStream

from facedetd.capture.gate import OPEN, Gate, admit
from facedetd.capture.levers import BAD_PICTURE, Decoder, is_chain, with_loop_filter
from facedetd.capture.nvdec import Nvdec
from facedetd.capture.pace import PaceState, observe_paced
from facedetd.capture.scaler import Scaler
from facedetd.capture.timeline import (
    CaptureClock,
    PacketTime,
    TimeBase,
    TimeEvent,
    TimelineLimits,
    connected,
    stamp,
)
from facedetd.capture.trouble import NO_TROUBLE, noticed, said
from facedetd.capture.turns import Rate, Turns
from facedetd.capture.types import FrameSink, OnSnapshot, SampledFrame, Snapshot, StreamInfo
from facedetd.capture.videoinfo import Meter, is_needed, metered, nal_length_of, with_figures
from facedetd.cuda.driver import CudaError
from facedetd.types import NVDEC_CODECS, DecodeDevice, DecodeLevel

_S = 1_000_000_000
_AGES = 8
"""Packets whose least age is the backlog's: with B-frames most come long after the earliest possible for their PTS."""
_WHOLE = (DecodeLevel.FULL, DecodeLevel.NO_LOOP_FILTER)


class Pipeline:
    """Used by the stream's thread only, but for ``turns.wanted``, ``snapshots`` and :meth:`take_lag_ns`, which are any
    thread's.

    Lives as long as its stream: numbers and the sampling grid go on over reconnects.
    """

    def __init__(
        self,
        sink: FrameSink,
        fps: float,
        max_age_s: float,
        clock: Callable[[], int],
        phase: float | None = None,
        nvdec: Nvdec | None = None,
    ):
        """``phase``: see lead_ns; None begins with the first frame. ``nvdec``: None decodes on the CPU only."""
        self.turns = Turns(Rate(fps, phase))
        self._level, self._chain = DecodeLevel.FULL, True
        self.device = DecodeDevice.CPU
        """Where to decode from the next keyframe on; in force is ``info.device``. CPU forgets why NVDEC didn't work."""
        self.snapshots: deque[OnSnapshot] = deque()
        self.info = StreamInfo()
        self.events: list[TimeEvent] = []
        self._sink = sink
        self._clock = clock
        self._limits = TimelineLimits(int(max_age_s * _S))
        self._nvdec = nvdec
        self._scaler = Scaler(nvdec)
        self._timeline: PaceState | None = None
        self._trouble = NO_TROUBLE
        self._pictured = False  # since the last packet
        self._stamps: CaptureClock | None = None
        self._gate = OPEN
        self._rest: Gate | None = Gate()  # while nothing is decoded but single keyframes
        self._stream: VideoStream | None = None
        self._time_base = TimeBase(1, 1)
        self._decoder: Decoder | None = None
        self._nal_length = self._top_layer = 0
        self._meter, self._unmetered = Meter(), True
        self._sequence = 0
        self._frame_number = 0
        self._late = False
        self._last_out: int | None = None
        self._fed_ns = 0
        self._held_ns = 0  # from a packet's arrival till its frame was sampled; the last one's
        self._ages_ns: deque[int] = deque(maxlen=_AGES)
        self._lag_ns: int | None = None

    @property
    def level(self) -> DecodeLevel:
        """How to decode the source in use from the next packet on; in force is ``info.level``."""
        return self._level

    @level.setter
    def level(self, level: DecodeLevel) -> None:
        self._level, self._chain = level, is_chain(level)

    def begin(self, codec: str, utc_ns: int, *, late: bool = False, sub: bool = False) -> None:
        """A new connection: its clock has nothing to do with the last one's. ``late``: see Source. ``sub``: it is the
        sub-stream's."""
        self._late, self._last_out = late, None
        self._ages_ns.clear()
        self._timeline, self._gate, self._rest = None, OPEN, Gate()
        self._trouble, self._pictured = NO_TROUBLE, False
        self.turns.begin()
        self._stream, self._decoder = None, None
        self._meter, self._unmetered, self._top_layer = Meter(), True, 0
        self._stamps = connected(self._stamps, self._clock(), utc_ns)
        self.info = StreamInfo(codec, level=self.level, sub=sub, nvdec_problem=self.info.nvdec_problem)

    def take_lag_ns(self) -> int | None:
        """How far frames lagged behind when they were sampled, or were too old to be: the most since this was last
        asked, None without such a frame.

        It is the least age (:mod:`timeline`) of the last packets on their arrival, and the time since the last was fed:
        so a backlog in the socket counts, and decoding. Reordering of B-frames doesn't, nor a single late packet, nor
        that FFmpeg's parser gives a picture out a frame late.
        """
        lag, self._lag_ns = self._lag_ns, None
        return lag

    @property
    def fed_ns(self) -> int:
        """When the last packet came, 0 before the first."""
        return self._fed_ns

    @property
    def problem(self) -> str:
        """Why a stream whose packets come gives nothing, or what to know of it; empty: nothing."""
        trusted = self._timeline is None or self._timeline.trusted
        if trusted and self._trouble is NO_TROUBLE:
            return ""
        return said(self._trouble, self._fed_ns, trusted=trusted, max_age_s=self._limits.max_age_ns / _S)

    def may_open(self, packet: Packet[VideoStream]) -> bool:
        """Whether a decoder on the GPU may be opened for this packet."""
        info = self.info
        wanted = self.device is DecodeDevice.NVDEC and info.device is not self.device and not info.nvdec_problem
        return wanted and info.codec in NVDEC_CODECS and packet.is_keyframe and not self._asleep

    @property
    def _asleep(self) -> bool:
        """Also where nothing is to be decoded one keyframe is, so that the picture's size is known."""
        return self.level is DecodeLevel.OFF and self.info.width > 0

    def feed(self, packet: Packet[VideoStream], arrived_ns: int | None = None, *, moves: bool = True) -> None:
        """Take one packet all the way. Damaged ones are counted and survived. ``arrived_ns``: when it came, if not just
        now. Not ``moves``: it is decoded where the one before was."""
        now = self._clock() if arrived_ns is None else arrived_ns
        # A late source gives a packet out when the next begins to come in: this one came when the last was given out.
        arrival = now if self._last_out is None else self._last_out
        if self._late:
            self._last_out = now
        size, keyframe = packet.size, packet.is_keyframe
        if not size:
            self.drain()
            return
        decoder, sink, max_age_ns = self._decoder, self._sink, self._limits.max_age_ns
        if decoder is None or packet.stream is not self._stream:
            decoder = self._decoder = self._decoder_of(packet)
        sink.count(received=1, received_bytes=size)
        self._timeline, time = observe_paced(
            self._timeline, packet.pts, self._time_base, arrival, self._limits, self._held_ns
        )
        level, chain = self._level, self._chain
        age_ns = arrival - time.capture_mono_ns
        late, blind = age_ns > max_age_ns, chain and not self._pictured
        if late or blind or self._trouble is not NO_TROUBLE:
            self._trouble = noticed(self._trouble, now, late=late, blind=blind)
        self._pictured = False
        self._fed_ns = now
        self._ages_ns.append(age_ns)
        if time.event is not TimeEvent.NONE:
            self.events.append(time.event)
        needed = self._measure(packet, time.media_ns, size, keyframe=keyframe)
        if not chain and self._rest is None:
            self.drain()
            self._rest = Gate()
        if self._rest is not None and not self._wakes(keyframe, arrival):
            return
        was, wanted = self._gate.skipping, True
        if late or self._gate is not OPEN:
            self._gate, wanted = admit(
                self._gate, keyframe=keyframe, age_ns=age_ns, arrival_ns=arrival, max_age_ns=max_age_ns
            )
        if not wanted:
            sink.count(skipped=1)
            return
        if self._rest is not None or was:
            decoder.flush()
            self._rest = None if chain else Gate()
        elif level is DecodeLevel.REFERENCE_FRAMES and not needed:
            self._set_in_force(level)
            return
        device = self.device if moves else self.info.device
        if device is DecodeDevice.CPU:  # whoever asks for NVDEC after this wants it tried again
            decoder.problem = ""
        if keyframe:
            self._renew(decoder, level, device)
        packet.opaque = time
        self._decode(decoder, packet, time)
        if not chain:
            self.drain()
        elif level in _WHOLE and (decoder.has_lever or decoder.device is DecodeDevice.NVDEC):
            level = DecodeLevel.FULL if decoder.loop_filter else DecodeLevel.NO_LOOP_FILTER
        if level is not self.info.level:
            self._set_in_force(level)
        if decoder.device is not self.info.device or decoder.problem != self.info.nvdec_problem:
            self.info = replace(self.info, device=decoder.device, nvdec_problem=decoder.problem)

    def _renew(self, decoder: Decoder, level: DecodeLevel, device: DecodeDevice) -> None:
        """Before a keyframe: what can only begin with one."""
        loop_filter = with_loop_filter(level)
        if decoder.would_renew(loop_filter=loop_filter, device=device):
            self.drain()
            decoder.renew(loop_filter=loop_filter, device=device)

    def _decoder_of(self, packet: Packet[VideoStream]) -> Decoder:
        """For a stream's first packet; a file that begins anew is another stream."""
        stream = self._stream = packet.stream
        self._time_base = TimeBase.of(packet.time_base)  # FFmpeg gives all of a stream's packets the same
        decoder = Decoder(stream.codec_context, self._nvdec, self.info.nvdec_problem)
        if self._decoder is not None:
            decoder.go_on_from(self._decoder)
        self._nal_length = nal_length_of(self.info.codec, stream.codec_context.extradata)
        return decoder

    def _measure(self, packet: Packet[VideoStream], media_ns: int, size: int, *, keyframe: bool) -> bool:
        """Learn what the packet tells of the video; whether other frames need its frame."""
        needed, layer = is_needed(memoryview(packet), self.info.codec, self._nal_length, self._top_layer)
        self._top_layer = max(self._top_layer, layer)
        meter = self._meter
        if self._unmetered:  # RTSP's first packet comes without a PTS: from it to the second one is no measure
            self._meter = meter._replace(keyframe_at_ns=media_ns if keyframe else None)
            self._unmetered = False
            return needed
        self._meter = metered(meter, media_ns, size, keyframe=keyframe, needed=needed)
        if self._meter.windows != meter.windows:
            self.info = with_figures(self.info, self._meter)
        return needed

    def _wakes(self, keyframe: bool, arrival_ns: int) -> bool:
        """Whether to decode this packet though nothing before it was."""
        if not self._chain:
            self._set_in_force(self.level)
            return keyframe and not self._asleep
        assert self._rest is not None
        rest, wakes = admit(self._rest, keyframe=keyframe, age_ns=0, arrival_ns=arrival_ns, max_age_ns=0)
        if not wakes:
            self._rest = rest
        return wakes

    def _set_in_force(self, level: DecodeLevel) -> None:
        before = self.info.level
        if level is before:
            return
        self.info = replace(self.info, level=level)
        if not {level, before} <= set(_WHOLE):
            self.turns.new_cadence()

    def disconnected(self) -> None:
        """A camera that is away, perhaps for days, keeps no decoder: a GPU has only so many."""
        self._stream = self._decoder = None

    def close(self) -> None:
        """The stream ends: nothing of it stays on the GPU."""
        self.disconnected()
        self._scaler.close()

    def drain(self) -> None:
        """Let out the frames that the decoder holds back. Decoding goes on at a keyframe."""
        if self._decoder is not None:
            self._decode(self._decoder, None, None)

    def _decode(self, decoder: Decoder, packet: Packet[VideoStream] | None, time: PacketTime | None) -> None:
        """``packet``, whose times are ``time``; None: what the decoder holds back."""
        try:
            frames = decoder.drain() if packet is None else decoder.decode(packet)
        except BAD_PICTURE:
            self._sink.count(decode_errors=1)
            return
        for frame in frames:
            carried = frame.opaque
            known = carried if isinstance(carried, PacketTime) else time
            if known is None:  # drained, and the decoder lost whose it was: nothing to date it by
                self._sink.count(not_sampled=1)
            else:
                self._frame(frame, known)

    def _frame(self, frame: VideoFrame, time: PacketTime) -> None:
        number = self._frame_number
        self._frame_number += 1
        self._pictured = True
        width, height, info = frame.width, frame.height, self.info
        if width != info.width or height != info.height:
            self.info = replace(info, width=width, height=height)
        if frame.is_corrupt:  # concealed as well as could be: it is counted, and used
            self._sink.count(decode_errors=1)
        sink = self._sink
        if not sink.attached or not self.turns.take(time.media_ns, time.capture_mono_ns):
            sink.count(not_sampled=1)
            return
        now = self._clock()
        self._lag_ns = max(self._lag_ns or 0, now - self._fed_ns + max(0, min(self._ages_ns)))
        self._held_ns = now - time.arrival_mono_ns
        if now - time.capture_mono_ns > self._limits.max_age_ns:
            sink.count(not_sampled=1, stale=1)
            return
        assert self._decoder is not None
        self._hand_over(frame, self._decoder.context.sample_aspect_ratio, time, number)

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
            if isinstance(error, BAD_PICTURE):
                return
            if isinstance(error, CudaError) and self._decoder is not None:
                self._decoder.fail(f"a frame can't be scaled on the GPU: {error}")
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
            except BAD_PICTURE:  # the frame itself is on its way: a later one may do
                return
            while self.snapshots:
                self.snapshots.popleft()(picture)
