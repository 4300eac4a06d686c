"""add-stream, update-stream, remove-stream, pause-stream, resume-stream, list-streams, import, snapshot."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facedetctl import credentials
from facedetctl.commands import Call, Subparsers, add_command, label, labels_of, polygon, positive
from facedetctl.exits import CtlError, Exit, UsageError
from facedetctl.output import Cell, plain, safe, several, table

if TYPE_CHECKING:
    from facedetctl.client import Client
    from facedetd.v1 import stream_pb2

PAGE = 500
TRANSPORTS = ("tcp", "udp")
DECODE_MODES = ("auto", "cpu", "gpu")


def register(subparsers: Subparsers) -> None:
    add = add_command(subparsers, "add-stream", add_stream, "add a camera")
    add.add_argument("id", metavar="ID", help="a letter or digit, then letters, digits, '.', '_' or '-'")
    add.add_argument("url", metavar="URL", help="rtsp://HOST/… or rtsps://HOST/…, without a password")
    _spec_options(add)
    add.add_argument("--dry-run", action="store_true", help="check only")

    update = add_command(subparsers, "update-stream", update_stream, "change a stream; what is not given stays")
    update.add_argument("id", metavar="ID")
    update.add_argument("--url", metavar="URL", help="another URL, without a password")
    _spec_options(update)
    update.add_argument("--no-password", action="store_true", help="forget the password")
    update.add_argument("--no-roi", action="store_true", help="look at the whole picture again")
    update.add_argument("--no-labels", action="store_true", help="remove all labels")

    for name, run, text in (
        ("remove-stream", remove_stream, "remove streams"),
        ("pause-stream", pause_stream, "disconnect from cameras and keep their definitions"),
        ("resume-stream", resume_stream, "connect to paused cameras again"),
    ):
        parser = add_command(subparsers, name, run, text)
        parser.add_argument("ids", metavar="ID", nargs="+")

    listing = add_command(subparsers, "list-streams", list_streams, "list the streams")
    listing.add_argument("--label", action="append", type=label, metavar="NAME=VALUE", help="only with this label")

    imports = add_command(subparsers, "import", import_streams, "add all streams of a list, or none")
    imports.add_argument("file", metavar="FILE", type=Path, help="a .toml, .json or .csv file")
    imports.add_argument("--dry-run", action="store_true", help="check only")

    shot = add_command(subparsers, "snapshot", snapshot, "save the next frame as a JPEG with its faces drawn")
    shot.add_argument("id", metavar="ID")
    shot.add_argument("-o", "--output", metavar="FILE", type=Path, help="where to; stdout if it is no terminal")
    shot.add_argument("--plain", action="store_true", help="leave the faces undrawn")


def _spec_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sub-url", metavar="URL", help="a smaller stream of the same camera, used under load ('': none)"
    )
    parser.add_argument("--priority", type=int, metavar="0-100", help="higher is served first (50)")
    parser.add_argument("--target-fps", type=positive, metavar="FPS", help="detections a second wanted (5)")
    parser.add_argument(
        "--min-fps", type=positive, metavar="FPS", help="not lowered under this while all minima fit (1)"
    )
    parser.add_argument("--transport", choices=TRANSPORTS, help="how RTP travels (tcp)")
    parser.add_argument("--decode", choices=DECODE_MODES, help="where to decode (auto)")
    parser.add_argument(
        "--roi", action="append", type=polygon, metavar='"X,Y X,Y X,Y"',
        help="a polygon in fractions of the picture; only faces centred in one count; repeatable",
    )  # fmt: skip
    parser.add_argument("--label", action="append", type=label, metavar="NAME=VALUE", help="repeatable")
    parser.add_argument("--username", metavar="NAME", help="the camera's user")
    secret = parser.add_mutually_exclusive_group()
    secret.add_argument("--password-stdin", action="store_true", help="read the camera's password from stdin")
    secret.add_argument(
        "--credentials-file", metavar="FILE", type=Path, help="user:password, or two lines, or TOML; not world-readable"
    )
    secret.add_argument("--password", action=_RefusePassword, help=argparse.SUPPRESS)
    parser.add_argument("--ca-file", metavar="FILE", help="PEM file of authorities to trust for rtsps")
    parser.add_argument("--tls-verify", action=argparse.BooleanOptionalAction, help="check an rtsps certificate (yes)")
    parser.add_argument("--paused", action=argparse.BooleanOptionalAction, help="do not connect")


class _RefusePassword(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        raise UsageError(f"no password on the command line; {credentials.STDIN_HINT}")


def _bare_url(url: str, username: str | None, option: str) -> tuple[str, str | None]:
    """The URL without its user, and the user. Raises UsageError, without showing the URL, where it may hold a
    password, and for a second user name."""
    from facedetd.config.urls import may_hold_password, split_userinfo

    if may_hold_password(url):
        raise UsageError(
            f"{option} may hold a password (an '@' after a ':'); {credentials.STDIN_HINT}. "
            "An '@' that belongs to the path is written %40"
        )
    bare, name, _ = split_userinfo(url)
    if name and username is not None and name != username:
        raise UsageError(f"{option} names another user than --username or the credentials")
    return bare, name or username


def _login(args: argparse.Namespace) -> tuple[str | None, str | None]:
    """(user name, password), each None where not given. Raises UsageError."""
    if args.password_stdin:
        return args.username, credentials.from_stdin(sys.stdin)
    if args.credentials_file is None:
        return args.username, None
    login = credentials.from_file(args.credentials_file)
    if args.username is not None and login.username and login.username != args.username:
        raise UsageError(f"{args.credentials_file} names another user than --username")
    return login.username or args.username, login.password


def _request_parts(args: argparse.Namespace) -> tuple[stream_pb2.StreamSpec, str | None, list[str]]:
    """The spec of what is given, the password, and the paths of the given fields. Raises UsageError."""
    from facedetd.v1 import stream_pb2

    # URLs first: a wrong one should not cost the operator a typed password.
    username = args.username
    urls = {}
    for field, option in (("url", "URL"), ("sub_url", "--sub-url")):
        if getattr(args, field) is not None:
            urls[field], username = _bare_url(getattr(args, field), username, option)
    args.username = username
    username, password = _login(args)
    given: dict[str, Any] = {
        **urls,
        "priority": args.priority,
        "target_fps": args.target_fps,
        "min_fps": args.min_fps,
        "ca_file": args.ca_file,
        "username": username,
        "tls_verify": args.tls_verify,
        "paused": args.paused,
        "transport": None
        if args.transport is None
        else stream_pb2.Transport.Value(f"TRANSPORT_{args.transport.upper()}"),
        "decode": None if args.decode is None else stream_pb2.DecodeMode.Value(f"DECODE_MODE_{args.decode.upper()}"),
        "labels": None if args.label is None else labels_of(args.label),
        "regions_of_interest": None if args.roi is None else [_polygon(points) for points in args.roi],
    }
    given = {name: value for name, value in given.items() if value is not None}
    try:
        return stream_pb2.StreamSpec(id=args.id, **given), password, list(given)
    except ValueError:
        raise UsageError("a number is too large, or a text is not UTF-8") from None


def _polygon(points: Sequence[tuple[float, float]]) -> stream_pb2.Polygon:
    from facedetd.v1 import stream_pb2

    return stream_pb2.Polygon(points=[stream_pb2.Point(x=x, y=y) for x, y in points])


def add_stream(call: Call) -> Exit:
    from facedetd.v1 import stream_pb2

    spec, password, _ = _request_parts(call.args)
    request = stream_pb2.CreateStreamRequest(spec=spec, dry_run=call.args.dry_run)
    if password is not None:
        request.credentials.password = password
    with call.connect() as client:
        answer = client.streams.CreateStream(request, timeout=client.timeout)
    verb = "would be added" if call.args.dry_run else "added"
    return _tell(call, answer.stream, answer.warnings, f"{safe(answer.stream.spec.id)} {verb}")


def update_stream(call: Call) -> Exit:
    from facedetd.v1 import stream_pb2

    args = call.args
    for no, yes, name in ((args.no_roi, args.roi, "roi"), (args.no_labels, args.label, "label")):
        if no and yes:
            raise UsageError(f"--{name} and --no-{name.replace('label', 'labels')} exclude each other")
    if args.no_password and (args.password_stdin or args.credentials_file):
        raise UsageError("--no-password excludes --password-stdin and --credentials-file")
    spec, password, paths = _request_parts(args)
    paths += ["regions_of_interest"] * args.no_roi + ["labels"] * args.no_labels
    request = stream_pb2.UpdateStreamRequest(spec=spec)
    if password is not None or args.no_password:
        request.credentials.password = password or ""
        paths.append("credentials.password")
    if not paths:
        raise UsageError("nothing to change; name at least one option (see update-stream --help)")
    request.update_mask.paths.extend(paths)
    with call.connect() as client:
        answer = client.streams.UpdateStream(request, timeout=client.timeout)
    return _tell(call, answer.stream, answer.warnings, f"{safe(answer.stream.spec.id)} updated")


def _tell(call: Call, stream: stream_pb2.Stream, warnings: Sequence[str], text: str) -> Exit:
    if call.out.json:
        call.out.data({"stream": plain(stream), "warnings": list(warnings)})
    else:
        call.out.line(text)
        for warning in warnings:
            call.out.say(f"warning: {warning}")
    return Exit.OK


def _each(call: Call, done: str, method: str, request: str) -> Exit:
    """One call for each id; the rest goes on after an error, and the first error's code is the exit code."""
    import grpc

    from facedetctl.client import error_of
    from facedetd.v1 import stream_pb2

    worst = Exit.OK
    changed: list[str] = []
    failed: dict[str, str] = {}
    with call.connect() as client:
        for stream_id in call.args.ids:
            try:
                getattr(client.streams, method)(getattr(stream_pb2, request)(id=stream_id), timeout=client.timeout)
            except grpc.RpcError as found:
                error = error_of(found, call.target, client.timeout)
                if error.code is Exit.UNREACHABLE:
                    raise error from None
                worst = worst or error.code
                failed[stream_id] = str(error)
                call.out.say(f"{safe(stream_id)}: {error}")
                continue
            changed.append(stream_id)
            if not call.out.json:
                call.out.line(f"{safe(stream_id)} {done}")
    if call.out.json:
        call.out.data({done: changed, "failed": failed})
    return worst


