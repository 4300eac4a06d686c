"""model build: an ONNX model to a TensorRT plan for the GPU of this machine, without the daemon.

Loads onnx, TensorRT and PyCUDA only where it builds.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facedetctl.commands import Call, Subparsers, add_command
from facedetctl.exits import CtlError, Exit, UsageError
from facedetctl.model_files import MAX_SIDE, STORED, model_path, whole
from facedetctl.output import Output, safe, size
from facedetd.trt import PLANS

if TYPE_CHECKING:
    from facedetd.trt.plan import Manifest

PRECISIONS = ("fp32", "fp16", "int8")
MAX_BATCH = 256


def register(nouns: Subparsers) -> argparse.ArgumentParser:
    parser = add_command(nouns, "build", build, "an ONNX model to a TensorRT plan, for this machine's GPU")
    parser.add_argument("model", metavar="MODEL", help=f"{STORED}, or an ONNX file")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp16", help="fp16 (the default), int8 or fp32")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--output", type=Path, metavar="FILE", help="write the plan to this .plan file")
    where.add_argument(
        "--cache", type=Path, metavar="DIR",
        help=f"keep the plan in this folder, named by its key (STATE_DIR/{PLANS}, where the daemon looks)",
    )  # fmt: skip
    for side in ("width", "height"):
        parser.add_argument(
            f"--{side}", type=_side, metavar="PX", help=f"{side} of the model's picture (its own, or 640 if it is free)"
        )
    for edge, default, what in (("min", 1, "least"), ("opt", 16, "best"), ("max", 32, "greatest")):
        parser.add_argument(
            f"--{edge}-batch", type=_batch, metavar="N", help=f"{what} number of pictures in a batch ({default})"
        )
    parser.add_argument(
        "--ranges", type=Path, metavar="FILE", help="of the model's tensors, for int8 (TensorRT 8.6-10)"
    )
    parser.add_argument("--calibration-cache", type=Path, metavar="FILE", help="the same in TensorRT's own format")
    parser.add_argument("--workspace", type=_workspace, default=2048, metavar="MIB", help="memory for building (2048)")
    parser.add_argument(
        "--optimization-level", type=_level, metavar="N",
        help="0 to 5: how long to look for fast kernels (TensorRT's own: 3, which may take many minutes)",
    )  # fmt: skip
    parser.add_argument(
        "--timing-cache", type=Path, metavar="FILE", help="of earlier builds, read and written (one beside the plans)"
    )
    parser.add_argument(
        "--hardware-compatible", action="store_true", help="runs on all GPUs from Ampere on, but slower"
    )
    parser.add_argument(
        "--version-compatible", action="store_true", help="runs on later TensorRT of this major version"
    )
    parser.add_argument("--device", type=_device, default=0, metavar="N", help="index of the GPU (0)")
    parser.add_argument("--rebuild", action="store_true", help="build even where there is such a plan")
    return parser


def _side(text: str) -> int:
    return whole(text, 32, MAX_SIDE)


def _batch(text: str) -> int:
    return whole(text, 1, MAX_BATCH)


def _workspace(text: str) -> int:
    return whole(text, 16, 1 << 20)


def _level(text: str) -> int:
    return whole(text, 0, 5)


def _device(text: str) -> int:
    return whole(text, 0, 255)


def build(call: Call) -> Exit:
    from facedetd.trt import compat, device
    from facedetd.trt.build import TimingCache, build_plan, check_precision, read_model, recipe_for
    from facedetd.trt.errors import GpuError, PlanError
    from facedetd.trt.plan import manifest_path, read_manifest, write_plan
    from facedetd.trt.ranges import read_ranges

    args = call.args
    table: Path | None = args.ranges or args.calibration_cache
    if args.ranges and args.calibration_cache:
        raise UsageError("give --ranges or --calibration-cache, not both")
    if args.output is not None and args.output.suffix != ".plan":
        raise UsageError(f"found --output {args.output}; its name must end in .plan")
    path = model_path(args.model, args.state_dir / "models")
    if path.suffix != ".onnx":
        raise UsageError(f"found {args.model}; plans are built from ONNX models")
    try:
        model = read_model(path)
        ranges, table_bytes = read_ranges(table) if table is not None else (None, None)
        shapes = _shapes(args, model.width, model.height, model.fixed_batch)
        api, gpu = compat.installed(), device.find(args.device)
        recipe = replace(
            recipe_for(api, gpu, model, args.precision, shapes, table_bytes),
            workspace_mib=args.workspace,
            level=args.optimization_level,
            hardware_compatible=args.hardware_compatible,
            version_compatible=args.version_compatible,
        )
        check_precision(api, model, args.precision, ranges)
        folder = args.output.parent if args.output else args.cache or args.state_dir / PLANS
        if args.output is None:
            folder.mkdir(parents=True, exist_ok=True)
        output: Path = args.output or folder / f"{recipe.key}.plan"
        if not args.rebuild and output.is_file() and manifest_path(output).is_file():
            there = read_manifest(output)
            if there.recipe == recipe:
                return _tell(call, output, there, built=False)
        if ranges is not None and ranges.of_all:
            call.out.say(
                f"{table} has the ranges of all tensors, as earlier versions wrote it: TensorRT rounds more than it "
                "should. `facedetctl model quantize` writes a better one; what was counted is kept"
            )
        cache = TimingCache(folder, api, gpu)
        if args.timing_cache:
            cache.path = args.timing_cache
        call.out.say(f"building for {gpu.name} with TensorRT {api.version}; this takes minutes")
        progress = Ticker(call.out)
        try:
            with device.context(args.device):
                built = build_plan(
                    api, gpu, model, recipe, ranges, name=args.model, context=partial(device.context, args.device),
                    timing_cache=cache.read(), progress=progress,
                )  # fmt: skip
        except KeyboardInterrupt:
            progress.done()
            call.out.say("interrupted; nothing was written")
            call.out.err.flush()
            os._exit(Exit.INTERRUPTED)  # TensorRT's thread still works and would crash a slower end
        finally:
            progress.done()
        write_plan(output, built.plan, built.manifest)
        cache.write(built.timing_cache)
    except PlanError as error:
        raise CtlError(Exit.FAILED, str(error)) from None
    except GpuError as error:
        raise CtlError(Exit.UNAVAILABLE, str(error)) from None
    except OSError as error:
        raise CtlError(Exit.FAILED, f"{error.filename or folder}: {error.strerror or error}") from None
    for remark in built.remarks:
        call.out.say(remark)
    if built.without_range:
        few = ", ".join(built.without_range[:3])
        call.out.say(f"{len(built.without_range)} tensors have no range and stay float: {few}…")
    return _tell(call, output, built.manifest, built=True)


def _shapes(args: argparse.Namespace, width: int, height: int, batch: int) -> Any:
    """What is asked for; where it isn't said, what the model is fixed to, then the defaults. Raises PlanError."""
    from facedetd.trt.plan import Shapes

    plain = Shapes(32, 32)
    least = args.min_batch or batch or min(plain.min_batch, args.opt_batch or plain.min_batch)
    most = args.max_batch or batch or max(plain.max_batch, args.opt_batch or 0)
    best = args.opt_batch or batch or max(least, min(plain.opt_batch, most))
    return Shapes(args.width or width or 640, args.height or height or 640, least, best, most)


