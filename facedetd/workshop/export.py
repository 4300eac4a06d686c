"""A YOLOv5-face checkpoint to ONNX, checked against PyTorch, with a manifest beside it.

Needs PyTorch for the check (``pip install 'facedetd[model]'``), and only while :func:`export` runs.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib.util
import json
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import facedetd
from facedetd.files import write_whole
from facedetd.inference.heads import yolov5face as head
from facedetd.types import FloatArray
from facedetd.workshop.checkpoint import Checkpoint, load
from facedetd.workshop.yolov5face import SIZES, Conv, Plan, Pool, multiply_adds, parameters, plan, shapes

TOLERANCE = 1e-4
"""The greatest difference from PyTorch that is let through, relative to the greatest value (at least 1)."""
MANIFEST = ".json"
"""What the manifest's name adds to the model's."""
_EPSILON = 1e-3  # what the authors train with; a file of tensors alone doesn't say it
_KINDS = frozenset(
    ["Model", "Sequential", "ModuleList", "Conv", "StemBlock", "C3", "Bottleneck", "SPP", "ShuffleV2Block", "Concat",
     "Upsample", "MaxPool2d", "Conv2d", "BatchNorm2d", "SiLU", "Detect"]
)  # fmt: skip
_UNUSED = ("num_batches_tracked", ".anchors", ".anchor_grid")


class ExportError(Exception):
    """There is no export, and nothing was written; the message says what was found and what is allowed."""


@dataclass(frozen=True, slots=True)
class Settings:
    """``width`` and ``height`` in px, multiples of 32, are what the check runs
    at, on ``picture`` or on noise; the model itself takes any."""

    width: int = 640
    height: int = 640
    opset: int = 13
    picture: Path | None = None


@dataclass(frozen=True, slots=True)
class Network:
    """A size's plan with weights that fit it. ``source`` says in the manifest where they are from."""

    size: str
    nodes: Plan
    weights: Mapping[str, FloatArray]
    epsilons: Mapping[str, float]
    source: Mapping[str, Any]


