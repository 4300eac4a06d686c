"""Writes docs/cli.md from the parser, the exit codes and the messages:
``python -m facedetctl.reference > docs/cli.md``.

argparse's own help isn't used: its layout differs between versions of Python.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from facedetctl.exits import MEANING
from facedetctl.main import make_parser
from facedetctl.output import enum_words, json_name, repeated
from facedetctl.target import OPTIONS
from facedetd.v1 import daemon_pb2, detection_pb2, stream_pb2

INTRO = """\
# facedetctl

<!-- Made by `python -m facedetctl.reference > docs/cli.md`; a test compares. -->

Data goes to stdout, messages to stderr. Colour is used on a terminal only, and not where `NO_COLOR` is set.
A camera's password never stands on the command line: `--password-stdin` reads it from stdin (asking, if that is a
terminal), `--credentials-file` from a file that not everyone may read.

```sh
facedetctl add-stream door rtsp://10.0.0.5/stream1 --username admin --password-stdin < door.password
facedetctl stats --watch
facedetctl watch door --min-score 0.7 --json | jq -c '.faces[].box'
```
"""

JSON_RULES = """\
## JSON

`--json` writes one document on one line; `watch` and `stats --watch` write one line for each message. Names are those
of the API (`proto/facedetd/v1`) and stay. All keys are always there: what is absent is `null`, `""`, `0`, `[]` or `{}`.
Times are RFC 3339 in UTC; lengths of time are seconds, in keys that end in `_s`; enums are words. Boxes and landmarks
are pixels of the source picture. A number that is none (NaN) is `null`; what could drive a terminal is escaped.
"""

OTHER_SHAPES = (
    ("add-stream, update-stream", '{"stream": Stream, "warnings": [string]}'),
    (
        "remove-stream, pause-stream, resume-stream",
        '{"removed" or "paused" or "resumed": [id], "failed": {id: message}}',
    ),
    ("list-streams", '{"streams": [Stream]}'),
    ("import", '{"created": [id], "unchanged": [id], "warnings": [string]}'),
    ("snapshot -o FILE", '{"file", "capture_time", "sequence", "width", "height", "faces"}'),
    ("stats", "GetStatsResponse"),
    ("watch", 'Detection, with "lost": how many messages this watcher has lost so far because it read too slowly'),
    ("health", 'GetHealthResponse, with "healthy": whether the exit code is 0'),
    ("doctor", '{"findings": [{"subject", "grade": "ok", "warning", "error" or "unknown", "found", "advice"}]}'),
    ("reload", "ReloadResponse"),
    ("version", '{"client": string, "daemon": GetVersionResponse or null}'),
    (
        "model pull, import, show",
        '{"name", "version", "head", "width", "height", "licence", "source", "stored", "sha256", "source_sha256", '
        '"path"}; a width and height of 0 mean any size; show also has "manifest": what came beside the model, or {}',
    ),
    ("model list", '{"models": [as above, with "active": whether the daemon runs it, null when none answers]}'),
    ("model activate", "ActivateModelResponse"),
    (
        "model collect",
        '{"output", "ended": why, "frames", "seen", "alike", "hard", "streams": {id: frames}, "hours_utc", '
        '"brightness", "faces", "smallest_face_model_px": {range: frames}, "luma_of_set", "luma_seen": [16 shares, '
        'or none], "luma_divergence": bits or null}',
    ),
    (
        "model export",
        '{"format": 1, "kind", "created_utc", "file", "sha256", "bytes", "network", "source", "settings", "head", '
        '"check": {"max_abs_difference"}, "versions"}: the manifest',
    ),
    (
        "model quantize",
        '{"format": 1, "kind", "created_utc", "file", "sha256", "bytes", "precision", "source", "head", "layers": '
        '{"int8": number, "float": [name]}, "settings", "calibration", "auto": {…} or null, "check": {…}, '
        '"accuracy": {…} or null, "cpu_time": {…}, '
        '"tables": {file: sha256}, "versions"}, and "licence" where it is known: the manifest',
    ),
    (
        "model build",
        '{"plan", "built": false where it was there, "key", "model", "model_sha256", "precision", "width", "height", '
        '"batch": [least, best, most], "bytes", "build_s", "tensorrt", "gpu", "sm", "float_tensors"}',
    ),
    (
        "model evaluate",
        '{"ap_easy", "ap_medium", "ap_hard", "precision", "recall", "f1", "faces", "found", "false", "model", "path", '
        '"head", "engine", "threshold", "counted": {level: number}, "by_size": {size: {"precision" to "false"}}, '
        '"labels", "pictures", "levels", "width", "height", "input", "against": {"ap_easy" to "by_size"} or null, '
        '"drop": {level: number} or null, "matched": [{"iou", "boxes", "matched", "share", "share_any_score", "extra", '
        '"mean_iou", "landmark_px", "landmark_relative", "landmark_relative_p95"}], '
        '"max_drop": {level: number} or null, "passed": true, false or null}; a figure of nothing is null',
    ),
    (
        "model test",
        '{"model", "path", "head", "engine", "width", "height", "threshold", "output", '
        '"pictures": [{"file", "width", "height", "faces": [{"box": [x1, y1, x2, y2], "score", "landmarks": '
        '[[x, y]]}]}], "timing": [{"batch", "runs", '
        '"wall_ms", "cpu_ms"}]}',
    ),
    ("bench", '{"rungs": [...], "pass", "date", "machine", "options"}; docs/benchmarks.md says what is in them'),
)
MESSAGES: tuple[Any, ...] = (
    stream_pb2.Stream,
    stream_pb2.StreamSpec,
    stream_pb2.StreamStatus,
    stream_pb2.Latency,
    stream_pb2.Polygon,
    stream_pb2.Point,
    daemon_pb2.GetStatsResponse,
    daemon_pb2.ModelInfo,
    daemon_pb2.Calibration,
    daemon_pb2.Process,
    daemon_pb2.InferenceStats,
    daemon_pb2.GetHealthResponse,
    daemon_pb2.Problem,
    daemon_pb2.ReloadResponse,
    daemon_pb2.ActivateModelResponse,
    daemon_pb2.GetVersionResponse,
    detection_pb2.Detection,
    detection_pb2.Face,
    detection_pb2.Box,
    detection_pb2.Landmarks,
    detection_pb2.PixelPoint,
)
SHARED = ("--socket", "--json", "--timeout", "--help", *(option for option, _, _ in OPTIONS))


def document() -> str:
    parser = make_parser()
    parts = [INTRO, "## Options of every command\n", _options(parser, skip=("--help",)), "## Commands\n"]
    parts += _commands(parser)
    parts += ["## Exit codes\n", _exit_codes(), JSON_RULES, _shapes()]
    return "\n".join(parts)


def _commands(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                if inner.get_default("run"):
                    yield f"### {inner.prog.removeprefix('facedetctl ')}\n\n{inner.description}\n"
                    yield f"```\n{_usage(inner)}\n```\n"
                    if options := _options(inner, skip=SHARED):
                        yield options
                yield from _commands(inner)


def _usage(parser: argparse.ArgumentParser) -> str:
    words = [parser.prog]
    for action in parser._actions:
        if not action.option_strings:
            name = str(action.metavar or "|".join(action.choices or ()))
            words.append({"*": f"[{name}…]", "+": f"{name}…"}.get(str(action.nargs), name))
    return " ".join([*words, "[OPTIONS]"])


def _options(parser: argparse.ArgumentParser, skip: tuple[str, ...]) -> str:
    rows = []
    for action in parser._actions:
        if action.help == argparse.SUPPRESS or isinstance(action, argparse._SubParsersAction):
            continue
        if set(skip) & set(action.option_strings):
            continue
        if not action.option_strings:
            if action.help:
                rows.append((str(action.metavar), action.help))
            continue
        value = ""
        if action.nargs != 0:
            value = " " + str(action.metavar or "|".join(str(choice) for choice in action.choices or ()))
        rows.append((", ".join(action.option_strings) + value, action.help or ""))
    if not rows:
        return ""
    lines = [f"| `{_cell(name)}` | {_cell(text)} |" for name, text in rows]
    return "\n".join(["| | |", "|---|---|", *lines, ""])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _exit_codes() -> str:
    rows = [f"| {int(code)} | {text} |" for code, text in MEANING.items()]
    return "\n".join(["| code | meaning |", "|---|---|", *rows, ""])


def _shapes() -> str:
    lines = ["| command | shape |", "|---|---|", *(f"| `{name}` | {_cell(text)} |" for name, text in OTHER_SHAPES), ""]
    for message in MESSAGES:
        descriptor = message.DESCRIPTOR
        fields = [f"  {json_name(field)}: {_type(field)}" for field in descriptor.fields]
        lines += [f"### {descriptor.name}\n", "```", *fields, "```\n"]
    return "\n".join(lines)


def _type(field: Any) -> str:
    message = field.message_type
    if message is not None and message.GetOptions().map_entry:
        return f"{{string: {_type(message.fields_by_name['value'])}}}"
    name = _single(field)
    if repeated(field):
        return f"[{name}]"
    return f"{name} or null" if field.has_presence and message is not None and name not in ("time", "number") else name


def _single(field: Any) -> str:
    if field.message_type is not None:
        known = {Timestamp.DESCRIPTOR.full_name: "time", Duration.DESCRIPTOR.full_name: "number"}
        return str(known.get(field.message_type.full_name, field.message_type.name))
    if field.enum_type is not None:
        return "|".join(f'"{word}"' for word in enum_words(field.enum_type)[1:])
    kinds = {field.CPPTYPE_STRING: "string", field.CPPTYPE_BOOL: "true|false"}
    return str(kinds.get(field.cpp_type, "number"))


if __name__ == "__main__":
    sys.stdout.write(document())
