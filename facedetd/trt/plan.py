"""Plan files, FILE.plan, with a manifest FILE.plan.json: what a plan was built from and for, and whether it fits here.

A plan is code for one version of TensorRT and one kind of GPU. It can't be checked for what it does, so a plan is only
as trustworthy as the file it lies in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from facedetd.files import staged
from facedetd.trt.compat import release
from facedetd.trt.device import Gpu
from facedetd.trt.errors import PlanError

FORMAT = 1
SUFFIX = ".plan"
PRECISIONS = ("fp32", "fp16", "int8")
_AMPERE = (8, 0)


@dataclass(frozen=True, slots=True)
class Shapes:
    """``width`` and ``height`` in px. A plan runs batches of ``min_batch`` to ``max_batch`` pictures, and is best at
    ``opt_batch``. Raises PlanError for what can't be."""

    width: int
    height: int
    min_batch: int = 1
    opt_batch: int = 16
    max_batch: int = 32

    def __post_init__(self) -> None:
        if self.width < 32 or self.height < 32 or self.width % 32 or self.height % 32:
            raise PlanError(f"a plan for {self.width}x{self.height}; width and height must be multiples of 32")
        if not 1 <= self.min_batch <= self.opt_batch <= self.max_batch:
            raise PlanError(
                f"batches of {self.min_batch} to {self.max_batch}, best {self.opt_batch}; "
                "allowed: 1 <= least <= best <= greatest"
            )


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides what plan comes out, and so the key it is cached under. ``ranges_sha256``: of the range table,
    "" without one. ``level``: the builder's optimisation level, None for TensorRT's own."""

    model_sha256: str
    tensorrt: str
    flavour: str
    sm: str
    precision: str
    shapes: Shapes
    ranges_sha256: str = ""
    workspace_mib: int = 2048
    level: int | None = None
    hardware_compatible: bool = False
    version_compatible: bool = False

    @property
    def key(self) -> str:
        """24 hexadecimal digits."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:24]