def from_checkpoint(path: Path, size: str = "auto") -> Network:
    """The network of a checkpoint. Raises CheckpointError, or ExportError where it isn't a YOLOv5-face of ``size``."""
    checkpoint = load(path)
    found = {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
    size = _size(found, size, str(path))
    nodes = plan(size)
    wanted = shapes(nodes)
    _check_modules(checkpoint, nodes, str(path))
    _check_anchors(checkpoint, str(path))
    epsilons = {
        node.norm: float(checkpoint.modules[node.norm].settings["eps"]) if checkpoint.modules else _EPSILON
        for node in nodes
        if isinstance(node, Conv) and node.norm
    }
    weights = {name: checkpoint.tensors[name] for name in wanted}
    for name, tensor in weights.items():
        if tensor.dtype != np.float32 or not np.isfinite(tensor).all():
            raise ExportError(f"{path}: {name} holds values that are not finite numbers")
        if name.endswith(".running_var") and (tensor < 0).any():
            raise ExportError(f"{path}: {name} holds negative variances")
    source = {
        "kind": "checkpoint", "file": path.name, "sha256": checkpoint.sha256, "bytes": checkpoint.size,
        "layout": checkpoint.layout, "class_names": list(checkpoint.names),
    }  # fmt: skip
    return Network(size, nodes, weights, epsilons, source)


def from_random(size: str, seed: int) -> Network:
    """A network that detects nothing and costs what a trained one costs, for measuring speed. Raises ExportError."""
    if size not in SIZES:
        raise ExportError(f"random weights need a size: one of {', '.join(SIZES)}, found {size!r}")
    if seed < 0:
        raise ExportError(f"a seed of {seed}; allowed are 0 and more")
    random, nodes = np.random.default_rng(seed), plan(size)
    weights: dict[str, FloatArray] = {}
    for node in (n for n in nodes if isinstance(n, Conv)):
        shape = (node.c_out, node.c_in // node.groups, node.kernel, node.kernel)
        deviation = np.sqrt(2 / np.prod(shape[1:]))  # He, Zhang, Ren, Sun, arXiv:1502.01852
        weights[f"{node.weight}.weight"] = (random.standard_normal(shape) * deviation).astype(np.float32)
        if node.norm:
            for part, value in zip(("weight", "bias", "running_mean", "running_var"), (1, 0, 0, 1), strict=True):
                weights[f"{node.norm}.{part}"] = np.full(node.c_out, value, np.float32)
        else:
            bias = np.zeros((3, 16), np.float32)
            bias[:, 4] = -8  # hardly an object anywhere: else the head's time would be that of a crowd
            weights[f"{node.weight}.bias"] = bias.reshape(-1)
            # And whatever the picture, also in INT8: small weights alone let real pictures through
            weights[f"{node.weight}.weight"].reshape(3, 16, *shape[1:])[:, 4] = 0
            weights[f"{node.weight}.weight"] *= np.float32(0.1)
    epsilons = {node.norm: _EPSILON for node in nodes if isinstance(node, Conv) and node.norm}
    return Network(size, nodes, weights, epsilons, {"kind": "random weights: detects nothing", "seed": seed})


def _size(found: Mapping[str, tuple[int, ...]], size: str, path: str) -> str:
    """The size whose tensors these are. Raises ExportError with what is different."""
    if size not in ("auto", *SIZES):
        raise ExportError(f"size {size!r}; allowed are auto, {', '.join(SIZES)}")
    names = [size] if size != "auto" else list(SIZES)
    wrong = {name: _differences(found, shapes(plan(name))) for name in names}
    for name in names:
        if not wrong[name]:
            return name
    nearest = min(names, key=lambda n: len(wrong[n]))
    what = f"not a YOLOv5-face {size}" if size != "auto" else f"not a YOLOv5-face {', '.join(names)}; nearest {nearest}"
    if "model.0.conv.conv.weight" in found:
        what = "begins with a Focus layer, as the authors' first models did; those with a StemBlock are read"
    raise ExportError(f"{path}: {what}: {'; '.join(wrong[nearest][:3])} ({len(wrong[nearest])} differences)")


def _differences(found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]) -> list[str]:
    missing = [f"no {name}" for name in wanted if name not in found]
    other = [f"{n} is {found[n]}, not {s}" for n, s in wanted.items() if n in found and found[n] != s]
    beyond = [f"{n} has no place" for n in found if n not in wanted and not n.endswith(_UNUSED)]
    return other + missing + beyond


def _check_modules(checkpoint: Checkpoint, nodes: Plan, path: str) -> None:
    """Tensors of the same shapes can belong to another network: other activations, strides, pools."""
    for where, module in checkpoint.modules.items():
        if module.kind.rpartition(".")[2] not in _KINDS:
            raise ExportError(f"{path}: {where} is a {module.kind}; allowed are {', '.join(sorted(_KINDS))}")
    for node in nodes if checkpoint.modules else ():
        if isinstance(node, Conv):
            edge = node.kernel // 2
            _expect(checkpoint, node.weight, path, stride=node.stride, padding=edge, groups=node.groups, dilation=1)
            if node.norm:
                norm = checkpoint.modules.get(node.norm)
                eps = norm.settings.get("eps") if norm else None
                if not isinstance(eps, float) or not 0 < eps < 1:
                    raise ExportError(f"{path}: {node.norm} has eps {eps}; allowed is a number between 0 and 1")
        elif isinstance(node, Pool):
            _expect(checkpoint, node.out, path, stride=node.stride, kernel_size=node.kernel)


def _expect(checkpoint: Checkpoint, where: str, path: str, **wanted: int) -> None:
    if where not in checkpoint.modules:
        raise ExportError(f"{path}: no module {where}")
    settings = checkpoint.modules[where].settings
    for key, value in wanted.items():
        if settings.get(key) not in (value, (value, value)):
            raise ExportError(f"{path}: {where} has {key} {settings.get(key)}, not {value}")


def _check_anchors(checkpoint: Checkpoint, path: str) -> None:
    """The head knows one set of anchors; a model trained with another would give wrong boxes."""
    for name, tensor in checkpoint.tensors.items():
        if name.endswith(".anchor_grid"):  # in px
            found = tensor.astype(np.float32).reshape(-1)
            if found.shape != (head.ANCHORS.size,) or np.abs(found - head.ANCHORS.reshape(-1)).max() > 0.5:
                raise ExportError(f"{path}: its anchors are {found.tolist()}, not {head.ANCHORS.reshape(-1).tolist()}")


def check_settings(settings: Settings) -> None:
    """Raises ExportError: no PyTorch, or a value that isn't allowed."""
    from facedetd.workshop.onnxnet import OPSETS

    if settings.opset not in OPSETS:
        raise ExportError(f"opset {settings.opset}; allowed are {OPSETS[0]} to {OPSETS[-1]}")
    for what, value in (("width", settings.width), ("height", settings.height)):
        if value % 32 or not 64 <= value <= 8192:
            raise ExportError(f"{what} {value}; allowed are multiples of 32 from 64 to 8192")
    if importlib.util.find_spec("torch") is None:
        raise ExportError("PyTorch is needed to check the export, and isn't installed: pip install 'facedetd[model]'")


def export(network: Network, output: Path, settings: Settings, say: Callable[[str], None]) -> dict[str, Any]:
    """Write the model and its manifest, ``output`` plus MANIFEST, and return the manifest. Both appear whole or not
    at all. ``say`` is told of each step. Raises ExportError and OSError."""
    check_settings(settings)
    if output.suffix != ".onnx":
        raise ExportError(f"{output}: the output's name must end in .onnx")
    if not output.parent.is_dir():
        raise ExportError(f"{output.parent}: no such folder")
    picture, shown = _picture(settings)
    say("loading PyTorch")
    from facedetd.workshop import onnxnet, torchnet

    counted = {
        "parameters": parameters(network.nodes),
        "multiply_adds_640x480": multiply_adds(network.nodes, 640, 480),
    }
    metadata = {
        "facedetd.network": f"yolov5-face {network.size}",
        "facedetd.source": network.source["kind"],
        "facedetd.source_sha256": network.source.get("sha256", ""),
        "facedetd.version": facedetd.__version__,
    }
    say(f"writing YOLOv5-face {network.size}, {counted['parameters'] / 1e6:.3f} million parameters")
    weights = network.weights
    if "seed" in network.source:
        noise = np.random.default_rng(0).random((1, 3, 320, 320), np.float32)
        weights = torchnet.with_statistics(network.nodes, weights, network.epsilons, noise)
    model = onnxnet.to_onnx(network.nodes, weights, network.epsilons, settings.opset, metadata)
    small = np.ascontiguousarray(np.stack([picture[0], picture[0, :, :, ::-1]])[:, :, ::2, ::2][:, :, :256, :320])
    edge = [n - n % 32 for n in small.shape[2:]]
    small = np.ascontiguousarray(small[:, :, : edge[0], : edge[1]])
    checks = []
    for batch in (picture, small):  # the second: another batch and another size
        say(f"comparing with PyTorch at {batch.shape[3]}x{batch.shape[2]}, batch {len(batch)}")
        wanted = torchnet.run(network.nodes, weights, network.epsilons, batch)
        checks.append(_compare(model, batch, wanted))
    manifest = {
        "format": 1,
        "kind": "export",
        "created_utc": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "file": output.name,
        "sha256": hashlib.sha256(model).hexdigest(),
        "bytes": len(model),
        "network": {"name": f"yolov5-face {network.size}", **counted},
        "source": dict(network.source),
        "settings": {"opset": settings.opset, "precision": "float32", "batch_norm": "folded", "sizes": "free"},
        "head": {
            "name": "yolov5face",
            "strides": list(head.STRIDES),
            "anchors_px": head.ANCHORS.astype(int).tolist(),
        },
        "check": {
            "against": "PyTorch, batch norm not folded",
            "picture": shown,
            "max_abs_difference": max(c["max_abs_difference"] for c in checks),
            "runs": checks,
        },
        "versions": {
            "facedetd": facedetd.__version__, "python": platform.python_version(), "numpy": np.__version__,
            "onnx": onnxnet.VERSION, "onnxruntime": _onnxruntime(), "torch": torchnet.VERSION,
        },
    }  # fmt: skip
    text = json.dumps(manifest, indent=2) + "\n"
    write_whole({output: model, output.with_name(output.name + MANIFEST): text.encode()})
    return manifest


def _onnxruntime() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)


