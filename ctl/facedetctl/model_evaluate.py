"""model evaluate: a model's accuracy on labelled pictures, and beside another's."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facedetctl.commands import Call, Subparsers, add_command, fraction
from facedetctl.exits import CtlError, Exit, UsageError
from facedetctl.model_files import ENGINES, STORED, Steps, add_engine, add_options, load, model_path
from facedetctl.output import Cell, safe, table

if TYPE_CHECKING:
    from facedetd.workshop.evaluate import Counts, Evaluation, Found
    from facedetd.workshop.matching import Agreement

LEVELS = ("easy", "medium", "hard")
MATCH_IOUS = (0.7, 0.9)
"""Reported in any case: what is asked of INT8, and of FP16."""


def register(subparsers: Subparsers) -> argparse.ArgumentParser:
    parser = add_command(
        subparsers,
        "evaluate",
        evaluate_model,
        "measure a model's accuracy on labelled pictures, alone or beside another",
    )
    parser.add_argument("model", metavar="MODEL", help=f"{STORED}, or an ONNX file")
    parser.add_argument(
        "--labels", type=Path, metavar="FILE", required=True,
        help="WIDER FACE's wider_face_val_bbx_gt.txt, or a JSON list (docs/models.md)",
    )  # fmt: skip
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="where the pictures are (near the labels)")
    parser.add_argument("--against", metavar="OTHER", help="another model, from which drops are counted")
    parser.add_argument(
        "--threshold", type=fraction, default=0.5, metavar="SCORE",
        help="of precision, recall, F1 and matched boxes (0.5)",
    )  # fmt: skip
    parser.add_argument(
        "--match-iou", type=fraction, default=0.7, metavar="IOU", help="from which two models' boxes match (0.7)"
    )
    parser.add_argument(
        "--max-drop", type=drop_limits, metavar="AP|E,M,H",
        help="exit with 1 where AP is lower than OTHER's by more: at any level, or for each (0.005,0.008,0.008)",
    )  # fmt: skip
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the curves (.svg or .png); needs matplotlib")
    parser.add_argument(
        "--rgb", action="store_true", help="feed RGB instead of NV12, to see what the daemon's way costs"
    )
    add_engine(parser)
    parser.add_argument("--against-engine", choices=ENGINES, help="what runs OTHER (as --engine)")
    add_options(parser)
    return parser


def drop_limits(text: str) -> tuple[float, ...]:
    """For each of LEVELS. Raises argparse.ArgumentTypeError."""
    parts = text.split(",")
    if len(parts) not in (1, len(LEVELS)):
        raise argparse.ArgumentTypeError(f"found {text!r}; write one number from 0 to 1, or three as 0.005,0.008,0.008")
    return tuple(fraction(part) for part in (parts * len(LEVELS) if len(parts) == 1 else parts))


@dataclass(frozen=True, slots=True)
class _Model:
    """One model of the run: ``given`` is what it was called on the command line, ``short`` a table's name for it."""

    given: str
    path: Path
    short: str
    head: str
    engine: str
    found: Found
    figures: Evaluation


