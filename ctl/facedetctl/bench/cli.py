"""The bench command: its options, and which model it takes."""

from __future__ import annotations

import argparse
import os
import re
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facedetctl.commands import Call, Subparsers, add_command, positive
from facedetctl.exits import CtlError, Exit, UsageError
from facedetctl.model_files import MAX_SIDE

if TYPE_CHECKING:
    from facedetctl.bench.figures import Thresholds
    from facedetctl.bench.runner import BenchOptions
    from facedetd.models import ModelEntry

MAX_CAMERAS = 1000

# Name in --target: (field of Thresholds, or "" for the ratio to the baseline; what it means)
TARGETS = {
    "fps": ("fps_tolerance", "how far from its target each stream may be, as a fraction"),
    "drop": ("max_drop", "drop fraction that each stream must stay under"),
    "p95": ("max_p95_ms", "p95 latency in ms that each stream must stay under"),
    "recall": ("min_recall", "found faces / true faces that each stream must reach"),
    "iou": ("min_mean_iou", "mean IoU of the found faces that each stream must reach"),
    "ratio": ("", "CPU time a frame over the baseline's that may not be exceeded (off)"),
}


def register(subparsers: Subparsers) -> None:
    parser = add_command(subparsers, "bench", bench, "measure a daemon of its own on test cameras or on yours")
    rungs = parser.add_mutually_exclusive_group()
    rungs.add_argument("--streams", type=_count, metavar="N", help="one rung of N cameras (4)")
    rungs.add_argument("--ladder", type=_ladder, metavar="N,N,…", help="a rung for each, such as 1,2,4,8")
    parser.add_argument("--duration", type=positive, default=20.0, metavar="S", help="seconds measured a rung (20)")
    parser.add_argument("--warmup", type=_not_negative, default=5.0, metavar="S", help="seconds before that (5)")
    parser.add_argument("--fps", type=positive, default=5.0, metavar="FPS", help="target of each stream (5)")
    parser.add_argument("--size", type=_size, default=(1280, 720), metavar="WxH", help="generated cameras (1280x720)")
    parser.add_argument("--camera-fps", type=_count, default=25, metavar="FPS", help="generated cameras (25)")
    parser.add_argument("--codec", choices=("h264", "h265", "mjpeg"), default="h264", help="generated cameras (h264)")
    parser.add_argument("--bitrate", type=_count_large, default=4_000_000, metavar="BIT/S", help="a camera (4000000)")
    parser.add_argument(
        "--transport", choices=("rtsp", "file"), default="rtsp",
        help="generated cameras over RTSP, or as looped files, then without accuracy (rtsp)",
    )  # fmt: skip
    parser.add_argument(
        "--source", nargs="+", action="extend", default=[], metavar="URL_OR_FILE",
        help="your own cameras or videos instead, in turn; without accuracy",
    )  # fmt: skip
    parser.add_argument("--credentials-file", type=Path, metavar="FILE", help="user and password for all sources")
    parser.add_argument("--model", default="centerface", metavar="NAME_OR_FILE", help="known name or ONNX file")
    parser.add_argument("--model-size", type=_size, default=(640, 384), metavar="WxH", help="its input (640x384)")
    parser.add_argument("--threads", type=_not_negative_int, default=0, metavar="N", help="of the engine; 0: the cores")
    parser.add_argument(
        "--baseline", action=argparse.BooleanOptionalAction,
        help="measure a plain cv2.VideoCapture program on the same cameras as well (yes)",
    )  # fmt: skip
    parser.set_defaults(baseline=True)  # as default= above, Python 3.10 would add it to the help
    parser.add_argument(
        "--tuned-baseline", action="store_true",
        help="give the baseline one decoding thread a camera and engine threads that don't spin, as the daemon has",
    )  # fmt: skip
    parser.add_argument(
        "--target", nargs="+", action="extend", default=[], type=_target, metavar="NAME=VALUE",
        help="change what must be reached, or leave it out with NAME=off: "
        + "; ".join(f"{name}: {meaning}" for name, (_, meaning) in TARGETS.items()),
    )  # fmt: skip


def _whole(text: str, low: int, high: int) -> int:
    if not re.fullmatch(r"\d{1,12}", text) or not low <= int(text) <= high:
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed is a whole number from {low} to {high}")
    return int(text)


def _count(text: str) -> int:
    return _whole(text, 1, MAX_CAMERAS)


def _count_large(text: str) -> int:
    return _whole(text, 1000, 10**9)


def _not_negative_int(text: str) -> int:
    return _whole(text, 0, 1024)


def _not_negative(text: str) -> float:
    return 0.0 if re.fullmatch(r"0+(\.0*)?", text) else positive(text)


def _ladder(text: str) -> tuple[int, ...]:
    return tuple(_count(word.strip()) for word in text.split(","))


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if not match or not all(1 <= int(side) <= MAX_SIDE for side in match.groups()):
        raise argparse.ArgumentTypeError(f"found {text!r}; write WIDTHxHEIGHT, as 1280x720, each at most {MAX_SIDE}")
    return int(match[1]), int(match[2])


