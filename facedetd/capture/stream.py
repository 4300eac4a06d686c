"""The thread of a stream: connecting, streaming, stalled, backing off, and again."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from types import TracebackType

from facedetd.capture.backoff import Backoff, failed, recovered
from facedetd.capture.pipeline import Pipeline
from facedetd.capture.source import ErrorKind, Source, SourceError, open_source, silence_ffmpeg
from facedetd.capture.timeline import TimeEvent
from facedetd.capture.types import FrameSink, OnSnapshot, OnState, StreamInfo, StreamTimeouts
from facedetd.types import Secret, StreamSpec, StreamState

_S = 1_000_000_000
_NO_PICTURE_NS = 5 * _S
_log = logging.getLogger(__name__)


class StreamThread:
    """Runs one stream until stopped. Start it with ``start``.

    ``on_state`` is called by the thread, on changes only. ``mono`` and ``utc`` give ns; ``jitter`` is uniform in
    [0, 1).
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
        self._pipeline = Pipeline(sink, rate, self._timeouts.max_frame_age_s, mono, phase)
        self._stop = threading.Event()
        self._at_work = threading.Lock()  # held while the sink is used
        self._told: tuple[StreamState, str, StreamInfo] | None = None
        self._thread = threading.Thread(target=self._run, name=f"stream-{spec.id}", daemon=True)

    def start(self) -> None:
        silence_ffmpeg()
        self._thread.start()

    def set_fps(self, fps: float) -> None:
        """Sample at this rate from the next frame on; 0: none."""
        self._pipeline.fps = fps

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
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        backoff = Backoff(self._timeouts.backoff_initial_s, self._timeouts.backoff_max_s)
        while not self._stop.is_set():
            began = 0
            self._tell(StreamState.CONNECTING)
            try:
                source = self._open()
                try:
                    began = self._mono()
                    self._stream(source)
                finally:
                    source.close()
                return
            except SourceError as error:
                kind, reason = error.kind, str(error)
            except Exception as error:  # one camera's surprise must not end its thread, nor name its URL
                kind, reason = ErrorKind.FAILED, f"internal error ({type(error).__name__})"
                _log.error("stream %s: %s", self.spec.id, reason, exc_info=_without_text(error))
            if kind is ErrorKind.STALLED:
                self._tell(StreamState.STALLED, reason)
            if began and self._mono() - began > self._timeouts.healthy_s * _S:
                backoff = recovered(backoff)
            backoff, delay = failed(backoff, self._jitter())
            self._tell(StreamState.BACKING_OFF, reason)
            self._stop.wait(delay)

    def _open(self) -> Source:
        return open_source(
            self.spec, self._secret, self._timeouts.connect_s, self._timeouts.read_s, self._stop, self._mono
        )

    def _stream(self, source: Source) -> None:
        """Returns when stopped; raises SourceError."""
        pipeline = self._pipeline
        pipeline.begin(source.codec, self._utc(), late=source.late)
        told = None
        opened = self._mono()
        for packet in source.packets():
            with self._at_work:
                if self._stop.is_set():
                    return
                pipeline.feed(packet)
            if pipeline.info is not told and pipeline.info.width:  # streaming: a picture has been decoded
                told = pipeline.info
                self._tell(StreamState.STREAMING)
            elif told is None and self._mono() - opened > _NO_PICTURE_NS:
                # Not an error: the next keyframe may be a minute away
                self._tell(StreamState.CONNECTING, "packets come, but no picture that can be decoded yet")
            if pipeline.events:
                self._report_events()

    def _report_events(self) -> None:
        for event in self._pipeline.events:
            if event is TimeEvent.LATENCY_ROSE:
                _log.warning("stream %s: the camera's latency rose and stays; capture times start anew", self.spec.id)
            else:
                _log.info("stream %s: PTS jumped", self.spec.id)
        self._pipeline.events.clear()

    def _tell(self, state: StreamState, detail: str = "") -> None:
        told = state, detail, self._pipeline.info
        if told != self._told and not self._stop.is_set():
            self._told = told
            self._on_state(*told)


def _without_text(error: Exception) -> tuple[type[BaseException], BaseException, TracebackType | None]:
    """The traceback, but not the message: PyAV's messages hold the URL."""
    return RuntimeError, RuntimeError(type(error).__name__), error.__traceback__
