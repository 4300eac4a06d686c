"""model collect: a calibration set of frames from cameras, video files, or the running daemon's streams."""

from __future__ import annotations

import argparse
import hashlib
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facedetctl.commands import Call, Subparsers, add_command, fraction, positive
from facedetctl.exits import CtlError, Exit, UsageError
from facedetctl.model_files import STORED, add_options, load, model_path, whole
from facedetctl.output import Output, safe, span

if TYPE_CHECKING:
    from facedetctl.client import Client
    from facedetd.types import Secret, StreamSpec
    from facedetd.workshop.camera_frames import Shot
    from facedetd.workshop.collect import Progress

MODEL = "centerface"
MAX_COUNT = 5000
_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
_PAUSE_S = 10.0  # of a stream of the daemon that gives no picture now
_LIST_S = 60.0

Streams = list[tuple["StreamSpec", "Secret | None"]]


def register(nouns: Subparsers) -> argparse.ArgumentParser:
    parser = add_command(nouns, "collect", collect, "collect frames of cameras into a calibration set")
    parser.add_argument(
        "--output", metavar="DIR", type=Path, required=True, help="the set's folder; an earlier one is gone on with"
    )
    source = parser.add_argument_group("where from (without any: all streams of the running daemon)")
    source.add_argument(
        "--stream", metavar="URL", action="extend", nargs="+", help="rtsp://, rtsps:// or file://, without a password"
    )
    source.add_argument(
        "--streams-file", metavar="FILE", type=Path, help="a list as `import` takes it (docs/import.md)"
    )
    source.add_argument("--id", metavar="ID", action="extend", nargs="+", help="only these streams of the daemon")
    source.add_argument("--username", metavar="NAME", help="the user of the cameras of --stream")
    secret = source.add_mutually_exclusive_group()
    secret.add_argument("--password-stdin", action="store_true", help="read their password from stdin")
    secret.add_argument(
        "--credentials-file", metavar="FILE", type=Path, help="user:password, or two lines, or TOML; not world-readable"
    )
    parser.add_argument("--count", type=_count, default=1000, metavar="N", help="frames wanted (1000)")
    parser.add_argument(
        "--duration", type=_duration, metavar="TIME",
        help="go on for so long, such as 24h or 30min, for better frames (until there are enough)",
    )  # fmt: skip
    parser.add_argument(
        "--every", type=positive, default=2.0, metavar="S", help="seconds between frames of a stream (2)"
    )
    parser.add_argument(
        "--distance", type=_distance, default=8, metavar="BITS",
        help="frames whose hashes differ in fewer of 256 bits count as one; 0: none does (8)",
    )  # fmt: skip
    parser.add_argument(
        "--model", metavar="MODEL", default=MODEL, help=f"what finds the faces: {STORED}, or a file ({MODEL})"
    )
    parser.add_argument(
        "--threshold", type=fraction, default=0.5, metavar="SCORE", help="faces from this score on (0.5)"
    )
    add_options(parser)
    return parser


def _count(text: str) -> int:
    return whole(text, 1, MAX_COUNT)


def _distance(text: str) -> int:
    return whole(text, 0, 128)


def _duration(text: str) -> float:
    """Seconds. Raises argparse.ArgumentTypeError."""
    found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)(s|min|h|d)", text)
    seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if seconds <= 0:
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed is a number above 0 with s, min, h or d, as 24h")
    return seconds


def collect(call: Call) -> Exit:
    from facedetd.models import ModelError
    from facedetd.workshop.calibration_set import CalibrationSet, SetError
    from facedetd.workshop.collect import Collector, Plan

    args = call.args
    # What is wrong with the command line is said before anything is loaded, connected to or made.
    streams = _streams(args)
    path = model_path(args.model, args.state_dir / "models")
    detector = load(call, path)
    settings = {
        "model": {
            "file": path.name if args.model == str(path) else args.model,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "head": detector.head.name,
            "width": detector.width,
            "height": detector.height,
        },
        "threshold": args.threshold,
        "distance": args.distance,
    }
    plan = Plan(args.count, args.duration, args.distance, args.threshold)
    try:
        with ExitStack() as stack:
            stopped = stack.enter_context(_stopped_by_signals())
            source, shown = stack.enter_context(_source(call, streams))
            place = stack.enter_context(CalibrationSet(args.output, settings))
            for file in place.lost:
                call.out.say(f"warning: {file} is missing or has changed; it is no longer in the set")
            if place.frames:
                call.out.say(f"{args.output}: going on with {len(place.frames)} frames")
            about = {
                "plan": {"count": args.count, "duration_s": args.duration, "every_s": args.every},
                "streams": shown,
            }
            collector = Collector(place, detector, plan, about)
            line = _Line(call.out, args.count)
            try:
                why = collector.run(source, stopped, line)
            finally:
                line.clear()
                collector.write_sheet()
            found = {"output": str(args.output), "ended": why, **place.about["statistics"]}
    except SetError as error:
        raise UsageError(str(error)) from None
    except ModelError as error:
        raise CtlError(Exit.FAILED, f"{path}: {error}") from None
    _tell(call, found)
    return Exit.INTERRUPTED if why == "interrupted" else Exit.OK


