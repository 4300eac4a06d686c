"""The thread of a stream: connecting, streaming, stalled, backing off, and again."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from math import inf
from types import TracebackType

from facedetd.capture.backoff import Backoff, failed, recovered
from facedetd.capture.levers import asks_for_sub, level_on
from facedetd.capture.niceness import set_nice
from facedetd.capture.nvdec import Nvdec
from facedetd.capture.opening import Opened, Opening
from facedetd.capture.pipeline import Pipeline
from facedetd.capture.source import ErrorKind, Source, SourceError, open_source, silence_ffmpeg
from facedetd.capture.timeline import TimeEvent
from facedetd.capture.turns import Rate
from facedetd.capture.types import FrameSink, OnSnapshot, OnState, StreamInfo, StreamTimeouts
from facedetd.threads import no_thread
from facedetd.types import DecodeDevice, DecodeLevel, Secret, StreamSpec, StreamState

_S = 1_000_000_000
_RARER = {ErrorKind.UNAUTHORISED: 4, ErrorKind.FORBIDDEN: 4, ErrorKind.LED_ELSEWHERE: 4, ErrorKind.NOT_FOUND: 2}
"""What a person must put right is tried so much more rarely: cameras lock the account after a few wrong passwords."""
_NO_PICTURE_NS = 5 * _S
_PATIENCE_S = 0.2
"""The next keyframe is another chance."""
_AT_ONCE: AbstractContextManager[bool] = nullcontext(True)
_SUB_TRIES = 2
"""So often in a row the sub-stream may fail before the main stream does its work."""
_log = logging.getLogger(__name__)


class StreamThread:
    """Runs one stream until stopped. Start it with ``start``.

    ``on_state`` is called by the thread, on changes only. ``mono`` and ``utc`` give ns; ``jitter`` is uniform in
    [0, 1). Where the level asks for the other of the camera's two videos than the one in use, that one is opened in the
    background and taken over once it gives pictures.
    """

    def __init__(
        self,
        spec: StreamSpec,
        secret: Secret | None,
        sink: FrameSink,
        on_state: OnState,
        timeouts: StreamTimeouts | None = None,
        fps: float | None = None,
        *,
        phase: float | None = None,
        level: DecodeLevel = DecodeLevel.FULL,
        device: DecodeDevice = DecodeDevice.CPU,
        nvdec: Nvdec | None = None,
        mono: Callable[[], int] = time.monotonic_ns,
        utc: Callable[[], int] = time.time_ns,
        jitter: Callable[[], float] = random.random,
    ):
        self.spec = spec
        self._secret = secret
        self._timeouts = timeouts or StreamTimeouts()
        self._on_state = on_state
        self._mono, self._utc, self._jitter = mono, utc, jitter
        rate = spec.target_fps if fps is None else fps
        self._pipeline = Pipeline(sink, rate, self._timeouts.max_frame_age_s, mono, phase, nvdec)
        self._pipeline.device = device
        self._nvdec = nvdec
        self._turn_ns = 0  # when the last packet that waited for its turn had it
        self._level = level
        self._sub = False  # which of the two videos is in use
        self._main_failed = False  # the connection that failed last was the main stream's
        fresh = Backoff(self._timeouts.backoff_initial_s, self._timeouts.backoff_max_s)
        self._backoffs = {False: fresh, True: fresh}
        self._problems = {False: "", True: ""}
        self._mute = {False: False, True: False}  # whether it didn't answer the last time
        self._began = 0  # when the source in use was connected; 0: it isn't
        self._opening: Opening | None = None
        self._open_from = 0
        self._priority = spec.priority
        self._stop = threading.Event()
        self._at_work = threading.Lock()  # held while the sink is used
        self._told: tuple[StreamState, str, StreamInfo] | None = None
        self._thread = threading.Thread(target=self._run, name=f"stream-{spec.id}", daemon=True)

    def start(self) -> None:
        silence_ffmpeg()
        self._thread.start()

    def set_rate(self, fps: float, phase: float | None) -> None:
        """Sample at this rate from the next frame on; 0: none. ``phase``: see lead_ns."""
        self._pipeline.turns.wanted = Rate(fps, phase)

    def set_decode(self, level: DecodeLevel, device: DecodeDevice = DecodeDevice.CPU) -> None:
        """Decode so much from where it is possible on: savings at once, but for the loop filter at the next keyframe;
        more at the next keyframe; another video once it gives pictures. And there, from the next keyframe on.
        ``StreamInfo.level`` and ``device`` say what is in force."""
        self._level = level
        self._pipeline.device = device

    def take_lag_ns(self) -> int | None:
        """See Pipeline.take_lag_ns."""
        return self._pipeline.take_lag_ns()

    @property
    def on_gpu_since_ns(self) -> int | None:
        """When work began at the packet that is worked at now, for a stream that is on the GPU or goes there; None:
        none is. For any thread. In the instant in which work begins it is the packet before."""
        nvdec = DecodeDevice.NVDEC in (self._pipeline.device, self._pipeline.info.device)
        return max(self._pipeline.fed_ns, self._turn_ns) if nvdec and self._at_work.locked() else None

    def request_snapshot(self, callback: OnSnapshot) -> None:
        """Hand the next submitted frame's full picture to ``callback``. Never called when no such frame comes."""
        self._pipeline.snapshots.append(callback)

    def stop(self) -> None:
        """Once this returns the sink is no longer used. Waits for the frame in work (ms), not for the network: the
        thread itself ends when its read or connect does, and may be left alone till then."""
        self._stop.set()
        with self._at_work:
            pass

    def join(self, timeout_s: float | None = None) -> bool:
        """Whether the thread has ended."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def set_priority(self, priority: int) -> None:
        """Decode before streams of a lower one, where the CPU is short."""
        if priority != self._priority:
            self._priority = priority  # of a thread that begins later, too
            if self._thread.native_id is not None:
                set_nice(self._thread.native_id, priority)

    def _run(self) -> None:
        try:
            self._live()
        finally:
            self._pipeline.close()

    def _live(self) -> None:
        set_nice(threading.get_native_id(), self._priority)
        while not self._stop.is_set():
            try:
                self._stop.wait(self._attempt())
            except MemoryError:  # even for saying so. But nobody else would ever connect again
                time.sleep(self._timeouts.backoff_initial_s)

    def _attempt(self) -> float:
        """A connection, to its end. How long to wait before the next, in s."""
        self._began = 0
        self._sub = self._asks_for_sub() and (self._backoffs[True].failures < _SUB_TRIES or self._main_failed)
        if self._told is None or self._told[0] is not StreamState.BACKING_OFF:  # a retry is no news
            self._tell(StreamState.CONNECTING)
        try:
            self._play(self._open(self._sub))
            return 0.0
        except SourceError as error:
            kind, reason = error.kind, str(error)
        except Exception as error:  # one camera's surprise must not end its thread, nor name its URL
            kind, reason = ErrorKind.FAILED, f"internal error ({type(error).__name__})"
            _log.error("stream %s: %s", self.spec.id, reason, exc_info=_without_text(error))
        if kind is ErrorKind.STALLED:
            self._tell(StreamState.STALLED, reason)
        if self._began and self._mono() - self._began > self._timeouts.healthy_s * _S:
            self._backoffs[self._sub] = recovered(self._backoffs[self._sub])
        delay = self._note_failure(self._sub, reason, kind)
        self._main_failed = not self._sub
        self._tell(StreamState.BACKING_OFF, reason)
        return delay

    def _asks_for_sub(self) -> bool:
        return asks_for_sub(self._level, bool(self.spec.sub_url))

    def _note_failure(self, sub: bool, reason: str, kind: ErrorKind) -> float:
        """How long to wait before the next attempt, in s."""
        self._backoffs[sub], delay = failed(self._backoffs[sub], self._jitter())
        self._problems[sub] = reason
        self._mute[sub] = kind is ErrorKind.TIMED_OUT
        return delay * _RARER.get(kind, 1)

    def _open(self, sub: bool) -> Source:
        spec = replace(self.spec, url=self.spec.sub_url) if sub else self.spec
        t = self._timeouts
        return open_source(spec, self._secret, t.connect_s, t.read_s, self._stop, self._mono, mute=self._mute[sub])

    def _play(self, source: Source) -> None:
        """From one source to the other and back. Returns when stopped; raises SourceError."""
        opened: Opened | None = Opened(source, source.packets())
        try:
            while opened is not None:
                source = opened.source
                self._began = self._mono()
                following = self._stream(opened)
                source.close()
                if following is not None:
                    self._backoffs[self._sub] = recovered(self._backoffs[self._sub])  # it was well till the last
                    self._sub = not self._sub
                opened = following
        finally:
            source.close()
            self._pipeline.disconnected()
            if self._opening is not None:
                self._opening.drop()
                self._opening = None

    def _stream(self, opened: Opened) -> Opened | None:
        """The source to go on with; None when stopped. Raises SourceError."""
        pipeline, nvdec = self._pipeline, self._nvdec
        asked = self._level
        pipeline.level = level_on(self._sub, asked)
        pipeline.begin(opened.source.codec, self._utc(), late=opened.source.late, sub=self._sub)
        if self._told is not None and self._told[0] is StreamState.BACKING_OFF:
            self._tell(StreamState.CONNECTING)
        told = False
        two_videos = bool(self.spec.sub_url)
        for packet in opened.packets:
            if self._level is not asked:
                asked = self._level
                pipeline.level = level_on(self._sub, asked)
            turn, arrived_ns = _AT_ONCE, None
            if nvdec and pipeline.may_open(packet):
                patience_s = _PATIENCE_S if pipeline.info.width else inf  # the CPU decodes it: no need to stand still
                turn, arrived_ns = nvdec.turn.taken(self._wants_nvdec, patience_s), self._mono()
            with turn as moves, self._at_work:  # only work is waited for by those that stop it
                if self._stop.is_set():
                    return None
                if arrived_ns is not None:
                    self._turn_ns = self._mono()
                pipeline.feed(packet, arrived_ns, moves=moves)
            following = self._following() if two_videos else None
            if pipeline.info.width:  # streaming: a picture has been decoded
                if not told:
                    self._problems[self._sub] = ""
                told = True
                self._tell(StreamState.STREAMING, self._say_problem() if two_videos else pipeline.problem)
            elif not told and self._mono() - self._began > _NO_PICTURE_NS:
                # Not an error: the next keyframe may be a minute away
                self._tell(StreamState.CONNECTING, "packets come, but no picture that can be decoded yet")
            if pipeline.events:
                self._report_events()
            if following is not None:
                with self._at_work:
                    if not self._stop.is_set():
                        pipeline.drain()
                        return following
                following.source.close()
                return None
        return None

    def _wants_nvdec(self) -> bool:
        lost = self._nvdec is None or self._nvdec.lost
        return self._pipeline.device is DecodeDevice.NVDEC and not lost and not self._stop.is_set()

    def _following(self) -> Opened | None:
        """The other source, when it is asked for and gives pictures. Sees to its being opened."""
        other = not self._sub
        asked = self._asks_for_sub() is other
        if self._opening is None:
            if asked and self._mono() >= self._open_from:
                try:
                    self._opening = Opening(self.spec.id, lambda: self._open(other), self._mono)
                except RuntimeError:  # the source in use must not end for it
                    self._failed_to_open(other, SourceError(ErrorKind.FAILED, no_thread("for it")))
            return None
        result = self._opening.take()
        if result is None:
            return None
        self._opening = None
        if isinstance(result, SourceError):
            self._failed_to_open(other, result)
        elif asked:
            return result
        else:
            result.source.close()
        return None

    def _failed_to_open(self, sub: bool, error: SourceError) -> None:
        self._open_from = self._mono() + int(self._note_failure(sub, str(error), error.kind) * _S)

    def _say_problem(self) -> str:
        """Put into ``info`` why there is no sub-stream though it is asked for, and say why there is no main stream."""
        asks = self._asks_for_sub()
        problem = self._problems[True] if asks and not self._sub else ""
        if problem != self._pipeline.info.sub_problem:
            self._pipeline.info = replace(self._pipeline.info, sub_problem=problem)
        if self._sub and not asks and self._problems[False]:
            return f"still the sub-stream; the main stream: {self._problems[False]}"
        return self._pipeline.problem

    def _report_events(self) -> None:
        for event in self._pipeline.events:
            if event is TimeEvent.LATENCY_ROSE:
                _log.warning("stream %s: the camera's latency rose and stays; capture times start anew", self.spec.id)
            elif event is TimeEvent.UNTRUSTED:
                _log.warning("stream %s: its PTS are not a clock's: frames are dated by their arrival", self.spec.id)
            elif event is TimeEvent.TRUSTED:
                _log.info("stream %s: its PTS are a clock's again", self.spec.id)
            else:
                _log.info("stream %s: PTS jumped", self.spec.id)
        self._pipeline.events.clear()

    def _tell(self, state: StreamState, detail: str = "") -> None:
        told = state, detail, self._pipeline.info
        if told != self._told and not self._stop.is_set():
            self._on_state(*told)
            self._told = told


def _without_text(error: Exception) -> tuple[type[BaseException], BaseException, TracebackType | None]:
    """The traceback, but not the message: PyAV's messages hold the URL."""
    return RuntimeError, RuntimeError(type(error).__name__), error.__traceback__
