"""model export: a YOLOv5-face checkpoint to ONNX, without the daemon.

Loads onnx, onnxruntime and PyTorch only where it exports.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from facedetctl.commands import Call, Subparsers, add_command
from facedetctl.exits import CtlError, Exit, UsageError
from facedetd.workshop.yolov5face import SIZES


def register(nouns: Subparsers) -> None:
    parser = add_command(nouns, "export", export, "a YOLOv5-face checkpoint of PyTorch to ONNX, checked")
    parser.add_argument("file", metavar="CHECKPOINT", type=Path, nargs="?", help="a .pt file; nothing in it is run")
    parser.add_argument("--output", metavar="FILE", type=Path, required=True, help="the .onnx file to write")
    parser.add_argument(
        "--size", choices=("auto", *SIZES), default="auto", help="what the checkpoint must be (auto: any)"
    )
    parser.add_argument("--width", metavar="W", type=int, default=640, help="px of the check's picture (640)")
    parser.add_argument("--height", metavar="H", type=int, default=640, help="px of the check's picture (640)")
    parser.add_argument("--picture", metavar="FILE", type=Path, help="a picture for the check (noise)")
    parser.add_argument("--opset", metavar="N", type=int, default=13, help="ONNX opset, 13 to 21 (13)")
    parser.add_argument(
        "--random-weights", metavar="SEED", type=int, help="no checkpoint: a --size that detects nothing, to time it"
    )


def export(call: Call) -> Exit:
    from facedetd.workshop.checkpoint import CheckpointError
    from facedetd.workshop.export import MANIFEST, ExportError, Settings, check_settings, from_checkpoint, from_random
    from facedetd.workshop.export import export as write

    args: argparse.Namespace = call.args
    if (args.file is None) == (args.random_weights is None):
        raise UsageError("give either a CHECKPOINT or --random-weights SEED")
    settings = Settings(args.width, args.height, args.opset, args.picture)
    try:
        check_settings(settings)
        if args.file is not None:
            network = from_checkpoint(args.file, args.size)
        else:
            network = from_random(args.size, args.random_weights)
        manifest = write(network, args.output, settings, call.out.say)
    except (CheckpointError, ExportError, OSError) as error:
        raise CtlError(Exit.FAILED, str(error)) from None
    if call.out.json:
        call.out.data(manifest)
    else:
        about, check = manifest["network"], manifest["check"]
        call.out.line(
            f"{args.output}: {about['name']}, opset {args.opset}, {manifest['bytes']} bytes; at most "
            f"{check['max_abs_difference']:.2g} from PyTorch; manifest {args.output.name}{MANIFEST}"
        )
    return Exit.OK