def _tell(call: Call, found: dict[str, Any]) -> None:
    if call.out.json:
        call.out.data(found)
        return
    call.out.line(
        f"{safe(found['output'])}: {found['frames']} frames, {found['hard']} of them hard ({found['ended']}); "
        f"{found['seen']} seen, {found['alike']} too like others"
    )
    for name, label in (
        ("streams", "streams"), ("hours_utc", "hours UTC"), ("brightness", "brightness"), ("faces", "faces"),
        ("smallest_face_model_px", "smallest face, px of the model"),
    ):  # fmt: skip
        parts = ", ".join(f"{safe(key)}: {count}" for key, count in found[name].items() if count)
        call.out.line(f"  {label}: {parts or '-'}")


def _streams(args: argparse.Namespace) -> Streams:
    """Those that the command line names; none: the daemon's. Raises UsageError."""
    from facedetctl.streams import _bare_url, _login
    from facedetd.config.importfile import read_import
    from facedetd.config.issues import ConfigErrors
    from facedetd.config.streamcheck import check_login, check_spec
    from facedetd.types import Secret, StreamSpec

    named = bool(args.stream or args.streams_file)
    if args.id and named:
        raise UsageError("--id names streams of the daemon; it excludes --stream and --streams-file")
    if not args.stream and (args.username or args.password_stdin or args.credentials_file):
        raise UsageError("--username, --password-stdin and --credentials-file are for --stream")
    found: Streams = []
    urls = []
    for url in args.stream or ():
        # Each may name its own user; a second one beside --username is refused
        urls.append(_bare_url(url, args.username, "--stream"))
    username, password = _login(args)
    for i, (url, own) in enumerate(urls, 1):
        secret = None if password is None else Secret(password)
        spec = StreamSpec(f"stream-{i}", url, username=own or username or "")
        bad = [*check_spec(spec, allow_file_sources=True), *check_login(spec.username, secret)]
        if bad:
            raise UsageError("--stream: refused: a bad value", [f"{v.field}: {v.message}" for v in bad])
        found.append((spec, secret))
    if args.streams_file:
        try:
            read = read_import(args.streams_file)
        except ConfigErrors as errors:
            lines = str(errors).split("\n")
            raise UsageError(f"{args.streams_file}: {len(lines)} error{'s' * (len(lines) > 1)}", lines) from None
        found += read.entries
    doubled = {spec.id for spec, _ in found if sum(other.id == spec.id for other, _ in found) > 1}
    if doubled:
        raise UsageError(f"the id {sorted(doubled)[0]} stands for a --stream; rename it in {args.streams_file}")
    found = [(spec, secret) for spec, secret in found if not spec.paused]
    if named and not found:
        raise UsageError(f"{args.streams_file}: no streams, or all are paused")
    return found


@contextmanager
def _source(call: Call, streams: Streams) -> Iterator[tuple[Any, list[dict[str, str]]]]:
    """What gives the pictures, and the streams as the set's list shows them: without credentials."""
    from facedetd.config.urls import redact_url

    if streams:
        from facedetd.workshop.camera_frames import CameraFrames

        cameras = CameraFrames(streams, call.args.every, call.out.say)
        try:
            yield cameras, [{"id": spec.id, "url": redact_url(spec.url)} for spec, _ in streams]
        finally:
            cameras.close()
        return
    with call.connect() as client:
        daemon = DaemonFrames(client, call, call.args.id or ())
        yield daemon, daemon.shown


