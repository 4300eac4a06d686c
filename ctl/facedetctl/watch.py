"""watch: detections as they come."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from facedetctl.commands import Call, Subparsers, add_command, fraction, positive
from facedetctl.exits import Exit, UsageError
from facedetctl.output import plain, word

if TYPE_CHECKING:
    from facedetctl.client import Client
    from facedetd.v1 import stream_pb2

ID_WIDTH, ID_WIDTH_MAX = 8, 24
MOST_TOLD = 5


def register(subparsers: Subparsers) -> None:
    parser = add_command(subparsers, "watch", watch, "show detections as they come")
    parser.add_argument("ids", metavar="ID", nargs="*", help="only of these streams")
    parser.add_argument(
        "--min-score", type=fraction, default=0.0, metavar="0-1", help="leave out faces under this score"
    )
    parser.add_argument("--empty", action="store_true", help="show frames without faces too")
    parser.add_argument("--count", type=int, metavar="N", help="end after N detections")
    parser.add_argument("--duration", type=positive, metavar="S", help="end after S seconds")


def watch(call: Call) -> Exit:
    from facedetctl.render import detection_line
    from facedetd.v1 import detection_pb2

    args, out = call.args, call.out
    if args.count is not None and args.count < 1:
        raise UsageError(f"--count: found {args.count}; allowed is a number from 1")
    request = detection_pb2.WatchDetectionsRequest(
        stream_ids=args.ids, min_score=args.min_score, include_empty=args.empty, together=True
    )
    lost, left = 0, args.count
    answers: Any
    with call.connect() as client, _Deadline(args.duration) as deadline:
        streams = [] if out.json else _streams(client, args.ids)
        names = [*args.ids, *(stream.spec.id for stream in streams)]
        id_width = min(max([ID_WIDTH, *map(len, names)]), ID_WIDTH_MAX)
        for line in _why_nothing_comes(streams):
            out.say(line)
        answers = client.detections.WatchDetections(request)
        deadline.ends(answers)
        try:
            for message in answers:
                found = [message.detection, *message.more][:left]
                for detection in found:
                    if out.json:
                        out.data({**plain(detection), "lost": message.lost})
                    else:
                        out.line(detection_line(detection, out.size()[0], out.colour, id_width))
                if message.lost > lost and not out.json:
                    out.say(f"{message.lost} detections lost so far: this output is read too slowly")
                    lost = message.lost
                out.flush()
                if left is not None and not (left := left - len(found)):
                    break
        except Exception:
            if not deadline.over:
                raise
        finally:
            answers.cancel()
    return Exit.OK


def _streams(client: Client, ids: Sequence[str]) -> list[stream_pb2.Stream]:
    """Those to be watched, as they are now; of very many the first page."""
    from facedetd.v1 import stream_pb2

    answer = client.streams.ListStreams(stream_pb2.ListStreamsRequest(), timeout=client.timeout)
    return [stream for stream in answer.streams if not ids or stream.spec.id in ids]


def _why_nothing_comes(streams: Sequence[stream_pb2.Stream]) -> list[str]:
    """A line for each stream that gives no pictures; who watches it would wait without a word. What is only about to
    begin isn't told."""
    from facedetd.v1 import stream_pb2

    beginning = (
        stream_pb2.STREAM_STATE_STREAMING, stream_pb2.STREAM_STATE_WAITING, stream_pb2.STREAM_STATE_CONNECTING,
    )  # fmt: skip
    lines = [
        f"stream {stream.spec.id} is {word(stream.status, 'state')}"
        + (f": {stream.status.detail}" if stream.status.detail else "")
        for stream in streams
        if stream.status.state not in beginning
    ]
    more = len(lines) - MOST_TOLD
    return lines if more <= 0 else [*lines[:MOST_TOLD], f"so it is with {more} more: facedetctl stats"]


class _Deadline:
    """Cancels a call after so many seconds; None: never. Not gRPC's deadline, which would look like an error."""

    def __init__(self, seconds: float | None) -> None:
        self.over = False
        self._call: Any = None
        self._timer = threading.Timer(seconds, self._end) if seconds is not None else None

    def ends(self, call: Any) -> None:
        self._call = call
        if self._timer:
            self._timer.daemon = True
            self._timer.start()

    def _end(self) -> None:
        self.over = True
        self._call.cancel()

    def __enter__(self) -> _Deadline:
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer:
            self._timer.cancel()