def remove_stream(call: Call) -> Exit:
    return _each(call, "removed", "DeleteStream", "DeleteStreamRequest")


def pause_stream(call: Call) -> Exit:
    return _each(call, "paused", "PauseStream", "PauseStreamRequest")


def resume_stream(call: Call) -> Exit:
    return _each(call, "resumed", "ResumeStream", "ResumeStreamRequest")


def _all_streams(client: Client, labels: dict[str, str]) -> Iterator[stream_pb2.Stream]:
    from facedetd.v1 import stream_pb2

    request = stream_pb2.ListStreamsRequest(page_size=PAGE, labels=labels)
    while True:
        answer = client.streams.ListStreams(request, timeout=client.timeout)
        yield from answer.streams
        if not answer.next_page_token:
            return
        request.page_token = answer.next_page_token


def list_streams(call: Call) -> Exit:
    from facedetctl.render import state_cell

    labels = labels_of(call.args.label)
    with call.connect() as client:
        streams = list(_all_streams(client, labels))
    if call.out.json:
        call.out.data({"streams": [plain(stream) for stream in streams]})
        return Exit.OK
    rows = [
        [
            Cell(safe(stream.spec.id)),
            state_cell(stream),
            Cell(f"{stream.spec.target_fps:g}"),
            Cell(str(stream.spec.priority)),
            Cell("config" if stream.origin == 2 else "api"),
            Cell(safe(stream.spec.url)),
            Cell(safe(" ".join(f"{name}={value}" for name, value in sorted(stream.spec.labels.items())))),
        ]
        for stream in streams
    ]
    heads = ("STREAM", "STATE", "FPS", "PRIO", "FROM", "URL", "LABELS")
    if rows:
        call.out.lines(table(heads, rows, frozenset({"FPS", "PRIO"}), call.out.size()[0], call.out.colour))
    else:
        call.out.say(
            "no streams" + (" with these labels" if labels else "; add one with: facedetctl add-stream ID URL")
        )
    return Exit.OK