class DaemonFrames:
    """Pictures of the running daemon's streams, in turn, as it sampled them and with nothing drawn in."""

    def __init__(
        self, client: Client, call: Call, only: Sequence[str], mono: Callable[[], float] = time.monotonic
    ) -> None:
        """Raises CtlError: no such stream, or none at all."""
        self._client, self._call, self._only, self._mono = client, call, frozenset(only), mono
        self._due: dict[str, float] = {}
        self._told: dict[str, str] = {}
        self._list()
        missing = self._only - self._due.keys()
        if missing:
            raise CtlError(Exit.NOT_FOUND, f"there is no stream {safe(sorted(missing)[0])}")
        if not self._due:
            raise CtlError(Exit.FAILED, "the daemon has no streams; name some with --stream or --streams-file")

    def _list(self) -> None:
        from facedetctl.streams import _all_streams
        from facedetd.config.urls import redact_url

        streams = {s.spec.id: s for s in _all_streams(self._client, {}) if not self._only or s.spec.id in self._only}
        now = self._mono()
        self._due = {id_: self._due.get(id_, now) for id_ in streams}
        self.shown = [{"id": id_, "url": redact_url(s.spec.url)} for id_, s in streams.items()]
        self._next_list = now + _LIST_S

    def take(self, timeout_s: float) -> Shot | None:
        """The stream's next frame whose turn is first. Raises CtlError where trying again can't help."""
        import grpc

        from facedetctl.client import error_of

        now = self._mono()
        try:
            if now >= self._next_list:
                self._list()
            stream = min(self._due, key=lambda id_: self._due[id_], default="")
            if not stream or self._due[stream] > now:
                time.sleep(min(timeout_s, max(0.0, self._due.get(stream, now + timeout_s) - now)))
                return None
            self._due[stream] = now + _PAUSE_S
            return self._shot(stream)
        except grpc.RpcError as found:
            error = error_of(found, self._call.target, self._client.timeout)
            if error.code is Exit.NOT_FOUND:
                self._due.pop(stream, None)
            elif error.code not in (Exit.UNAVAILABLE, Exit.UNREACHABLE, Exit.LIMIT):
                raise error from None
            if error.code is Exit.UNREACHABLE:
                self._due = dict.fromkeys(self._due, now + _PAUSE_S)
                self._next_list = now + _PAUSE_S
                stream = ""
            self._say(stream, str(error))
            return None

    def _shot(self, stream: str) -> Shot | None:
        import cv2
        import numpy as np

        from facedetd.v1 import stream_pb2
        from facedetd.workshop.camera_frames import Shot

        request = stream_pb2.GetSnapshotRequest(id=stream, plain=True)
        answer = self._client.streams.GetSnapshot(request, timeout=self._client.timeout)
        self._due[stream] = self._mono() + self._call.args.every
        self._say(stream, "")
        picture = cv2.imdecode(np.frombuffer(answer.jpeg, np.uint8), cv2.IMREAD_COLOR)
        if picture is None:
            self._say(stream, "the daemon's picture can't be read")
            return None
        return Shot(stream, answer.capture_time.ToNanoseconds(), np.asarray(picture, np.uint8), answer.jpeg)

    def _say(self, stream: str, problem: str) -> None:
        """What is wrong with a stream, or with the daemon (no stream), once."""
        if problem and self._told.get(stream) != problem:
            self._call.out.say(f"stream {safe(stream)}: {safe(problem)}" if stream else safe(problem))
        if not problem:
            self._told.pop("", None)
        self._told[stream] = problem


@contextmanager
def _stopped_by_signals() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C or SIGTERM has come: the first is heeded between two pictures, the second ends at once. Elsewhere
    than on the main thread nothing is changed."""
    came: list[int] = []
    before: dict[int, Any] = {}

    def note(number: int, _: Any) -> None:
        came.append(number)
        for one, handler in before.items():
            signal.signal(one, handler)

    try:
        for ours in (signal.SIGINT, signal.SIGTERM):
            before[ours] = signal.signal(ours, note)
    except ValueError:
        pass
    try:
        yield lambda: bool(came)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


class _Line:
    """One line on stderr, on a terminal only."""

    def __init__(self, out: Output, count: int) -> None:
        self._out, self._count, self._next = out, count, 0.0

    def __call__(self, now: Progress) -> None:
        if not self._out.err.isatty() or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + 0.5
        text = (
            f"{now.kept} of {self._count} frames, {now.seen} seen, {now.alike} too like others, {span(now.elapsed_s)}"
        )
        self._out.err.write(f"\r{text}\x1b[K")
        self._out.err.flush()

    def clear(self) -> None:
        if self._out.err.isatty():
            self._out.err.write("\r\x1b[K")
            self._out.err.flush()
