"""Opens a stream's other source in the background, while the one in use goes on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain

from av.packet import Packet
from av.video.stream import VideoStream

from facedetd.capture.levers import BAD_PICTURE
from facedetd.capture.source import ErrorKind, Source, SourceError

_S = 1_000_000_000
PICTURE_S = 30.0
"""How long to wait for a first picture: cameras send a keyframe every few seconds, some only every twenty."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Opened:
    """A source and its packets, of which none has been taken yet."""

    source: Source
    packets: Iterator[Packet[VideoStream]]


class Opening:
    """Begins at once. ``take`` is for one thread; a connect that hangs holds up nobody."""

    def __init__(self, stream_id: str, opener: Callable[[], Source], clock: Callable[[], int]):
        self._stream_id, self._opener, self._clock = stream_id, opener, clock
        self._lock = threading.Lock()
        self._result: Opened | SourceError | None = None
        self._dropped = False
        threading.Thread(target=self._run, name=f"opening-{stream_id}", daemon=True).start()

    def take(self) -> Opened | SourceError | None:
        """The source from its first decodable keyframe on, or why there is none; None while it isn't known yet. The
        source is the caller's then."""
        with self._lock:
            result, self._result = self._result, None
            return result

    def drop(self) -> None:
        """It is no longer wanted."""
        with self._lock:
            self._dropped = True
            result, self._result = self._result, None
        if isinstance(result, Opened):
            result.source.close()

    def _run(self) -> None:
        try:
            source = self._opener()
            try:
                result: Opened | SourceError | None = self._with_picture(source)
            except BaseException:
                source.close()
                raise
        except SourceError as error:
            # Not the error itself: its traceback holds this frame, and the source with it
            result = SourceError(error.kind, str(error))
        except Exception as error:
            # One camera's surprise; its text may hold the URL
            _log.error("stream %s: internal error (%s) while opening", self._stream_id, type(error).__name__)
            result = SourceError(ErrorKind.FAILED, f"internal error ({type(error).__name__})")
        with self._lock:
            if not self._dropped:
                self._result = result
                return
        if isinstance(result, Opened):
            result.source.close()

    def _with_picture(self, source: Source) -> Opened:
        """Raises SourceError."""
        until = self._clock() + PICTURE_S * _S
        packets = source.packets()
        for packet in packets:
            if packet.size and packet.is_keyframe and _gives_a_picture(packet):
                return Opened(source, chain((packet,), packets))
            if self._dropped or self._clock() > until:
                break
        raise SourceError(ErrorKind.NO_VIDEO, f"no picture within {PICTURE_S:g} s")


def _gives_a_picture(packet: Packet[VideoStream]) -> bool:
    context = packet.stream.codec_context
    try:
        frames = [*packet.decode(), *context.decode(None)]
    except BAD_PICTURE:
        frames = []
    if context.is_open:
        context.flush_buffers()
    return bool(frames)