def import_streams(call: Call) -> Exit:
    from facedetd.api.convert import entry_to_proto
    from facedetd.config.importfile import read_import
    from facedetd.config.issues import ConfigErrors
    from facedetd.v1 import stream_pb2

    try:
        found = read_import(call.args.file)
    except ConfigErrors as errors:
        lines = str(errors).split("\n")
        raise UsageError(f"{call.args.file}: {several(len(lines), 'error')}", lines) from None
    request = stream_pb2.ImportStreamsRequest(dry_run=call.args.dry_run)
    request.streams.extend(entry_to_proto(spec, secret) for spec, secret in found.entries)
    with call.connect() as client:
        answer = client.streams.ImportStreams(request, timeout=client.timeout)
    warnings = [*found.warnings, *answer.warnings]
    if call.out.json:
        call.out.data({"created": list(answer.created), "unchanged": list(answer.unchanged), "warnings": warnings})
        return Exit.OK
    verb = "would be added" if call.args.dry_run else "added"
    call.out.lines([f"{safe(stream_id)} {verb}" for stream_id in answer.created])
    call.out.lines([f"{safe(stream_id)} unchanged" for stream_id in answer.unchanged])
    for warning in warnings:
        call.out.say(f"warning: {warning}")
    return Exit.OK


def snapshot(call: Call) -> Exit:
    from facedetd.v1 import stream_pb2

    path: Path | None = call.args.output
    if path is None and call.out.tty:
        raise UsageError("a picture is no text for a terminal; name a file with -o FILE, or pipe it on")
    if path is None and call.out.json:
        raise UsageError("--json needs -o FILE: the picture and the JSON would both go to stdout")
    with call.connect() as client:
        request = stream_pb2.GetSnapshotRequest(id=call.args.id, plain=call.args.plain)
        shot = client.streams.GetSnapshot(request, timeout=client.timeout)
    if path is None:
        call.out.out.buffer.write(shot.jpeg)
        return Exit.OK
    try:
        path.write_bytes(shot.jpeg)
    except OSError as error:
        raise CtlError(Exit.FAILED, f"can't write {path}: {error.strerror}") from None
    if call.out.json:
        about = plain(shot)
        del about["jpeg"]
        call.out.data({"file": str(path), **about})
    else:
        call.out.line(f"{safe(str(path))}: {shot.width}x{shot.height}, {several(shot.faces, 'face')}")
    return Exit.OK
