"""Pictures of cameras and video files, now and then one of each, by the decoder groups' own threads."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from facedetd.capture.stream import StreamThread
from facedetd.capture.types import SampledFrame, Slot, Snapshot, StreamInfo, StreamTimeouts
from facedetd.types import ByteArray, DecodeLevel, Secret, StreamSpec, StreamState

_WAITING = 4
"""Full-size pictures that wait at most: a stream whose picture finds no place is asked again."""
_TIMEOUTS = StreamTimeouts(max_frame_age_s=60.0)  # how old a picture is doesn't matter here
_TROUBLE = (StreamState.BACKING_OFF, StreamState.STALLED)
_SLOT = 32  # px, of the picture that nobody looks at


@dataclass(frozen=True, slots=True)
class Shot:
    """A picture, (height, width, 3) uint8 BGR, of a stream at a time of capture; ``jpeg`` where it came as one."""

    stream: str
    utc_ns: int
    bgr: ByteArray
    jpeg: bytes | None = None


class _NoRing:
    """A FrameSink that counts nothing and keeps nothing: a full-size picture is had of submitted frames only."""

    attached = True

    def __init__(self) -> None:
        self._slot = Slot(0, np.empty((_SLOT * 3 // 2, _SLOT), np.uint8))

    def acquire(self) -> Slot | None:
        return self._slot

    def submit(self, slot: Slot, frame: SampledFrame) -> None:
        pass

    def release(self, slot: Slot) -> None:
        pass

    def count(self, **_: int) -> None:
        pass


class CameraFrames:
    """Connects to all streams at once and gives a picture of each every ``every_s`` seconds. Only keyframes are
    decoded, so that many cameras fit a machine; a camera whose keyframes are rarer gives as many as it has. Streams
    that fail are said and tried again, as the daemon does. Of a stream with a sub-stream the main one is taken."""

    def __init__(
        self,
        streams: Sequence[tuple[StreamSpec, Secret | None]],
        every_s: float,
        say: Callable[[str], None],
        mono: Callable[[], float] = time.monotonic,
    ):
        self._every_s, self._say, self._mono = every_s, say, mono
        self._shots: queue.Queue[Shot] = queue.Queue(_WAITING)
        self._news: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._due = {spec.id: mono() for spec, _ in streams}
        self._asked: set[str] = set()
        self._told: dict[str, str] = {}
        self._threads = {
            spec.id: StreamThread(
                replace(spec, sub_url="", target_fps=1 / every_s),
                secret,
                _NoRing(),
                lambda state, detail, info, id_=spec.id: self._on_state(id_, state, detail, info),  # type: ignore[misc]
                _TIMEOUTS,
                level=DecodeLevel.KEYFRAMES,
            )
            for spec, secret in streams
        }
        for thread in self._threads.values():
            thread.start()

    def _on_state(self, stream: str, state: StreamState, detail: str, info: StreamInfo) -> None:
        known = self._told.get(stream, "")
        if state in _TROUBLE and detail != known:
            self._told[stream] = detail
            self._news.put(f"stream {stream}: {detail or state.value}")
        elif state is StreamState.STREAMING and known:
            self._told[stream] = ""
            self._news.put(f"stream {stream}: its pictures come again")

    def take(self, timeout_s: float) -> Shot | None:
        """The next picture, or None when none came in time."""
        now = self._mono()
        for stream, due in self._due.items():
            if due <= now and stream not in self._asked:
                self._asked.add(stream)
                self._threads[stream].request_snapshot(lambda shot, id_=stream: self._got(id_, shot))  # type: ignore[misc]
        while not self._news.empty():
            self._say(self._news.get())
        try:
            shot = self._shots.get(timeout=timeout_s)
        except queue.Empty:
            return None
        self._due[shot.stream] = self._mono() + self._every_s
        return shot

    def _got(self, stream: str, shot: Snapshot) -> None:
        with suppress(queue.Full):
            self._shots.put_nowait(Shot(stream, shot.capture_utc_ns, shot.bgr))
        self._asked.discard(stream)

    def close(self) -> None:
        for thread in self._threads.values():
            thread.stop()
