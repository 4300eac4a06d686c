"""model quantize: a float ONNX model to INT8, with what of its accuracy is left, without the daemon.

Loads onnx and onnxruntime only where it quantises.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facedetctl.commands import Call, Subparsers, add_command, fraction
from facedetctl.exits import CtlError, Exit, UsageError
from facedetctl.model_evaluate import LEVELS, drop_limits
from facedetctl.model_files import STORED, Steps, add_options, load, model_path
from facedetctl.output import safe

if TYPE_CHECKING:
    from facedetd.workshop.calibrate import Counted, PictureSet
    from facedetd.workshop.quantize import Paths, Quantizer, Source
    from facedetd.workshop.trials import Asked, Pictures, Verdict
    from facedetd.workshop.wider import Labels

METHODS = ("mse", "minmax", "percentile", "entropy")
MIN_MATCH = 0.997
"""Asked of the calibration pictures, so that 0.995 hold on others (docs/models.md has what was measured)."""


def register(nouns: Subparsers) -> argparse.ArgumentParser:
    parser = add_command(nouns, "quantize", quantize, "a float ONNX model to INT8, calibrated on pictures")
    parser.add_argument("model", metavar="MODEL", help=f"{STORED}, or an ONNX file")
    parser.add_argument(
        "--calibration", type=Path, metavar="DIR", required=True,
        help="pictures as the cameras see them: .jpg and .png at any depth, or a set of model collect",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, metavar="FILE", required=True, help="the .onnx file to write")
    parser.add_argument(
        "--method", choices=METHODS, default=METHODS[0],
        help="how a tensor's range comes from what was counted (mse: least squared error)",
    )  # fmt: skip
    parser.add_argument(
        "--keep-float", type=_words, metavar="LAYERS",
        help="layers that stay in float: first:N, last:N, heads or names, with commas between; none: all are INT8",
    )  # fmt: skip
    parser.add_argument(
        "--auto",
        action="store_true",
        help="keep the fewest layers in float (beside --keep-float's) that hold what is asked; so it is without "
        "--keep-float, too",
    )
    parser.add_argument(
        "--labels", type=Path, metavar="FILE", help="labelled pictures to measure on, as for model evaluate"
    )
    parser.add_argument(
        "--pictures", type=Path, metavar="DIR", help="where the labelled pictures are (near the labels)"
    )
    parser.add_argument(
        "--max-drop", type=drop_limits, metavar="AP|E,M,H",
        help="asked: AP at most so much lower, at any level or for each (0.005,0.008,0.008); needs --labels",
    )  # fmt: skip
    parser.add_argument(
        "--min-match", type=fraction, metavar="SHARE",
        help="asked: so much of the float model's boxes (score from 0.5) found at an IoU of 0.7 and a score from 0.5, "
        f"counted and, without --labels, foretold for hard scenes (--auto without --max-drop: {MIN_MATCH})",
    )  # fmt: skip
    add_options(parser)
    return parser


def _words(text: str) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    if words == ["none"]:
        return []
    if not all(words):
        raise argparse.ArgumentTypeError(f"found {text!r}; write layers with commas between, such as first:1,heads")
    return words


def quantize(call: Call) -> Exit:
    from facedetd.models import ModelError
    from facedetd.workshop.calibrate import CalibrationError
    from facedetd.workshop.pictures import PictureError
    from facedetd.workshop.quantize import QuantizeError
    from facedetd.workshop.wider import LabelError

    try:
        return _quantize(call)
    except (CalibrationError, LabelError, PictureError) as error:
        raise UsageError(str(error)) from None
    except (ModelError, QuantizeError, OSError) as error:
        raise CtlError(Exit.FAILED, str(error)) from None


def _quantize(call: Call) -> Exit:
    from facedetd.workshop import quantize as workshop
    from facedetd.workshop.calibrate import WANTED, read_set
    from facedetd.workshop.trials import Asked
    from facedetd.workshop.wider import read_labels

    args = call.args
    paths = workshop.Paths(args.output)
    _check_usage(args)
    args.auto = args.auto or args.keep_float is None
    args.keep_float = args.keep_float or []
    asked = Asked(args.max_drop, args.min_match)
    if args.auto and asked == Asked(None, None):
        asked = Asked(None, MIN_MATCH)
    path = model_path(args.model, args.state_dir / "models")
    if path.resolve() == args.output.resolve():
        raise UsageError(f"--output {args.output}: is the float model itself")
    detector = load(call, path)
    source = workshop.read_source(path, detector.head, detector.width, detector.height)
    detector.engine.close()
    always = workshop.kept(source.network, args.keep_float)
    pictures = read_set(args.calibration)
    if len(pictures.files) < WANTED:
        call.out.say(f"only {len(pictures.files)} calibration pictures; {WANTED} or more are wanted")
    labels = read_labels(args.labels, args.pictures) if args.labels is not None else None
    if labels is not None:
        workshop.check_apart(labels, pictures)
    counted = workshop.count(
        source, pictures, paths, args.threads, call.out.say, Steps(call.out, "calibration picture")
    )
    work = _Work(call, source, paths, pictures, counted, labels, args.threads)
    return work.run(always, asked)


def _check_usage(args: argparse.Namespace) -> None:
    """Before the long run, not after it."""
    if args.output.suffix != ".onnx":
        raise UsageError(f"--output {args.output}: its name must end in .onnx")
    if not args.output.parent.is_dir():
        raise UsageError(f"--output {args.output}: no folder {args.output.parent}")
    if args.max_drop is not None and args.labels is None:
        raise UsageError("--max-drop needs --labels FILE: AP of what?")
    if args.pictures is not None and args.labels is None:
        raise UsageError("--pictures says where labelled pictures are: it needs --labels FILE")


class _Work:
    """What follows calibration: which layers stay in float, the model, and what is measured of it."""

    def __init__(
        self, call: Call, source: Source, paths: Paths, pictures: PictureSet, counted: Counted, labels: Labels | None,
        threads: int,
    ) -> None:  # fmt: skip
        from facedetd.workshop import quantize as workshop
        from facedetd.workshop.calibrate import Feeder

        self._call, self._source, self._paths, self._counted, self._labels = call, source, paths, counted, labels
        self._set, self._threads = pictures, threads
        self._ranges = workshop.ranges_of(counted, call.args.method)
        self._quantizer: Quantizer = workshop.Quantizer(source, self._ranges, threads)
        feeder = Feeder(source.width, source.height, source.head.input)
        self._frames = workshop.frames_to_try(pictures, feeder, source.width, source.height)

    def run(self, always: frozenset[str], asked: Asked) -> Exit:
        from facedetd.workshop import cputimes
        from facedetd.workshop import quantize as workshop
        from facedetd.workshop.calibrate import Feeder
        from facedetd.workshop.enough import missing

        started = time.monotonic()
        own = self._quantizer.pictures(self._frames)
        lacking = missing(self._frames, own.reference)
        if lacking and self._labels is None:
            self._say(
                "the calibration set shows little of what INT8 costs elsewhere. Of its pictures and harder versions of "
                f"them, together {len(self._frames)}: {'; '.join(lacking)}. Add such pictures, or measure with --labels"
            )
        keep, auto = (self._choose(always, asked, own)) if self._call.args.auto else (always, None)
        model = self._quantizer.model(keep)
        self._say("measuring")
        agreed = self._quantizer.judge(model, own, self._without_labels(asked))
        final = self._on_labels(model, asked) if self._labels is not None else agreed
        if not final.holds:
            raise CtlError(
                Exit.FAILED, f"not what was asked: {'; '.join(final.wrong)}; no model was written",
                ["--auto keeps the layers in float that matter; --keep-float names some", "what was counted is kept"],
            )  # fmt: skip
        planes = Feeder(self._source.width, self._source.height, self._source.head.input).planes(self._frames[0])
        times = cputimes.time_engines(self._source.data, model, planes, self._threads)
        embedded = times[cputimes.EMBEDDED]
        calibration = workshop.calibration_of(self._counted, self._set, self._call.args.method)
        about: dict[str, Any] = {
            "settings": {
                "method": self._call.args.method, "width": self._source.width, "height": self._source.height,
                "keep_float": self._call.args.keep_float, "max_drop": asked.max_drop, "min_match": asked.min_match,
                "activations": "int8, symmetric, a scale a tensor", "weights": "int8, a scale a channel",
                "converted_from_opset": self._source.network.converted_from,
            },
            "calibration": calibration.to_manifest(),
            "auto": auto,
            "check": {
                "pictures": len(self._frames), "of": "the calibration set, every other one a harder version",
                "missing": list(lacking), **_agreement(agreed),
                "expected_share": agreed.moves.expected, "score_moves_logit": agreed.moves.logit,
            },
            "accuracy": self._accuracy,
            "cpu_time": {
                "float_ms": round(embedded.float_ms, 2), "int8_ms": round(embedded.int8_ms, 2),
                "engine": cputimes.EMBEDDED, "cpu": workshop.cpu_name(),
                "recommended": "float" if embedded.slower else "int8",
                "engines": {
                    name: {"float_ms": round(one.float_ms, 2), "int8_ms": round(one.int8_ms, 2)}
                    for name, one in times.items()
                },
                "advice": cputimes.advice(times),
            },
        }  # fmt: skip
        manifest = workshop.write(self._source, self._paths, model, self._ranges, keep, about)
        self._say(f"done in {time.monotonic() - started:.0f} s after calibration")
        self._tell(manifest)
        return Exit.OK

    _accuracy: dict[str, Any] | None = None

    def _say(self, text: str) -> None:
        self._call.out.say(text)

    def _without_labels(self, asked: Asked) -> Asked:
        """What is asked of the calibration pictures: nothing where there are labelled ones to ask it of."""
        from facedetd.workshop.trials import Asked

        return Asked(None, None if self._labels is not None else asked.min_match)

    def _on_labels(self, model: bytes, asked: Asked) -> Verdict:
        from facedetd.workshop.evaluate import MIN_SCORE
        from facedetd.workshop.trials import LabelledFrames

        assert self._labels is not None
        steps = Steps(self._call.out, "labelled picture")
        frames = LabelledFrames(self._labels.pictures, self._source.width, self._source.height, steps)
        everything = self._quantizer.pictures(frames, self._labels.pictures)
        found = self._quantizer.judge(model, everything, asked)
        assert found.drop is not None
        self._accuracy = {
            "pictures": len(self._labels.pictures), "labels": self._call.args.labels.name, "scores_from": MIN_SCORE,
            "drop": {level: found.drop[level] for level in LEVELS}, **_agreement(found),
            "used_by_auto": bool(self._call.args.auto),
        }  # fmt: skip
        return found

    def _choose(self, always: frozenset[str], asked: Asked, own: Pictures) -> tuple[frozenset[str], dict[str, Any]]:
        from facedetd.workshop import quantize as workshop
        from facedetd.workshop.quantize import spread_evenly
        from facedetd.workshop.trials import LabelledFrames

        steps = Steps(self._call.out, "layer")
        key = f"{workshop.LOSSES} {self._counted.key} {self._counted.frames} {self._call.args.method}"
        sensed = spread_evenly(self._frames, workshop.SENSED)
        losses = self._quantizer.losses(sensed, self._paths.losses, key, steps)
        tried_on = own
        if self._labels is not None:
            some = spread_evenly(self._labels.pictures, workshop.LABELLED)
            frames = LabelledFrames(some, self._source.width, self._source.height, lambda done, total: None)
            tried_on = self._quantizer.pictures(list(frames), some)
        tries = 0

        def tried(number: int) -> None:
            nonlocal tries
            tries = number
            steps.note(f"choosing layers, try {number}")

        keep = self._quantizer.choose(losses, always, tried_on, asked, tried)
        steps.note("")
        heads = workshop.kept(self._source.network, ["heads"])
        with_heads = self._quantizer.judge(self._quantizer.model(heads | always), tried_on, asked)
        auto = {
            "tries": tries,
            "float_layers": len(keep),
            "heads": {"float_layers": len(heads | always), "holds": with_heads.holds, "wrong": list(with_heads.wrong)},
            "losses": {name: float(f"{losses[name]:.4g}") for name in sorted(losses, key=lambda n: -losses[n])[:20]},
        }
        return keep, auto

    def _tell(self, manifest: dict[str, Any]) -> None:
        out = self._call.out
        if out.json:
            out.data(manifest)
            return
        layers, check, cpu = manifest["layers"], manifest["check"], manifest["cpu_time"]
        beside = ", ".join(path.name for path in (self._paths.manifest, self._paths.ranges, self._paths.cache))
        counts = f"{layers['int8']} layers int8, {len(layers['float'])} float"
        out.line(f"{safe(str(self._paths.output))}: {counts}; beside it {safe(beside)}")
        out.line(f"on {check['pictures']} calibration pictures, half made harder: {_agreement_text(check)}")
        if check["expected_share"] is not None:
            out.line(f"of the boxes in a hard scene {check['expected_share'] * 100:.2f} % are to be expected again")
        accuracy = manifest["accuracy"]
        if accuracy is not None:
            fallen = ", ".join(
                f"{level} {value:.4f}" if value is not None else f"{level} -"
                for level, value in accuracy["drop"].items()
            )
            out.line(f"on {accuracy['pictures']} labelled pictures: AP drop {fallen}; {_agreement_text(accuracy)}")
        auto = manifest["auto"]
        if auto is not None:
            heads = auto["heads"]
            held = "holds it too" if heads["holds"] else f"doesn't hold it: {'; '.join(heads['wrong'])}"
            out.line(f"keeping all heads in float ({heads['float_layers']} layers) {held}")
        for name, one in cpu["engines"].items():
            times = f"float {one['float_ms']:.1f} ms, int8 {one['int8_ms']:.1f} ms"
            out.line(f"CPU time a picture: {times} ({name}, {cpu['cpu']})")
        if cpu["advice"]:
            self._say(cpu["advice"])


def _agreement(found: Verdict) -> dict[str, Any]:
    one = found.matched
    return {
        "boxes": one.boxes, "matched": one.matched, "share": one.share, "extra": one.extra, "min_iou": one.min_iou,
        "mean_iou": one.mean_iou, "landmark_px": one.landmark_px,
    }  # fmt: skip


def _agreement_text(check: dict[str, Any]) -> str:
    if not check["boxes"]:
        return "the float model finds no face"
    return (
        f"{check['matched']} of {check['boxes']} boxes matched ({check['share'] * 100:.2f} %), {check['extra']} extra, "
        f"mean IoU {check['mean_iou'] or 0:.4f}"
    )