def _tell(call: Call, plan: Path, manifest: Manifest, *, built: bool) -> Exit:
    r, s = manifest.recipe, manifest.recipe.shapes
    if call.out.json:
        call.out.data({
            "plan": str(plan), "built": built, "key": r.key, "model": manifest.model, "model_sha256": r.model_sha256,
            "precision": r.precision, "width": s.width, "height": s.height,
            "batch": [s.min_batch, s.opt_batch, s.max_batch], "bytes": manifest.bytes, "build_s": manifest.build_s,
            "tensorrt": r.tensorrt, "gpu": manifest.gpu, "sm": r.sm, "float_tensors": manifest.float_tensors,
        })  # fmt: skip
        return Exit.OK
    how = f"built in {manifest.build_s:.0f} s" if built else "was there already"
    call.out.line(
        safe(
            f"{plan}: {how}; {r.precision}, {s.width}x{s.height}, batches of {s.min_batch} to {s.max_batch}, "
            f"{size(manifest.bytes)}, for TensorRT {r.tensorrt} on {manifest.gpu}"
        )
    )
    return Exit.OK


class Ticker:
    """One line on stderr, on a terminal only: which phase, how far, for how long."""

    def __init__(self, out: Output) -> None:
        self._out, self._start, self._next = out, time.monotonic(), 0.0
        self._phases: dict[str, tuple[int, int]] = {}

    def __call__(self, phase: str, done: int, total: int) -> bool:
        if phase:
            self._phases[phase] = done, total
        now = time.monotonic()
        if self._out.err.isatty() and now >= self._next:
            self._next = now + 0.2
            named = [f"{name} {at} of {of}" for name, (at, of) in self._phases.items() if at < of]
            self._out.err.write(f"\r{now - self._start:.0f} s {safe('; '.join(named[-2:]))[:100]}\x1b[K")
            self._out.err.flush()
        return True

    def done(self) -> None:
        if self._out.err.isatty():
            self._out.err.write("\r\x1b[K")
            self._out.err.flush()
