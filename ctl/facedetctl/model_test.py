"""model test: a model on pictures, drawn and timed."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facedetctl.commands import Call, Subparsers, add_command, fraction
from facedetctl.exits import CtlError, Exit, UsageError
from facedetctl.model_files import STORED, Steps, add_engine, add_options, load, model_path, whole
from facedetctl.output import Cell, safe, table

if TYPE_CHECKING:
    from facedetd.types import Face

MAX_PICTURES = 400
MAX_BATCH = 256


def register(subparsers: Subparsers) -> argparse.ArgumentParser:
    parser = add_command(subparsers, "test", test_model, "run a model on pictures: draw what it finds, and time it")
    parser.add_argument("model", metavar="MODEL", help=f"{STORED}, an ONNX file, or a TensorRT plan")
    parser.add_argument("pictures", metavar="PICTURE", nargs="+", type=Path)
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="draw the faces into this (.jpg or .png); several pictures side by side",
    )
    parser.add_argument("--batch", type=_batches, default=(1,), metavar="N,N,…", help="time batches of these sizes (1)")
    parser.add_argument("--repeat", type=_repeat, default=10, metavar="N", help="runs a batch; medians are shown (10)")
    parser.add_argument(
        "--threshold", type=fraction, default=0.5, metavar="SCORE", help="faces from this score on (0.5)"
    )
    add_engine(parser)
    add_options(parser)
    return parser


def _batches(text: str) -> tuple[int, ...]:
    return tuple(whole(part, 1, MAX_BATCH) for part in text.split(","))


def _repeat(text: str) -> int:
    return whole(text, 1, 10_000)


def test_model(call: Call) -> Exit:
    from facedetd.models import ModelError
    from facedetd.workshop.detector import time_batches
    from facedetd.workshop.pictures import PictureError, contact_sheet, read_picture, write_picture

    args = call.args
    if len(args.pictures) > MAX_PICTURES:
        raise UsageError(f"found {len(args.pictures)} pictures; at most {MAX_PICTURES} are allowed")
    path = model_path(args.model, args.state_dir / "models")
    steps = Steps(call.out, "picture")
    try:
        detector = load(call, path, engine=args.engine, max_batch=max(args.batch))
        pictures = [read_picture(picture, upright=True) for picture in args.pictures]
        found = []
        for done, picture in enumerate(pictures):
            steps(done, len(pictures))
            found.append(detector.detect(picture, args.threshold))
        steps(len(pictures), len(pictures))
        if args.output is not None:
            write_picture(args.output, contact_sheet(pictures, found))
        times = time_batches(detector, pictures, args.batch, args.repeat, min_score=args.threshold)
    except PictureError as error:
        raise UsageError(str(error)) from None
    except ModelError as error:
        raise CtlError(Exit.FAILED, f"{path}: {error}") from None
    if call.out.json:
        call.out.data({
            "model": args.model,
            "path": str(path),
            "head": detector.head.name,
            "engine": detector.engine.name,
            "width": detector.width,
            "height": detector.height,
            "threshold": args.threshold,
            "output": None if args.output is None else str(args.output),
            "pictures": [
                {"file": str(file), "width": picture.shape[1], "height": picture.shape[0],
                 "faces": [_face(face) for face in faces]}
                for file, picture, faces in zip(args.pictures, pictures, found, strict=True)
            ],
            "timing": [
                {"batch": one.batch, "runs": args.repeat, "wall_ms": one.wall_ms, "cpu_ms": one.cpu_ms}
                for one in times
            ],
        })  # fmt: skip
        return Exit.OK
    size = call.out.size()[0]
    rows = [
        [
            Cell(safe(str(file))),
            Cell(f"{picture.shape[1]}x{picture.shape[0]}"),
            Cell(str(len(faces))),
            Cell(_best(faces)),
        ]
        for file, picture, faces in zip(args.pictures, pictures, found, strict=True)
    ]
    heads = ("PICTURE", "SIZE", "FACES", "BEST SCORE")
    call.out.lines(table(heads, rows, frozenset(heads[2:]), size, call.out.colour))
    call.out.line(
        f"\n{detector.engine.name}, {detector.width}x{detector.height}, median of {args.repeat}, "
        "with conversion and decoding of boxes:"
    )
    timing = ("BATCH", "WALL MS", "CPU MS", "WALL MS A PICTURE", "PICTURES/S")
    figures = [
        [f"{value:.{digits}f}" for value, digits in
         ((t.batch, 0), (t.wall_ms, 2), (t.cpu_ms, 2), (t.wall_ms / t.batch, 2), (1e3 * t.batch / t.wall_ms, 1))]
        for t in times
    ]  # fmt: skip
    call.out.lines(table(timing, [[Cell(v) for v in row] for row in figures], frozenset(timing), size, call.out.colour))
    if args.output is not None:
        call.out.say(f"drawn into {safe(str(args.output))}")
    return Exit.OK


def _best(faces: tuple[Face, ...]) -> str:
    return f"{max(face.score for face in faces):.3f}" if faces else "-"


def _face(face: Face) -> dict[str, Any]:
    return {
        "box": [round(v, 2) for v in face.box],
        "score": round(face.score, 4),
        "landmarks": [[round(x, 2), round(y, 2)] for x, y in face.landmarks],
    }