def _target(text: str) -> tuple[str, float | None]:
    name, _, value = text.partition("=")
    if name not in TARGETS:
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed are NAME=VALUE with {', '.join(TARGETS)}")
    return name, None if value == "off" else positive(value)


def thresholds_of(targets: Sequence[tuple[str, float | None]]) -> tuple[Thresholds, float | None]:
    """The thresholds, and the largest ratio to the baseline."""
    from facedetctl.bench.figures import Thresholds

    limits, ratio = Thresholds(), None
    for name, value in targets:
        field = TARGETS[name][0]
        if field:
            limits = replace(limits, **{field: value})
        else:
            ratio = value
    return limits, ratio


def bench(call: Call) -> Exit:
    """0 only if every check of every rung passes, else 1."""
    args, out = call.args, call.out
    from facedetctl.bench import report
    from facedetctl.bench.runner import run_rung

    with _ended_by_signals(), tempfile.TemporaryDirectory(prefix="facedetd-bench-") as scratch:
        options = _options(args, Path(scratch), out.say)
        if not out.json:
            out.line(report.heading())
        rungs = []
        for cameras in args.ladder or (args.streams or 4,):
            rung = _told(run_rung, cameras, options, out.say)
            rungs.append(rung)
            if not out.json:
                out.lines(report.rung_lines(rung, out.colour))
                out.flush()
    if out.json:
        out.data(report.as_json(rungs, options))
    return Exit.OK if all(rung.passed for rung in rungs) else Exit.FAILED


def _told(run: Callable[..., Any], *args: Any) -> Any:
    """Call it; what goes wrong comes out as CtlError."""
    import grpc

    from facedetctl.bench.cameras import CamerasError
    from facedetctl.bench.measure import MeasureError
    from facedetctl.local import LocalDaemonError
    from facedetd.models import ModelError

    try:
        return run(*args)
    except (CamerasError, MeasureError, LocalDaemonError, ModelError) as error:
        first, *below = str(error).splitlines() or [type(error).__name__]
        raise CtlError(Exit.FAILED, first, below) from error
    except LookupError as error:
        raise CtlError(Exit.FAILED, f"a result fits no camera's time: {error}") from error
    except grpc.RpcError as error:
        details = error.details() if isinstance(error, grpc.Call) else type(error).__name__
        raise CtlError(Exit.FAILED, f"the daemon refused a call: {details}") from error


def _options(args: argparse.Namespace, scratch: Path, say: Callable[[str], None]) -> BenchOptions:
    from facedetctl import credentials
    from facedetctl.bench.cameras import CamerasError, SceneOptions, own_cameras
    from facedetctl.bench.runner import BenchOptions
    from facedetd.inference.engines.cpu import thread_count

    if args.credentials_file and not args.source:
        raise UsageError("--credentials-file goes with --source; generated cameras have no password")
    limits, ratio = thresholds_of(args.target)
    if ratio is not None and not args.baseline:
        raise UsageError("--target ratio=… needs the baseline; leave out --no-baseline")
    if args.source:
        try:
            own_cameras(args.source, 1, None)
        except CamerasError as error:
            raise UsageError(f"--source: {error}") from None
    model, store = _told(find_model, args.model, args.model_size, scratch, say)
    return BenchOptions(
        duration_s=args.duration,
        warmup_s=args.warmup,
        target_fps=args.fps,
        model=model,
        store=store,
        model_size=args.model_size,
        threads=thread_count(args.threads),
        scenes=SceneOptions(args.size, args.camera_fps, args.codec, args.bitrate, args.transport == "file"),
        sources=tuple(args.source),
        login=credentials.from_file(args.credentials_file) if args.credentials_file else None,
        with_baseline=args.baseline,
        tuned_baseline=args.tuned_baseline,
        thresholds=limits,
        max_cpu_ratio=ratio,
    )


def find_model(
    wanted: str, size: tuple[int, int], scratch: Path, say: Callable[[str], None]
) -> tuple[ModelEntry, Path]:
    """The model and the store it lies in. A file is imported into ``scratch``; a name is looked up in the user's own
    store (see default_model_store) and pulled into it where it is a known one. Raises ModelError."""
    from facedetctl.local import default_model_store
    from facedetd.models import KNOWN, ModelStore, import_model, pull

    if os.sep in wanted or wanted.endswith(".onnx"):
        return import_model(Path(wanted), ModelStore(scratch), size=size), scratch
    store = ModelStore(default_model_store())
    if wanted in KNOWN and not any(entry.name == wanted for entry in store.list()):
        say(f"fetching {wanted} into {store.root}")
        return pull(wanted, store), store.root
    return store.get(wanted), store.root


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM, and SIGHUP of a closed terminal, as Ctrl-C: so cameras, baseline and daemon are ended with us, and
    their folders, with the cameras' passwords, are removed. What whoever started us ignores (nohup) stays ignored."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    wanted = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