@dataclass(frozen=True, slots=True)
class Output:
    """An output as the ONNX model has it. ``shape`` is without the batch."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """``model``: the ONNX file's name, or the model's in the store: what the command that builds it anew is given.
    ``input`` is the input's name; ``outputs`` stand in the ONNX model's order. ``float_tensors``: how many had no range
    and stayed float."""

    recipe: Recipe
    model: str
    gpu: str
    input: str
    outputs: tuple[Output, ...]
    sha256: str
    bytes: int
    created_utc: str
    build_s: float
    float_tensors: int = 0

    def to_json(self, file: str) -> str:
        data = {"format": FORMAT, "kind": "plan", "file": file, "key": self.recipe.key, **asdict(self)}
        return json.dumps(data, indent=2) + "\n"

    @property
    def command(self) -> str:
        """What builds it anew for what is there now."""
        r, s = self.recipe, self.recipe.shapes
        parts = [
            f"facedetctl model build {self.model} --precision {r.precision} --width {s.width} --height {s.height}",
            f"--min-batch {s.min_batch} --opt-batch {s.opt_batch} --max-batch {s.max_batch}",
            "--ranges FILE" if r.ranges_sha256 else "",
            "--hardware-compatible" if r.hardware_compatible else "",
            "--version-compatible" if r.version_compatible else "",
        ]
        return " ".join(part for part in parts if part)


def manifest_path(plan: Path) -> Path:
    return plan.with_name(plan.name + ".json")


def read_manifest(plan: Path) -> Manifest:
    """The manifest beside a plan. Raises PlanError: none, or damaged."""
    path = manifest_path(plan)
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise PlanError(
            f"{plan}: has no manifest {path.name}, so nobody knows what it was built for; "
            "plans are made by: facedetctl model build MODEL"
        ) from None
    except OSError as error:
        raise PlanError(f"{path}: {error.strerror or error}") from None
    try:
        data = json.loads(text)
        if data["format"] != FORMAT or data["kind"] != "plan":
            raise ValueError(f"{data['kind']!r} of format {data['format']!r}; this build reads plans of {FORMAT}")
        return _manifest(data)
    except (PlanError, ValueError, KeyError, TypeError, AttributeError) as error:  # the first: shapes that can't be
        what = f"no key {error}" if isinstance(error, KeyError) else str(error)
        raise PlanError(f"{path}: damaged manifest ({what}): build the plan again") from None


def _manifest(data: Mapping[str, Any]) -> Manifest:
    recipe = dict(data["recipe"])
    shapes = Shapes(**{k: int(v) for k, v in recipe.pop("shapes").items()})
    manifest = Manifest(
        recipe=Recipe(shapes=shapes, **recipe),
        model=str(data["model"]),
        gpu=str(data["gpu"]),
        input=str(data["input"]),
        outputs=tuple(Output(str(o["name"]), tuple(int(d) for d in o["shape"])) for o in data["outputs"]),
        sha256=str(data["sha256"]),
        bytes=int(data["bytes"]),
        created_utc=str(data["created_utc"]),
        build_s=float(data["build_s"]),
        float_tensors=int(data["float_tensors"]),
    )
    if manifest.recipe.key != data["key"]:
        raise ValueError("its key isn't that of what stands in it")
    return manifest


def misfit(manifest: Manifest, tensorrt: str, flavour: str, gpu: Gpu, model_sha256: str | None = None) -> str | None:
    """Why a plan can't be used with this TensorRT on this GPU for this model (None: whichever it was built from), or
    None. Pure."""
    r = manifest.recipe
    if model_sha256 is not None and r.model_sha256 != model_sha256:
        return f"was built from another model (sha256 {r.model_sha256[:12]}…, this one is {model_sha256[:12]}…)"
    if r.flavour != flavour:
        return f"was built by {r.flavour}, here is {flavour}"
    if r.tensorrt != tensorrt and not (r.version_compatible and _newer_minor(r.tensorrt, tensorrt)):
        return f"was built by TensorRT {r.tensorrt}, here is {tensorrt}"
    if r.sm != gpu.sm and not (r.hardware_compatible and _sm(gpu.sm) >= _AMPERE):
        return f"was built for compute capability {r.sm} ({manifest.gpu}), here is {gpu.sm} ({gpu.name})"
    return None


def load_plan(
    path: Path, tensorrt: str, flavour: str, gpu: Gpu, model_sha256: str | None = None
) -> tuple[bytes, Manifest]:
    """A plan that fits, whole. Raises PlanError: why not, and the command that builds one that does."""
    manifest = read_manifest(path)
    why = misfit(manifest, tensorrt, flavour, gpu, model_sha256)
    if why:
        raise PlanError(f"{path}: {why}; build one for here: {manifest.command}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PlanError(f"{path}: {error.strerror or error}") from None
    if hashlib.sha256(data).hexdigest() != manifest.sha256:
        raise PlanError(
            f"{path}: damaged: {len(data)} bytes that aren't what was built; build it again: {manifest.command}"
        )
    return data, manifest


def _newer_minor(built: str, here: str) -> bool:
    """Version-compatible plans run on later releases of the same major version."""
    a, b = release(built), release(here)
    return a[:1] == b[:1] and b >= a


def _sm(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def find_plan(
    folder: Path, model_sha256: str, tensorrt: str, flavour: str, gpu: Gpu, precision: str, shapes: Shapes
) -> Path:
    """The plan of a cache folder that fits best: this model, TensorRT, GPU, precision and size, and batches up to
    ``shapes.max_batch``; of several the one with the smallest greatest batch, then the newest.

    Raises PlanError: what there is for this model, and why it won't do.
    """
    fitting, others = [], []
    for path in sorted(folder.glob(f"*{SUFFIX}")) if folder.is_dir() else []:
        try:
            manifest = read_manifest(path)
        except PlanError:
            continue  # half a plan is none
        if manifest.recipe.model_sha256 != model_sha256:
            continue
        have, s = manifest.recipe, manifest.recipe.shapes
        why = misfit(manifest, tensorrt, flavour, gpu)
        if why is None and have.precision != precision:
            why = f"is {have.precision}, not {precision}"
        if why is None and (s.width, s.height) != (shapes.width, shapes.height):
            why = f"takes {s.width}x{s.height}, not {shapes.width}x{shapes.height}"
        if why is None and not (s.min_batch <= 1 and s.max_batch >= shapes.max_batch):
            why = f"takes batches of {s.min_batch} to {s.max_batch}, not of 1 to {shapes.max_batch}"
        if why:
            others.append(f"{path.name} {why}")
        else:
            fitting.append((s.max_batch, manifest.created_utc, path))
    if fitting:
        least = min(fitting)[0]
        return max(f for f in fitting if f[0] == least)[2]
    there = "; ".join(others[:3]) or "none of this model is there"
    raise PlanError(f"no {precision} plan in {folder} for TensorRT {tensorrt} on {gpu.name}: {there}")


def write_plan(path: Path, data: bytes, manifest: Manifest) -> None:
    """Plan and manifest, each whole or not at all; the manifest last, since a plan without one isn't used.
    Raises OSError."""
    told = manifest_path(path)
    with staged({path: data, told: manifest.to_json(path.name).encode()}):
        told.unlink(missing_ok=True)  # of an older plan at this place
