"""One stream as the daemon runs it: its definition, what is seen of it, and its figures."""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import dataclass

from facedetd.control import ModelView, StreamView
from facedetd.results.latency import LatencyWindow
from facedetd.results.rate import RateWindow
from facedetd.results.record import RawResult
from facedetd.supervisor.accounting import StreamAccount
from facedetd.types import DecodeDevice, DecodeLevel, Face, FrameResult, Origin, Secret, StreamSpec, StreamState, Video

log = logging.getLogger(__name__)

SUB_RESTS_NS = 60_000_000_000
"""So long a sub-stream that can't be had isn't reckoned with: without a pause its level would come and go."""
LAGS = 3
"""So many words of a stream's decoder, which come every second, are remembered."""
MAX_REASONS = 8
"""Reasons why a stream is down that are logged till it is up again: they may hold text of the camera's."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the decoder group last said of the camera."""

    state: StreamState
    detail: str = ""
    codec: str = ""
    width: int = 0
    height: int = 0
    fps: float = 0.0
    level: DecodeLevel = DecodeLevel.FULL
    sub: bool = False
    keyframe_s: float = 0.0
    reference_share: float = 1.0
    bits_per_s: float = 0.0
    sub_problem: str = ""
    device: DecodeDevice = DecodeDevice.CPU
    nvdec_problem: str = ""

    @property
    def video(self) -> Video | None:
        """The video that is being received; None while too little is known of it."""
        if self.state is not StreamState.STREAMING or not (self.width and self.fps):
            return None
        known = {"keyframe_s": self.keyframe_s} if self.keyframe_s else {}
        return Video(
            self.codec,
            self.width,
            self.height,
            self.fps,
            reference_share=min(1.0, self.reference_share),
            bits_per_s=self.bits_per_s,
            **known,
        )


class StreamRuntime:
    def __init__(self, spec: StreamSpec, origin: Origin, secret: Secret | None):
        self.spec, self.origin, self.secret = spec, origin, secret
        self.granted_fps = spec.target_fps
        self.level = DecodeLevel.FULL
        """What is granted of the video; ``seen.level`` is what is decoded."""
        self.device = DecodeDevice.CPU
        """Where it shall be decoded; ``seen.device`` is where it is."""
        self._lags: deque[tuple[int, int]] = deque(maxlen=LAGS)  # (when, ns)
        self.main: Video | None = None
        self.sub: Video | None = None
        self._sub_failed_ns: int | None = None
        self.account = StreamAccount()
        self.latency = LatencyWindow()
        self.rate = RateWindow()
        self._seen = Seen(StreamState.PAUSED if spec.paused else StreamState.WAITING)
        self._since_utc_ns = time.time_ns()
        self._up = False
        self._told: set[str] = set()  # why it is down, as far as the log knows

    def redefine(self, spec: StreamSpec, origin: Origin, secret: Secret | None) -> tuple[bool, bool]:
        """Take over a new definition. Returns whether it takes a new connection to the camera, and whether its decoder
        must be told what is granted."""
        old = self.spec
        reconnect = needs_reconnect(old, spec) or self.secret != secret
        self.spec, self.origin, self.secret = spec, origin, secret
        if old.url != spec.url:
            self.main = None
        if (old.url, old.sub_url) != (spec.url, spec.sub_url):
            self.sub = self._sub_failed_ns = None
        if old.target_fps != spec.target_fps:
            self.granted_fps = spec.target_fps  # the next period says what of it can be had
        return reconnect, (old.target_fps, old.priority) != (spec.target_fps, spec.priority)

    @property
    def seen(self) -> Seen:
        return self._seen

    def see(self, seen: Seen) -> None:
        if seen.state != self._seen.state:
            self._since_utc_ns = time.time_ns()
        self._seen = seen
        if seen.sub_problem:
            self._sub_failed_ns = time.monotonic_ns()
        if seen.sub:
            self._sub_failed_ns = None
            self.sub = seen.video or self.sub
        else:
            self.main = seen.video or self.main
        self._log(seen)

    @property
    def sub_works(self) -> bool:
        """Whether the sub-stream can be had, as far as is known."""
        failed = self._sub_failed_ns
        return not self._seen.sub_problem and (failed is None or time.monotonic_ns() - failed > SUB_RESTS_NS)

    def lagged(self, lag_ns: int) -> None:
        """The decoder says how old the oldest frame was that it sampled since it said so last."""
        self._lags.append((time.monotonic_ns(), lag_ns))

    def lag_s(self, since_ns: int) -> float | None:
        """The worst since then (monotonic), of the last seconds; None when nothing was sampled."""
        lags = [lag for when, lag in self._lags if when >= since_ns]
        return max(lags) / 1e9 if lags else None

    @property
    def wants_capacity(self) -> bool:
        """Whether it sends or soon will, as far as can be known: a camera that fails needs nothing."""
        new = self._seen.state in (StreamState.WAITING, StreamState.CONNECTING) and not self._told
        return new or self._seen.state is StreamState.STREAMING

    def _log(self, seen: Seen) -> None:
        """A line when it comes up, one for each new reason why it is down; none for a retry."""
        if seen.state is StreamState.STREAMING and not self._up:
            self._up = True
            self._told.clear()
            log.info("stream %s: streaming %s %dx%d", self.spec.id, seen.codec, seen.width, seen.height)
        elif seen.state is StreamState.BACKING_OFF and seen.detail not in self._told and len(self._told) < MAX_REASONS:
            self._up = False
            self._told.add(seen.detail)
            log.warning("stream %s: %s", self.spec.id, seen.detail)

    def view(self) -> StreamView:
        seen = self._seen
        return StreamView(
            spec=self.spec,
            origin=self.origin,
            has_password=self.secret is not None,
            state=seen.state,
            detail=seen.detail,
            state_since_utc_ns=self._since_utc_ns,
            codec=seen.codec,
            source_width=seen.width,
            source_height=seen.height,
            source_fps=seen.fps,
            granted_fps=self.granted_fps,
            actual_fps=self.rate.rate(),
            latency=self.latency.view(),
            counts=self.account.counts(),
            decode_level=seen.level if seen.state is StreamState.STREAMING else self.level,
            on_sub_stream=seen.sub,
            sub_stream_problem=seen.sub_problem,
            decode_device=seen.device,
            nvdec_problem=seen.nvdec_problem,
        )


RECONNECT_FIELDS = ("url", "sub_url", "username", "credential", "transport", "tls_verify", "ca_file")


def needs_reconnect(old: StreamSpec, new: StreamSpec) -> bool:
    """Whether a change of definition can only be had with a new connection to the camera."""
    return any(getattr(old, name) != getattr(new, name) for name in RECONNECT_FIELDS)


def frame_result(raw: RawResult, stream_id: str, model: ModelView, faces: tuple[Face, ...]) -> FrameResult:
    """What watchers get of a record; ``faces`` are those of it that the stream's regions of interest leave."""
    return FrameResult(
        stream_id=stream_id,
        epoch=raw.epoch,
        sequence=raw.sequence,
        pts_ns=raw.pts_ns,
        capture_utc_ns=raw.capture_utc_ns,
        capture_mono_ns=raw.capture_mono_ns,
        arrival_mono_ns=raw.arrival_mono_ns,
        done_mono_ns=raw.done_mono_ns,
        source_width=raw.source_width,
        source_height=raw.source_height,
        faces=faces,
        model_name=model.name,
        model_version=model.version,
        batch_size=raw.batch_size,
    )