def _picture(settings: Settings) -> tuple[FloatArray, dict[str, Any]]:
    """(1, 3, height, width), RGB from 0 to 1, and what the manifest says of it."""
    size = settings.width, settings.height
    if settings.picture is None:
        noise = np.random.default_rng(0).random((1, 3, size[1], size[0]), np.float32)
        return noise, {"file": None, "note": "noise: no picture was given"}
    import cv2

    try:
        data = settings.picture.read_bytes()
    except OSError as error:
        raise ExportError(f"{settings.picture}: {error.strerror or error}") from None
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if picture is None:
        raise ExportError(f"{settings.picture}: not a picture that OpenCV reads")
    rgb = cv2.cvtColor(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB)
    planes = np.ascontiguousarray(rgb.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255))
    return planes, {"file": settings.picture.name, "sha256": hashlib.sha256(data).hexdigest()}


def _compare(model: bytes, pictures: FloatArray, wanted: tuple[FloatArray, ...]) -> dict[str, Any]:
    """Run the model as the daemon does. Raises ExportError when it gives other numbers."""
    from facedetd.inference.engines.onnxruntime import open_session, run
    from facedetd.workshop.yolov5face import INPUT

    found = run(open_session(model, min(2, os.cpu_count() or 1)), INPUT, pictures)
    if [f.shape for f in found] != [w.shape for w in wanted]:
        raise ExportError(f"its outputs are {[f.shape for f in found]}, PyTorch's are {[w.shape for w in wanted]}")
    greatest = max(float(np.abs(w).max()) for w in wanted)
    difference = max(float(np.abs(f - w).max()) for f, w in zip(found, wanted, strict=True))
    if not difference <= TOLERANCE * max(1.0, greatest):  # a NaN fails too
        raise ExportError(
            f"the ONNX model and PyTorch differ by {difference:g}, where values reach {greatest:g}; "
            f"at most {TOLERANCE * max(1.0, greatest):g} is allowed"
        )
    return {
        "batch": len(pictures), "width": pictures.shape[3], "height": pictures.shape[2],
        "max_abs_difference": difference, "max_abs_value": greatest,
    }  # fmt: skip