def evaluate_model(call: Call) -> Exit:
    from facedetd.models import ModelError
    from facedetd.workshop.evaluate import MIN_SCORE, drops, evaluate, run_models, too_much
    from facedetd.workshop.pictures import PictureError
    from facedetd.workshop.wider import LabelError, read_labels

    args = call.args
    if args.max_drop is not None and args.against is None:
        raise UsageError("--max-drop needs --against OTHER: a drop from what?")
    if args.against_engine is not None and args.against is None:
        raise UsageError("--against-engine needs --against OTHER: which model would it run?")
    if not args.match_iou:
        raise UsageError("--match-iou 0: allowed is a number above 0, up to 1")
    if args.threshold < MIN_SCORE:
        raise UsageError(f"--threshold {args.threshold:g}: allowed are {MIN_SCORE} to 1; lower scores aren't looked at")
    given = [args.model, *([args.against] if args.against is not None else [])]
    paths = [model_path(text, args.state_dir / "models") for text in given]
    if args.plot is not None:
        _check_plot(args.plot)
    try:
        labels = read_labels(args.labels, args.pictures)
        if not labels.levels:
            call.out.say(
                f"{safe(str(args.labels.parent))} has no wider_easy_val.mat, wider_medium_val.mat, wider_hard_val.mat: "
                "every box that isn't marked invalid counts as easy, medium and hard"
            )
        engines = [args.engine, args.against_engine or args.engine]
        detectors = [
            load(call, path, engine=engine, plain=args.rgb) for path, engine in zip(paths, engines, strict=False)
        ]
        sizes = list(dict.fromkeys((detector.width, detector.height) for detector in detectors))
        if len(sizes) > 1:
            raise UsageError(
                f"the models run at {' and '.join(f'{w}x{h}' for w, h in sizes)}: give --width and --height"
            )
        steps = Steps(call.out, "picture")
        found = run_models(detectors, labels.pictures, steps)
    except (LabelError, PictureError) as error:
        raise UsageError(str(error)) from None
    except ModelError as error:
        raise CtlError(Exit.FAILED, str(error)) from None
    runs = [detector.engine.name for detector in detectors]
    models = [
        _Model(
            name, path, _short(name) + (f" ({detector.engine.name})" if len(set(runs)) > 1 else ""),
            detector.head.name, detector.engine.name, faces, evaluate(labels.pictures, faces, args.threshold),
        )
        for name, path, detector, faces in zip(given, paths, detectors, found, strict=True)
    ]  # fmt: skip
    drop = drops(models[0].figures, models[1].figures) if len(models) > 1 else None
    agreements = _agreements(models, args.threshold, args.match_iou) if len(models) > 1 else ()
    over = too_much(drop, args.max_drop) if drop is not None and args.max_drop is not None else []
    if args.plot is not None:
        _plot(args.plot, models)
    width, height = sizes[0]
    if call.out.json:
        data = _as_json(models[0])
        data |= {
            "labels": str(args.labels),
            "pictures": len(labels.pictures),
            "levels": labels.levels,
            "width": width,
            "height": height,
            "input": "rgb" if args.rgb else "nv12",
            "against": _as_json(models[1]) if len(models) > 1 else None,
            "drop": drop,
            "matched": [_agreement_json(one, any_score) for one, any_score in agreements],
            "max_drop": dict(zip(LEVELS, args.max_drop, strict=True)) if args.max_drop is not None else None,
            "passed": not over if args.max_drop is not None else None,
        }
        call.out.data(data)
    else:
        way = "RGB" if args.rgb else "NV12"
        ran = " and ".join(dict.fromkeys(runs))
        call.out.line(
            f"{len(labels.pictures)} pictures at {width}x{height}, {way}, {ran}, scores from {args.threshold:g}"
        )
        _show(call, models, drop, agreements)
    if over:
        raise CtlError(
            Exit.FAILED, f"AP is lower than that of {safe(given[1])} by more than allowed: {', '.join(over)}"
        )
    return Exit.OK


def _short(given: str) -> str:
    return Path(given).stem if given.endswith(".onnx") else given


def _check_plot(path: Path) -> None:
    """Before the long run, not after it."""
    import importlib.util

    if path.suffix not in (".svg", ".png", ".pdf"):
        raise UsageError(f"--plot {path}: allowed are files that end in .svg, .png or .pdf")
    if not path.parent.is_dir():
        raise UsageError(f"--plot {path}: no folder {path.parent}")
    if importlib.util.find_spec("matplotlib") is None:
        raise CtlError(Exit.FAILED, "--plot needs matplotlib, which isn't installed: pip install matplotlib")


def _plot(path: Path, models: Sequence[_Model]) -> None:
    from facedetd.workshop.evaluate import draw_curves

    try:
        draw_curves(path, [(model.short, model.figures) for model in models])
    except OSError as error:
        raise UsageError(f"--plot {path}: {error.strerror or error}") from None


def _agreements(models: Sequence[_Model], threshold: float, match_iou: float) -> list[tuple[Agreement, Agreement]]:
    """For each IoU: against the model's boxes from the threshold on, and against all of its boxes."""
    from facedetd.workshop.matching import agreement

    sure = [[tuple(f for f in faces if f.score >= threshold) for faces in model.found] for model in models]
    ious = sorted({*MATCH_IOUS, match_iou})
    return [(agreement(sure[1], sure[0], iou), agreement(sure[1], models[0].found, iou)) for iou in ious]


# --- JSON ---


def _as_json(model: _Model) -> dict[str, Any]:
    figures = model.figures
    return {
        **{f"ap_{level}": figures.ap[level] for level in LEVELS},
        **_counts_json(figures.counts),
        "model": model.given,
        "path": str(model.path),
        "head": model.head,
        "engine": model.engine,
        "threshold": figures.threshold,
        "counted": {level: figures.curves[level].faces for level in LEVELS},
        "by_size": {name: _counts_json(counts) for name, counts in figures.by_size.items()},
    }


def _counts_json(counts: Counts) -> dict[str, Any]:
    return {
        "precision": counts.precision,
        "recall": counts.recall,
        "f1": counts.f1,
        "faces": counts.faces,
        "found": counts.found,
        "false": counts.false,
    }


def _agreement_json(one: Agreement, any_score: Agreement) -> dict[str, Any]:
    return {
        "iou": one.min_iou,
        "boxes": one.boxes,
        "matched": one.matched,
        "share": one.share,
        "share_any_score": any_score.share,
        "extra": one.extra,
        "mean_iou": one.mean_iou,
        "landmark_px": one.landmark_px,
        "landmark_relative": one.landmark_relative,
        "landmark_relative_p95": one.landmark_relative_p95,
    }


# --- tables ---


def _show(
    call: Call, models: Sequence[_Model], drop: Mapping[str, float | None] | None,
    agreements: Sequence[tuple[Agreement, Agreement]],
) -> None:  # fmt: skip
    heads = ["MODEL", *(f"AP {level.upper()}" for level in LEVELS), "PRECISION", "RECALL", "F1"]
    rows = [[m.short, *(_three(m.figures.ap[level]) for level in LEVELS), *_prf(m.figures.counts)] for m in models]
    if drop is not None:
        rows.append(["drop", *(_four(drop[level]) for level in LEVELS), "", "", ""])
    _table(call, heads, rows, left=1)
    call.out.line("\nprecision, recall and F1 by height, over the faces of level hard:")
    sizes = [
        [m.short, name, str(counts.faces), *_prf(counts)]
        for name in models[0].figures.by_size
        for m in models
        for counts in (m.figures.by_size[name],)
    ]
    _table(call, ["MODEL", "SIZE", "FACES", "PRECISION", "RECALL", "F1"], sizes, left=2)
    if agreements:
        call.out.line(f"\nboxes of {safe(models[1].short)} that {safe(models[0].short)} has as well:")
        rows = [
            [
                f"{one.min_iou:g}", f"{one.matched} of {one.boxes}", _percent(one.share), _percent(any_score.share),
                str(one.extra), _four(one.mean_iou), _two(one.landmark_px), _percent(one.landmark_relative),
            ]
            for one, any_score in agreements
        ]  # fmt: skip
        _table(
            call, ["IOU", "MATCHED", "SHARE", "ANY SCORE", "EXTRA", "MEAN IOU", "LANDMARKS PX", "OF THE BOX"],
            rows, left=0,
        )  # fmt: skip


def _table(call: Call, heads: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> None:
    cells = [[Cell(safe(text)) for text in row] for row in rows]
    call.out.lines(table(heads, cells, frozenset(heads[left:]), call.out.size()[0], call.out.colour))


def _prf(counts: Counts) -> list[str]:
    return [_three(value) for value in (counts.precision, counts.recall, counts.f1)]


def _two(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _three(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _four(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value * 100:.2f} %"
